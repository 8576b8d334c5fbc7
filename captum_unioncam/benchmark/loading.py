"""Pictures made ready for a network, in worker processes, and boxes along with them."""

import math
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captum_unioncam.benchmark.data import Box, DataSet, Item
from captum_unioncam.metrics.mosaic import laid_out
from captum_unioncam.vision.geometry import BoxStep, box_steps, boxes_after, scale_of
from captum_unioncam.vision.networks import Network
from captum_unioncam.vision.pictures import load_picture

UNREADABLE = (ValueError, RuntimeError, OSError)


@dataclass(frozen=True)
class Prepared:
    """A picture as the network takes it, or why there is none.

    Attributes:
        x (Tensor): the input, (1, C, H, W); empty if there is an error.
        black (Tensor): its black baseline, same shape.
        shown (Tensor): what the network sees, RGB in [0, 1].
        boxes (dict): per class index, the boxes of its objects in pixels of the input.
        scale (tuple[float, float]): pixels of the input per pixel of the picture, along rows and
            columns; (1, 1) where boxes were not asked for.
        other (Tensor): another photograph as the network takes it, same shape; empty where none was
            asked for.
    """

    item: Item
    x: Tensor = field(default_factory=lambda: torch.empty(0))
    black: Tensor = field(default_factory=lambda: torch.empty(0))
    shown: Tensor = field(default_factory=lambda: torch.empty(0))
    boxes: dict[int, list[Box]] = field(default_factory=dict)
    scale: tuple[float, float] = (1.0, 1.0)
    other: Tensor = field(default_factory=lambda: torch.empty(0))
    error: str = ""


class Pictures(Dataset[Prepared]):
    """The pictures of a data set, prepared one by one; failures are returned, not raised.

    Args:
        data (DataSet): the pictures.
        network (Network): whose preprocessing they go through.
        boxes (bool, optional): take the boxes of their objects along. Default: False
        others (bool, optional): take another photograph along, the next one. Default: False

    Raises:
        ValueError: if boxes cannot follow the preprocessing.
    """

    def __init__(
        self, data: DataSet, network: Network, *, boxes: bool = False, others: bool = False
    ) -> None:
        self.data, self.others = data, others
        # Not the network itself: worker processes need no copy of its weights.
        self.prepare = Network("", torch.nn.Identity(), network.preprocess).prepare
        self.box_steps = box_steps(network.preprocess) if boxes else None

    def __len__(self) -> int:
        return len(self.data.items)

    def __getitem__(self, index: int) -> Prepared:
        item = self.data.items[index]
        try:
            if item.cells:
                x, black, shown = self._mosaic(item)
                return Prepared(item, x, black, shown)
            picture = load_picture(self.data.root / item.image)
            x, black, shown = self.prepare(picture)
            other = self._other(index, x) if self.others else torch.empty(0)
        # load_picture raises ValueError; a user's own preprocessing may trip over a picture.
        except UNREADABLE as error:
            return Prepared(item, error=str(error))
        if self.box_steps is None:
            return Prepared(item, x, black, shown, other=other)
        boxes = moved(item.objects, picture.size, self.box_steps)
        scale = scale_of(picture.size, self.box_steps)
        return Prepared(item, x, black, shown, boxes, scale, other)

    def _mosaic(self, item: Item) -> list[Tensor]:
        """Return input, black baseline and what the network sees of a mosaic, at a picture's size.

        Raises:
            ValueError: if the pictures do not become inputs of one size.
        """
        parts = [self.prepare(load_picture(self.data.root / image)) for image in item.cells]
        sizes = {tuple(x.shape) for x, *_ in parts}
        if len(sizes) > 1:
            raise ValueError(f"a mosaic needs inputs of one size, got {sorted(sizes)}")
        side = math.isqrt(len(item.cells))
        return [laid_out(torch.cat(kind), side, True)[None] for kind in zip(*parts, strict=True)]

    def _other(self, index: int, x: Tensor) -> Tensor:
        """Return the next photograph that becomes an input of the same size.

        Raises:
            ValueError: if there is none.
        """
        items = self.data.items
        for step in range(1, len(items)):
            item = items[(index + step) % len(items)]
            if item.cells:
                continue
            try:
                other = self.prepare(load_picture(self.data.root / item.image))[0]
            except UNREADABLE:
                continue
            if other.shape == x.shape:
                return other
        raise ValueError("no other photograph of the run becomes an input of the same size")


def prepared(pictures: Pictures, indices: Sequence[int], workers: int) -> Iterable[Prepared]:
    """Return pictures in the order of `indices`, prepared by worker processes ahead of time."""
    return DataLoader(
        pictures,
        batch_size=None,
        sampler=indices,
        num_workers=min(workers, len(indices)),
        worker_init_fn=_ignore_interrupt,
        # Its own, so that starting the workers draws nothing from the global random state.
        generator=torch.Generator(),
    )


def _ignore_interrupt(_: int) -> None:
    """Leave Ctrl-C to the main process, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def paper_preprocess() -> Callable[[Any], Tensor]:
    """Return what UnionCAM's paper says it did: pictures resized to 224 x 224, in [0, 1]."""
    from torchvision.transforms import v2

    resized = v2.Resize((224, 224), antialias=True)
    steps: Callable[[Any], Tensor] = v2.Compose(
        [v2.PILToTensor(), resized, v2.ToDtype(torch.float32, scale=True)]
    )
    return steps


def moved(
    objects: Sequence[tuple[int, Box]], size: tuple[int, int], steps: Sequence[BoxStep]
) -> dict[int, list[Box]]:
    """Return what is left of every box in the input, by class; nothing of those that show no pixel.

    Args:
        objects (Sequence): index of the class and box of each object in the picture.
        size (tuple[int, int]): width and height of the picture.
        steps (Sequence): of `box_steps`.
    """
    left: dict[int, list[Box]] = {}
    boxes = boxes_after([box for _, box in objects], size, steps)
    for (label, _), (x0, y0, x1, y1) in zip(objects, boxes, strict=True):
        if _holds_a_centre(x0, x1) and _holds_a_centre(y0, y1):
            left.setdefault(label, []).append((x0, y0, x1, y1))
    return left


def _holds_a_centre(low: float, high: float) -> bool:
    """Return whether the centre of a pixel, an integer and a half, is in [`low`, `high`)."""
    return math.ceil(low - 0.5) < math.ceil(high - 0.5)
