"""What a layer says about the clean inputs, and what can be asked of it further."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.engine import arguments as check
from captum_unioncam.engine.captum_compat import (
    BaselineType,
    TargetType,
    compute_layer_gradients_and_eval,
    forward_layer_eval,
    run_forward,
)
from captum_unioncam.engine.feature_scoring import FeatureScores, score_features
from captum_unioncam.engine.mask_scoring import MaskScorer
from captum_unioncam.engine.modules import (
    check_layer,
    describe_layer,
    evaluating,
    in_training,
    model_behind,
)
from captum_unioncam.engine.target_scores import (
    Score,
    TargetScores,
    check_output,
    parse_target,
    widened,
)
from captum_unioncam.engine.tokens import TokenGrid, find_grid


@dataclass(frozen=True)
class Call:
    """What the user asked for, checked; lives as long as one call.

    Attributes:
        forward_func (Callable): the model, or any function of it.
        layer (nn.Module, optional): the layer to explain; None for methods without one.
        inputs (tuple[Tensor, ...]): the user's inputs, detached.
        target (Any): the target in plain Python.
        extra (tuple): additional forward arguments.
        device_ids (list[int], optional): order of the devices of a hidden DataParallel.
        attribute_to_layer_input (bool): explain the layer's input instead of its output.
        grad_kwargs (dict, optional): further arguments of ``torch.autograd.grad``.
        baselines (tuple): one baseline per input, numbers or tensors.
        score (Score): what f_c is.
        rows_per_forward (int, optional): most rows of a forward; None lets the engine decide.
        description (str, optional): name for progress bars; None shows none.

    """

    forward_func: Callable[..., Any]
    layer: Any
    inputs: tuple[Tensor, ...]
    target: Any
    extra: tuple[Any, ...]
    device_ids: list[int] | None
    attribute_to_layer_input: bool
    grad_kwargs: dict[str, Any] | None
    baselines: tuple[Tensor | int | float, ...]
    score: Score
    rows_per_forward: int | None
    description: str | None

    @property
    def num_examples(self) -> int:
        """Number of examples, N."""
        return len(self.inputs[0])

    @property
    def layer_name(self) -> str:
        """The layer as error messages name it."""
        return describe_layer(self.forward_func, self.layer) if self.layer else "no layer"

    def is_per_example(self, argument: Any) -> bool:
        """Say whether an additional argument has one row per example."""
        is_rows = isinstance(argument, Tensor) and argument.dim() > 0
        return is_rows and len(argument) == self.num_examples

    def argument(self, argument: Any, rows: Tensor) -> Any:
        """Return an additional argument for the examples `rows`, safe to write into."""
        if self.is_per_example(argument):
            return argument[rows.to(argument.device)]
        return argument.clone() if isinstance(argument, Tensor) else argument


@dataclass(frozen=True)
class LayerState:
    """Measurements of one tensor of the layer; lives as long as one call.

    Attributes:
        call (Call): what was asked for.
        activations (Tensor): A, (N, C, *spatial), detached, in float32 or better. Tokens of
            transformers are laid out as maps, without the class token.
        gradients (Tensor): W, gradients of the target's raw output with respect to A; empty for
            a method that needs none.
        target (TargetScores): reads the target's raw output and score.
        logits (Tensor): the target's raw output on the clean inputs, (N,).
        scores (Tensor): the target's score f_c on the clean inputs, (N,).
        layer_tensor (Tensor): the layer's own tensor, in its dtype and layout.
        grid (TokenGrid, optional): how tokens lie on the image; None for layers of maps.
        position (int): which of the layer's tensors this is.
        layer_calls (int): how often a forward calls the layer; its last call is measured.

    """

    call: Call
    activations: Tensor
    gradients: Tensor
    target: TargetScores
    logits: Tensor
    scores: Tensor
    layer_tensor: Tensor
    grid: TokenGrid | None
    position: int
    layer_calls: int

    @cached_property
    def masks(self) -> MaskScorer:
        """Scores maps of this layer as masks of the inputs.

        Raises:
            ValueError: if no input is floating point and of the maps' rank.

        """
        call = self.call
        masked = check.maskable(call.inputs, self.activations)
        return MaskScorer(call, masked, call.baselines, self.target)

    def masks_over(self, baselines: tuple[Tensor | int | float, ...]) -> MaskScorer:
        """Return a scorer like `masks` whose masked-out parts show other baselines."""
        masked = check.maskable(self.call.inputs, self.activations)
        return MaskScorer(self.call, masked, baselines, self.target)

    def score_features(
        self, count: int, perturbed: Callable[[int, Tensor], Tensor]
    ) -> FeatureScores:
        """Score `count` perturbed versions of every example's features, (N, count) each.

        Args:
            count (int): how many perturbations there are.
            perturbed (Callable): takes an example's number and the numbers of R perturbations,
                returns features for them, (R, C, *spatial).

        """
        return score_features(self, count, perturbed, description=self.call.description)

    def measured_at(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return activations and gradients at other inputs of the same shapes."""
        measured = _clean_pass(self.call, inputs, needs_gradients=True)
        A, W = measured.activations[self.position], measured.gradients[self.position]
        cause = "the network overflows on the changed inputs"
        check.check_finite("activations", A, cause)
        check.check_finite("gradients", W, cause)
        return _as_maps(A, self.grid), _as_maps(W, self.grid)

    def as_layer_tensor(self, features: Tensor, example: int) -> Tensor:
        """Lay out features (R, C, *spatial) as the layer's own tensor of that example."""
        own = self.layer_tensor[example : example + 1]
        features = features.to(own)
        return features if self.grid is None else self.grid.to_tokens(features, own)


