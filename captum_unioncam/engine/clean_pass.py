"""One forward and one backward through Captum's hooks, with errors that name the remedy."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.engine.callable_targets import check_clean_values
from captum_unioncam.engine.captum_compat import (
    compute_layer_gradients_and_eval,
    forward_layer_eval,
)
from captum_unioncam.engine.request import Request, copied
from captum_unioncam.engine.target_scores import TargetScores, output_as_read


@dataclass(frozen=True)
class CleanPass:
    """One forward, and one backward where gradients are needed; everything detached."""

    activations: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    target: TargetScores
    clean_scores: tuple[Tensor, Tensor]
    layer_calls: int


def clean_pass(request: Request, inputs: tuple[Tensor, ...], *, needs_gradients: bool) -> CleanPass:
    """Run inputs through Captum's hooks.

    Raises:
        ValueError: if the layer is never reached, or does not reach the output.
        TypeError: if the layer or the network gives something other than tensors.
    """
    read: list[tuple[TargetScores, Tensor, Tensor]] = []
    seen: list[Any] = []
    name = request.layer_name

    def target_output(*args: Any) -> Tensor:
        # Selecting here lets a wrong target be named before Captum's assertions see it.
        rows = torch.arange(len(inputs[0]))
        output = output_as_read(request.target, request.forward_func(*args), len(rows))
        target = TargetScores.from_output(request.score, request.target, output)
        raw = target.raw(output, rows)
        if target.functions is None:
            with torch.no_grad():
                read.append((target, *target.target_score(output.detach(), rows)))
        else:
            if inputs is request.inputs:
                check_clean_values(target.functions, output, raw)
            read.append((target, raw.detach(), raw.detach()))
        return raw

    def look(module: nn.Module, args: Any, result: Any = None) -> None:
        value = args if request.attribute_to_layer_input else result
        seen.append(value)
        tensors = value if isinstance(value, tuple | list) else (value,)
        if not tensors or not all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors):
            kinds = ", ".join(
                str(t.dtype) if isinstance(t, Tensor) else type(t).__name__ for t in tensors
            )
            side = "takes" if request.attribute_to_layer_input else "returns"
            raise TypeError(
                f"{name} {side} {kinds or 'nothing by position'}; a map needs a floating point "
                "Tensor or a tuple of them"
            )

    register = (
        request.layer.register_forward_pre_hook
        if request.attribute_to_layer_input
        else request.layer.register_forward_hook
    )
    handle = register(look)
    # Copies also keep gradient flags that Captum sets off the user's tensors.
    copies, extra = copied(inputs), copied(request.extra)
    try:
        if needs_gradients:
            gradients, activations = compute_layer_gradients_and_eval(
                target_output,
                request.layer,
                copies,
                None,
                extra,
                device_ids=request.device_ids,
                attribute_to_layer_input=request.attribute_to_layer_input,
                grad_kwargs=request.grad_kwargs,
            )
        else:
            activations = forward_layer_eval(
                target_output, copies, request.layer, extra, request.device_ids,
                request.attribute_to_layer_input,
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
    return CleanPass(
        tuple(a.detach() for a in activations),
        tuple(g.detach() for g in gradients),
        target,
        (logits, scores),
        len(seen),
    )


def _beside_the_path(name: str) -> str:
    return (
        f"the target does not depend on {name}: it is beside the path to this output, runs under "
        "no_grad or is detached; choose another layer, or pass "
        "grad_kwargs={'materialize_grads': True} to take its gradients as zero"
    )
