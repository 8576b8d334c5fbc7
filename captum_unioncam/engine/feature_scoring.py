"""Scores of the target on perturbed features: the layer's output replaced on its way forward."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_finite
from captum_unioncam.engine.before_layer import BeforeLayer, rebuilt
from captum_unioncam.engine.captum_compat import NullProgress, progress, run_forward
from captum_unioncam.engine.locks import cached_property
from captum_unioncam.engine.row_stream import (
    ACCELERATOR_CHUNK_ELEMENTS,
    CPU_CHUNK_ELEMENTS,
    LONGEST_CHUNK,
    in_chunks,
)
from captum_unioncam.engine.target_scores import check_output

if TYPE_CHECKING:
    from captum_unioncam.engine.layer_state import LayerState

# Elements of the layer or of the output that one forward carries when the engine chooses.
CHUNK_ELEMENTS = 2**25

# Takes an example's number and a tensor of R perturbation numbers, returns features for them,
# (R, C, *spatial).
Perturb = Callable[[int, Tensor], Tensor]

# How an example's row goes through the network before the layer gives way to R rows of features:
# as it is; in R rows, of which modules see one; or in R rows.
Way = Literal["one row", "shared", "repeated"]


class FeatureScores(NamedTuple):
    """Scores of perturbed features.

    Attributes:
        logits (Tensor): the target's raw output, (N, K), zero for perturbations left out.
        scores (Tensor): the target's score f_c, (N, K), zero for perturbations left out.
    """

    logits: Tensor
    scores: Tensor


class FeatureScorer:
    """Runs the network on perturbed features of one layer; lives as long as one call.

    The part of the network before the layer runs on one row per chunk, the part after it on as
    many rows as there are features. Where the part after it needs what bypasses the layer in
    the same number of rows, modules before the layer still run on one row, and their output is
    expanded. Where that is no way either, everything runs on repeated inputs.

    Args:
        state (LayerState): the measured layer.
        description (str, optional): shows progress bars under this name. Default: None
    """

    def __init__(self, state: "LayerState", description: str | None = None) -> None:
        self.state, self.description = state, description

    def score(self, count: int, perturbed: Perturb, live: Tensor | None = None) -> FeatureScores:
        """Score perturbed versions of every example's features.

        Args:
            count (int): how many perturbations there are, K.
            perturbed (Callable): takes an example's number and a tensor of R perturbation
                numbers, returns features for them, (R, C, *spatial).
            live (Tensor, optional): which perturbations to score, (N, K) bool; the others are
                left out without a forward. All of them by default. Default: None

        Returns:
            *FeatureScores*, each (N, K).

        Raises:
            ValueError: if a score is not finite.
        """
        state, device = self.state, self.state.activations.device
        logits = state.logits.new_zeros(len(state.logits), count)
        scores = state.scores.new_zeros(len(state.scores), count)
        if live is None:
            live = torch.ones_like(scores, dtype=torch.bool)
        wanted = [row.nonzero()[:, 0] for row in live]
        show = progress if self.description else NullProgress
        with show(desc=self.description, total=sum(map(len, wanted)), unit="feature") as bar:
            for example, ids in enumerate(wanted):

                def run(chunk: slice, example: int = example, ids: Tensor = ids) -> None:
                    some = ids[chunk]
                    output = self._forward(example, perturbed(example, some), self._way)
                    logit, score = state.target.read(output, torch.full((len(some),), example))
                    logits[example, some] = logit.to(device, logits.dtype)
                    scores[example, some] = score.to(device, scores.dtype)
                    bar.update(len(some))

                if len(ids):
                    self._step = in_chunks(len(ids), self._step, run, state.request.num_examples)
        cause = "the network overflows on them, or a callable score returns such values"
        check_finite("scores of perturbed features", scores, cause)
        return FeatureScores(logits, scores)

    @cached_property
    def _probe(self) -> tuple[int, Tensor]:
        """An example and its own features, (1, C, *spatial): the one with the strongest."""
        A = self.state.activations
        example = int(A.flatten(1).abs().amax(1).argmax())
        return example, A[example : example + 1]

    @cached_property
    def _alone(self) -> Tensor:
        """The output for the probe, one row, or what a callable target makes of it."""
        return self._told(self._forward(*self._probe, "one row"), 1)

    @cached_property
    def _step(self) -> int:
        """The most rows of a forward."""
        request = self.state.request
        if request.rows_per_forward:
            return request.rows_per_forward
        row = sum(x[0].numel() for x in request.inputs)
        widest = max(self.state.layer_tensor[0].numel(), self._alone.numel())
        if self._way == "shared":
            widest = max(widest, row, self._before_layer.widest)
        step = max(1, min(LONGEST_CHUNK, CHUNK_ELEMENTS // widest))
        if self._way == "repeated":
            on_cpu = request.inputs[0].device.type == "cpu"
            budget = CPU_CHUNK_ELEMENTS if on_cpu else ACCELERATOR_CHUNK_ELEMENTS
            step = max(1, min(step, budget // row))
        return step

    @cached_property
    def _before_layer(self) -> "BeforeLayer":
        """What runs before the layer, seen on the probe.

        Raises:
            ValueError: if it cannot run on one row.
        """
        before = BeforeLayer(self.state)
        with before.recording():
            self._forward(*self._probe, "one row")
        return before

    @cached_property
    def _way(self) -> Way:
        """The cheapest way that gives a row of features the output that it earns alone."""
        allowed = self.state.request.rows_per_forward
        if allowed is None or allowed >= 3:
            ways: tuple[Way, ...] = ("one row", "shared")
            for way in ways:
                if self._keeps_rows_apart(way):
                    return way
        return "repeated"

    def _keeps_rows_apart(self, way: Way) -> bool:
        """Say whether features between very different ones earn the output they earn alone.

        Some networks fail where rows are missing. Others mix the rows and go on.
        """
        alone, (example, own) = self._alone, self._probe
        among_others = torch.cat([torch.zeros_like(own), own, torch.ones_like(own)])
        try:
            output = self._told(self._forward(example, among_others, way), 3)
        except Exception:
            # An error of the network's own, whatever its kind, comes again with repeated inputs.
            return False
        tolerance = torch.finfo(alone.dtype).eps ** 0.5 * alone.abs().max()
        return bool(((output[1:2] - alone).abs() <= tolerance).all())

    def _told(self, output: Any, rows: int) -> Tensor:
        """Return what tells outputs of so many rows apart: the tensor that is read, or values."""
        target = self.state.target
        if target.functions is None:
            return check_output(output, rows)
        return target.raw(output, torch.full((rows,), self._probe[0]))

    def _forward(self, example: int, features: Tensor, way: Way) -> Any:
        """Run the network on an example with its layer giving `features`."""
        request, rows = self.state.request, len(features)
        picks = torch.full((1 if way == "one row" else rows,), example)
        shared = way == "shared" and rows > 1
        inputs = tuple(
            x[picks[:1].to(x.device)].expand(rows, *x.shape[1:])
            if shared
            else x[picks.to(x.device)]
            for x in request.inputs
        )
        arguments = tuple(request.argument(a, picks) for a in request.extra)
        on_one_row = self._before_layer.on_one_row(rows) if shared else nullcontext()
        with on_one_row, _replacing(self.state, features, example):
            return run_forward(request.forward_func, inputs, None, arguments)


@contextmanager
def _replacing(state: "LayerState", features: Tensor, example: int) -> Iterator[None]:
    """Make the layer's last call give `features`, laid out as the layer's own tensor."""
    own = _copy_like(state.layer_tensor, state.as_layer_tensor(features, example))
    calls = 0

    def replaced(value: Any) -> Any:
        nonlocal calls
        calls += 1
        # A shared module runs several times; its last call is the one that was measured.
        if calls < state.layer_calls:
            return None
        if not isinstance(value, tuple | list):
            return own.to(value.device)
        parts = list(value)
        parts[state.position] = own.to(parts[state.position].device)
        return rebuilt(value, parts)

    layer = state.request.layer
    handle = (
        layer.register_forward_pre_hook(lambda module, args: replaced(args))
        if state.request.attribute_to_layer_input
        else layer.register_forward_hook(lambda module, args, output: replaced(output))
    )
    try:
        yield
    finally:
        handle.remove()


def _copy_like(layer_tensor: Tensor, values: Tensor) -> Tensor:
    """Copy values into new memory, which modules may overwrite, in the layer's order of axes."""
    # A network that flattens with `view` relies on the order that its layer gives.
    axes = sorted(range(layer_tensor.dim()), key=layer_tensor.stride, reverse=True)
    ordered = values.permute(axes).clone(memory_format=torch.contiguous_format)
    return ordered.permute([axes.index(axis) for axis in range(len(axes))])
