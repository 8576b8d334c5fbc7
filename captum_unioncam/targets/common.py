"""What targets do alike: finding the tensor of scores, checking classes."""

from typing import Any

from torch import Tensor

from captum_unioncam.engine.callable_targets import tensors_in
from captum_unioncam.engine.target_scores import at_least_float32, check_output


def scores_in(output: Any) -> Tensor:
    """Return the tensor of scores in an output, as everywhere else."""
    rows = next((len(tensor) for tensor in tensors_in(output) if tensor.dim()), 0)
    return at_least_float32(check_output(output, rows))


def in_range(index: int, classes: int) -> int:
    """Return a class's index, or raise ValueError if there is no such class."""
    if not -classes <= index < classes:
        raise ValueError(
            f"class {index} is out of range for an output of {classes} classes: valid are 0 to "
            f"{classes - 1}"
        )
    return index


def check_index(name: str, index: Any) -> None:
    """Raise TypeError unless `index` is an int."""
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"{name} must be an int, got {type(index).__name__}")
