"""What a run measures: a network, its layer, pictures, and the settings that decide the numbers."""

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from captum_unioncam.benchmark.data import (
    LABELS_FILE,
    DataSet,
    find_data,
    matched,
    mosaics_of,
    sampled,
)
from captum_unioncam.benchmark.loading import paper_preprocess
from captum_unioncam.benchmark.options import given
from captum_unioncam.benchmark.presets import needs_boxes, needs_mosaics
from captum_unioncam.benchmark.settings import Settings, versions, weights_sha256
from captum_unioncam.engine import NamedScorer, checked_request, measure_inputs
from captum_unioncam.vision.networks import Network, find_device, find_layer, load_network


@dataclass(frozen=True)
class BenchmarkRun:
    """A network, its preprocessing the one asked for, with the pictures to measure methods on."""

    network: Network
    layer: nn.Module
    data: DataSet
    device: torch.device
    settings: Settings
    scorer: NamedScorer | None = None


def load_run(
    arguments: argparse.Namespace, methods: dict[str, str], metrics: list[str]
) -> BenchmarkRun:
    """Load the network and list the pictures that the arguments of the command ask for.

    Raises:
        ValueError: if there is no such network, layer or data, or labels or boxes are asked for
            that the data does not have.
    """
    found = find_data(Path(arguments.data), arguments.year, arguments.image_set)
    network = load_network(arguments.model, arguments.weights)
    if arguments.preprocess == "paper":
        network = replace(network, preprocess=paper_preprocess())
    device = _device(arguments.device)
    network.model.to(device)
    # Any picture tells the layer's shape; a grey one is there even if the first file is broken.
    x = network.prepare(Image.new("RGB", (320, 240), "grey"))[0].to(device)
    output = network.outputs(x)
    if output.dim() != 2:
        raise ValueError(f"{network.name} is no classifier: its output is not (N, classes)")
    layer = find_layer(network.model, arguments.layer, x)
    data = matched(sampled(found, arguments.n, arguments.seed), network, output.shape[1])
    _check_labels(data, arguments, metrics)
    images = len(data.items)
    if any(map(needs_mosaics, metrics)):
        mosaics = mosaics_of(data, arguments.mosaics, arguments.seed)
        pictures = () if all(map(needs_mosaics, metrics)) else data.items
        data = replace(data, items=(*pictures, *mosaics))
    scorer, tolerance = _scorer(arguments.scorer, network, x)
    settings = Settings(
        **given(arguments, Settings)
        | {
            "data": str(Path(arguments.data)),
            "layer": layer.name,
            "methods": methods,
            "metrics": metrics,
            "device": device.type,
            "scorer": "model" if scorer is None else scorer.name,
        },
        dataset=data.kind,
        images=images,
        images_sha256=data.sha256(),
        weights_sha256=weights_sha256(network.model),
        versions=versions("model" if scorer is None else scorer.name),
        tolerance=tolerance,
    )
    return BenchmarkRun(network, layer.layer, data, device, settings, scorer)


def _scorer(
    name: str, network: Network, x: torch.Tensor
) -> tuple[NamedScorer | None, float | None]:
    """Return the scorer of a run and its tolerance; "auto" is settled, since no run mixes two.

    Raises:
        ValueError: if one asked for by name is not installed or cannot run the network.
    """
    if name == "model":
        return None, None
    scorer = NamedScorer(name)
    target = int(network.outputs(x)[0].argmax())
    with measure_inputs(checked_request(network.model, None, x, target, scorer=scorer)):
        built = scorer.used if name == "auto" else scorer.built
    if built is None:
        return None, None
    return NamedScorer(built.name), built.tolerance


def _check_labels(data: DataSet, arguments: argparse.Namespace, metrics: list[str]) -> None:
    if arguments.target == "truth" and not data.is_labelled:
        raise ValueError(
            f"--target truth needs labels that are the network's classes, and {arguments.data} is: "
            f"{data.kind}. Give them in a {LABELS_FILE} (columns file, class_index) beside the "
            "pictures, or explain the predicted class"
        )
    boxed = [metric for metric in metrics if needs_boxes(metric)]
    if boxed and not data.has_boxes:
        raise ValueError(
            f"{', '.join(boxed)} need boxes of objects, which a VOC devkit has, and "
            f"{arguments.data} is: {data.kind}"
        )


def _device(asked: str | None) -> torch.device:
    # torchrun numbers the processes of a machine, one for each of its devices.
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    has_cuda = torch.cuda.is_available()
    return find_device(own if asked == "cuda" or (asked is None and has_cuda) else asked)
