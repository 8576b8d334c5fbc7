"""Explanations of photographs, drawn beside them and listed as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from captum.attr import LayerGradCam
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor, nn

from captum_unioncam.engine.maps import resize, span_resized
from captum_unioncam.networks import Network
from captum_unioncam.unioncam import LayerUnionCAM

HEAT = "turbo"


@dataclass(frozen=True)
class Panel:
    """A map at the size of the picture, in [0, 1], under its name and score."""

    title: str
    score: str
    heat: NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """One photograph explained.

    Attributes:
        name (str): what to call the photograph.
        picture (ndarray): what the network sees, RGB in [0, 1], (H, W, 3).
        class_name (str): the class explained.
        probability (float): its softmax probability.
        panels (list[Panel]): Grad-CAM, the denoised and the region map, and UnionCAM.
        betas (tuple[float, ...]): probability over black of the picture masked by Grad-CAM,
            the denoised map, the region map and their union.
        selected (str): which map AMS chose, "union" or "region".
        attribution (ndarray): UnionCAM at layer resolution, (h, w).

    """

    name: str
    picture: NDArray[np.float32]
    class_name: str
    probability: float
    panels: list[Panel]
    betas: tuple[float, float, float, float]
    selected: str
    attribution: NDArray[np.float32]


def explain(
    network: Network,
    layer: nn.Module,
    name: str,
    picture: Image,
    target: int | None = None,
    theta: float = 10.0,
    *,
    show_progress: bool = False,
) -> Explanation:
    """Explain a photograph with Captum's Grad-CAM and with UnionCAM, over a black baseline.

    Args:
        network (Network): the network.
        layer (nn.Module): its layer to explain.
        name (str): what to call the photograph.
        picture (Image): an RGB picture of any size.
        target (int, optional): the class; None takes the most probable one. Default: None
        theta (float, optional): percentile of UnionCAM's denoising. Default: 10.0
        show_progress (bool, optional): progress bar on stderr. Default: False

    Returns:
        *Explanation* with every map at the size of the network's input.

    """
    x, black, shown = network.prepare(picture)
    device = next((p.device for p in network.model.parameters()), x.device)
    x, black = x.to(device), black.to(device)
    size = x.shape[2:]

    def probabilities(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            output: Tensor = network.model(inputs)
        return output.softmax(1)

    clean = probabilities(x)[0]
    chosen = int(clean.argmax()) if target is None else target
    grad_cam = LayerGradCam(network.model, layer).attribute(x, chosen, relu_attributions=True)
    grad_cam = resize(span_resized(grad_cam.detach(), [size]), size)
    masked = probabilities(torch.cat([black + grad_cam * (x - black), black]))[:, chosen]
    attribution, found = LayerUnionCAM(network.model, layer).attribute(
        x, chosen, baselines=black, theta=theta, show_progress=show_progress, return_details=True
    )
    beta_D, beta_R, beta_DR = (
        float(b) for b in (found.beta_denoised, found.beta_region, found.beta_union)
    )
    selected = "union" if found.selected_union.item() else "region"
    sign = ">" if selected == "union" else "≤"
    panels = [
        ("Grad-CAM", f"β = {float(masked[0] - masked[1]):+.3f}", grad_cam),
        ("denoised map D", f"β_D = {beta_D:+.3f}", resize(found.denoised, size)),
        ("region map R", f"β_R = {beta_R:+.3f}", resize(found.region, size)),
        (
            f"UnionCAM: {selected} chosen",
            f"β_DR = {beta_DR:+.3f} {sign} β_R",
            resize(attribution, size),
        ),
    ]
    return Explanation(
        name,
        shown[0].permute(1, 2, 0).numpy(),
        network.class_name(chosen),
        float(clean[chosen]),
        [Panel(title, score, heat[0, 0].cpu().float().numpy()) for title, score, heat in panels],
        (float(masked[0] - masked[1]), beta_D, beta_R, beta_DR),
        selected,
        attribution[0, 0].cpu().float().numpy(),
    )


def draw(explanations: Sequence[Explanation], heading: str) -> Figure:
    """Return a figure with a row per photograph: the picture, then every map over it."""
    columns = 1 + len(explanations[0].panels)
    figure = Figure(figsize=(2.6 * columns + 1.2, 3.0 * len(explanations) + 0.5), dpi=80)
    figure.set_layout_engine("constrained")
    figure.suptitle(heading, fontsize=12)
    grid = figure.subplots(len(explanations), columns, squeeze=False)
    for axes, explanation in zip(grid, explanations, strict=True):
        for ax in axes:
            ax.imshow(explanation.picture)
            ax.set_xticks([])
            ax.set_yticks([])
        axes[0].set_title(
            f"{_shortened(explanation.class_name)}\nprobability {explanation.probability:.3f}",
            fontsize=11,
        )
        axes[0].set_ylabel(_shortened(explanation.name), fontsize=11)
        for ax, panel in zip(axes[1:], explanation.panels, strict=True):
            ax.imshow(panel.heat, cmap=HEAT, vmin=0, vmax=1, alpha=0.55)
            ax.set_title(f"{panel.title}\n{panel.score}", fontsize=11)
        for side in axes[-1].spines.values():
            side.set(color="black", linewidth=2.5)
    scale = figure.colorbar(
        ScalarMappable(Normalize(0, 1), HEAT),
        ax=grid.ravel().tolist(),
        shrink=min(1.0, 2.2 / len(explanations)),
        pad=0.01,
    )
    scale.set_label("map value (1 keeps the pixel, 0 blackens it)", fontsize=10)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure without opening a window; a stopped run leaves no half-written file."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        FigureCanvasAgg(figure).print_figure(partial, format=path.suffix[1:].lower())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def writable_suffixes() -> set[str]:
    """Return the file name endings that `save` can write, with their dots."""
    return {f".{suffix}" for suffix in FigureCanvasAgg.get_supported_filetypes()}


def table(explanations: Sequence[Explanation]) -> str:
    """Return the scores as lines of text, aligned in columns."""
    header = ["image", "class", "probability", "β Grad-CAM", "β_D", "β_R", "β_DR", "chosen"]
    rows = [
        [
            explanation.name,
            explanation.class_name,
            f"{explanation.probability:.3f}",
            *(f"{beta:+.3f}" for beta in explanation.betas),
            explanation.selected,
        ]
        for explanation in explanations
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) for r in [header, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def _shortened(text: str, length: int = 30) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
