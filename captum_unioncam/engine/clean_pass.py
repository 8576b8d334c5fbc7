"""One forward and one backward through Captum's hooks, with errors that name the remedy."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils import checkpoint

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
    """Run inputs through Captum's hooks; raises what `clean_passes` does."""
    return clean_passes([request], inputs, needs_gradients=needs_gradients)[0]


def clean_passes(
    requests: Sequence[Request], inputs: tuple[Tensor, ...], *, needs_gradients: bool
) -> list[CleanPass]:
    """Run inputs once through Captum's hooks, for requests that differ in their layer alone.

    Raises:
        ValueError: if a layer is never reached, or does not reach the output.
        TypeError: if a layer or the network gives something other than tensors.
    """
    read: list[tuple[TargetScores, Tensor, Tensor]] = []
    explained: list[Tensor] = []
    hidden: list[bool] = []
    seen: list[list[Any]] = [[] for _ in requests]
    request = requests[0]
    name = " or ".join(one.layer_name for one in requests)

    def target_output(*args: Any) -> Tensor:
        # Selecting here lets a wrong target be named before Captum's assertions see it.
        rows = torch.arange(len(inputs[0]))
        output = output_as_read(request.target, request.forward_func(*args), len(rows))
        target = TargetScores.from_output(request.score, request.target, output)
        raw = target.raw(output, rows)
        explained.append(raw)
        if target.functions is None:
            with torch.no_grad():
                read.append((target, *target.target_score(output.detach(), rows)))
        else:
            if inputs is request.inputs:
                check_clean_values(target.functions, output, raw)
            read.append((target, raw.detach(), raw.detach()))
        for one, calls in zip(requests, seen, strict=True):
            if not calls:
                raise ValueError(
                    f"{one.layer_name} was never called by forward_func; pass a layer of this very "
                    "model, one that runs in its forward (a compiled or traced model hides its "
                    "layers)"
                )
        return raw

    def look_at(one: Request, calls: list[Any]) -> Any:
        def look(module: nn.Module, args: Any, result: Any = None) -> None:
            value = args if one.attribute_to_layer_input else result
            calls.append(value)
            if needs_gradients and not torch.is_grad_enabled():
                frames = (frame.f_code.co_filename for frame, _ in traceback.walk_stack(None))
                hidden.append(checkpoint.__file__ in frames)
            tensors = value if isinstance(value, tuple | list) else (value,)
            if tensors and all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors):
                return
            kinds = ", ".join(
                str(t.dtype) if isinstance(t, Tensor) else type(t).__name__ for t in tensors
            )
            side = "takes" if one.attribute_to_layer_input else "returns"
            raise TypeError(
                f"{one.layer_name} {side} {kinds or 'nothing by position'}; a map needs a floating "
                "point Tensor or a tuple of them"
            )

        if one.attribute_to_layer_input:
            return one.layer.register_forward_pre_hook(look)
        return one.layer.register_forward_hook(look)

    layers = [one.layer for one in requests]
    # Copies also keep gradient flags that Captum sets off the user's tensors.
    copies, extra = copied(inputs), copied(request.extra)
    handles = [look_at(one, calls) for one, calls in zip(requests, seen, strict=True)]
    try:
        if needs_gradients:
            gradients, activations = compute_layer_gradients_and_eval(
                target_output,
                layers,
                copies,
                None,
                extra,
                device_ids=request.device_ids,
                attribute_to_layer_input=request.attribute_to_layer_input,
                grad_kwargs=request.grad_kwargs,
            )
        else:
            activations = forward_layer_eval(
                target_output, copies, layers, extra, request.device_ids,
                request.attribute_to_layer_input,
            )  # fmt: skip
            gradients = [tuple(a.new_zeros(0) for a in some) for some in activations]
    except AssertionError as error:
        # Another is the user's own, before the layer or after it, and not ours to explain.
        if "Elements to be reduced" not in str(error):
            raise
        raise ValueError(_beside_the_path(name)) from error
    except RuntimeError as error:
        if explained and (cause := _cut(name, explained[-1], any(hidden), error)):
            raise ValueError(cause) from error
        if "used in the graph" in str(error):
            raise ValueError(_beside_the_path(name)) from error
        if "does not require grad" in str(error):
            raise ValueError(
                f"no gradients flow from the output to {name}: forward_func runs it under "
                "no_grad or inference_mode, or detaches what follows it"
            ) from error
        raise
    finally:
        for handle in handles:
            handle.remove()
    target, logits, scores = read[-1]
    return [
        CleanPass(
            tuple(a.detach() for a in some),
            tuple(g.detach() for g in their),
            target,
            (logits, scores),
            len(calls),
        )
        for some, their, calls in zip(activations, gradients, seen, strict=True)
    ]


def is_reentrant(error: RuntimeError) -> bool:
    """Return whether PyTorch refused gradients through reentrant checkpointing."""
    return "use_reentrant=True" in str(error)


REENTRANT = (
    "the model runs a part of itself in torch.utils.checkpoint with use_reentrant=True, which "
    "hides the gradients of layers; pass use_reentrant=False there, or turn checkpointing off, in "
    "transformers with model.gradient_checkpointing_disable()"
)


def _cut(name: str, explained: Tensor, is_hidden: bool, error: RuntimeError) -> str | None:
    """Return what hides the layer's gradients in the graph of what is explained, if it is known."""
    refused = ("used in the graph", "does not require grad")
    if not is_reentrant(error) and not any(text in str(error) for text in refused):
        return None
    waiting, met = [explained.grad_fn], set[Node]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in met:
            met.add(node)
            waiting += [before for before, _ in node.next_functions]
    kinds = {node.name() for node in met}
    without = "or take a method without gradients, such as LayerScoreCAM"
    # Without a gradient on the way in, checkpointing leaves no trace in the graph.
    if is_hidden or "CheckpointFunctionBackward" in kinds:
        return f"no gradients flow from the output to {name}: {REENTRANT}, {without}"
    if "torch::autograd::WarnNotImplemented" in kinds:
        return (
            f"no gradients flow from the output to {name}: it or what follows it has no "
            "derivative, as a dynamically quantised layer; explain the model as it was before "
            f"quantisation, {without}"
        )
    return None


def _beside_the_path(name: str) -> str:
    return (
        f"the target does not depend on {name}: it is beside the path to this output, runs under "
        "no_grad or is detached; choose another layer, or pass "
        "grad_kwargs={'materialize_grads': True} to take its gradients as zero"
    )
