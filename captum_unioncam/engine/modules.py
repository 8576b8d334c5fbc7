"""The model behind a forward function: naming its layers, holding its modes."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from captum_unioncam.engine.arguments import closest


def in_training(model: nn.Module) -> list[nn.Module]:
    """Return the modules in training mode; DataParallel around a model in evaluation is none."""
    modules = (m for m in model.modules() if not isinstance(m, nn.DataParallel))
    # A frozen TorchScript module has no mode.
    return [m for m in modules if getattr(m, "training", False)]


@contextmanager
def evaluating(model: nn.Module | None) -> Iterator[None]:
    """Hold a model in evaluation mode and put every module back as it was."""
    training = in_training(model) if model is not None else []
    # The flag alone: a model's own train() may do more than set it.
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def model_behind(forward_func: Any) -> nn.Module | None:
    """Return the module that `forward_func` is, is a method of, or partially applies."""
    inner = innermost(forward_func)
    return inner if isinstance(inner, nn.Module) else None


def innermost(function: Any) -> Any:
    """Return what a function is a method of or partially applies, however often; or itself."""
    inner: Any = function
    while isinstance(inner, functools.partial) or inspect.ismethod(inner):
        inner = inner.func if isinstance(inner, functools.partial) else inner.__self__
    return inner


def check_layer(forward_func: Any, layer: Any) -> None:
    """Raise TypeError unless `forward_func` can be called and `layer` is one module with values."""
    if not callable(forward_func):
        raise TypeError(f"forward_func must be callable, got {type(forward_func).__name__}")
    if isinstance(layer, nn.Module):
        model = model_behind(forward_func)
        check_has_values(layer if model is None else model)
        return
    if isinstance(layer, str):
        model = model_behind(forward_func)
        names = [name for name, _ in model.named_modules()] if model is not None else []
        found = f"pass model.get_submodule({layer!r})" if layer in names else ""
        raise TypeError(
            f"layer must be a torch.nn.Module, got the name {layer!r}; "
            + (found or f"pass the module itself{closest(layer, names)}")
        )
    raise TypeError(f"layer must be one torch.nn.Module, got {type(layer).__name__}")


def check_has_values(model: nn.Module) -> None:
    """Raise ValueError if a weight of the model is a meta tensor, and stays one."""
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        # Weights that accelerate has offloaded come when they are needed.
        return
    name = next((name for name, weight in model.named_parameters() if weight.is_meta), None)
    if name is not None:
        raise ValueError(
            f"the model's weight {name!r} is a meta tensor, which has a shape but no values: load "
            "them with model.load_state_dict(state, assign=True), or make the model without "
            'torch.device("meta")'
        )


def describe_layer(forward_func: Callable[..., Any], layer: nn.Module) -> str:
    """Name a layer for an error message: its dotted name where it is known, and its class."""
    model = model_behind(forward_func)
    named = model.named_modules() if model is not None else []
    name = next((name for name, module in named if module is layer), None)
    return f"layer {name!r} ({type(layer).__name__})" if name else f"layer {type(layer).__name__}"
