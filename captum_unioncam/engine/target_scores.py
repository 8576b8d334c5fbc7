"""From a network's output to the score of the target: selection, softmax, the user's own."""

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from captum_unioncam.engine.callable_targets import (
    Functions,
    check_score_of,
    is_callable_target,
    values_of,
    values_of_one_row,
)
from captum_unioncam.engine.captum_compat import TargetType

SINGLE_EPS = torch.finfo(torch.float32).eps

Score = Literal["probability", "logit"] | Callable[[Tensor], Tensor]


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values in float32, or in their own dtype if that is wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def parse_target(target: TargetType, num_examples: int) -> Any:
    """Check a target before any forward and return it in plain Python.

    Returns:
        None, an int, a tuple of ints, a callable, or a list of one int, tuple of ints or callable
        per example.

    Raises:
        TypeError: if `target` is neither of a kind that Captum knows nor callable.
        ValueError: if a list or tensor does not hold one entry per example.
    """
    if callable(target):
        return target
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise TypeError(f"target must hold integers, got a tensor of {target.dtype}")
        if target.dim() > 1 and target.numel() != 1:
            raise ValueError(
                f"target must be one class index per example, shape ({num_examples},), "
                f"got shape {tuple(target.shape)}; for outputs with more dimensions give a "
                "tuple of indices, or a list with one tuple per example"
            )
        # As in Captum, a tensor of one element counts for every example.
        target = target.tolist() if target.numel() != 1 else int(target.item())
    if target is None or isinstance(target, numbers.Integral | tuple):
        return target if target is None else _parse_entry(target)
    if not isinstance(target, list):
        raise TypeError(
            "target must be None, an int, a tuple of ints, a tensor of ints, a callable that takes "
            "the model's output and returns one score per row, or a list with one int, tuple or "
            f"callable per example, got {type(target).__name__}"
        )
    if len(target) != num_examples:
        raise ValueError(
            f"target has {len(target)} entries for {num_examples} examples; "
            "give one per example, or a single one for all of them"
        )
    if all(map(callable, target)):
        return list(target)
    entries = [_parse_entry(entry) for entry in target]
    if len({len(e) if isinstance(e, tuple) else 0 for e in entries}) > 1:
        raise ValueError("target mixes ints and tuples, or tuples of different lengths")
    return entries


def _parse_entry(entry: Any) -> int | tuple[int, ...]:
    if isinstance(entry, tuple):
        return tuple(int(_parse_entry(index)) for index in entry)  # type: ignore[arg-type]
    if isinstance(entry, bool) or not isinstance(entry, numbers.Integral):
        raise TypeError(f"a target index must be an int, got {entry!r} ({type(entry).__name__})")
    return int(entry)


def target_index(target: Any, output: Tensor) -> Tensor:
    """Turn a parsed target into indices of `output`'s dimensions 1, 2, ..., shape (N, k).

    Raises:
        ValueError: if the target is missing, out of range, or of another depth than `output`.
    """
    shape = tuple(output.shape)
    depth = output.dim() - 1
    if target is None:
        if depth and output[0].numel() != 1:
            raise ValueError(
                f"target is missing: forward_func returned shape {shape}, so say which of "
                f"its {output[0].numel()} values per example to explain"
            )
        return torch.zeros(len(output), depth, dtype=torch.long, device=output.device)
    entries = target if isinstance(target, list) else [target] * len(output)
    rows = [entry if isinstance(entry, tuple) else (entry,) for entry in entries]
    if len(rows[0]) != depth:
        raise ValueError(
            f"target {entries[0]!r} selects {len(rows[0])} dimension(s) after the first, but "
            f"forward_func returned shape {shape}: give {_depth_hint(depth)}"
        )
    for row in rows:
        for index, size in zip(row, shape[1:], strict=True):
            if not -size <= index < size:
                raise ValueError(
                    f"target index {index} is out of range for an output of shape {shape}: "
                    f"valid are 0 to {size - 1} (or -{size} to -1)"
                )
    sizes = torch.tensor(shape[1:], device=output.device, dtype=torch.long)
    return torch.tensor(rows, device=output.device, dtype=torch.long) % sizes