def _as_maps(values: Tensor, grid: TokenGrid | None) -> Tensor:
    values = widened(values)
    return values if grid is None else grid.to_maps(values)


def checked_call(
    forward_func: Callable[..., Any],
    layer: nn.Module | None,
    inputs: Any,
    target: TargetType = None,
    additional_forward_args: Any = None,
    *,
    device_ids: list[int] | None = None,
    attribute_to_layer_input: bool = False,
    grad_kwargs: dict[str, Any] | None = None,
    baselines: BaselineType = None,
    score: Score = "probability",
    perturbations_per_eval: int | None = None,
    description: str | None = None,
) -> Call:
    """Check the arguments of an `attribute` and return them as a Call, before any forward.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if it is out of range, of the wrong shape, or not finite.

    """
    if layer is not None:
        check_layer(forward_func, layer)
    check.check_flag("attribute_to_layer_input", attribute_to_layer_input)
    check.check_perturbations_per_eval(perturbations_per_eval)
    if grad_kwargs is not None and not isinstance(grad_kwargs, dict):
        raise TypeError(f"grad_kwargs must be a dict or None, got {type(grad_kwargs).__name__}")
    if not callable(score):
        check.check_choice("score", score, ("probability", "logit"))
    parsed = check.parse_inputs(inputs)
    extra = additional_forward_args
    call = Call(
        forward_func,
        layer,
        tuple(x.detach() for x in parsed),
        parse_target(target, len(parsed[0])),
        () if extra is None else extra if isinstance(extra, tuple) else (extra,),
        device_ids or getattr(forward_func, "device_ids", None),
        attribute_to_layer_input,
        grad_kwargs,
        check.parse_baselines(baselines, parsed),
        score,
        perturbations_per_eval and perturbations_per_eval * len(parsed[0]),
        description,
    )
    for x in call.inputs:
        if x.is_floating_point():
            check.check_finite("inputs", x, "clean them before attribution")
    return call


@contextmanager
def measured(call: Call, *, needs_gradients: bool = True) -> Iterator[tuple[LayerState, ...]]:
    """Run the clean inputs once and yield one state per layer tensor.

    Inside the block gradients are off and the model is in evaluation mode; its modes are
    restored on the way out.
    """
    model = model_behind(call.forward_func)
    _warn_of_training_mode(model, call.layer)
    # Inference tensors cannot be part of a graph; this also undoes a caller's inference_mode.
    with torch.inference_mode(False), torch.no_grad(), evaluating(model):
        clean = _clean_pass(call, call.inputs, needs_gradients=needs_gradients)
        yield tuple(_state(call, clean, position) for position in range(len(clean.activations)))


@contextmanager
def measured_inputs(call: Call) -> Iterator[MaskScorer]:
    """Run the clean inputs once and yield what scores masks of them, where no layer is involved.

    Inside the block the model is as in `measured`. Masked are the floating point inputs of the
    first one's rank, which must be 3 to 5.
    """
    model = model_behind(call.forward_func)
    _warn_of_training_mode(model, None)
    with torch.inference_mode(False), torch.no_grad(), evaluating(model):
        copies = tuple(x.clone() for x in call.inputs)
        extra = tuple(a.clone() if isinstance(a, Tensor) else a for a in call.extra)
        output = check_output(run_forward(call.forward_func, copies, None, extra), len(copies[0]))
        like = next((x for x in call.inputs if x.is_floating_point() and 3 <= x.dim() <= 5), None)
        if like is None:
            kinds = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in call.inputs)
            raise ValueError(
                "no input can be masked: one must be floating point with 3 to 5 dimensions, "
                f"(N, C, L) to (N, C, D, H, W); got {kinds}"
            )
        target = TargetScores.from_output(call.score, call.target, output)
        yield MaskScorer(call, check.maskable(call.inputs, like), call.baselines, target)


