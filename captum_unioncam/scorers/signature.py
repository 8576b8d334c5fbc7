"""What an exported model takes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_unioncam.scorers.scorer import ScorerError


class Signature:
    """What an exported model takes: shapes and values, no tensor of the example's.

    Attributes:
        arguments (list): for each argument its dtype and shape without rows, its dtype and whole
            shape, or its value.
        has_rows (list[bool]): which tensors have a row for each row of the others.
    """

    def __init__(self, name: str, example: Any, extra: Any) -> None:
        inputs = example if isinstance(example, tuple) else (example,)
        extra = () if extra is None else extra if isinstance(extra, tuple) else (extra,)
        if not inputs or not all(isinstance(x, Tensor) and x.dim() for x in inputs):
            raise TypeError(f"{name} needs an example: a Tensor or a tuple of them, with rows")
        self.name, count = name, len(inputs[0])
        self.values: list[Any] = []
        self.shapes: list[tuple[torch.dtype, tuple[int, ...]] | None] = []
        self.has_rows: list[bool] = []
        for number, one in enumerate((*inputs, *extra)):
            is_tensor = isinstance(one, Tensor)
            if not is_tensor and not isinstance(one, bool | int | float | str | None):
                raise ScorerError(
                    f"{name} takes tensors, numbers, text and None as further arguments, got "
                    f"{type(one).__name__}"
                )
            has_rows = is_tensor and one.dim() > 0 and len(one) == count
            if number < len(inputs) and not has_rows:
                raise ValueError(f"{name} needs inputs with as many rows each")
            self.has_rows.append(has_rows)
            shape = tuple(one.shape[1:] if has_rows else one.shape) if is_tensor else ()
            self.shapes.append((one.dtype, shape) if is_tensor else None)
            self.values.append(None if is_tensor else one)

    def placeholders(self, rows: int) -> list[Tensor]:
        """Return tensors like the example's, of so many rows."""
        return [
            torch.zeros((rows, *shape[1]) if has_rows else shape[1], dtype=shape[0])
            for shape, has_rows in zip(self.shapes, self.has_rows, strict=True)
            if shape is not None
        ]

    def tensors(self, arguments: Sequence[Any]) -> list[Tensor]:
        """Return the tensors among arguments, checked.

        Raises:
            ScorerError: if they are not what the model was exported for.
        """
        fits = len(arguments) == len(self.shapes) and all(
            (value == one and type(value) is type(one))
            if shape is None
            else isinstance(one, Tensor)
            and (one.dtype, tuple(one.shape[1:] if has_rows else one.shape)) == shape
            for one, shape, has_rows, value in zip(
                arguments, self.shapes, self.has_rows, self.values, strict=True
            )
        )
        if not fits:
            raise ScorerError(
                f"{self.name} was built for {self._text()}, got "
                f"{', '.join(_text_of(one) for one in arguments)}: build it for those"
            )
        return [one for one, shape in zip(arguments, self.shapes, strict=True) if shape]

    def _text(self) -> str:
        return ", ".join(
            repr(value)
            if shape is None
            else f"{shape[0]} ({', '.join(['rows'] * has_rows + [str(n) for n in shape[1]])})"
            for shape, has_rows, value in zip(self.shapes, self.has_rows, self.values, strict=True)
        )


def _text_of(argument: Any) -> str:
    return (
        f"{argument.dtype} {tuple(argument.shape)}"
        if isinstance(argument, Tensor)
        else repr(argument)
    )
