"""What a comparison holds, as data alone: its text, CSV and figure are made elsewhere."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


class Measured(NamedTuple):
    """What was measured on one method's maps of one class, by metric.

    Attributes:
        values (dict[str, Tensor]): one per example, (N,), or (N, T) of one per threshold.
        curves (dict[str, Tensor]): of metrics that are the area or the mean of one, (N, T).
    """

    values: dict[str, Tensor]
    curves: dict[str, Tensor]


@dataclass(frozen=True, repr=False)
class ComparisonData:
    """Maps of several methods, and what was measured on them; see `Comparison`."""

    maps: dict[str, Tensor]
    rows: list[dict[str, Any]]
    metrics: tuple[str, ...]
    classes: list[list[str]]
    probabilities: Tensor
    inputs: tuple[Tensor, ...]
    quantity: str = "probability"
    details: dict[str, list[Any]] = field(default_factory=dict)
    scorer: str = ""
    scorer_deviation: float | None = None
    curves: dict[str, dict[str, Tensor]] = field(default_factory=dict)
