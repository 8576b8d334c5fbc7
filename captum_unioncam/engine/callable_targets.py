"""Targets that are functions of whatever the network returns, one score per row."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_finite
from captum_unioncam.engine.captum_compat import ScoreOfOutput

Functions = ScoreOfOutput | list[ScoreOfOutput]


def is_callable_target(target: Any) -> bool:
    """Return whether a parsed target takes the model's output, instead of an index into it."""
    return callable(target) or (isinstance(target, list) and callable(target[0]))


def check_score_of(target: Any, score: Any) -> None:
    """Raise ValueError for a callable score beside a callable target, which is one already."""
    if callable(score) and is_callable_target(target):
        raise ValueError(
            "target is a callable, whose value is the score itself, and score is a callable too: "
            "leave out score=, and do what it does inside the target"
        )


def target_name(target: Any) -> str:
    """Return what tables and errors call a callable target."""
    return getattr(target, "__name__", None) or repr(target)


def values_of(functions: Functions, output: Any, rows: Tensor) -> Tensor:
    """Return the values of a callable target, or of one for each example, on R rows of output.

    Args:
        functions (Callable or list): the target.
        output (Any): what the network returned for R rows.
        rows (Tensor): the example that each of them belongs to, (R,).

    Returns:
        *Tensor* (R,), in float32 or better; differentiable.

    Raises:
        TypeError: if the target returns something other than a floating point tensor.
        ValueError: if that has not one score per row.
    """
    if not isinstance(functions, list):
        return _value(functions, output, len(rows))
    parts, places = [], []
    for example in sorted(set(rows.tolist())):
        places.append((rows == example).nonzero()[:, 0])
        part = take_rows(output, places[-1])
        parts.append(_value(functions[example], part, len(places[-1])))
    return torch.cat(parts)[torch.cat(places).argsort().to(parts[0].device)]


def values_of_one_row(functions: Functions, output: Any, count: int) -> Tensor:
    """Return the values for so many examples that share an output of one row, (count,)."""
    each = functions if isinstance(functions, list) else [functions]
    return torch.cat([_value(function, output, 1) for function in each]).expand(count)


def check_clean_values(functions: Functions, output: Any, values: Tensor) -> None:
    """Raise ValueError for what a callable target cannot make of the clean inputs.

    A target may have a method ``check_clean`` that is given their output and raises by itself.

    Args:
        functions (Callable or list): the target.
        output (Any): what the network returned for the clean inputs, one row each.
        values (Tensor): what the target made of it.
    """
    for row, function in enumerate(functions if isinstance(functions, list) else [functions]):
        if hasattr(function, "check_clean"):
            own = isinstance(functions, list)
            function.check_clean(take_rows(output, torch.tensor([row])) if own else output)
    check_finite("values of the target", values.detach(), "look at what it divides by or exceeds")
    if not torch.is_grad_enabled() or values.requires_grad:
        return
    if any(tensor.requires_grad for tensor in tensors_in(output)):
        raise ValueError(
            "target loses the gradient: the model's output has one, but the values it returned "
            "have none; leave out detach, item, numpy, argmax, comparisons and no_grad in it, or "
            "choose a method that needs no gradients, such as LayerScoreCAM"
        )


def take_rows(output: Any, rows: Tensor) -> Any:
    """Return some rows of what a network gave: of tensors, or of what mappings and lists hold.

    Of a list or tuple of tensors each gives its rows; of any other, such as a detector's, entries
    are rows.

    Raises:
        TypeError: if it is of another kind.

    Examples::

        >>> take_rows({"out": torch.eye(3)}, torch.tensor([2]))
        {'out': tensor([[0., 0., 1.]])}
        >>> take_rows([{"boxes": 4}, {"boxes": 5}], torch.tensor([1]))
        [{'boxes': 5}]
    """
    if isinstance(output, Tensor):
        return output[rows.to(output.device)]
    if isinstance(output, Mapping):
        # A copy is of the same class, as its users expect.
        taken: Any = copy(output)
        for name, value in output.items():
            taken[name] = None if value is None else take_rows(value, rows)
        return taken
    if isinstance(output, tuple | list):
        if all(isinstance(value, Tensor) for value in output):
            return [take_rows(value, rows) for value in output]
        return [output[row] for row in rows.tolist()]
    raise TypeError(
        "one target per example needs outputs whose rows can be told apart, tensors or mappings "
        f"and lists of them, got {type(output).__name__}; give one callable for all examples"
    )


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested mappings, sequences and objects' own attributes."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in output:
            yield from tensors_in(value)
    elif hasattr(output, "__dict__"):
        yield from (value for value in vars(output).values() if isinstance(value, Tensor))


def _value(function: ScoreOfOutput, output: Any, rows: int) -> Tensor:
    values = function(output)
    name = target_name(function)
    if not isinstance(values, Tensor):
        raise TypeError(
            f"target {name} must return a Tensor of one score per row, shape ({rows},), got "
            f"{type(values).__name__}; torch.stack makes one of a list of scores"
        )
    if not values.is_floating_point():
        raise TypeError(
            f"target {name} must return floating point scores, got {values.dtype}; return the "
            "scores themselves, not indices or comparisons of them"
        )
    if tuple(values.shape) != (rows,):
        remedy = "dimension 0 of the output is the rows: keep it, and reduce the others alone"
        if values.dim() and len(values) == rows:
            remedy = "pick one of each row with [:, index], or reduce them with .flatten(1).mean(1)"
        raise ValueError(
            f"target {name} must return one score per row, shape ({rows},), got shape "
            f"{tuple(values.shape)}; {remedy}"
        )
    return values.to(torch.promote_types(values.dtype, torch.float32))
