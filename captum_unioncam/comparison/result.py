"""What `compare` returns: maps and a table, as text, CSV and figure."""

import csv
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_unioncam.engine.cost import Cost
from captum_unioncam.metrics import METRICS, max_box_accuracy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = ("forwards", "seconds", "peak_bytes")


@dataclass(frozen=True, repr=False)
class Comparison:
    """Maps of several methods for the same inputs and classes, and what was measured on them.

    Attributes:
        maps (dict[str, Tensor]): per method, (N, K, *spatial of its maps) for K classes, on the
            CPU; clipped at zero, but for methods whose maps span [0, 1] once resized.
        rows (list[dict[str, Any]]): one per example, class and method, with "example", "class",
            "method", "probability", every metric, and an equal share of what the method cost:
            "forwards" (rows through the model; None if forward_func hides it), "seconds" and
            "peak_bytes" (of the whole method; None where it cannot be known). Work that methods
            share is counted where it is first needed.
        metrics (tuple[str, ...]): names of the metrics.
        classes (list[list[str]]): labels of the classes of every example, N lists of K.
        probabilities (Tensor): softmax probabilities of the classes, (N, K).
        inputs (tuple[Tensor, ...]): the inputs, for figures.
    """

    maps: dict[str, Tensor]
    rows: list[dict[str, Any]]
    metrics: tuple[str, ...]
    classes: list[list[str]]
    probabilities: Tensor
    inputs: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        maps: dict[str, Tensor],
        values: Mapping[str, Sequence[Mapping[str, Tensor]]],
        costs: Mapping[str, Cost],
        probabilities: Tensor,
        classes: list[list[str]],
        inputs: tuple[Tensor, ...],
    ) -> "Comparison":
        """Lay out what was measured, `values` per method and class, as rows."""
        parts = probabilities.numel()
        rows = [
            {
                "example": n,
                "class": classes[n][k],
                "method": label,
                "probability": float(probabilities[n, k]),
                **{name: _plain(found[n]) for name, found in by_class[k].items()},
                "forwards": _share(costs[label].forwards, parts),
                "seconds": costs[label].seconds / parts,
                "peak_bytes": costs[label].peak_bytes,
            }
            for n in range(len(classes))
            for k in range(len(classes[n]))
            for label, by_class in values.items()
        ]
        metrics = tuple(next(iter(values.values()))[0])
        return cls(maps, rows, metrics, classes, probabilities, inputs)

    def summary(self) -> list[dict[str, Any]]:
        """Return one row per method: means over examples and classes of every number.

        Of `max_box_acc` it is the share of hits at the best threshold.
        """
        table = []
        for label in self.maps:
            own = [row for row in self.rows if row["method"] == label]
            means: dict[str, Any] = {"method": label}
            for name in (*self.metrics, *COSTS):
                known = [row[name] for row in own if row[name] is not None]
                means[name] = _mean(known) if known else None
            table.append(means)
        return table

    def to_csv(self, path: str | Path) -> None:
        """Write the rows, one per example, class and method, with a header."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)

    def figure(
        self,
        pictures: Tensor | None = None,
        *,
        names: Callable[[str], str] | None = None,
        heading: str = "",
    ) -> "Figure":
        """Draw a grid: a row per example and class, a column per method, scores under each map.

        Args:
            pictures (Tensor, optional): pictures to draw under the maps, (N, 3 or 1, H, W) in
                [0, 1]; by default the inputs, each scaled to its own range. Default: None
            names (Callable, optional): turns a class label into what the figure calls it.
                Default: None
            heading (str, optional): title of the figure. Default: ""

        Returns:
            *matplotlib.figure.Figure*, which needs no window.

        Raises:
            ModuleNotFoundError: without matplotlib, part of the extra ``demo``.
            ValueError: if the inputs are no images, or `pictures` do not fit them.
        """
        from captum_unioncam.comparison.figure import draw_comparison

        return draw_comparison(self, pictures, names or str, heading)

    def save(self, path: str | Path, **arguments: Any) -> None:
        """Write `figure(**arguments)` to a file, by its suffix: png, pdf, svg, ..."""
        from captum_unioncam.comparison.drawing import save

        save(self.figure(**arguments), Path(path))

    def __repr__(self) -> str:
        header, lines = self._table()
        widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
        aligned = [
            "  ".join(
                cell.ljust(w) if not i else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in [header, *lines]
        ]
        return "\n".join([self._caption(), *aligned])

    def _repr_html_(self) -> str:
        header, lines = self._table()
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>"
            for line in lines
        )
        caption = html.escape(self._caption())
        return f"<table><caption>{caption}</caption><tr>{head}</tr>{body}</table>"

    def _caption(self) -> str:
        examples, classes = self.probabilities.shape
        return (
            f"{len(self.maps)} methods, {examples} example{'s' * (examples > 1)}, "
            f"{classes} class{'es' * (classes > 1)} each; means"
        )

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = ["method", *(heading_of(name) for name in self.metrics)]
        lines = [
            [row["method"], *(formatted(row[name]) for name in (*self.metrics, *COSTS))]
            for row in self.summary()
        ]
        return [*header, "forwards", "seconds", "peak MiB"], [
            [*line[:-1], formatted(row["peak_bytes"] and row["peak_bytes"] / 2**20)]
            for line, row in zip(lines, self.summary(), strict=True)
        ]


def heading_of(name: str) -> str:
    """Return a metric's title with its unit and an arrow towards better."""
    metric = METRICS[name]
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{metric.title}{unit} {'↑' if metric.higher_is_better else '↓'}"


def formatted(value: Any) -> str:
    """Return a number with three significant digits, and a dash for none."""
    if value is None:
        return "–"
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _mean(values: Sequence[Any]) -> float:
    if isinstance(values[0], list):
        # One value per threshold: MaxBoxAcc.
        return max_box_accuracy(torch.tensor(values)).accuracy
    return float(sum(values) / len(values))


def _share(total: int | None, parts: int) -> float | None:
    return None if total is None else total / parts


def _plain(value: Tensor) -> Any:
    return value.item() if value.dim() == 0 else torch.Tensor.tolist(value)
