"""What `compare` returns: maps and a table, as text, CSV and figure."""

import csv
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_unioncam.comparison.data import ComparisonData, Measured
from captum_unioncam.comparison.text import aligned, numbers_of
from captum_unioncam.engine.cost import Cost
from captum_unioncam.files import written_whole
from captum_unioncam.metrics import max_box_accuracy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = ("forwards", "seconds", "peak_bytes")


@dataclass(frozen=True, repr=False)
class Comparison(ComparisonData):
    """Maps of several methods for the same inputs and classes, and what was measured on them.

    Attributes:
        maps (dict[str, Tensor]): per method, (N, K, *spatial of its maps) for K classes, on the
            CPU; clipped at zero, but for methods whose maps span [0, 1] once resized.
        rows (list[dict[str, Any]]): one per example, class and method, with "example", "class",
            "method", "probability", every metric, and an equal share of what the method cost:
            "forwards" (rows through the model; None if forward_func hides it), "seconds" and
            "peak_bytes" (of the whole method; None where it cannot be known). Work that methods
            share is counted where it is first needed. Rows of methods that return details also
            hold what those say of the example, such as UnionCAM's "selected_union".
        metrics (tuple[str, ...]): names of the metrics.
        classes (list[list[str]]): labels of the classes of every example, N lists of K.
        probabilities (Tensor): softmax probabilities of the classes, (N, K).
        inputs (tuple[Tensor, ...]): the inputs, for figures.
        quantity (str): what `probabilities` are: "probability", or "output" of a model that has
            one value per example.
        details (dict[str, list]): per method that returns details, those of every class.
        scorer (str): what ran the changed inputs where a scorer was asked for: its name, or "model"
            where it deviated too far; rows hold it as well. Else empty.
        scorer_deviation (float, optional): the largest deviation of its scores from the model's,
            over the classes, as a part of the largest score; None where nothing was compared.
        curves (dict[str, dict[str, Tensor]]): per method and metric, the curve that the metric is
            the area or the mean of, (N, K, points): of insertion, deletion and ROAD.
    """

    @classmethod
    def of(
        cls,
        maps: dict[str, Tensor],
        values: Mapping[str, Sequence[Measured]],
        costs: Mapping[str, Cost],
        probabilities: Tensor,
        classes: list[list[str]],
        inputs: tuple[Tensor, ...],
        quantity: str,
        details: dict[str, list[Any]],
        scorer: str = "",
        scorer_deviation: float | None = None,
    ) -> "Comparison":
        """Lay out what was measured, `values` per method and class, as rows."""
        parts = probabilities.numel()
        ran = {"scorer": scorer, "scorer_deviation": scorer_deviation} if scorer else {}
        rows = [
            {
                "example": n,
                "class": classes[n][k],
                "method": label,
                "probability": float(probabilities[n, k]),
                **{name: _plain(found[n]) for name, found in by_class[k].values.items()},
                "forwards": _share(costs[label].forwards, parts),
                "seconds": costs[label].seconds / parts,
                "peak_bytes": costs[label].peak_bytes,
                **ran,
                **(_numbers(details[label][k], n) if label in details else {}),
            }
            for n in range(len(classes))
            for k in range(len(classes[n]))
            for label, by_class in values.items()
        ]
        metrics = tuple(next(iter(values.values()))[0].values)
        curves = {
            label: {
                name: torch.stack([found.curves[name] for found in by_class], dim=1)
                for name in by_class[0].curves
            }
            for label, by_class in values.items()
        }
        return cls(
            maps, rows, metrics, classes, probabilities, inputs, quantity, details, scorer,
            scorer_deviation, curves,
        )  # fmt: skip

    def summary(self) -> list[dict[str, Any]]:
        """Return one row per method: means over examples and classes of every number.

        Of `max_box_acc` it is the share of hits at the best threshold.
        """
        return summary_of(self.rows, self.metrics)

    def to_csv(self, path: str | Path) -> None:
        """Write the rows, one per example, class and method, with a header."""
        write_rows(Path(path), self.rows)

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
        from captum_unioncam.comparison.figure import Shown, draw

        return draw([Shown(self, pictures)], names or str, heading)

    def save(self, path: str | Path, **arguments: Any) -> None:
        """Write `figure(**arguments)` to a file, by its suffix: png, pdf, svg, ..."""
        from captum_unioncam.comparison.drawing import save

        save(self.figure(**arguments), Path(path))

    def to_html(
        self,
        path: str | Path,
        pictures: Tensor | None = None,
        *,
        names: Callable[[str], str] | None = None,
        heading: str = "",
    ) -> None:
        """Write one HTML file that shows everything, by itself and without a network.

        It holds every map over its picture, with sliders for opacity and threshold, the curves of
        insertion and deletion, and all rows as a table that can be sorted. Inputs that are no
        images have numbers alone. A notebook shows the same for a comparison's first classes.

        Args:
            path (str or Path): the file to write.
            pictures (Tensor, optional): as in `figure`. Default: None
            names (Callable, optional): as in `figure`. Default: None
            heading (str, optional): title of the page, and lines below it. Default: ""

        Raises:
            ModuleNotFoundError: without matplotlib or Pillow, parts of the extra ``demo``.
            ValueError: if `pictures` do not fit the inputs.
        """
        from captum_unioncam.comparison.figure import Shown
        from captum_unioncam.comparison.html import report

        page = report([Shown(self, pictures)], self.summary(), names or str, heading)
        with written_whole(Path(path)) as partial:
            partial.write_text(page, encoding="utf-8")

    def __repr__(self) -> str:
        return "\n".join([self._caption(), *aligned(*self._table())])

    def _repr_html_(self) -> str:
        header, lines = self._table()
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>"
            for line in lines
        )
        caption = html.escape(self._caption())
        table = f"<table><caption>{caption}</caption><tr>{head}</tr>{body}</table>"
        # Where frames are not shown, or the extra is missing, the table is.
        try:
            from captum_unioncam.comparison.html import framed

            return table + framed(self, self.summary())
        except ModuleNotFoundError:
            return table

    def _caption(self) -> str:
        examples, classes = self.probabilities.shape
        ran = f"; changed inputs run by {self.scorer}" if self.scorer else ""
        if self.scorer_deviation is not None:
            ran += f", scores at most {self.scorer_deviation:.1e} of the largest off"
        return (
            f"{len(self.maps)} methods, {examples} example{'s' * (examples > 1)}, "
            f"{classes} class{'es' * (classes > 1)} each{ran}; means"
        )

    def _table(self) -> tuple[list[str], list[list[str]]]:
        cells = [
            {"method": row["method"], **numbers_of(row, self.metrics)} for row in self.summary()
        ]
        return list(cells[0]), [list(line.values()) for line in cells]


