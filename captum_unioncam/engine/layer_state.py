"""What a layer says about the clean inputs, and what can be asked of it further."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from captum_unioncam.engine import arguments as check
from captum_unioncam.engine.callable_targets import check_clean_values
from captum_unioncam.engine.captum_compat import run_forward
from captum_unioncam.engine.clean_pass import CleanPass, clean_pass, clean_passes
from captum_unioncam.engine.feature_scoring import FeatureScorer
from captum_unioncam.engine.layout import Layouts
from captum_unioncam.engine.layout_finding import ShapesSeen, check_maskable, find_layout
from captum_unioncam.engine.locks import cached_property, exclusive_use
from captum_unioncam.engine.mask_scoring import MaskScorer
from captum_unioncam.engine.measured_masks import TOLERANCE, Budget, MaskScores, MeasuredMasks
from captum_unioncam.engine.modules import evaluating, in_training, model_behind
from captum_unioncam.engine.request import Request, copied
from captum_unioncam.engine.row_stream import RowStream
from captum_unioncam.engine.surrogate import Weights
from captum_unioncam.engine.target_scores import (
    TargetScores,
    at_least_float32,
    output_as_read,
    parse_target,
)
from captum_unioncam.engine.warn import warn
from captum_unioncam.scorers import Scorer


@dataclass
class SharedMeasurements:
    """What the states of several targets of the same inputs have in common.

    Attributes:
        states (list): per target, one state for each tensor of the layer.
        measured (dict): by layer tensor and what masks, the masks that were forwarded.
        tables (dict): by these and the budget, scores of masked inputs, one table per target.
        seen (ShapesSeen): what the model's convolutions and pooling gave on the clean inputs.
        scorers (dict): by the inputs that are masked, what masks them; several layers may share it.
    """

    states: list[tuple["LayerState", ...]] = field(default_factory=list)
    measured: dict[tuple[int, Hashable], MeasuredMasks] = field(default_factory=dict)
    tables: dict[tuple[int, Hashable, Budget | None], list[MaskScores]] = field(
        default_factory=dict
    )
    seen: ShapesSeen = field(default_factory=ShapesSeen)
    scorers: dict[tuple[bool, ...], MaskScorer] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerState:
    """Measurements of one tensor of the layer; lives as long as one call.

    Attributes:
        request (Request): what was asked for.
        activations (Tensor): A, (N, C, *spatial), detached, in float32 or better. Whatever
            the layer's layout, these are maps; tokens are without those that lead.
        gradients (Tensor): W, gradients of the target's raw output with respect to A; empty for
            a method that needs none.
        target (TargetScores): reads the target's raw output and score.
        logits (Tensor): the target's raw output on the clean inputs, (N,).
        scores (Tensor): the target's score f_c on the clean inputs, (N,).
        layer_tensor (Tensor): the layer's own tensor, in its dtype and layout.
        layout (Layout or OwnLayout): how it lies on the inputs.
        position (int): which of the layer's tensors this is.
        layer_calls (int): how often a forward calls the layer; its last call is measured.
        shared (SharedMeasurements): what it shares with the states of other targets.
        number (int): which of their targets this one is.
    """

    request: Request
    activations: Tensor
    gradients: Tensor
    target: TargetScores
    logits: Tensor
    scores: Tensor
    layer_tensor: Tensor
    layout: Layouts
    position: int
    layer_calls: int
    shared: "SharedMeasurements"
    number: int

    @cached_property
    def masks(self) -> MaskScorer:
        """Scores maps of this layer as masks of the inputs.

        Raises:
            ValueError: if no input is floating point and of the maps' rank.
        """
        request, first = self.request, self.shared.states[0][self.position]
        if first is not self:
            return first.masks.for_target(self.target)
        scorers = self.shared.scorers
        masked = self._maskable()
        if masked not in scorers:
            scorers[masked] = MaskScorer(request, masked, request.baselines, self.target)
        return scorers[masked]

    @cached_property
    def model_masks(self) -> MaskScorer:
        """Scores maps like `masks`, by the model itself, whatever scorer runs those."""
        if not self.request.scorer_is_own:
            return self.masks
        request = replace(self.request, scorer=self.request.forward_func)
        return MaskScorer(request, self._maskable(), request.baselines, self.target)

    @property
    def scorer_deviation(self) -> float | None:
        """How far a scorer's scores were from the model's; None where none was compared."""
        ran = self.masks.stream.scorer
        return ran.deviation if isinstance(ran, Scorer) else None

    def channel_scores(
        self,
        max_masks: int | Literal["auto"] | None = None,
        tolerance: float = TOLERANCE,
        weights: Weights = "score",
    ) -> MaskScores:
        """Score every channel of A as a mask, once for all targets and methods that ask.

        Args:
            max_masks (int or str, optional): forward at most so many masks of an example, or with
                "auto" as many as the tolerance needs, and predict the scores of the others; None
                forwards all. Default: None
            tolerance (float, optional): with "auto", the estimated deviation of the map that is
                tolerated. Default: 0.08
            weights (str, optional): what weighs channels in that map, their "score" or the
                "softmax" of their raw outputs. Default: "score"

        Returns:
            *MaskScores* of this state's target, each (N, C).
        """
        budget = None if max_masks is None else Budget(max_masks, tolerance, weights)
        return self.scores_once("channels", self.activations, budget)

    def scores_once(self, name: Hashable, maps: Tensor, budget: Budget | None = None) -> MaskScores:
        """Score maps that no target decides on, once for all targets and methods that ask.

        Args:
            name (Hashable): what tells these maps of the layer from others that are scored so.
            maps (Tensor): maps of shape (N, K, *spatial).
            budget (Budget, optional): how many are forwarded; budgets share what they forward.
                Default: None
        """
        tables, key = self.shared.tables, (self.position, name, budget)
        if key not in tables:
            tables[key] = self.measured_once(name, maps).tables(budget, show=True)
        return tables[key][self.number]

    def measured_once(self, name: Hashable, maps: Tensor) -> MeasuredMasks:
        """Return what `scores_once` reads its tables from; maps of the channels are "channels"."""
        measured, key = self.shared.measured, (self.position, name)
        if key not in measured:
            targets = [states[self.position].target for states in self.shared.states]
            measured[key] = self.masks.measuring(targets, maps)
        return measured[key]

    def masks_over(self, baselines: tuple[Tensor | int | float, ...]) -> MaskScorer:
        """Return a scorer like `masks` whose masked-out parts show other baselines."""
        return MaskScorer(self.request, self._maskable(), baselines, self.target)

    def _maskable(self) -> tuple[bool, ...]:
        inputs, A = self.request.inputs, self.activations
        check_maskable(inputs, A, self.layout, self.shared.seen)
        return check.maskable(inputs, A)

    @cached_property
    def features(self) -> FeatureScorer:
        """Scores perturbed versions of the layer's features."""
        return FeatureScorer(self, self.request.description)

    def measured_at(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return activations and gradients at other inputs of the same shapes."""
        clean = clean_pass(self.request, inputs, needs_gradients=True)
        A, W = clean.activations[self.position], clean.gradients[self.position]
        cause = "the network overflows on the changed inputs"
        check.check_finite("activations", A, cause)
        check.check_finite("gradients", W, cause)
        return _as_maps(A, self.layout), _as_maps(W, self.layout)

    def as_layer_tensor(self, features: Tensor, example: int) -> Tensor:
        """Lay out features (R, C, *spatial) as the layer's own tensor of that example."""
        own = self.layer_tensor[example : example + 1]
        return self.layout.to_layer(features.to(own), own)


def _as_maps(values: Tensor, layout: Layouts) -> Tensor:
    return layout.to_maps(at_least_float32(values))


@contextmanager
def measure_layer(
    request: Request, *, needs_gradients: bool = True, shared: SharedMeasurements | None = None
) -> Iterator[tuple[LayerState, ...]]:
    """Run the clean inputs once and yield one state per layer tensor.

    Inside the block gradients are off and the model is in evaluation mode; its modes are
    restored on the way out. Targets measured with the same `shared` must be of the same
    inputs, layer, score and baselines; their masked forwards are shared.
    """
    shared = SharedMeasurements() if shared is None else shared
    with evaluation_mode(request):
        # Targets of a comparison share what the first one's forward told.
        model = None if shared.states else model_behind(request.forward_func)
        with shared.seen.watching(model, request.num_examples):
            clean = clean_pass(request, request.inputs, needs_gradients=needs_gradients)
        states = tuple(_state(request, clean, i, shared) for i in range(len(clean.activations)))
        shared.states.append(states)
        yield states


@contextmanager
def measure_layers(
    requests: Sequence[Request], *, needs_gradients: bool = True
) -> Iterator[list[tuple[LayerState, ...]]]:
    """Do what `measure_layer` does for requests that differ in their layer alone, in one pass.

    They also share what scores masked inputs, and with it the scores of the baselines.
    """
    request, seen = requests[0], ShapesSeen()
    scorers: dict[tuple[bool, ...], MaskScorer] = {}
    with evaluation_mode(request):
        with seen.watching(model_behind(request.forward_func), request.num_examples):
            clean = clean_passes(requests, request.inputs, needs_gradients=needs_gradients)
        measured = []
        for one, of_layer in zip(requests, clean, strict=True):
            shared = SharedMeasurements(seen=seen, scorers=scorers)
            count = len(of_layer.activations)
            shared.states.append(tuple(_state(one, of_layer, i, shared) for i in range(count)))
            measured.append(shared.states[0])
        yield measured


@contextmanager
def evaluation_mode(request: Request) -> Iterator[None]:
    """Hold the model, and a scorer of the user's own, in evaluation mode without gradients.

    Other threads' calls on them wait until the block ends.
    """
    with exclusive_use(request.forward_func, request.layer, request.scorer):
        model = model_behind(request.forward_func)
        _warn_of_training_mode(model, request.layer)
        scorer = model_behind(request.scorer) if request.scorer_is_own else None
        # Inference tensors cannot be part of a graph; this also undoes a caller's inference_mode.
        with torch.inference_mode(False), torch.no_grad(), evaluating(model), evaluating(scorer):
            yield


@dataclass
class SharedInputs:
    """What measurements of the same inputs, target, score and scorer have in common.

    Attributes:
        target (TargetScores, optional): reads outputs, as the clean pass has fixed it.
        stream (RowStream, optional): forwards changed inputs.
        known (dict): what was measured besides, by keys of who measured it.
    """

    target: TargetScores | None = None
    stream: RowStream | None = None
    known: dict[Any, Any] = field(default_factory=dict)


@contextmanager
def measure_inputs(request: Request, shared: SharedInputs | None = None) -> Iterator[MaskScorer]:
    """Run the clean inputs once and yield what scores masks of them, where no layer is involved.

    Inside the block the model is as in `measure_layer`. Masked are the floating point inputs of the
    first one's rank, which must be 3 to 5. Measurements with the same `shared` run the clean inputs
    once together.
    """
    shared = SharedInputs() if shared is None else shared
    with evaluation_mode(request):
        if shared.target is None:
            shared.target = _clean_target(request)
        like = next(
            (x for x in request.inputs if x.is_floating_point() and 3 <= x.dim() <= 5), None
        )
        if like is None:
            kinds = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in request.inputs)
            raise ValueError(
                "no input can be masked: one must be floating point with 3 to 5 dimensions, "
                f"(N, C, L) to (N, C, D, H, W); got {kinds}"
            )
        masked = check.maskable(request.inputs, like)
        scorer = MaskScorer(request, masked, request.baselines, shared.target, shared.stream)
        shared.stream = scorer.stream
        yield scorer


