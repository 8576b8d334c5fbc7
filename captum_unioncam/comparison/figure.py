"""The figure of a comparison: examples and classes down, methods across."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from torch import Tensor

from captum_unioncam.comparison.drawing import HEAT, add_scale, shortened
from captum_unioncam.comparison.result import formatted
from captum_unioncam.engine.maps import unit_range
from captum_unioncam.metrics import METRICS
from captum_unioncam.metrics.common import prepared_maps

if TYPE_CHECKING:
    from captum_unioncam.comparison.result import Comparison


def draw_comparison(
    comparison: "Comparison", pictures: Tensor | None, names: Callable[[str], str], heading: str
) -> Figure:
    """Draw every map over its picture, with its scores below; see `Comparison.figure`.

    Raises:
        ValueError: if the inputs are no images, or `pictures` do not fit them.
    """
    examples, classes = comparison.probabilities.shape
    shown = _pictures(comparison, pictures)
    size = tuple(shown.shape[1:3])
    rows = [(n, k) for n in range(examples) for k in range(classes)]
    columns = 1 + len(comparison.maps)
    below = len(comparison.metrics)
    figure = Figure(figsize=(2.6 * columns + 1.0, (2.75 + 0.19 * below) * len(rows) + 0.6), dpi=80)
    figure.set_layout_engine("constrained")
    if heading:
        figure.suptitle(heading, fontsize=12, parse_math=False)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    cells = {(row["example"], row["class"], row["method"]): row for row in comparison.rows}
    for axes, (n, k) in zip(grid, rows, strict=True):
        for ax in axes:
            ax.imshow(shown[n].numpy(), cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
        label = comparison.classes[n][k]
        axes[0].set_title(shortened(names(label)), fontsize=11, parse_math=False)
        axes[0].set_xlabel(f"probability {float(comparison.probabilities[n, k]):.3f}", fontsize=10)
        for ax, (method, maps) in zip(axes[1:], comparison.maps.items(), strict=True):
            heat = prepared_maps(maps[n : n + 1, k : k + 1], 1, size)[0, 0]
            ax.imshow(heat.numpy(), cmap=HEAT, vmin=0, vmax=1, alpha=0.55)
            ax.set_title(shortened(method), fontsize=11, parse_math=False)
            cell = cells[n, label, method]
            scores = [f"{METRICS[m].title} {_score(cell[m], m)}" for m in comparison.metrics]
            ax.set_xlabel("\n".join(scores), fontsize=9)
    add_scale(figure, grid, "map, scaled to [0, 1]")
    return figure


def _score(value: object, metric: str) -> str:
    return f"{formatted(value)}{' %' if METRICS[metric].unit == '%' else ''}"


def _pictures(comparison: "Comparison", pictures: Tensor | None) -> Tensor:
    """Return pictures to draw, (N, H, W, 3 or nothing), in [0, 1]."""
    images = next((x for x in comparison.inputs if x.dim() == 4), None)
    if images is None:
        raise ValueError("a figure needs images, inputs of shape (N, C, H, W)")
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
