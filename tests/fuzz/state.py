"""What a call must leave as it was: the model, the tensors, and the state of the process."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_load_state_dict_pre_hooks"),
)
GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")


def process_state() -> dict[str, Any]:
    """Return the modes and random states that all code of a process shares."""
    kind, keys, *rest = np.random.get_state()
    return {
        "random state of torch": torch.get_rng_state(),
        "random state of numpy": (kind, tuple(np.asarray(keys).tolist()), *rest),
        "random state of Python": random.getstate(),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "global hooks": [len(getattr(global_hooks, name)) for name in GLOBAL_HOOKS],
    }


def tensor_state(name: str, tensor: Tensor) -> Iterator[tuple[str, Any]]:
    """Yield what a user sees of a tensor."""
    yield f"{name} as an object", id(tensor)
    yield f"values of {name}", tensor.detach().clone()
    yield f"requires_grad of {name}", tensor.requires_grad
    grad = tensor.grad if tensor.is_leaf else None
    yield f"gradient of {name} as an object", id(grad) if grad is not None else None
    yield f"gradient of {name}", None if grad is None else grad.clone()


def module_state(net: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what a user sees of a model and of each of its modules."""
    for path, module in net.named_modules():
        yield f"mode of {path!r}", module.training
        yield f"hooks of {path!r}", [len(getattr(module, hooks)) for hooks in HOOKS]
        yield f"attributes of {path!r}", sorted(vars(module))
        yield f"forward of {path!r}", "forward" in vars(module)
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        yield from tensor_state(name, tensor)


def state_of(net: nn.Module, tensors: tuple[Any, ...]) -> dict[str, Any]:
    """Return all that a call on a model must leave as it was."""
    state = process_state() | dict(module_state(net))
    for number, tensor in enumerate(tensors):
        if isinstance(tensor, Tensor):
            state |= dict(tensor_state(f"argument {number}", tensor))
    return state


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of what differs."""
    names = [*before, *(name for name in after if name not in before)]
    return [name for name in names if not _same(before.get(name), after.get(name))]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)
