"""Where maps point, against boxes or masks of the objects; no network is run."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import check_number
from captum_unioncam.metrics.boxes import (
    energy_maps,
    energy_share,
    image_size,
    object_pixels,
    parse_boxes,
)
from captum_unioncam.metrics.common import prepared_maps
from captum_unioncam.metrics.components import largest_boxes
from captum_unioncam.metrics.options import Boxes, Forward, Inputs, Maps, ObjectOptions, metric

# Pixels of the picture by which the pointing game may miss, as published.
POINTING_TOLERANCE = 15.0


@metric
def pointing_game(
    forward_func: Forward | None, inputs: Inputs, attributions: Maps, *,
    tolerance: float | tuple[float, float] = POINTING_TOLERANCE,
    **objects: Unpack[ObjectOptions],
) -> Tensor:  # fmt: skip
    r"""Return whether each map's largest value lies on the object, or close to it.

    .. math::
        \mathrm{hit} = 1\Big[\min_{q \in object} \lVert p - q \rVert < tolerance\Big], \qquad
        p = \arg\max_{ij} L_{ij}

    with distances in pixels between pixel centres; p on the object is a hit at any tolerance.
    Higher is better; 0 or 1. Of several largest values the first row by row counts, so that a
    constant map points to the upper left corner. Maps of another size than the images are
    resized bilinearly. No network is run.

    The published accuracy is the mean over images for every class, then over the classes, at the
    pictures' own size; a class all of whose boxes are marked difficult in PASCAL VOC is skipped.

    Source: Zhang, Lin, Brandt, Shen, Sclaroff: Top-down Neural Attention by Excitation Backprop.
    ECCV, 2016. https://arxiv.org/abs/1608.00507; distances as in TorchRay.

    Args:
        tolerance (float or tuple[float, float], optional): distance in pixels below which a miss
            counts as a hit. Where the images were resized, 15 pixels of the picture are another
            number here: pass them along rows and columns, ``(15 * H / H_picture, 15 * W /
            W_picture)``. Default: 15.0

    Returns:
        *Tensor* of 1 (hit) or 0, (N,).

    Examples::

        >>> image, L = torch.rand(1, 3, 40, 40), torch.zeros(1, 1, 40, 40)
        >>> L[0, 0, 20, 5] = 1  # row 20, column 5; the box begins 15 pixels to the right
        >>> pointing_game(None, image, L, boxes=[torch.tensor([[20, 0, 40, 40]])])
        tensor([0.])
        >>> pointing_game(None, image, L, boxes=[torch.tensor([[19, 0, 40, 40]])])
        tensor([1.])
    """
    both = tolerance if isinstance(tolerance, tuple) else (tolerance, tolerance)
    if len(both) != 2:
        raise ValueError(f"tolerance must be a number or (rows, columns), got {tolerance}")
    for along in both:
        check_number("tolerance", along)
        if along < 0:
            raise ValueError(f"tolerance must be 0 pixels or more, got {tolerance}")
    along_rows, along_columns = (float(along) ** 2 for along in both)
    size = image_size(inputs)
    pixels = object_pixels(objects, size)
    maps = prepared_maps(attributions, size[0], size[1:])
    points = maps.flatten(1).argmax(1).cpu()
    hits = []
    for point, mask in zip(points, pixels, strict=True):
        row, column = point // size[2], point % size[2]
        y, x = mask.nonzero().T
        # An ellipse: dy^2 / rows^2 + dx^2 / columns^2 < 1, without a division by zero.
        nearest = ((y - row) ** 2 * along_columns + (x - column) ** 2 * along_rows).min()
        hits.append(bool(mask[row, column]) or bool(nearest < along_rows * along_columns))
    return torch.tensor(hits, device=maps.device).to(maps.dtype)


@metric
def energy_pointing_game(
    forward_func: Forward | None, inputs: Inputs, attributions: Maps,
    **objects: Unpack[ObjectOptions],
) -> Tensor:  # fmt: skip
    r"""Measure the share of each map's energy that lies on the object.

    .. math::
        \frac{\sum_{(i, j) \in object} \mathrm{ReLU}(L)_{ij}}{\sum_{ij} \mathrm{ReLU}(L)_{ij}}

    Higher is better; in [0, 1]. A map without positive values has the share 0, a map of ones
    the share of the image that the object takes. Several boxes count as their union. Maps of
    another size than the images are resized bilinearly before they are clipped; they are not
    min-max scaled, which changes nothing where the smallest value is 0. No network is run.

    Source: Wang et al.: Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural
    Networks. CVPR Workshops, 2020. https://arxiv.org/abs/1910.01279, which measures images with
    one box of less than half their area.

    Returns:
        *Tensor* of shares, (N,).

    Examples::

        >>> L = torch.tensor([[[[1.0, 3.0], [-5.0, 0.0]]]])
        >>> boxes = [torch.tensor([[1, 0, 2, 1]])]  # the pixel in row 0, column 1
        >>> energy_pointing_game(None, torch.rand(1, 3, 2, 2), L, boxes=boxes)
        tensor([0.7500])
    """
    size = image_size(inputs)
    pixels = object_pixels(objects, size)
    energy = energy_maps(attributions, size[0], size[1:])
    return energy_share(energy, pixels.to(energy.device))


@metric
def iou(
    forward_func: Forward | None, inputs: Inputs, attributions: Maps, *, threshold: float = 0.5,
    **objects: Unpack[ObjectOptions],
) -> Tensor:  # fmt: skip
    r"""Measure how well each map, binarised, agrees with the object's pixels.

    .. math::
        \frac{|P \cap G|}{|P \cup G|}, \qquad P = \{ij : L_{ij} > threshold \cdot \max L\}

    with L min-max scaled and G the object's pixels. Higher is better; in [0, 1]; 1 if P and G
    are both empty. A map of zeros is empty, a positive constant one is everything. Maps of
    another size than the images are resized bilinearly before they are scaled. No network is
    run.

    Args:
        masks (Tensor, optional): the objects' pixels (N, H, W) as bool, instead of boxes; a
            mask may be empty. Default: None
        threshold (float, optional): share of a map's largest value above which a pixel counts,
            from 0 to below 1. Default: 0.5

    Returns:
        *Tensor* of intersections over unions, (N,).

    Examples::

        >>> L = torch.tensor([[[[1.0, 0.6], [0.4, 0.0]]]])
        >>> mask = torch.tensor([[[True, False], [True, False]]])
        >>> iou(None, torch.rand(1, 3, 2, 2), L, masks=mask)  # 1 pixel of 3
        tensor([0.3333])
    """
    _check_share("threshold", threshold)
    size = image_size(inputs)
    pixels = object_pixels(objects, size, may_be_empty=True).flatten(1)
    maps = prepared_maps(attributions, size[0], size[1:])
    chosen = (maps > threshold * maps.amax((2, 3), keepdim=True)).flatten(1)
    pixels = pixels.to(maps.device)
    both, either = (chosen & pixels).sum(1), (chosen | pixels).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


@metric
def max_box_acc(
    forward_func: Forward | None, inputs: Inputs, attributions: Maps, *, boxes: Boxes,
    iou_threshold: float = 0.5, thresholds: int = 100,
) -> Tensor:  # fmt: skip
    r"""Return at which thresholds each map's box finds the object (MaxBoxAcc of WSOL).

    .. math::
        \mathrm{hit}_\tau = 1\Big[\max_{G \in boxes} \mathrm{IoU}(B_\tau, G) \ge iou\_threshold
        \Big], \qquad \tau \in \{0, 1/T, \ldots, (T - 1)/T\}

    where :math:`B_\tau` is the tight box around the largest connected region of pixels with
    :math:`L_{ij} > \tau \max L`, L being min-max scaled. Pixels that touch at a side or a corner
    are connected. Higher is better; 0 or 1. MaxBoxAcc is a number of a data set: the share of
    hits at the best threshold, which :func:`max_box_accuracy` gives. Choose the threshold on
    other images than those you report on. No network is run.

    A map of zeros has no box and misses; a positive constant one has the whole image. Of equal
    regions the first row by row counts. Maps of another size than the images are resized
    bilinearly before they are scaled.

    Deviations from the released code: T is 100 instead of 1000; maps are resized bilinearly, not
    bicubically, and not rounded to 256 levels; the largest region has the most pixels, where
    theirs has the contour of the largest area; a box of pixels a to b inclusive is
    [a, b + 1) here and has the length b - a + 1, which is their "+1" for the true boxes, while
    their estimated boxes are one pixel longer; constant maps have no box there.

    Source: Choe, Oh, Lee, Chun, Akata, Shim: Evaluating Weakly Supervised Object Localization
    Methods Right. CVPR, 2020. https://arxiv.org/abs/2001.07437

    Args:
        boxes (Sequence[Tensor]): per example its boxes (B, 4), as in :func:`pointing_game`;
            one that is found will do.
        iou_threshold (float, optional): intersection over union from which a box is found, in
            (0, 1]. Default: 0.5
        thresholds (int, optional): number of thresholds, T. Default: 100

    Returns:
        *Tensor* of 1 (hit) or 0, (N, T).

    Examples::

        >>> L = torch.tensor([[[[0.0, 0.4, 0.0, 0.0], [0.0, 1.0, 0.9, 0.2]]]])
        >>> boxes = [torch.tensor([[1, 1, 3, 2]])]  # row 1, columns 1 and 2
        >>> hits = max_box_acc(None, torch.rand(1, 3, 2, 4), L, boxes=boxes, thresholds=5)
        >>> hits  # boxes of 3 x 2, 2 x 2, 2 x 1, 2 x 1 and 2 x 1 pixels
        tensor([[0., 1., 1., 1., 1.]])
    """
    check_number("iou_threshold", iou_threshold, above=0)
    if iou_threshold > 1:
        raise ValueError(f"iou_threshold must be at most 1, got {iou_threshold}")
    check_number("thresholds", thresholds, above=0, whole=True)
    size = image_size(inputs)
    truth = parse_boxes(boxes, size)
    maps = prepared_maps(attributions, size[0], size[1:])
    levels = torch.arange(thresholds, dtype=torch.float64)[:, None, None] / thresholds
    hits = []
    for cam, these in zip(maps[:, 0].cpu(), truth, strict=True):
        above = cam > (levels * cam.max()).to(cam.dtype)
        found = torch.from_numpy(largest_boxes(above.numpy())).double()
        hits.append(_box_ious(found, these).amax(1) >= iou_threshold)
    return torch.stack(hits).to(maps.device, maps.dtype)


class BoxAccuracy(NamedTuple):
    """MaxBoxAcc of a data set.

    Attributes:
        accuracy (float): share of images whose box is found at the best threshold.
        threshold (float): that threshold, as a share of a map's largest value.
    """

    accuracy: float
    threshold: float


def max_box_accuracy(hits: Tensor) -> BoxAccuracy:
    """Return MaxBoxAcc of a data set: the share of hits at the best threshold.

    Args:
        hits (Tensor): what :func:`max_box_acc` gave for all images, (N, T).

    Returns:
        *BoxAccuracy*: the share in [0, 1] and its threshold, the smallest of several best.

    Raises:
        ValueError: if `hits` is not (N, T) with at least one image.

    Examples::

        >>> max_box_accuracy(torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]]))
        BoxAccuracy(accuracy=1.0, threshold=0.5)
    """
    if hits.dim() != 2 or 0 in hits.shape:
        raise ValueError(f"hits must have shape (N, T), got {tuple(hits.shape)}")
    accuracy, best = hits.double().mean(0).max(0)
    return BoxAccuracy(accuracy.item(), best.item() / hits.shape[1])


def _check_share(name: str, value: Any) -> None:
    check_number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be from 0 to below 1, got {value}")


def _box_ious(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of boxes (A, 4) and (B, 4), (A, B)."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    return both / (areas[0][:, None] + areas[1][None] - both)
