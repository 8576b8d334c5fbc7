"""The figure of comparisons: pictures and classes down, methods across."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from torch import Tensor

from captum_unioncam.comparison.data import ComparisonData
from captum_unioncam.comparison.drawing import add_scale, lettering, shortened
from captum_unioncam.comparison.text import Row, choice_of, formatted
from captum_unioncam.engine.maps import unit_range
from captum_unioncam.metrics import metric_of
from captum_unioncam.metrics.common import prepared_maps
from captum_unioncam.visualization.overlay import HEAT, OPACITY


class Shown(NamedTuple):
    """A comparison as a figure shows it.

    Attributes:
        comparison (ComparisonData): the maps and what was measured on them.
        pictures (Tensor, optional): what to draw under the maps, (N, 3 or 1, H, W) in [0, 1];
            None draws the inputs.
        titles (Sequence[str]): what to call every picture; empty for nothing.
    """

    comparison: ComparisonData
    pictures: Tensor | None = None
    titles: Sequence[str] = ()


def draw(parts: Sequence[Shown], names: Callable[[str], str], heading: str) -> Figure:
    """Draw every map over its picture, with its scores below; see `Comparison.figure`.

    Args:
        parts (Sequence[Shown]): comparisons of the same methods and metrics.
        names (Callable): turns a class label into what the figure calls it.
        heading (str): title of the figure; empty for none.

    Raises:
        ValueError: if the inputs are no images, or the pictures do not fit them.
    """
    first = parts[0].comparison
    rows = [
        (part, n, k)
        for part in parts
        for n, classes in enumerate(part.comparison.classes)
        for k in range(len(classes))
    ]
    said = [heading, *first.maps, *(title for part in parts for title in part.titles)]
    said += [names(part.comparison.classes[n][k]) for part, n, k in rows]
    families, written = lettering(said)
    columns = 1 + len(first.maps)
    below = len(first.metrics) + 2 * any(choice_of(row) != "" for row in first.rows)
    size = (2.6 * columns + 1.0, (2.75 + 0.19 * max(1, below)) * len(rows) + 0.6)
    with mpl.rc_context({"font.family": families}):
        figure = Figure(figsize=size, dpi=80, layout="constrained")
        if heading:
            lines = "\n".join(written(line) for line in heading.splitlines())
            figure.suptitle(lines, fontsize=12, parse_math=False)
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes, (part, n, k) in zip(grid, rows, strict=True):
            _draw_row(axes, part, n, k, lambda text: shortened(written(text)), names)
        add_scale(figure, grid, "map, scaled to [0, 1]")
    return figure


def _draw_row(
    axes: Sequence["mpl.axes.Axes"],
    part: Shown,
    n: int,
    k: int,
    written: Callable[[str], str],
    names: Callable[[str], str],
) -> None:
    comparison = part.comparison
    picture = pictures_of(part)[n]
    size = tuple(picture.shape[:2])
    label = comparison.classes[n][k]
    cells = {
        row["method"]: row
        for row in comparison.rows
        if (row["example"], row["class"]) == (n, label)
    }
    for ax in axes:
        ax.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1)
        ax.set_xticks([])
        ax.set_yticks([])
    axes[0].set_title(written(names(label)), fontsize=11, parse_math=False)
    probability = formatted(float(comparison.probabilities[n, k]))
    axes[0].set_xlabel(f"{comparison.quantity} {probability}", fontsize=10)
    if part.titles:
        axes[0].set_ylabel(written(part.titles[n]), fontsize=11, parse_math=False)
    for ax, (method, maps) in zip(axes[1:], comparison.maps.items(), strict=True):
        heat = prepared_maps(maps[n : n + 1, k : k + 1], 1, size)[0, 0]
        ax.imshow(heat.numpy(), cmap=HEAT, vmin=0, vmax=1, alpha=OPACITY)
        ax.set_title(written(method), fontsize=11, parse_math=False)
        ax.set_xlabel(_scores(cells[method], comparison.metrics), fontsize=9)


def _scores(row: Row, metrics: Sequence[str]) -> str:
    lines = [
        f"{metric_of(m).title} {formatted(row[m])}{' %' if metric_of(m).unit == '%' else ''}"
        for m in metrics
    ]
    # A union of two would be wider than its picture.
    choice = choice_of(row).replace(": ", " chosen:\n").replace(" + ", " +\n")
    return "\n".join([*lines, *map(shortened, choice.splitlines())])


def pictures_of(part: Shown) -> Tensor:
    """Return pictures to draw, (N, H, W, 3 or nothing), in [0, 1]."""
    images = next((x for x in part.comparison.inputs if x.dim() == 4), None)
    if images is None:
        raise ValueError("a figure needs images, inputs of shape (N, C, H, W)")
    pictures = part.pictures
    if pictures is None:
        wide = images.detach().float().cpu()
        wide = wide if wide.shape[1] in (1, 3) else wide.mean(1, keepdim=True)
        # One scale for all channels of a picture keeps its colours.
        pictures = unit_range(wide.flatten(1)[:, None]).reshape(wide.shape)
    if pictures.dim() != 4 or len(pictures) != len(images) or pictures.shape[1] not in (1, 3):
        raise ValueError(
            f"pictures must have shape ({len(images)}, 3 or 1, H, W), got {tuple(pictures.shape)}"
        )
    shown = pictures.detach().float().cpu().permute(0, 2, 3, 1)
    return shown[..., 0] if shown.shape[3] == 1 else shown