def _state(call: Call, clean: "_CleanPass", position: int) -> LayerState:
    A, W = clean.activations[position], clean.gradients[position]
    _check_layer_tensor(A, W, call.num_examples, call.layer_name)
    grid = find_grid(A, call.inputs)
    target, (logits, scores) = clean.target, clean.read
    return LayerState(
        call, _as_maps(A, grid), _as_maps(W, grid) if W.numel() else W, target,
        logits.to(A.device), scores.to(A.device), A, grid, position, clean.layer_calls,
    )  # fmt: skip


@dataclass(frozen=True)
class _CleanPass:
    """One forward, and one backward where gradients are needed; everything detached."""

    activations: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    target: TargetScores
    read: tuple[Tensor, Tensor]
    layer_calls: int


def _clean_pass(call: Call, inputs: tuple[Tensor, ...], *, needs_gradients: bool) -> _CleanPass:
    """Run inputs through Captum's hooks.

    Raises:
        ValueError: if the layer is never reached, or does not reach the output.
        TypeError: if the layer or the network gives something other than tensors.

    """
    read: list[tuple[TargetScores, Tensor, Tensor]] = []
    seen: list[Any] = []
    name = call.layer_name

    def target_output(*args: Any) -> Tensor:
        # Selecting here lets a wrong target be named before Captum's assertions see it.
        output = check_output(call.forward_func(*args), len(inputs[0]))
        target = TargetScores.from_output(call.score, call.target, output)
        rows = torch.arange(len(output), device=output.device)
        with torch.no_grad():
            read.append((target, *target.read(output.detach(), rows)))
        return target.raw(output, rows)

    def look(module: nn.Module, args: Any, result: Any = None) -> None:
        value = args if call.attribute_to_layer_input else result
        seen.append(value)
        tensors = value if isinstance(value, tuple | list) else (value,)
        if not tensors or not all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors):
            kinds = ", ".join(
                str(t.dtype) if isinstance(t, Tensor) else type(t).__name__ for t in tensors
            )
            side = "takes" if call.attribute_to_layer_input else "returns"
            raise TypeError(
                f"{name} {side} {kinds or 'nothing by position'}; a map needs a floating point "
                "Tensor or a tuple of them"
            )

    register = (
        call.layer.register_forward_pre_hook
        if call.attribute_to_layer_input
        else call.layer.register_forward_hook
    )
    handle = register(look)
    # Copies keep in-place first layers, and gradient flags that Captum sets, off the user's.
    copies = tuple(x.detach().clone() for x in inputs)
    extra = tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in call.extra)
    try:
        if needs_gradients:
            gradients, activations = compute_layer_gradients_and_eval(
                target_output,
                call.layer,
                copies,
                None,
                extra,
                device_ids=call.device_ids,
                attribute_to_layer_input=call.attribute_to_layer_input,
                grad_kwargs=call.grad_kwargs,
            )
        else:
            activations = forward_layer_eval(
                target_output, copies, call.layer, extra, call.device_ids,
                call.attribute_to_layer_input,
            )  # fmt: skip
            gradients = tuple(a.new_zeros(0) for a in activations)
    except AssertionError as error:
        if "Elements to be reduced" in str(error):
            raise ValueError(_beside_the_path(name)) from error
        # An assertion of the user's own, before the layer or after it, is not ours to explain.
        if seen or not read:
            raise
        raise ValueError(
            f"{name} was never called by forward_func; pass a layer of this very model, one that "
            "runs in its forward (a compiled or traced model hides its layers)"
        ) from error
    except RuntimeError as error:
        if "used in the graph" in str(error):
            raise ValueError(_beside_the_path(name)) from error
        if "does not require grad" in str(error):
            raise ValueError(
                f"no gradients flow from the output to {name}: forward_func runs it under "
                "no_grad or inference_mode, or detaches what follows it"
            ) from error
        raise
    finally:
        handle.remove()
    target, logits, scores = read[-1]
    return _CleanPass(
        tuple(a.detach() for a in activations),
        tuple(g.detach() for g in gradients),
        target,
        (logits, scores),
        len(seen),
    )


def _beside_the_path(name: str) -> str:
    return (
        f"the target does not depend on {name}; choose another layer, or pass "
        "grad_kwargs={'materialize_grads': True} to take its gradients as zero"
    )


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
        # Past a context manager, the base class, attribute and Captum's wrapper: the user's line.
        warnings.warn(f"the model is in training mode; {remedy}", UserWarning, stacklevel=7)
