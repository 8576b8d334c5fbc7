"""Regions of a map: masks, contours and boxes, in the picture's own pixels."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_unioncam.engine import check_flag, check_number
from captum_unioncam.engine.maps import percentile
from captum_unioncam.visualization.placing import (
    Map,
    PictureLike,
    Placed,
    Preprocess,
    needs_extra,
    placed,
    size_of,
)

if TYPE_CHECKING:
    from types import ModuleType

# A share of the map's maximum, "p90" for a percentile, or "otsu".
Threshold = float | str


class Boxes(NamedTuple):
    """Boxes around the regions of a map, the highest score first.

    Attributes:
        corners (Tensor): x_min, y_min, x_max, y_max of each in pixels of the picture, (B, 4) int64;
            the maxima are one past the region, so that a box of one pixel has width 1.
        scores (Tensor): the share of the map's sum that lies in the region, (B,).
    """

    corners: Tensor
    scores: Tensor


def mask(
    cam: Map,
    picture: PictureLike | tuple[int, int] | None = None,
    *,
    threshold: Threshold = 0.5,
    largest: bool = False,
    preprocess: Preprocess = None,
) -> Tensor:
    """Return the pixels of a picture where its map is above a threshold.

    The map is resized bilinearly and min-max scaled, as in the metrics. Negative values are scaled
    with the others, so clip them at zero first for the papers' maps.

    Args:
        cam (Tensor or ndarray): one map, (h, w), also with leading 1s, as `attribute` returns it.
        picture (PIL.Image.Image, ndarray, Tensor or tuple, optional): the picture, or its height
            and width. Default: None, the map's own resolution
        threshold (float or str, optional): a share of the map's maximum, from 0 to below 1; "p90",
            "p97.5", ...: that percentile of the map, from p0 to below p100; or "otsu", Otsu's
            method. Default: 0.5
        largest (bool, optional): keep only the largest connected region; pixels that touch at a
            side or a corner are connected, and of equal regions the first row by row is kept.
            Default: False
        preprocess (Callable, optional): the preprocessing of the network, if `picture` is as it was
            before: what was cut off belongs to no region. Default: None, the map covers the whole
            picture

    Returns:
        *Tensor* of bool, (H, W), such as torchvision's ``draw_segmentation_masks`` takes.

    Raises:
        ModuleNotFoundError: without scikit-image, part of the extra ``demo``, where it is needed.
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range, or the map holds NaN or infinity, or has the
            same value everywhere.

    Examples::

        >>> cam = torch.tensor([[4.0, 0.0, 2.0], [3.0, 0.0, 1.0]])
        >>> mask(cam, threshold=0.4).int()
        tensor([[1, 0, 1],
                [1, 0, 0]], dtype=torch.int32)
        >>> mask(cam, threshold=0.4, largest=True).sum()
        tensor(2)
    """
    return _regions(cam, picture, threshold, preprocess, largest=largest)[0]


def contours(
    cam: Map,
    picture: PictureLike | tuple[int, int] | None = None,
    *,
    threshold: Threshold = 0.5,
    largest: bool = False,
    preprocess: Preprocess = None,
) -> list[NDArray[np.float64]]:
    """Return the lines along which a map crosses a threshold, closed at the picture's edge.

    Arguments and errors are those of `mask`.

    Returns:
        *list* of ndarrays (P, 2) of x and y in pixels of the picture, the last point being the
        first; edges of holes are lines of their own. x runs from 0, the left edge of the first
        pixel, to the picture's width, as in boxes. matplotlib's ``imshow`` and Pillow have the
        centre of a pixel at a whole number: subtract 0.5 for them.

    Examples::

        >>> cam = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        >>> [line] = contours(cam)
        >>> line.min(0).tolist(), line.max(0).tolist()
        ([2.0, 1.0], [3.0, 2.0])
    """
    pixels, (heat, _), level = _regions(cam, picture, threshold, preprocess, largest=largest)
    values = heat.double().numpy()
    # Mirrored at the level, a line ends half-way between two pixels: where the region was cut.
    mirrored = np.minimum(values, 2 * level - values)
    values = np.where(pixels.numpy(), values, mirrored)
    edge = np.pad(values, 1, mode="edge")
    closed = np.minimum(edge, 2 * level - edge)
    closed[1:-1, 1:-1] = values
    lines = _measure().find_contours(closed, level, fully_connected="high")
    # Rows and columns of pixel centres become x and y, less the pixel of padding.
    return [np.ascontiguousarray(line[:, ::-1]) - 0.5 for line in lines]


def boxes(
    cam: Map,
    picture: PictureLike | tuple[int, int] | None = None,
    *,
    threshold: Threshold = 0.5,
    largest: bool = False,
    preprocess: Preprocess = None,
) -> Boxes:
    """Return the tight boxes around the connected regions of a map above a threshold.

    Arguments and errors are those of `mask`. The CAM paper takes the box of the largest region
    above a fifth of the maximum: ``threshold=0.2, largest=True``.

    Returns:
        *Boxes* (**corners**, **scores**), the highest score first. A score is the share of
        the map's sum, scaled to [0, 1] and where the network saw the picture, that lies in the
        region.

    Examples::

        >>> cam = torch.tensor([[4.0, 0.0, 2.0], [3.0, 0.0, 1.0]])
        >>> boxes(cam, threshold=0.4)
        Boxes(corners=tensor([[0, 0, 1, 2],
                              [2, 0, 3, 1]]), scores=tensor([0.7000, 0.2000]))
    """
    pixels, (heat, seen), _ = _regions(cam, picture, threshold, preprocess, largest=largest)
    values, total = heat.numpy(), float((heat * seen).sum(dtype=torch.float64))
    found = _measure().regionprops(_labels(pixels))
    parts = [values[one.slice][one.image].sum(dtype=np.float64) / total for one in found]
    order = sorted(range(len(found)), key=lambda n: -parts[n])
    corners = [[found[n].bbox[axis] for axis in (1, 0, 3, 2)] for n in order]
    return Boxes(
        torch.tensor(corners, dtype=torch.int64),
        torch.tensor([parts[n] for n in order], dtype=torch.float32),
    )


def above(heat: Tensor, seen: Tensor, threshold: Threshold) -> tuple[Tensor, float]:
    """Return where a map in [0, 1] that was seen is above a threshold, and that level.

    Args:
        heat (Tensor): the map, (H, W).
        seen (Tensor): which pixels count, (H, W) bool.
        threshold (float or str): as in `mask`.

    Raises:
        TypeError: if the threshold is of the wrong kind.
        ValueError: if it is out of range, or the map has the same value everywhere.
    """
    kind = check_threshold("threshold", threshold)
    values = heat[seen]
    highest = values.max()
    if not bool(highest > values.min()):
        raise ValueError(
            f"the map is {highest:.3g} everywhere, so that no threshold tells a part from the rest"
        )
    if kind == "otsu":
        level = float(_filters().threshold_otsu(values.numpy()))
    elif kind == "percentile":
        level = percentile(values[None, None], float(str(threshold)[1:])).item()
    else:
        # In the map's precision, as the metrics of localisation have it.
        level = (torch.tensor(threshold, dtype=torch.float64) * highest).to(heat.dtype).item()
    if level >= highest:
        # More pixels share the maximum than a percentile leaves: all of them are above.
        level = ((highest.double() + values[values < highest].max().double()) / 2).item()
    return (heat > level) & seen, level


def check_threshold(name: str, threshold: Any) -> str:
    """Return the kind of a threshold: "share", "percentile" or "otsu".

    Raises:
        TypeError: if it is neither a number nor a text.
        ValueError: if it is out of range.

    Examples::

        >>> check_threshold("threshold", "p90")
        'percentile'
    """
    wanted = 'a share of the maximum from 0 to below 1, "p0" to below "p100", or "otsu"'
    if threshold == "otsu":
        return "otsu"
    if isinstance(threshold, str) and threshold.startswith("p"):
        kind, text, end = "percentile", threshold[1:], 100
    elif isinstance(threshold, str):
        raise ValueError(f"{name} must be {wanted}, got {threshold!r}")
    else:
        check_number(name, threshold)
        kind, text, end = "share", str(float(threshold)), 1
    try:
        is_inside = 0 <= float(text) < end
    except ValueError:
        is_inside = False
    if not is_inside:
        raise ValueError(f"{name} must be {wanted}, got {threshold!r}")
    return kind


def _regions(
    cam: Map,
    picture: PictureLike | tuple[int, int] | None,
    threshold: Threshold,
    preprocess: Preprocess,
    *,
    largest: bool,
) -> tuple[Tensor, Placed, float]:
    """Return the pixels above a threshold, the map on the picture, and its level there."""
    check_flag("largest", largest)
    check_threshold("threshold", threshold)
    laid = placed(cam, None if picture is None else size_of(picture), preprocess)
    pixels, level = above(*laid, threshold)
    if largest:
        labels = _labels(pixels)
        pixels = torch.from_numpy(labels == 1 + np.bincount(labels[labels > 0] - 1).argmax())
    return pixels, laid, level


def _labels(pixels: Tensor) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = _measure().label(pixels.numpy(), connectivity=2)
    return labels


def _measure() -> "ModuleType":
    try:
        from skimage import measure
    except ImportError as error:
        raise needs_extra("scikit-image", error) from error
    return measure


def _filters() -> "ModuleType":
    try:
        from skimage import filters
    except ImportError as error:
        raise needs_extra("scikit-image", error) from error
    return filters
