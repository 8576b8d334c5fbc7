"""The only file that imports Captum's private helpers: a change in Captum ends here."""

from captum._utils.common import _run_forward as run_forward
from captum._utils.gradient import _forward_layer_eval as forward_layer_eval
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum._utils.progress import NullProgress, Progress, progress
from captum._utils.typing import BaselineType, TargetType

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
