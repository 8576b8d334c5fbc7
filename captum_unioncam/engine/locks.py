"""Calls that use the same model take turns; calls on different models run side by side."""

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from captum_unioncam.engine.modules import innermost, model_behind
from captum_unioncam.scorers import Scorer

if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property
else:

    class cached_property:  # noqa: N801
        """The property of functools, without its lock that all objects of a class share."""

        def __init__(self, compute: Callable[[Any], Any]) -> None:
            self.compute, self.__doc__ = compute, compute.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self.name = name

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            value = instance.__dict__[self.name] = self.compute(instance)
            return value


__all__ = ["cached_property", "exclusive_use"]

# From a wrapper's attribute over its function's closure to a list of models.
LEVELS = 3


@dataclass(eq=False)
class _Claim:
    """What one thread uses in a block, or waits to use: numbers that tell objects apart."""

    thread: int
    things: frozenset[int]
    holds: bool = False


# In the order in which they came. Nothing is kept on a model, nor after the block.
_claims: list[_Claim] = []
_changed = threading.Condition()


@contextmanager
def exclusive_use(*users: Any) -> Iterator[None]:
    """Hold all that these use, so that other threads' calls that use any of it wait.

    All is taken at once, in the order in which threads ask, and given back however the block
    ends. A thread that holds something may take it, or more, again. A model is used with all its
    modules and parameters: calls on it, on a part of it, and on its wrappers, such as DataParallel
    or `torch.compile`, wait for each other. A function that is no module, and neither a method nor
    a partial of one, uses the modules that its closure, its defaults, the globals it names, or the
    attributes of its object lead to. Where none can be found so, calls on it share what else they
    name: the function itself and the layer.

    What does not come here is not waited for: forwards of the user's own, and Captum's methods.

    Args:
        users (Any): models, layers, functions of models, attributions; None and a name are
            nothing.

    Raises:
        RuntimeError: if waiting would never end: two threads want, within blocks on models of
            their own, what the other holds.

    Examples::

        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> with exclusive_use(net), exclusive_use(net[1]):
        ...     pass
    """
    # The objects live as long as the claim, so that their numbers are theirs alone.
    used = _used_by(users)
    claim = _Claim(threading.get_ident(), frozenset(map(id, used)))
    try:
        with _changed:
            _claims.append(claim)
            while _ahead_of(claim):
                if _waits_for_itself(claim):
                    raise RuntimeError(
                        "two threads wait for each other's models: each explains one model inside "
                        "a call on another; let one thread do so at a time"
                    )
                _changed.wait()
            claim.holds = True
        yield
    finally:
        with _changed:
            if claim in _claims:
                _claims.remove(claim)
            _changed.notify_all()


def _ahead_of(claim: _Claim) -> list[_Claim]:
    """Return the other threads' claims that come before this one."""
    # Who holds something is not made to wait for who waits for it.
    is_nested = any(one.holds and one.thread == claim.thread for one in _claims)
    earlier = _claims[: _claims.index(claim)]
    return [
        one
        for one in _claims
        if one.thread != claim.thread
        and one.things & claim.things
        and (one.holds or (one in earlier and not is_nested))
    ]


def _waits_for_itself(claim: _Claim) -> bool:
    """Return whether those that a claim waits for wait for its own thread."""
    threads: set[int] = set()
    waiting = [claim]
    while waiting:
        for thread in {one.thread for one in _ahead_of(waiting.pop())} - threads:
            threads.add(thread)
            waiting += [one for one in _claims if one.thread == thread and not one.holds]
    return claim.thread in threads


def _used_by(users: tuple[Any, ...]) -> list[Any]:
    used: list[Any] = []
    for user in users:
        if user is None or isinstance(user, str):
            continue
        used.append(innermost(user))
        for model in _modules_behind(user):
            used += [*model.modules(), *model.parameters()]
    return used


def _modules_behind(value: Any, levels: int = LEVELS) -> list[nn.Module]:
    model = model_behind(value)
    if model is not None:
        return [model]
    # Its runtime's objects lead nowhere, by many ways.
    if isinstance(value, Scorer):
        return [value.model]
    if levels == 0:
        return []
    return [module for one in _held_by(value) for module in _modules_behind(one, levels - 1)]


def _held_by(value: Any) -> list[Any]:
    """Return what a function or an object can call."""
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    if inspect.isfunction(value):
        function = inspect.unwrap(value)
        try:
            nonlocals, named, _, _ = inspect.getclosurevars(function)
        # A variable of the closure has no value yet, or what is wrapped is no Python function.
        except (TypeError, ValueError):
            return []
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        return [*nonlocals.values(), *named.values(), *defaults]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, type) or inspect.ismodule(value):
        return []
    return list(getattr(value, "__dict__", {}).values())