def scorer_of_all(
    request: Request, targets: Sequence[Any]
) -> tuple[Callable[..., Any], float | None]:
    """Return what runs changed inputs for all targets: the request's scorer, or else the model.

    Returns:
        *tuple* of the callable, and the largest deviation of its scores from the model's; None
        for what is not compared.
    """
    found, deviations = [], []
    for target in targets:
        one = replace(request, target=parse_target(target, request.num_examples))
        with measure_inputs(one) as masks:
            found.append(masks.stream.scorer)
        if isinstance(found[-1], Scorer) and found[-1].deviation is not None:
            deviations.append(found[-1].deviation)
    if any(one is not found[0] for one in found):
        return request.forward_func, None
    return found[0], max(deviations, default=None)


def _clean_target(request: Request) -> TargetScores:
    """Run the clean inputs and return what reads the target of any output."""
    copies, extra = copied(request.inputs), copied(request.extra)
    output = run_forward(request.forward_func, copies, None, extra)
    output = output_as_read(request.target, output, request.num_examples)
    target = TargetScores.from_output(request.score, request.target, output)
    if target.functions is not None:
        values = target.raw(output, torch.arange(request.num_examples))
        check_clean_values(target.functions, output, values)
    return target


def _state(
    request: Request, clean: CleanPass, position: int, shared: SharedMeasurements
) -> LayerState:
    A, W = clean.activations[position], clean.gradients[position]
    _check_layer_tensor(A, W, request.num_examples, request.layer_name)
    if shared.states:
        layout = shared.states[0][position].layout
    else:
        layout = find_layout(A, request.inputs, request.layer, shared.seen, request.layout)
    target, (logits, scores) = clean.target, clean.clean_scores
    return LayerState(
        request, _as_maps(A, layout), _as_maps(W, layout) if W.numel() else W, target,
        logits.to(A.device), scores.to(A.device), A, layout, position, clean.layer_calls,
        shared, len(shared.states),
    )  # fmt: skip


