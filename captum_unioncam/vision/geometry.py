"""Where the pixels of a picture go in the preprocessing of a network, and back."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

Box = tuple[float, float, float, float]
BoxStep = partial[Any]

# Rows of a picture that a map is laid on at a time.
BAND = 256
# Steps of a preprocessing that leave every pixel where it is.
IN_PLACE = (
    *("PILToTensor", "ToTensor", "ToImage", "ToImageTensor", "ToPureTensor", "ToDtype"),
    *("MaybeToTensor", "ConvertImageDtype", "Normalize", "RGB", "Grayscale", "Identity"),
)


def box_steps(preprocess: Any) -> list[BoxStep]:
    """Return the steps of a preprocessing that move pixels, to be applied to boxes.

    Known are torchvision's presets of classifiers and of segmentation, and compositions of Resize
    and CenterCrop with steps that leave pixels where they are.

    Raises:
        ValueError: if it does anything else.
    """
    from torchvision.transforms.v2 import functional

    if type(preprocess).__name__ == "ImageClassification":
        return [
            partial(functional.resize, size=preprocess.resize_size),
            partial(functional.center_crop, output_size=preprocess.crop_size),
        ]
    if type(preprocess).__name__ == "SemanticSegmentation":
        return [partial(functional.resize, size=preprocess.resize_size)]
    steps: list[BoxStep] = []
    for step in getattr(preprocess, "transforms", [preprocess]):
        name = type(step).__name__
        if name == "Resize":
            size = [step.size] if isinstance(step.size, int) else list(step.size)
            steps.append(partial(functional.resize, size=size, max_size=step.max_size))
        elif name == "CenterCrop":
            steps.append(partial(functional.center_crop, output_size=list(step.size)))
        elif name not in IN_PLACE:
            raise ValueError(
                f"boxes cannot follow the step {name} of the network's preprocessing: only "
                "torchvision's Resize and CenterCrop are known to move pixels; measure with "
                "--preprocess paper, or without metrics of localisation"
            )
    return steps


def boxes_after(boxes: Sequence[Box], size: tuple[int, int], steps: Sequence[BoxStep]) -> list[Box]:
    """Return boxes after the steps of a preprocessing, cut off where the input ends."""
    from torchvision import tv_tensors

    if not boxes:
        return []
    corners = torch.tensor(boxes, dtype=torch.float64)
    left = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=size[::-1])
    for step in steps:
        left = step(left)
    return [tuple(box) for box in left.tolist()]


def size_after(size: tuple[int, int], steps: Sequence[BoxStep]) -> tuple[int, int]:
    """Return height and width of the input that a picture of (height, width) becomes."""
    from torchvision import tv_tensors

    canvas = tv_tensors.BoundingBoxes([[0, 0, 1, 1]], format="XYXY", canvas_size=size)
    for step in steps:
        canvas = step(canvas)
    height, width = canvas.canvas_size
    return height, width


def scale_of(size: tuple[int, int], steps: Sequence[BoxStep]) -> tuple[float, float]:
    """Return how many pixels of the input a pixel of the picture becomes, along rows and columns.

    Args:
        size (tuple[int, int]): width and height of the picture.
        steps (Sequence): of `box_steps`.
    """
    from torchvision.transforms.v2 import functional

    width, height = size
    resizing = [step for step in steps if step.func is not functional.center_crop]
    ((x0, y0, x1, y1),) = boxes_after([(0.0, 0.0, float(width), float(height))], size, resizing)
    return (y1 - y0) / height, (x1 - x0) / width


def seen_on_picture(
    heat: Tensor, size: tuple[int, int], steps: Sequence[BoxStep]
) -> tuple[Tensor, Tensor]:
    """Return a map of the network's input as it lies on the picture.

    Args:
        heat (Tensor): the map at the size of the input, (H, W).
        size (tuple[int, int]): width and height of the picture.
        steps (Sequence): of `box_steps`.

    Returns:
        *tuple* of the map at the picture's size, (height, width), and whether the network saw
        the pixel, same shape, bool.
    """
    # The middle stays in the input whatever is cut off, and two of its points give the motion.
    middle = [(side * 0.499, side * 0.501) for side in size]
    (left, right), (top, bottom) = middle
    ((x0, y0, x1, y1),) = boxes_after([(left, top, right, bottom)], size, steps)
    grid = []
    for length, (low, high), (new_low, new_high), extent in zip(
        size, middle, ((x0, x1), (y0, y1)), reversed(heat.shape), strict=True
    ):
        centres = torch.arange(length, dtype=torch.float64) + 0.5
        moved = new_low + (centres - low) * (new_high - new_low) / (high - low)
        grid.append(2 * moved / extent - 1)
    x, y = grid
    found = torch.empty(len(y), len(x), dtype=heat.dtype)
    # In bands: the positions of a large photograph at once would take gigabytes.
    for rows, band in zip(torch.split(y, BAND), torch.split(found, BAND), strict=True):
        where = torch.stack([x.expand(len(rows), -1), rows[:, None].expand(-1, len(x))], dim=-1)
        sampled = torch.nn.functional.grid_sample(
            heat[None, None].double(), where[None], padding_mode="border", align_corners=False
        )
        band.copy_(sampled[0, 0])
    return found, (y.abs() <= 1)[:, None] & (x.abs() <= 1)
