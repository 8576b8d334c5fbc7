"""What a speed benchmark runs on: the network and the photographs."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from captum.attr import LayerActivation
from PIL import Image
from skimage import data
from torch import Tensor, nn
from torchvision import models

from benchmarks.speed.settings import SpeedSettings
from captum_unioncam.engine.arguments import closest
from captum_unioncam.engine.maps import distinct, unit_range
from captum_unioncam.engine.target_scores import at_least_float32
from captum_unioncam.vision.networks import Network, NetworkError, find_layer, load_network
from captum_unioncam.vision.pictures import load_picture

# Of the weights that --random-weights draws.
SEED = 0
SHIPPED = {
    "cat": data.cat,
    "espresso": data.coffee,
    "rocket": data.rocket,
    "motorcycle": lambda: data.stereo_motorcycle()[0],
}


class Photograph(NamedTuple):
    """A photograph as the network takes it, and its black baseline, each (1, C, H, W)."""

    name: str
    x: Tensor
    black: Tensor


@dataclass(frozen=True)
class SpeedRun:
    """A network with photographs, on its device and in its dtype."""

    network: Network
    layer_name: str
    layer: nn.Module
    photographs: list[Photograph]
    device: torch.device


@dataclass(frozen=True)
class Batch:
    """Photographs that are explained in one call, and the most probable class of each."""

    names: tuple[str, ...]
    x: Tensor
    black: Tensor
    target: list[int]
    channels: int
    # Summed over the photographs: channels that are not flat, and different masks they make.
    live: int
    distinct: int


def load_run(settings: SpeedSettings, dtype: str) -> SpeedRun:
    """Load the network and prepare the photographs.

    Raises:
        ValueError: if there is no such network, layer or photograph.
    """
    if settings.random_weights:
        network = _untrained(settings.model)
    else:
        network = load_network(settings.model, settings.weights)
    device = torch.device(settings.device)
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    network.model.to(device, kind)
    photographs = []
    for name, picture in _pictures(settings):
        x, black, _ = network.prepare(picture)
        if settings.size is not None:
            size = (settings.size, settings.size)
            x, black = (F.interpolate(v, size, mode="bilinear", antialias=True) for v in (x, black))
        photographs.append(Photograph(name, x.to(device, kind), black.to(device, kind)))
    shapes = {tuple(p.x.shape) for p in photographs}
    if len(shapes) > 1:
        raise ValueError(
            f"the photographs become inputs of shapes {sorted(shapes)}, which cannot be batched: "
            "say --size"
        )
    layer = find_layer(network.model, settings.layer, photographs[0].x)
    return SpeedRun(network, layer.name, layer.layer, photographs, device)


def batches_of(run: SpeedRun, size: int) -> list[Batch]:
    """Divide the photographs into batches of one size, beginning again where they run out.

    Raises:
        ValueError: if the network is no classifier or the layer gives no maps.
    """
    count = math.ceil(len(run.photographs) / size)
    filled = list(islice(cycle(run.photographs), count * size))
    return [_batch(run, filled[start : start + size]) for start in range(0, len(filled), size)]


def _batch(run: SpeedRun, photographs: Sequence[Photograph]) -> Batch:
    model = run.network.model
    x = torch.cat([p.x for p in photographs])
    with torch.no_grad():
        output = model(x)
    if not isinstance(output, Tensor) or output.dim() != 2:
        raise ValueError(f"{run.network.name} is no classifier: its output is not (N, classes)")
    A = LayerActivation(model, run.layer).attribute(x)
    if not isinstance(A, Tensor) or A.dim() != 4:
        raise ValueError(f"layer {run.layer_name} gives no maps of shape (N, C, H, W)")
    found = distinct(unit_range(at_least_float32(A.detach())))
    return Batch(
        names=tuple(p.name for p in photographs),
        x=x,
        black=torch.cat([p.black for p in photographs]),
        target=output.argmax(1).tolist(),
        channels=A.shape[1],
        live=int(found.channels.sum()),
        distinct=len(found.rows),
    )


@contextmanager
def arithmetic(dtype: str) -> Iterator[None]:
    """Let float32 products of a CUDA device be rounded to TF32, or not at all."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = dtype == "tf32"
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def _pictures(settings: SpeedSettings) -> list[tuple[str, Any]]:
    count = len(settings.images or SHIPPED)
    if settings.n is not None and settings.n > count:
        raise ValueError(
            f"--n {settings.n}: there are {count} photographs; give more with --images"
        )
    if settings.images:
        files = map(Path, settings.images[: settings.n])
        return [(file.name, load_picture(file)) for file in files]
    return [(name, Image.fromarray(SHIPPED[name]())) for name in list(SHIPPED)[: settings.n]]


def _untrained(name: str) -> Network:
    known = models.list_models(module=models)
    if name not in known:
        raise NetworkError(
            f"--random-weights needs a classifier of torchvision, and {name!r} is none"
            f"{closest(name, known)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = models.get_model(name, weights=None).eval()
    return Network(name, model, models.get_model_weights(name).DEFAULT.transforms())