def _check_layer_tensor(A: Tensor, W: Tensor, num_examples: int, name: str) -> None:
    shape = tuple(A.shape)
    if not 3 <= A.dim() <= 5:
        raise ValueError(
            f"{name} gives shape {shape}, which has no spatial dimensions (or more than three): "
            "a map needs (N, C, L), (N, C, H, W) or (N, C, D, H, W); "
            "captum_unioncam.suggest_layer(model) names a fitting layer"
        )
    if len(A) != num_examples or A.numel() == 0:
        raise ValueError(
            f"{name} gives shape {shape} for {num_examples} examples: its first dimension must "
            "be the examples and no dimension may be empty"
        )
    cause = "the network overflows, holds NaN weights or was given NaN as a further argument"
    check.check_finite(f"activations of {name}", A, cause)
    check.check_finite(f"gradients at {name}", W, cause)


def _warn_of_training_mode(model: nn.Module | None, layer: nn.Module | None) -> None:
    # Hundreds of forwards in training mode would move batch-norm statistics and draw dropout
    # noise, so that scores would depend on what else is in the chunk.
    known = layer if model is None else model
    if known is not None and in_training(known):
        remedy = (
            "forward_func hides the model, so call model.eval() first: scores of masked inputs "
            "are unreliable"
            if model is None
            else "it is explained in evaluation mode and put back"
        )
        warn(f"the model is in training mode; {remedy}")
