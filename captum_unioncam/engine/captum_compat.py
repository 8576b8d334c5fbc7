"""The only file that imports Captum's private helpers: a change in Captum ends here."""

from captum._utils.common import _run_forward as run_forward
from captum._utils.gradient import _forward_layer_eval as forward_layer_eval
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum._utils.progress import NullProgress, Progress, progress
from torch import Tensor

# Captum's own aliases, written out: it ships no types, so that tools would take anything.
TargetType = None | int | tuple[int, ...] | Tensor | list[tuple[int, ...]] | list[int]
BaselineType = None | Tensor | int | float | tuple[Tensor | int | float, ...]

__all__ = [
    "BaselineType",
    "NullProgress",
    "Progress",
    "TargetType",
    "compute_layer_gradients_and_eval",
    "forward_layer_eval",
    "progress",
    "run_forward",
]
