"""Pictures of any kind as pixels, and maps laid on them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_unioncam.metrics.common import prepared_maps

if TYPE_CHECKING:
    from PIL.Image import Image

PictureLike = Union["Image", NDArray[Any], Tensor]
Map = Tensor | NDArray[Any]
Preprocess = Callable[[Any], Tensor] | None
Pixels = NDArray[np.float32]


class Placed(NamedTuple):
    """A map as it lies on a picture.

    Attributes:
        heat (Tensor): the map in [0, 1], (H, W).
        seen (Tensor): whether the network saw the pixel, (H, W) bool.
    """

    heat: Tensor
    seen: Tensor


def pixels_of(picture: PictureLike) -> Pixels:
    """Return a picture as RGB in [0, 1], (H, W, 3).

    Args:
        picture (PIL.Image.Image, ndarray or Tensor): a picture of Pillow; an array (H, W) or
            (H, W, 3 or 1); or a tensor (3 or 1, H, W), also with a leading 1. Arrays and tensors
            hold 8 bits, or floats in [0, 1].

    Raises:
        TypeError: if it is none of these.
        ValueError: if its shape or its values are no picture's.
    """
    if isinstance(picture, Tensor):
        found = picture.detach().cpu()
        found = found[0] if found.dim() == 4 and len(found) == 1 else found
        if found.dim() != 3 or len(found) not in (1, 3):
            raise ValueError(
                f"a picture as a Tensor must have shape (3 or 1, H, W), got {tuple(picture.shape)}"
            )
        array = found.permute(1, 2, 0)
        values = (array.float() if array.is_floating_point() else array).numpy()
    elif isinstance(picture, np.ndarray):
        values = picture[..., None] if picture.ndim == 2 else picture
        if values.ndim != 3 or values.shape[2] not in (1, 3):
            raise ValueError(
                f"a picture as an array must have shape (H, W) or (H, W, 3 or 1), got "
                f"{picture.shape}"
            )
    else:
        values = np.asarray(_as_rgb(picture))
    if 0 in values.shape:
        raise ValueError(f"a picture must hold at least one pixel, got shape {values.shape}")
    if values.dtype == np.uint8:
        values = values.astype(np.float32) / 255
    elif not np.issubdtype(values.dtype, np.floating):
        raise TypeError(
            f"a picture must hold 8 bits (uint8) or floats in [0, 1], got {values.dtype}"
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"a picture of floats must lie in [0, 1], got {low:.3g} to {high:.3g}; undo the "
            "normalisation, or give the picture as it was before preprocessing"
        )
    return np.broadcast_to(values, (*values.shape[:2], 3)).astype(np.float32)


def size_of(picture: PictureLike | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a picture, whatever its kind.

    Args:
        picture (PIL.Image.Image, ndarray, Tensor or tuple): a picture as `overlay` takes it, or a
            size already, (height, width).

    Raises:
        TypeError: if it is none of these.
        ValueError: if its shape is no picture's.

    Examples::

        >>> size_of(torch.zeros(3, 20, 30)), size_of(np.zeros((20, 30, 3)))
        ((20, 30), (20, 30))
    """
    if isinstance(picture, tuple):
        if len(picture) != 2 or not all(isinstance(n, int) and n > 0 for n in picture):
            raise ValueError(f"a size must be (height, width), two ints above 0, got {picture}")
        return picture
    if isinstance(picture, Tensor):
        if picture.dim() < 2:
            raise ValueError(f"a picture has height and width, got shape {tuple(picture.shape)}")
        return picture.shape[-2], picture.shape[-1]
    if isinstance(picture, np.ndarray):
        if picture.ndim not in (2, 3):
            raise ValueError(f"a picture as an array is (H, W) or (H, W, C), got {picture.shape}")
        return picture.shape[0], picture.shape[1]
    width, height = _as_rgb(picture).size
    return height, width


def placed(cam: Map, size: tuple[int, int] | None, preprocess: Preprocess = None) -> Placed:
    """Return a map, min-max scaled, as it lies on a picture of a size.

    Args:
        cam (Tensor or ndarray): one map, (h, w), also with leading 1s. Several channels, as
            Captum's gradients of pixels in (1, C, h, w), are summed.
        size (tuple[int, int], optional): height and width of the picture; None leaves the map at
            its own resolution.
        preprocess (Callable, optional): the network's preprocessing: what it cuts off is not seen.
            Without one the map covers the whole picture. Default: None

    Raises:
        TypeError: if the map is no floating point tensor or array.
        ValueError: if it is no single map, holds NaN or infinity, or the preprocessing moves pixels
            in a way that is not known.
    """
    maps = torch.tensor(cam) if isinstance(cam, np.ndarray) else cam
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        kind = getattr(maps, "dtype", type(maps).__name__)
        raise TypeError(f"a map must be a floating point Tensor or array, got {kind}")
    shape = tuple(maps.shape)
    if len(shape) not in (2, 3, 4) or 0 in shape or (len(shape) > 2 and shape[0] != 1):
        raise ValueError(
            f"a map must have shape (h, w), (1, h, w) or (1, C, h, w), got {shape}; of several "
            "give one, as maps[0]"
        )
    # Volumes and sequences have ranks of their own.
    maps = maps.cpu().reshape(1, -1, *shape[-2:])
    if size is None:
        size = shape[-2], shape[-1]
    if preprocess is None:
        heat = prepared_maps(maps, 1, size, "the map")[0, 0]
        return Placed(heat, torch.ones(size, dtype=torch.bool))
    from captum_unioncam.vision.geometry import box_steps, seen_on_picture, size_after

    steps = box_steps(preprocess)
    heat = prepared_maps(maps, 1, size_after(size, steps), "the map")[0, 0]
    return Placed(*seen_on_picture(heat, size[::-1], steps))


def needs_extra(package: str, error: ImportError) -> ModuleNotFoundError:
    """Return the error of a package that is not installed, with how to install it."""
    return ModuleNotFoundError(
        f'{package} is not installed ({error}): pip install "captum-unioncam[demo]"'
    )


def _as_rgb(picture: Any) -> "Image":
    try:
        from PIL import Image
    except ImportError as error:
        raise needs_extra("Pillow", error) from error
    from captum_unioncam.vision.pictures import on_white

    if not isinstance(picture, Image.Image):
        raise TypeError(
            "a picture must be a PIL.Image.Image, an array or a Tensor, got "
            f"{type(picture).__name__}"
        )
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        raise ValueError(
            f"a picture of mode {picture.mode} has no known white; scale it to 8 bits first, as "
            "captum_unioncam.vision.pictures.load_picture does"
        )
    return on_white(picture)
