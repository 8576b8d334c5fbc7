"""The only file that imports Captum's private helpers: a change in Captum ends here."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from captum._utils.common import _run_forward as run_forward
from captum._utils.gradient import _forward_layer_eval as forward_layer_eval
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum._utils.progress import NullProgress, progress
from torch import Tensor

# Captum's own aliases, written out: it ships no types, so that tools would take anything.
IndexTarget = None | int | tuple[int, ...] | Tensor | list[tuple[int, ...]] | list[int]
# Takes whatever the model returned for R rows, returns one score per row, (R,).
ScoreOfOutput = Callable[[Any], Tensor]
TargetType = IndexTarget | ScoreOfOutput | Sequence[ScoreOfOutput]
BaselineType = None | Tensor | int | float | tuple[Tensor | int | float, ...]


class Progress(Protocol):
    """What is asked of a bar; Captum has a type of its own only since 0.9."""

    def update(self, n: int) -> object:
        """Tell that n more are done."""


__all__ = [
    "BaselineType",
    "NullProgress",
    "Progress",
    "ScoreOfOutput",
    "TargetType",
    "compute_layer_gradients_and_eval",
    "forward_layer_eval",
    "progress",
    "run_forward",
]
