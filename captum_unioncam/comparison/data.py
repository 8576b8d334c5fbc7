"""What a comparison holds, as data alone: its text, CSV and figure are made elsewhere."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


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