def _depth_hint(depth: int) -> str:
    return {0: "target=None", 1: "one int per example"}.get(depth, f"a tuple of {depth} ints")


def check_output(output: Any, rows: int) -> Tensor:
    """Return the scores that the network returned: one tensor with a row per input row.

    They are the output itself; or its entry "logits" or "out", if it is a dict, a dataclass, a
    named tuple or a ModelOutput; or else the first entry of a tuple, if that is a floating point
    tensor with a row per input row.

    Raises:
        TypeError: if `output` is or holds no such tensor, or it is not floating point.
        ValueError: if its first dimension is not the number of rows.
    """
    scores = output if isinstance(output, Tensor) else _scores_among(output, rows)
    if scores is None:
        raise TypeError(
            f"forward_func must return one Tensor, got {type(output).__name__}; "
            + _output_remedy(output, rows)
        )
    if not scores.is_floating_point():
        raise TypeError(f"forward_func must return floating point scores, got {scores.dtype}")
    if scores.dim() == 0 or len(scores) != rows:
        raise ValueError(
            f"forward_func must return one row per example: got shape {tuple(scores.shape)} "
            f"for {rows} rows of input"
        )
    return scores


def _named_parts(output: Any) -> dict[Any, Any]:
    if isinstance(output, Mapping):
        return dict(output)
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    return output._asdict() if hasattr(output, "_asdict") else {}


def _scores_among(output: Any, rows: int) -> Tensor | None:
    named = _named_parts(output)
    found = [named[name] for name in ("logits", "out") if isinstance(named.get(name), Tensor)]
    if found:
        return found[0] if len(found) == 1 else None
    is_tuple = isinstance(output, tuple) and len(output) > 0
    return output[0] if is_tuple and _are_scores(output[0], rows) else None


def _are_scores(value: Any, rows: int) -> bool:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return is_float and value.dim() > 0 and len(value) == rows


def _output_remedy(output: Any, rows: int) -> str:
    """Return a line that makes one tensor of such an output."""
    named = _named_parts(output)
    names = [name for name, value in named.items() if _are_scores(value, rows)]
    if names:
        pick = f".{names[0]}" if not isinstance(output, Mapping) else f"[{names[0]!r}]"
        return (
            f"explain a function that picks one of {', '.join(map(repr, names))}, such as "
            f"lambda *inputs: model(*inputs){pick}"
        )
    if isinstance(output, list) and output and all(isinstance(one, dict) for one in output):
        return (
            "for detections give a callable target, such as captum_unioncam.targets.BoxScore(box, "
            "label), and name the backbone's last layer"
        )
    if isinstance(output, tuple | list):
        at = next((i for i, value in enumerate(output) if _are_scores(value, rows)), None)
        if at is not None:
            return (
                f"explain a function that picks one, such as lambda *inputs: model(*inputs)[{at}]"
            )
    return "wrap it in a function that returns the tensor to explain"


def output_as_read(target: Any, output: Any, rows: int) -> Any:
    """Return the network's output as a parsed target reads it: as it is, or as one tensor.

    Raises:
        TypeError: if an index is to be read from something that is no floating point tensor.
        ValueError: if that does not have so many rows.
    """
    return output if is_callable_target(target) else check_output(output, rows)