def summary_of(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per method with the mean of every number; see `Comparison.summary`."""
    table = []
    for label in dict.fromkeys(row["method"] for row in rows):
        means: dict[str, Any] = {"method": label}
        for name in (*metrics, *COSTS):
            known = [r[name] for r in rows if r["method"] == label and r[name] is not None]
            means[name] = _mean(known) if known else None
        table.append(means)
    return table


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, with a column for everything that any of them holds."""
    with written_whole(path) as partial:
        # Names of files may hold bytes that are no text.
        partial.write_bytes(rows_as_csv(rows).encode("utf-8", "backslashreplace"))


def rows_as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Return rows as CSV, with a column for everything that any of them holds.

    Examples::

        >>> rows_as_csv([{"method": "CAM", "beta": 0.5}, {"method": "RISE"}]).split("\r\n")
        ['method,beta', 'CAM,0.5', 'RISE,', '']
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _numbers(details: Any, example: int) -> dict[str, Any]:
    """Return what details hold one number of per example, and what was chosen by name."""
    fields: dict[str, Any] = getattr(details, "_asdict", dict)()
    numbers = {
        name: value[example].item()
        for name, value in fields.items()
        if isinstance(value, Tensor) and value.dim() == 1
    }
    chosen = getattr(details, "chosen", None)
    return numbers if chosen is None else {**numbers, "chosen": chosen[example]}


def _mean(values: Sequence[Any]) -> float:
    if isinstance(values[0], list):
        # One value per threshold: MaxBoxAcc.
        return max_box_accuracy(torch.tensor(values)).accuracy
    return float(sum(values) / len(values))


def _share(total: int | None, parts: int) -> float | None:
    return None if total is None else total / parts


def _plain(value: Tensor) -> Any:
    return value.item() if value.dim() == 0 else torch.Tensor.tolist(value)
