"""Scores of the target on perturbed features: the layer's output replaced on its way forward."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from captum_unioncam.engine.arguments import check_finite
from captum_unioncam.engine.captum_compat import NullProgress, progress, run_forward
from captum_unioncam.engine.mask_scoring import ACCELERATOR_CHUNK_ELEMENTS, CPU_CHUNK_ELEMENTS
from captum_unioncam.engine.modules import model_behind
from captum_unioncam.engine.target_scores import check_output

if TYPE_CHECKING:
    from captum_unioncam.engine.layer_state import LayerState

# Elements of the layer or of the output that one forward carries when the engine chooses.
CHUNK_ELEMENTS = 2**25
LONGEST_CHUNK = 512

# Takes an example's number and a tensor of R perturbation numbers, returns features for them,
# (R, C, *spatial).
Perturb = Callable[[int, Tensor], Tensor]

# How an example's row goes through the network before the layer gives way to R rows of features:
# as it is; in R rows, of which modules see one; or in R rows.
Way = Literal["one row", "shared", "repeated"]


class FeatureScores(NamedTuple):
    """What perturbed features earned.

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
                for some in ids.split(self._step) if len(ids) else ():
                    output = self._forward(example, perturbed(example, some), self._way)
                    rows = torch.full((len(some),), example, device=output.device)
                    logit, score = state.target.read(check_output(output, len(some)), rows)
                    logits[example, some] = logit.to(device, logits.dtype)
                    scores[example, some] = score.to(device, scores.dtype)
                    bar.update(len(some))
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
        """The output for the probe, one row."""
        return check_output(self._forward(*self._probe, "one row"), 1)

    @cached_property
    def _step(self) -> int:
        """The most rows of a forward."""
        call = self.state.call
        if call.rows_per_forward:
            return call.rows_per_forward
        row = sum(x[0].numel() for x in call.inputs)
        widest = max(self.state.layer_tensor[0].numel(), self._alone.numel())
        if self._way == "shared":
            widest = max(widest, row, self._prefix.widest)
        step = max(1, min(LONGEST_CHUNK, CHUNK_ELEMENTS // widest))
        if self._way == "repeated":
            on_cpu = call.inputs[0].device.type == "cpu"
            budget = CPU_CHUNK_ELEMENTS if on_cpu else ACCELERATOR_CHUNK_ELEMENTS
            step = max(1, min(step, budget // row))
        return step

    @cached_property
    def _prefix(self) -> "_Prefix":
        """What runs before the layer, seen on the probe.

        Raises:
            ValueError: if it cannot run on one row.
        """
        prefix = _Prefix(self.state)
        with prefix.recording():
            self._forward(*self._probe, "one row")
        return prefix

    @cached_property
    def _way(self) -> Way:
        """The cheapest way that gives a row of features the output that it earns alone."""
        allowed = self.state.call.rows_per_forward
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
            output = self._forward(example, among_others, way)
        except Exception:
            # An error of the network's own, whatever its kind, comes again with repeated inputs.
            return False
        if not (isinstance(output, Tensor) and output.dim() and len(output) == 3):
            return False
        tolerance = torch.finfo(alone.dtype).eps ** 0.5 * alone.abs().max()
        return bool(((output[1:2] - alone).abs() <= tolerance).all())

    def _forward(self, example: int, features: Tensor, way: Way) -> Any:
        """Run the network on an example with its layer giving `features`."""
        call, rows = self.state.call, len(features)
        picks = torch.full((1 if way == "one row" else rows,), example)
        shared = way == "shared" and rows > 1
        inputs = tuple(
            x[picks[:1].to(x.device)].expand(rows, *x.shape[1:])
            if shared
            else x[picks.to(x.device)]
            for x in call.inputs
        )
        arguments = tuple(call.argument(a, picks) for a in call.extra)
        on_one_row = self._prefix.on_one_row(rows) if shared else nullcontext()
        with on_one_row, _replacing(self.state, features, example):
            return run_forward(call.forward_func, inputs, None, arguments)


@dataclass
class _ModuleCall:
    module: nn.Module
    number: int
    start: int
    # How many rows each of its tensors has where the network runs on one.
    rows: list[int]
    # The elements of its widest output there.
    width: int = 0


@dataclass
class _Prefix:
    """The calls of modules that end before the layer gives its features, outermost ones only."""

    state: "LayerState"
    calls: dict[tuple[nn.Module, int], list[int]] = field(default_factory=dict)
    widest: int = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Find the calls in a forward of one row."""
        call = self.state.call
        last = call.layer, self.state.layer_calls - 1
        running: list[_ModuleCall] = []
        ended: list[_ModuleCall] = []
        numbers: dict[nn.Module, int] = defaultdict(int)
        starts, reached = 0, False

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal starts, reached
            rows: list[int] = []
            _map_tensors((args, kwargs), lambda t: rows.append(len(t)))
            running.append(_ModuleCall(module, numbers[module], starts, rows))
            reached = reached or (call.attribute_to_layer_input and last == _key(running[-1]))
            numbers[module] += 1
            starts += 1

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            nonlocal reached
            this = running.pop()
            if reached:
                return
            while ended and ended[-1].start > this.start:
                ended.pop()
            ended.append(this)
            sizes = [0]
            _map_tensors(output, lambda t: sizes.append(t.numel()))
            this.width = max(sizes)
            reached = last == _key(this)

        model = model_behind(call.forward_func)
        if model is None:
            raise ValueError("the modules before the layer are not known")
        with _hooked(list(model.modules()), before, after):
            yield
        if any(outermost.rows and 1 not in outermost.rows for outermost in ended):
            raise ValueError("a module before the layer takes no rows")
        self.calls = {_key(outermost): outermost.rows for outermost in ended}
        self.widest = max((outermost.width for outermost in ended), default=0)

    @contextmanager
    def on_one_row(self, rows: int) -> Iterator[None]:
        """Run these calls on the first of R equal rows, and expand what they return."""
        numbers: dict[nn.Module, int] = defaultdict(int)
        running: list[tuple[nn.Module, int]] = []

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            running.append((module, numbers[module]))
            numbers[module] += 1
            if running[-1] not in self.calls:
                return None
            on_one = iter(self.calls[running[-1]])
            # Rows are what grows with them: other tensors may happen to have R rows too.
            return _map_tensors(
                (args, kwargs), lambda t: t[:1] if (next(on_one), len(t)) == (1, rows) else t
            )

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            if running.pop() not in self.calls:
                return None
            return _map_tensors(
                output, lambda t: t.expand(rows, *t.shape[1:]) if len(t) == 1 else t
            )

        with _hooked(list({module for module, _ in self.calls}), before, after):
            yield


def _key(call: _ModuleCall) -> tuple[nn.Module, int]:
    return call.module, call.number


@contextmanager
def _hooked(
    modules: list[nn.Module], before: Callable[..., Any], after: Callable[..., Any]
) -> Iterator[None]:
    handles = []
    try:
        for module in modules:
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Change the tensors with at least one dimension in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return change(value) if value.dim() else value
    if isinstance(value, dict):
        return {key: _map_tensors(entry, change) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return _rebuilt(value, [_map_tensors(entry, change) for entry in value])
    return value


def _rebuilt(like: Any, parts: list[Any]) -> Any:
    # Named tuples take their fields one by one.
    return like._make(parts) if hasattr(like, "_make") else type(like)(parts)


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
        return _rebuilt(value, parts)

    layer = state.call.layer
    handle = (
        layer.register_forward_pre_hook(lambda module, args: replaced(args))
        if state.call.attribute_to_layer_input
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