@dataclass(frozen=True)
class TargetScores:
    """Reads the target's raw output and its score f_c from any batch of outputs.

    The value of a callable target is both.

    Attributes:
        score (Score): what f_c is.
        index (Tensor): the target in each example's output, (N, k).
        is_probability (Tensor): whether an example's output is a distribution already, (N,).
        shape (tuple[int, ...]): the output's shape without its rows.
        functions (Callable or list, optional): a callable target, or one for each example.
    """

    score: Score
    index: Tensor
    is_probability: Tensor
    shape: tuple[int, ...]
    functions: Functions | None = None

    @classmethod
    def from_output(cls, score: Score, target: Any, output: Any) -> "TargetScores":
        """Fix the target and what the output is, once, on the clean inputs."""
        check_score_of(target, score)
        if is_callable_target(target):
            none = torch.zeros(0, dtype=torch.long)
            return cls("logit", none, none.bool(), (), target)
        index = target_index(target, output)
        classes = _class_vectors(output.detach(), index)
        distribution = (classes >= 0).all(1) & ((classes.sum(1) - 1).abs() <= _rounding(classes))
        return cls(score, index, distribution, tuple(output.shape[1:]))

    @property
    def gives_probabilities(self) -> bool:
        """Whether f_c is a probability: of a class among several."""
        has_classes = bool(self.shape) and self.shape[0] > 1
        return self.score == "probability" and self.functions is None and has_classes

    def read(self, output: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `target_score` does of whatever the network returned, unchecked as yet."""
        return self.target_score(output_as_read(self.functions, output, len(rows)), rows)

    def read_one_for(self, output: Any, count: int) -> tuple[Tensor, Tensor]:
        """Return what `read` does for so many examples that share the one row of an output."""
        if self.functions is None:
            output = check_output(output, 1)
            output = output.expand(count, *output.shape[1:])
            return self.target_score(output, torch.arange(count, device=output.device))
        values = values_of_one_row(self.functions, output, count)
        return values, values

    def raw(self, output: Any, rows: Tensor) -> Tensor:
        """Return the target's raw output, (R,), in float32 or better; differentiable.

        Args:
            output (Tensor): what forward_func returned for R inputs; for callable targets it may
                be of any kind.
            rows (Tensor): the example that each of them belongs to, (R,).
        """
        if self.functions is not None:
            return values_of(self.functions, output, rows)
        rows = rows.to(output.device)
        index = self.index[rows]
        return _class_vectors(output, index).gather(1, _class_column(index))[:, 0]

    def target_score(self, output: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return raw output and score of the target, both (R,); arguments are those of `raw`."""
        raw = self.raw(output, rows)
        if self.functions is not None:
            return raw, raw
        rows = rows.to(output.device)
        index = self.index[rows]
        if callable(self.score):
            return raw, self._own_score(self.score(output), output, index)
        classes = _class_vectors(output, index)
        if self.score == "logit" or classes.shape[1] == 1:
            return raw, raw
        probability = classes.softmax(1).gather(1, _class_column(index))[:, 0]
        return raw, torch.where(self.is_probability[rows], raw, probability)

    @staticmethod
    def _own_score(scored: Any, output: Tensor, index: Tensor) -> Tensor:
        shape = tuple(scored.shape) if isinstance(scored, Tensor) else type(scored).__name__
        if shape == tuple(output.shape):
            selected = torch.arange(len(output), device=output.device), *index.unbind(1)
            scored = scored[selected]
        elif shape == (len(output), 1):
            scored = scored[:, 0]
        elif shape != (len(output),):
            raise ValueError(
                "a callable score must return a tensor of its input's shape "
                f"{tuple(output.shape)} or one score per row ({len(output)},), got {shape}"
            )
        return at_least_float32(scored)


def _rounding(classes: Tensor) -> Tensor:
    """Return how far from one rounding may leave the sum of each distribution, (R,).

    Few logits sum to one by accident, and the fewer the less is tolerated. Probabilities of half
    precision may have been widened since: all their values are then still exact there.
    """
    allowed = classes.new_full((len(classes),), max(64, classes.shape[1]) * SINGLE_EPS)
    for dtype in (torch.float16, torch.bfloat16):
        halved = (classes.to(dtype).to(classes) == classes).all(1)
        allowed = torch.where(halved, torch.finfo(dtype).eps, allowed)
    return allowed


def _class_vectors(output: Tensor, index: Tensor) -> Tensor:
    """Return the outputs over the class dimension at each row's target, (R, classes)."""
    if output.dim() == 1:
        classes = output[:, None]
    else:
        rows = torch.arange(len(output), device=output.device)
        where: tuple[Any, ...] = (rows, slice(None), *index[:, 1:].unbind(1))
        classes = output[where]
    return at_least_float32(classes)


def _class_column(index: Tensor) -> Tensor:
    """Return each row's target within its class vector, (R, 1)."""
    return index[:, :1] if index.shape[1] else index.new_zeros(len(index), 1)
