"""A map over its picture, and outlines on it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captum_unioncam.engine import check_flag, check_number
from captum_unioncam.visualization.placing import (
    Map,
    PictureLike,
    Pixels,
    Preprocess,
    needs_extra,
    pixels_of,
    placed,
)
from captum_unioncam.visualization.regions import Boxes, Threshold, above

if TYPE_CHECKING:
    from PIL.Image import Image

HEAT = "turbo"
# How much of a picture's colour its map covers.
OPACITY = 0.55


def overlay(
    picture: PictureLike,
    cam: Map,
    *,
    opacity: float = OPACITY,
    colormap: str = HEAT,
    fade: bool = True,
    threshold: Threshold | None = None,
    preprocess: Preprocess = None,
) -> "Image":
    """Draw a map over its picture, at the picture's own size.

    The map is resized bilinearly and min-max scaled; negative values are scaled with the others, so
    clip them at zero first for the papers' maps.

    Args:
        picture (PIL.Image.Image, ndarray or Tensor): a picture of Pillow; an array (H, W) or
            (H, W, 3 or 1); or a tensor (3 or 1, H, W). Arrays and tensors hold 8 bits, or floats
            in [0, 1].
        cam (Tensor or ndarray): one map, (h, w), also with leading 1s, as `attribute` returns it.
        opacity (float, optional): how much of the picture the map's colours cover, in [0, 1].
            Default: 0.55
        colormap (str, optional): one of matplotlib's. Default: "turbo"
        fade (bool, optional): leave the picture as it is where the map is low. Default: True
        threshold (float or str, optional): draw the map only above it; see `mask`. Default: None
        preprocess (Callable, optional): the preprocessing of the network, if `picture` is as it was
            before: the map is laid where the network saw the picture, and what was cut off is left
            as it is. Default: None, the map covers the whole picture

    Returns:
        *PIL.Image.Image* in RGB, of the picture's size.

    Raises:
        ModuleNotFoundError: without the extra ``demo``.
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range, or the map holds NaN or infinity.

    Examples::

        >>> import torch
        >>> grey = torch.full((3, 4, 6), 0.5)
        >>> drawn = overlay(grey, torch.tensor([[0.0, 0.0, 1.0]]))
        >>> drawn.size, drawn.getpixel((0, 0)), drawn.getpixel((5, 0))
        ((6, 4), (128, 128, 128), (125, 60, 59))
    """
    check_number("opacity", opacity, least=0, most=1)
    check_flag("fade", fade)
    pixels = pixels_of(picture)
    heat, seen = placed(cam, pixels.shape[:2], preprocess)
    if threshold is not None:
        seen = above(heat, seen, threshold)[0]
    return as_image(blended(pixels, heat.numpy(), seen.numpy(), opacity, colormap, fade=fade))


def outlined(
    picture: PictureLike,
    *,
    boxes: Boxes | None = None,
    contours: Sequence[NDArray[Any]] = (),
    color: str = "white",
    width: int | None = None,
    scores: bool = False,
) -> "Image":
    """Draw boxes and contours on a picture, each with a dark rim that shows it on any ground.

    Args:
        picture (PIL.Image.Image, ndarray or Tensor): a picture, as in `overlay`, or what that drew.
        boxes (Boxes, optional): what `boxes` found. Default: None
        contours (Sequence, optional): what `contours` found. Default: ()
        color (str, optional): a colour of Pillow's: a name or "#rrggbb". Default: "white"
        width (int, optional): of the lines, in pixels; None takes a 250th of the picture's longer
            side. Default: None
        scores (bool, optional): write each box's score beside it. Default: False

    Returns:
        *PIL.Image.Image* in RGB, of the picture's size.

    Raises:
        ModuleNotFoundError: without the extra ``demo``.
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range, or there is no such colour.

    Examples::

        >>> import torch
        >>> from captum_unioncam.visualization import boxes
        >>> found = boxes(torch.eye(2)[0].reshape(1, 2), (40, 60))
        >>> outlined(torch.zeros(3, 40, 60), boxes=found, width=1).getpixel((10, 0))
        (255, 255, 255)
    """
    check_flag("scores", scores)
    drawn = as_image((255 * pixels_of(picture)).round().astype(np.uint8))
    if width is None:
        width = max(1, round(max(drawn.size) / 250))
    check_number("width", width, above=0, whole=True)
    from PIL import ImageColor, ImageDraw, ImageFont

    lines = ImageColor.getrgb(color)
    draw = ImageDraw.Draw(drawn)
    found = [] if boxes is None else boxes.corners.tolist()
    for extra, ink in ((2, (0, 0, 0)), (0, lines)):
        for x_min, y_min, x_max, y_max in found:
            # Lines grow inwards, so that a box at the picture's edge is seen whole.
            draw.rectangle((x_min, y_min, x_max - 1, y_max - 1), outline=ink, width=width + extra)
        for line in contours:
            # A pixel's centre is at a half here, and at a whole number for Pillow.
            points = [tuple(point) for point in (np.asarray(line, dtype=float) - 0.5).tolist()]
            draw.line(points, fill=ink, width=width + extra, joint="curve")
    if scores and boxes is not None:
        font = ImageFont.load_default(max(10, round(max(drawn.size) / 40)))
        for (x_min, y_min, *_), score in zip(found, boxes.scores.tolist(), strict=True):
            corner = (x_min + 2 * width + 1, y_min + 2 * width)
            text = f"{score:.2f}"
            draw.text(corner, text, fill=lines, font=font, stroke_width=2, stroke_fill="black")
    return drawn


def blended(
    pixels: Pixels,
    heat: NDArray[Any],
    seen: NDArray[np.bool_],
    opacity: float = OPACITY,
    colormap: str = HEAT,
    *,
    fade: bool = True,
) -> NDArray[np.uint8]:
    """Return an RGB picture in [0, 1], (H, W, 3), under a map in [0, 1] where that was seen."""
    colors = palette(colormap)[np.minimum(256 * heat, 255).astype(np.uint8)]
    strength = np.minimum(1, 2 * heat) if fade else 1
    share = (opacity * seen * strength).astype(np.float32)[..., None]
    drawn: NDArray[np.uint8] = (255 * (share * colors + (1 - share) * pixels)).round().astype("u1")
    return drawn


def palette(colormap: str) -> Pixels:
    """Return the 256 colours of a colormap of matplotlib, RGB in [0, 1]."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise needs_extra("matplotlib", error) from error
    if colormap not in mpl.colormaps:
        raise ValueError(
            f"no colormap {colormap!r}; known to matplotlib: {', '.join(mpl.colormaps)}"
        )
    colors: Pixels = mpl.colormaps[colormap].resampled(256)(np.arange(256))[:, :3].astype("f4")
    return colors


def as_image(pixels: NDArray[np.uint8]) -> "Image":
    """Return pixels, (H, W, 3), as a picture of Pillow."""
    try:
        from PIL import Image
    except ImportError as error:
        raise needs_extra("Pillow", error) from error
    return Image.fromarray(pixels)
