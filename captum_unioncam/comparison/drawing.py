"""Explanations of photographs, drawn beside them and listed as a table."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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

from captum_unioncam.engine.maps import resize, scale_for_resize
from captum_unioncam.engine.target_scores import TargetScores
from captum_unioncam.methods.registry import METHODS
from captum_unioncam.methods.union_cam import UnionCAMDetails
from captum_unioncam.vision.networks import Network

HEAT = "turbo"


@dataclass(frozen=True)
class Panel:
    """A map at the size of the picture, in [0, 1], under its name and score.

    Attributes:
        title (str): the map's name.
        beta (float): probability over black of the picture masked by it.
        heat (ndarray): the map, (H, W).
        score (str): what the figure says of its beta.
    """

    title: str
    beta: float
    heat: NDArray[np.float32]
    score: str


@dataclass(frozen=True)
class Explanation:
    """One photograph explained.

    Attributes:
        name (str): what to call the photograph.
        picture (ndarray): what the network sees, RGB in [0, 1], (H, W, 3).
        class_name (str): the class explained.
        probability (float): its softmax probability, or the output of a network with one.
        measured (str): which of both, "probability" or "output".
        panels (list[Panel]): Grad-CAM and what there is between it and the method's own map,
            which comes last.
        scores (dict[str, str]): columns for the table, by header.
        attribution (ndarray): the method's map at its own resolution, (h, w).
    """

    name: str
    picture: NDArray[np.float32]
    class_name: str
    probability: float
    measured: str
    panels: list[Panel]
    scores: dict[str, str]
    attribution: NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """A network, and what of it is to be explained how.

    Attributes:
        network (Network): the network.
        layer (nn.Module): its layer.
        method (str): name of the method in the registry.
        target (int, optional): the class; None takes each picture's most probable one.
        options (dict): options of the method's `attribute`.
        show_progress (bool): show progress bars on stderr.
    """

    network: Network
    layer: nn.Module
    method: str = "unioncam"
    target: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    show_progress: bool = False


def explain(subject: Subject, name: str, picture: Image) -> Explanation:
    """Explain a photograph with Captum's Grad-CAM and with a method, over a black baseline.

    Args:
        subject (Subject): the network and how to explain it.
        name (str): what to call the photograph.
        picture (Image): an RGB picture of any size.

    Returns:
        *Explanation* with every map at the size of the network's input.
    """
    network, model = subject.network, subject.network.model
    x, black, shown = network.prepare(picture)
    device = next((p.device for p in model.parameters()), x.device)
    x, black = x.to(device), black.to(device)
    size = x.shape[2:]

    clean = network.outputs(x)
    if clean.dim() > 2:
        raise ValueError(
            "a picture is explained by a classifier, whose output is (N, classes) or (N,); got "
            f"{tuple(clean.shape)}"
        )
    chosen = int(clean[0].argmax()) if subject.target is None else subject.target
    target = None if clean.dim() == 1 else chosen
    reader = TargetScores.from_output("probability", target, clean)

    def scores_of(outputs: Tensor) -> Tensor:
        return reader.target_score(
            outputs, torch.zeros(len(outputs), dtype=torch.long, device=device)
        )[1]

    # Captum's own writes into its inputs where the network does.
    grad_cam = LayerGradCam(model, subject.layer).attribute(
        x.clone(), target, relu_attributions=True
    )
    if grad_cam.dim() != 4:
        raise ValueError(
            f"the layer gives maps of shape {tuple(grad_cam.shape)}, which lie on no picture; "
            "--layer auto suggests one"
        )
    attribution, details = _attributed(subject, x, black, target)
    maps = {"Grad-CAM": grad_cam.detach(), METHODS[subject.method].title: attribution}
    if details is not None:
        between = {"denoised map D": details.denoised, "region map R": details.region}
        maps = {"Grad-CAM": grad_cam.detach(), **between, "UnionCAM": attribution}
    heats = {title: _heat(cam, size) for title, cam in maps.items()}
    masked = torch.cat([black + heat * (x - black) for heat in heats.values()])
    betas = (scores_of(network.outputs(masked)) - scores_of(network.outputs(black))).tolist()
    panels = [
        Panel(title, beta, heat[0, 0].cpu().float().numpy(), f"β = {beta:+.3f}")
        for (title, heat), beta in zip(heats.items(), betas, strict=True)
    ]
    scores = {f"β {panel.title}": f"{panel.beta:+.3f}" for panel in panels}
    if details is not None:
        union = float(details.beta_union)
        is_union = bool(details.selected_union)
        scores = {
            "β Grad-CAM": f"{betas[0]:+.3f}",
            "β_D": f"{float(details.beta_denoised):+.3f}",
            "β_R": f"{float(details.beta_region):+.3f}",
            "β_DR": f"{union:+.3f}",
            "chosen": "union" if is_union else "region",
        }
        panels[1] = replace(panels[1], score=f"β_D = {scores['β_D']}")
        panels[2] = replace(panels[2], score=f"β_R = {scores['β_R']}")
        panels[3] = replace(
            panels[3],
            title=f"UnionCAM: {scores['chosen']} chosen",
            score=f"β_DR = {union:+.3f} {'>' if is_union else '≤'} β_R",
        )
    return Explanation(
        name,
        shown[0].permute(1, 2, 0).numpy(),
        network.class_name(chosen),
        float(scores_of(clean)[0]),
        "probability" if clean[0].numel() > 1 else "output",
        panels,
        scores,
        attribution[0, 0].cpu().float().numpy(),
    )


def _heat(cam: Tensor, size: torch.Size) -> Tensor:
    """Return a map as a mask of the picture; one that is flat and positive keeps everything."""
    is_flat = bool(cam.amin() == cam.amax())
    return resize(cam.sign().relu() if is_flat else scale_for_resize(cam, [size]), size)


def _attributed(
    subject: Subject, x: Tensor, black: Tensor, target: int | None
) -> tuple[Tensor, UnionCAMDetails | None]:
    """Run the method; UnionCAM also returns what its modules found."""
    method = METHODS[subject.method]
    model = subject.network.model
    attribution = method.cls(model, subject.layer) if method.needs_layer else method.cls(model)
    parameters = inspect.signature(method.cls.attribute).parameters
    available = {
        "baselines": black,
        "relu_attributions": not getattr(method.cls, "is_scaled", False),
        "show_progress": subject.show_progress,
        "return_details": True,
    }
    options = {name: value for name, value in available.items() if name in parameters}
    found = attribution.attribute(x.clone(), target, **{**options, **subject.options})
    return (found[0], found[1]) if "return_details" in options else (found.detach(), None)


def draw(explanations: Sequence[Explanation], heading: str) -> Figure:
    """Return a figure with a row per photograph: the picture, then every map over it."""
    columns = 1 + len(explanations[0].panels)
    figure = Figure(figsize=(2.6 * columns + 1.2, 3.0 * len(explanations) + 0.5), dpi=80)
    figure.set_layout_engine("constrained")
    figure.suptitle(heading, fontsize=12, parse_math=False)
    grid = figure.subplots(len(explanations), columns, squeeze=False)
    for axes, explanation in zip(grid, explanations, strict=True):
        for ax in axes:
            ax.imshow(explanation.picture)
            ax.set_xticks([])
            ax.set_yticks([])
        axes[0].set_title(
            f"{shortened(explanation.class_name)}\n"
            f"{explanation.measured} {explanation.probability:.3f}",
            fontsize=11,
            parse_math=False,
        )
        axes[0].set_ylabel(shortened(explanation.name), fontsize=11, parse_math=False)
        for ax, panel in zip(axes[1:], explanation.panels, strict=True):
            ax.imshow(panel.heat, cmap=HEAT, vmin=0, vmax=1, alpha=0.55)
            ax.set_title(f"{panel.title}\n{panel.score}", fontsize=11)
        for side in axes[-1].spines.values():
            side.set(color="black", linewidth=2.5)
    add_scale(figure, grid, "share of the pixel kept")
    return figure


def add_scale(figure: Figure, grid: NDArray[Any], label: str) -> None:
    """Add a colour bar from 0 to 1, about two rows of the grid high."""
    scale = figure.colorbar(
        ScalarMappable(Normalize(0, 1), HEAT),
        ax=grid.ravel().tolist(),
        shrink=min(1.0, 2.2 / len(grid)),
        pad=0.01,
    )
    scale.set_label(label, fontsize=10)


def save(figure: Figure, path: Path) -> None:
    """Write a figure without opening a window; a stopped run leaves no half-written file."""
    if not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.resolve().parent}")
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
    header = ["image", "class", explanations[0].measured, *explanations[0].scores]
    rows = [
        [e.name, e.class_name, f"{e.probability:.3f}", *e.scores.values()] for e in explanations
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) for r in [header, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def shortened(text: str, length: int = 30) -> str:
    """Return the text, cut where it would not fit over a picture."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
