"""What localisation metrics compare maps with: boxes or masks of the objects in each image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_unioncam.engine import resize
from captum_unioncam.engine.arguments import parse_inputs
from captum_unioncam.metrics.common import prepared_maps
from captum_unioncam.metrics.options import Maps, ObjectOptions

# Boxes that were scaled with their picture may end this far outside by rounding.
SLACK = 0.5


def image_size(inputs: Any) -> tuple[int, int, int]:
    """Return number, height and width of the first floating point input of images.

    Raises:
        TypeError: if `inputs` is not a tensor or a tuple of tensors.
        ValueError: if none of them is (N, C, H, W).
    """
    parsed = parse_inputs(inputs)
    image = next((x for x in parsed if x.is_floating_point() and x.dim() == 4), None)
    if image is None:
        shapes = ", ".join(str(tuple(x.shape)) for x in parsed)
        raise ValueError(f"inputs must hold floating point images (N, C, H, W), got {shapes}")
    return len(image), image.shape[2], image.shape[3]


def energy_maps(attributions: Maps, num_examples: int, size: tuple[int, ...]) -> Tensor:
    """Return the positive part of attributions, summed over channels and resized linearly.

    Arguments and errors are those of `prepared_maps`. The maps are not min-max scaled, which
    would give energy to negative values, and take it from a map that is positive everywhere.
    """
    prepared_maps(attributions, num_examples, size)
    maps = attributions[0] if isinstance(attributions, tuple) else attributions
    maps = maps.detach()
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32)).sum(1, keepdim=True)
    return (maps if tuple(maps.shape[2:]) == tuple(size) else resize(maps, size)).relu()


def energy_share(energy: Tensor, inside: Tensor) -> Tensor:
    """Return the share of each map's energy at the pixels `inside`, 0 for a map of zeros."""
    energy = energy.flatten(1).double()
    total = energy.sum(1)
    share = energy.where(inside.flatten(1), 0).sum(1) / total.where(total > 0, 1)
    return share.float()


def parse_boxes(boxes: Any, size: tuple[int, int, int]) -> list[Tensor]:
    """Return the boxes of every example, each (B, 4) in float64, within the image.

    Args:
        boxes (Sequence): per example a Tensor, or nested lists, of x_min, y_min, x_max, y_max.
        size (tuple[int, int, int]): number, height and width of the images.

    Raises:
        TypeError: if `boxes` is not a sequence.
        ValueError: if there is not one entry per example, an entry is empty or not (B, 4), a
            box is empty or not finite, or leaves the image.
    """
    count, height, width = size
    if not isinstance(boxes, Sequence | Tensor):
        raise TypeError(f"boxes must be a sequence with one Tensor per example, got {boxes!r}")
    if len(boxes) != count:
        raise ValueError(f"boxes must have one entry per example: got {len(boxes)} for {count}")
    parsed = []
    for example, entry in enumerate(boxes):
        these = torch.as_tensor(entry, dtype=torch.float64).detach().cpu()
        if these.dim() != 2 or these.shape[1] != 4 or not len(these):
            raise ValueError(
                f"the boxes of example {example} must have shape (B, 4) with B at least 1, got "
                f"{tuple(these.shape)}; leave out examples without boxes, and write a single box "
                "as [[x_min, y_min, x_max, y_max]]"
            )
        low, high = these[:, :2], these[:, 2:]
        edges = these.new_tensor([width, height])
        if not bool((low < high).all() and (low >= -SLACK).all() and (high <= edges + SLACK).all()):
            raise ValueError(
                f"the boxes of example {example} must be x_min, y_min, x_max, y_max with "
                f"0 <= x_min < x_max <= {width} and 0 <= y_min < y_max <= {height}, the pixels "
                f"of the input, got {these.tolist()}; scale and clip them as the picture was"
            )
        parsed.append(these)
    return parsed


def pixels_of(boxes: list[Tensor], size: tuple[int, int, int]) -> Tensor:
    """Return the pixels whose centres lie in a box of their example, (N, H, W) bool.

    Raises:
        ValueError: if the boxes of an example hold no centre of a pixel.
    """
    _, height, width = size
    x, y = (torch.arange(length) + 0.5 for length in (width, height))
    masks = []
    for these in boxes:
        x_min, y_min, x_max, y_max = these.T[..., None]
        columns, rows = (x_min <= x) & (x < x_max), (y_min <= y) & (y < y_max)
        masks.append((rows[:, :, None] & columns[:, None, :]).any(0))
    return torch.stack(masks)


def object_pixels(
    objects: ObjectOptions, size: tuple[int, int, int], *, may_be_empty: bool = False
) -> Tensor:
    """Return the pixels of the objects in each image, (N, H, W) bool, on the CPU.

    Args:
        objects (ObjectOptions): boxes as in `parse_boxes`, or masks (N, H, W) bool.
        size (tuple[int, int, int]): number, height and width of the images.
        may_be_empty (bool, optional): whether an example may be without objects.
            Default: False

    Raises:
        TypeError: if neither or both are given, or one is of the wrong kind.
        ValueError: if a shape does not fit, or an example has no pixel.
    """
    boxes, masks = objects.get("boxes"), objects.get("masks")
    if (boxes is None) == (masks is None):
        given = "neither" if boxes is None else "both"
        raise TypeError(f"give the objects as boxes or as masks, got {given}")
    if masks is None:
        pixels = pixels_of(parse_boxes(boxes, size), size)
    else:
        if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
            kind = getattr(masks, "dtype", type(masks).__name__)
            raise TypeError(f"masks must be a Tensor of torch.bool, got {kind}")
        if tuple(masks.shape) != size:
            raise ValueError(
                f"masks must have the images' size, {size}, got {tuple(masks.shape)}; resize "
                "them by nearest neighbour"
            )
        pixels = masks.cpu()
    empty = (~pixels.flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty and not may_be_empty:
        raise ValueError(f"example(s) {empty[:5]} have no object pixel; leave them out")
    return pixels
