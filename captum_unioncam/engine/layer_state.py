"""One forward and one backward: what a layer says about the clean inputs."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_unioncam.engine import arguments as check
from captum_unioncam.engine.captum_compat import (
    BaselineType,
    TargetType,
    compute_layer_gradients_and_eval,
)
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


class LayerState(NamedTuple):
    """Measurements of one tensor of the layer; lives as long as one call.

    Attributes:
        activations (Tensor): A, (N, C, *spatial), detached, in float32 or better.
        gradients (Tensor): W, gradients of the target's raw output with respect to A.
        scorer (MaskScorer): scores maps of this layer as masks of the inputs.
        dtype (torch.dtype): the layer's own dtype.

    """

    activations: Tensor
    gradients: Tensor
    scorer: MaskScorer
    dtype: torch.dtype


@contextmanager
def measured(
    forward_func: Callable[..., Any],
    layer: nn.Module,
    inputs: Any,
    target: TargetType,
    additional_forward_args: Any,
    *,
    device_ids: list[int] | None,
    attribute_to_layer_input: bool,
    grad_kwargs: dict[str, Any] | None,
    baselines: BaselineType,
    score: Score,
    perturbations_per_eval: int | None,
) -> Iterator[tuple[LayerState, ...]]:
    """Check the arguments, run the clean inputs once and yield one state per layer tensor.

    Inside the block gradients are off and the model is in evaluation mode; its modes are
    restored on the way out. Parameters are those of `LayerUnionCAM.attribute`.
    """
    check_layer(forward_func, layer)
    check.check_flag("attribute_to_layer_input", attribute_to_layer_input)
    check.check_perturbations_per_eval(perturbations_per_eval)
    if grad_kwargs is not None and not isinstance(grad_kwargs, dict):
        raise TypeError(f"grad_kwargs must be a dict or None, got {type(grad_kwargs).__name__}")
    if not callable(score):
        check.check_choice("score", score, ("probability", "logit"))
    parsed = check.parse_inputs(inputs)
    num_examples = len(parsed[0])
    parsed_target = parse_target(target, num_examples)
    parsed_baselines = check.parse_baselines(baselines, parsed)
    extra = additional_forward_args
    extra = () if extra is None else extra if isinstance(extra, tuple) else (extra,)
    for x in parsed:
        if x.is_floating_point():
            check.check_finite("inputs", x, "clean them before attribution")

    model = model_behind(forward_func)
    _warn_of_training_mode(model, layer)
    # Inference tensors cannot be part of a graph; this also undoes a caller's inference_mode.
    with torch.inference_mode(False), torch.no_grad(), evaluating(model):
        gradients, activations, read = _clean_pass(
            forward_func, layer, parsed, parsed_target, score, extra,
            device_ids, attribute_to_layer_input, grad_kwargs,
        )  # fmt: skip
        states = []
        for A, W in zip(activations, gradients, strict=True):
            _check_layer_tensor(A, W, num_examples, describe_layer(forward_func, layer))
            scorer = MaskScorer(
                forward_func,
                tuple(x.detach() for x in parsed),
                check.maskable(parsed, A),
                parsed_baselines,
                extra,
                read,
                perturbations_per_eval and perturbations_per_eval * num_examples,
            )
            states.append(LayerState(widened(A), widened(W), scorer, A.dtype))
        yield tuple(states)


def _clean_pass(
    forward_func: Callable[..., Any],
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    target: Any,
    score: Score,
    extra: tuple[Any, ...],
    device_ids: list[int] | None,
    attribute_to_layer_input: bool,
    grad_kwargs: dict[str, Any] | None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], TargetScores]:
    """Run forward and backward once; return gradients, activations and how to read scores.

    Raises:
        ValueError: if the layer is never reached, or does not reach the output.
        TypeError: if the layer or the network gives something other than tensors.

    """
    reader: list[TargetScores] = []
    seen: list[Any] = []
    name = describe_layer(forward_func, layer)

    def target_output(*args: Any) -> Tensor:
        # Selecting here lets a wrong target be named before Captum's assertions see it.
        output = check_output(forward_func(*args), len(inputs[0]))
        reader.append(TargetScores.from_output(score, target, output))
        return reader[-1].raw(output, torch.arange(len(output), device=output.device))

    def look(module: nn.Module, args: Any, result: Any = None) -> None:
        value = args if attribute_to_layer_input else result
        seen.append(value)
        tensors = value if isinstance(value, tuple | list) else (value,)
        if not tensors or not all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors):
            kinds = ", ".join(
                str(t.dtype) if isinstance(t, Tensor) else type(t).__name__ for t in tensors
            )
            side = "takes" if attribute_to_layer_input else "returns"
            raise TypeError(
                f"{name} {side} {kinds or 'nothing by position'}; a map needs a floating point "
                "Tensor or a tuple of them"
            )

    register = (
        layer.register_forward_pre_hook if attribute_to_layer_input else layer.register_forward_hook
    )
    handle = register(look)
    try:
        # Copies keep in-place first layers, and gradient flags that Captum sets, off the user's.
        gradients, activations = compute_layer_gradients_and_eval(
            target_output,
            layer,
            tuple(x.detach().clone() for x in inputs),
            None,
            tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in extra),
            device_ids=device_ids or getattr(forward_func, "device_ids", None),
            attribute_to_layer_input=attribute_to_layer_input,
            grad_kwargs=grad_kwargs,
        )
    except AssertionError as error:
        if "Elements to be reduced" in str(error):
            raise ValueError(_beside_the_path(name)) from error
        # An assertion of the user's own, before the layer or after it, is not ours to explain.
        if seen or not reader:
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
    detached = tuple(g.detach() for g in gradients), tuple(a.detach() for a in activations)
    return *detached, reader[-1]


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


def _warn_of_training_mode(model: nn.Module | None, layer: nn.Module) -> None:
    # Hundreds of forwards in training mode would move batch-norm statistics and draw dropout
    # noise, so that scores would depend on what else is in the chunk.
    if in_training(layer if model is None else model):
        remedy = (
            "forward_func hides the model, so call model.eval() first: scores of masked inputs "
            "are unreliable"
            if model is None
            else "it is explained in evaluation mode and put back"
        )
        # Past a context manager, attribute and Captum's wrapper, to the user's own line.
        warnings.warn(f"the model is in training mode; {remedy}", UserWarning, stacklevel=6)
