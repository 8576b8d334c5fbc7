"""A network at hand, and what is to be compared on every picture."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from captum_unioncam.baselines import named_baseline
from captum_unioncam.commands.chosen_target import ChosenTarget, chosen_target
from captum_unioncam.comparison.compare import compare
from captum_unioncam.comparison.result import summary_of
from captum_unioncam.comparison.text import aligned, numbers_of, rows_table
from captum_unioncam.engine import ClassActivationMap, NamedScorer
from captum_unioncam.layer_fusion import Fuse, MultiLayer
from captum_unioncam.methods.compared_methods import compared_methods_of
from captum_unioncam.methods.grad_cam import LaidOutGradCAM
from captum_unioncam.methods.method_spec import parse_spec, parts
from captum_unioncam.methods.registry import METHODS
from captum_unioncam.methods.selected_cam import Criterion
from captum_unioncam.metrics import metric_of
from captum_unioncam.vision.networks import (
    Network,
    find_device,
    find_layer,
    load_network,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from captum_unioncam.comparison.figure import Shown

Methods = Mapping[str, Any] | Sequence[str]
Row = dict[str, Any]


@dataclass(frozen=True)
class Session:
    """A network at hand, and what is to be compared on every picture.

    Attributes:
        network (Network): the network, on its device.
        device (torch.device): that device.
        layer (nn.Module): its layer.
        layer_name (str): the layer's name.
        target (ChosenTarget): the classes, alone, against others or over a region.
        methods (Mapping or Sequence): as `compare` takes them.
        metrics (Sequence[str]): names of metrics.
        baseline (str): name of the baseline.
        quiet (bool): show no progress.
        scorer (NamedScorer, optional): what runs masked pictures; None for the model.
        best_by (str, optional): criterion of a last column with the best of the methods' maps.
    """

    network: Network
    device: torch.device
    layer: nn.Module
    layer_name: str
    target: ChosenTarget
    methods: Methods
    metrics: Sequence[str]
    baseline: str = "black"
    quiet: bool = False
    scorer: NamedScorer | None = None
    best_by: Criterion | None = None

    def compared(self, picture: "Image", title: str) -> "Shown":
        """Compare the methods on a picture."""
        from captum_unioncam.comparison.figure import Shown

        x, black, seen = self.network.prepare(picture)
        x, black = x.to(self.device), black.to(self.device)
        target = self.target.of(self.network, picture, x)
        result = compare(
            self.methods, x, target, forward_func=self.network.model, layer=self.layer,
            baselines=named_baseline(self.baseline, x, black), metrics=self.metrics,
            scorer=self.scorer, best_by=self.best_by, show_progress=not self.quiet,
        )  # fmt: skip
        return Shown(result, seen, [title])

    def heading(self) -> str:
        """Return the title of figures."""
        score = "probability" if self.target.is_probability else "score"
        about = f"\nβ: {score} of the masked picture minus that of the baseline"
        return (
            f"{self.network.name}, layer {self.layer_name}, {self.baseline} baseline"
            f"{about if 'beta' in self.metrics else ''}"
        )

    def class_name(self, label: str) -> str:
        """Return what a class of a comparison is called."""
        # A network with one value per picture has a single class, whose label is no number.
        if not re.match(r"\d", label):
            return self.network.class_name(0)
        return re.sub(r"\d+", lambda number: self.network.class_name(int(number[0])), label)

    def rows(self, shown: "Shown", image: str) -> list[Row]:
        """Return the rows of a comparison of one picture, with the picture and names of classes."""
        rows = shown.comparison.rows
        return [
            {"image": image, "class_name": self.class_name(row["class"]), **row} for row in rows
        ]

    def table(self, rows: Sequence[Row], quantity: str) -> str:
        """Return every number as text, and means where there are several pictures or classes."""
        lines = rows_table(rows, self.metrics, quantity)
        if len(rows) > len({row["method"] for row in rows}):
            means = [
                {"means": row["method"], **numbers_of(row, self.metrics)}
                for row in summary_of(rows, self.metrics)
            ]
            lines += ["", *aligned(list(means[0]), [list(row.values()) for row in means])]
        return "\n".join(lines)


def checked_metrics(text: str) -> list[str]:
    """Return the metrics that commas separate.

    Raises:
        ValueError: if there is no such metric, or it needs what a command line cannot give.
    """
    metrics = parts(text)
    for name in metrics:
        if needed := set(metric_of(name).needs) - {"explanation_func"}:
            raise ValueError(
                f"--metrics {name} needs {' or '.join(sorted(needed))}, given in Python only"
            )
    return metrics


def load_session(
    arguments: argparse.Namespace, methods: Methods, classes: str, metrics: Sequence[str]
) -> Session:
    """Load the network that the arguments name, and find its layer and the classes.

    Raises:
        ValueError: if there is no such network, layer, class or device, or a method does not take
            its options.
    """
    from PIL import Image

    network = load_network(arguments.model, arguments.weights)
    device = find_device(arguments.device)
    network.model.to(device)
    # Any picture tells the layer's shape; a grey one is there even if the first file is broken.
    x, black, _ = network.prepare(Image.new("RGB", (320, 240), "grey"))
    x, black = x.to(device), black.to(device)
    fused = parts(arguments.layers or "")
    layers = [find_layer(network.model, name, x) for name in fused or [arguments.layer]]
    layer_name = layers[0].name
    if fused:
        fuse: Fuse = arguments.fuse or "mean"
        methods = _fused(methods, network.model, [one.layer for one in layers], fuse)
        layer_name = f"{', '.join(one.name for one in layers)} ({fuse})"
    layer = layers[0].layer
    target = chosen_target(arguments, network, classes, x)
    for method in compared_methods_of(methods, network.model, layer):
        own, options = method.attribution, method.options
        if isinstance(own, MultiLayer):
            own, options = own.attribution_method, own.options
        if isinstance(own, ClassActivationMap):
            own.prepare({"inputs": x, "target": 0, **options})
    scorer = None if arguments.scorer == "model" else NamedScorer(arguments.scorer)
    return Session(
        network, device, layer, layer_name, target, methods, metrics, arguments.baseline,
        arguments.quiet, scorer, getattr(arguments, "best_by", None),
    )  # fmt: skip


def _fused(
    methods: Methods, model: nn.Module, layers: Sequence[nn.Module], fuse: Fuse
) -> dict[str, MultiLayer]:
    """Return methods by name as methods on several layers, under their labels."""
    specs = methods if isinstance(methods, Mapping) else {parse_spec(m).title(): m for m in methods}
    made = {}
    for label, text in specs.items():
        name, part, options = parse_spec(text)
        method = METHODS[name]
        if part or not method.needs_layer:
            why = "is a part of a method" if part else "has no layer"
            raise ValueError(f"--layers fuses the maps of methods, and {text} {why}; drop it there")
        # Captum's, which reads every layer as maps.
        cls = LaidOutGradCAM if name == "gradcam" else method.cls
        made[label] = MultiLayer(cls, model, layers, fuse, **options)
    return made
