"""Maps of volumes and videos: slices or frames in a figure, and moving pictures."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_unioncam.engine import check_number
from captum_unioncam.engine.maps import unit_range
from captum_unioncam.files import written_whole
from captum_unioncam.metrics.common import prepared_maps
from captum_unioncam.visualization.overlay import HEAT, OPACITY, as_image, blended
from captum_unioncam.visualization.placing import needs_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = Tensor | NDArray[Any]
MOVING = (".gif", ".mp4", ".png", ".webp")


def slices(
    volume: Array,
    cam: Array,
    *,
    axis: int = 0,
    count: int = 6,
    opacity: float = OPACITY,
    colormap: str = HEAT,
) -> "Figure":
    """Draw slices of a volume, or frames of a video, each alone and under its map.

    The map is resized trilinearly and min-max scaled as a whole, so that colours mean the same in
    every slice. A volume of 8 bits is drawn as it is, floats from their smallest value to their
    largest.

    Args:
        volume (Tensor or ndarray): a volume (D, H, W) or (1, D, H, W), or a colour video
            (3, T, H, W), also with a leading 1, as the network gets it.
        cam (Tensor or ndarray): one map, (d, h, w), also with leading 1s, as `attribute` returns
            it.
        axis (int, optional): 0 for slices along D (or T), 1 along H, 2 along W. Default: 0
        count (int, optional): how many slices, evenly spaced. Default: 6
        opacity (float, optional): how much of the slices the map's colours cover, in [0, 1].
            Default: 0.55
        colormap (str, optional): one of matplotlib's. Default: "turbo"

    Returns:
        *matplotlib.figure.Figure*, which needs no window.

    Raises:
        ModuleNotFoundError: without matplotlib, part of the extra ``demo``.
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range, or the map or the volume hold NaN or infinity.

    Examples::

        >>> figure = slices(torch.rand(1, 8, 16, 16), torch.rand(1, 1, 2, 4, 4), count=4)
        >>> [ax.get_title() for ax in figure.axes[:4]]
        ['1 of 8', '3 of 8', '6 of 8', '8 of 8']
    """
    pixels, heat = _cut(volume, cam, axis)
    check_number("count", count, above=0, whole=True)
    check_number("opacity", opacity, least=0, most=1)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise needs_extra("matplotlib", error) from error

    total = len(pixels)
    shown = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()
    height, width = pixels.shape[1:3]
    tall = min(2 * height / width, 6)
    figure = Figure(figsize=(2 * len(shown), 2 * tall + 0.4), dpi=100, layout="constrained")
    grid = figure.subplots(2, len(shown), squeeze=False)
    for column, number in zip(grid.T, shown, strict=True):
        column[0].set_title(f"{number + 1} of {total}", fontsize=10)
        column[0].imshow(pixels[number])
        column[1].imshow(_blended(pixels[number], heat[number], opacity, colormap))
        for ax in column:
            ax.set_axis_off()
    return figure


def animate(
    video: Array,
    cam: Array,
    path: str | Path,
    *,
    axis: int = 0,
    fps: float = 8,
    opacity: float = OPACITY,
    colormap: str = HEAT,
) -> None:
    """Write a video, or the slices of a volume, under its map as a moving picture.

    Args:
        video (Tensor or ndarray): as in `slices`: (3 or 1, T, H, W) or (T, H, W).
        cam (Tensor or ndarray): one map, (t, h, w), also with leading 1s.
        path (str or Path): the file to write, ending in .gif, .webp, .png (animated PNG), which
            repeat, or .mp4, which plays once. A GIF has 256 colours in every frame. An MP4 (H.264)
            is compressed with a loss; its sides are even, where need be by a repeated row or
            column.
        axis (int, optional): 0 for frames along T (or D), 1 along H, 2 along W. Default: 0
        fps (float, optional): frames per second, from 1 to 50. Default: 8
        opacity (float, optional): as in `slices`. Default: 0.55
        colormap (str, optional): one of matplotlib's. Default: "turbo"

    Raises:
        ModuleNotFoundError: without the extra ``demo``, or for an .mp4 ``video``.
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range, or the map or the video hold NaN or infinity.

    Examples::

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "video.gif"
        >>> animate(torch.rand(3, 8, 16, 16), torch.rand(1, 1, 2, 4, 4), path)
        >>> from PIL import Image
        >>> Image.open(path).n_frames
        8
    """
    path = Path(path)
    if path.suffix.lower() not in MOVING:
        raise ValueError(f"{path}: end the file in one of {', '.join(MOVING)}")
    check_number("fps", fps, least=1, most=50)
    check_number("opacity", opacity, least=0, most=1)
    pixels, heat = _cut(video, cam, axis)
    frames = [_blended(p, h, opacity, colormap) for p, h in zip(pixels, heat, strict=True)]
    save = _save_mp4 if path.suffix.lower() == ".mp4" else _save_repeating
    with written_whole(path) as partial:
        save(partial, frames, fps)


def _save_repeating(path: Path, frames: Sequence[NDArray[np.uint8]], fps: float) -> None:
    first, *others = map(as_image, frames)
    # WebP alone loses something otherwise.
    first.save(
        path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0,
        lossless=True,
    )  # fmt: skip


def _save_mp4(path: Path, frames: Sequence[NDArray[np.uint8]], fps: float) -> None:
    try:
        import av
    except ImportError as error:
        raise ModuleNotFoundError(
            f'an .mp4 needs PyAV ({error}): pip install "captum-unioncam[video]", or write a .gif'
        ) from error
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        # What every player knows halves the colours' height and width, which must then be even.
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        stream.width, stream.height = width + width % 2, height + height % 2
        for pixels in frames:
            even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            file.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        file.mux(stream.encode(None))


def _blended(
    pixels: NDArray[np.float32], heat: NDArray[Any], opacity: float, colormap: str
) -> NDArray[np.uint8]:
    return blended(pixels, heat, np.ones(heat.shape, dtype=bool), opacity, colormap)


def _cut(volume: Array, cam: Array, axis: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return slices as RGB in [0, 1], (S, H, W, 3), and the map on them, (S, H, W)."""
    check_number("axis", axis, least=0, most=2, whole=True)
    given, maps = (torch.as_tensor(x).detach().cpu() for x in (volume, cam))
    parts = given[None] if given.dim() == 3 else given
    parts = parts[0] if parts.dim() == 5 and len(parts) == 1 else parts
    if parts.dim() != 4 or len(parts) not in (1, 3) or 0 in parts.shape:
        raise ValueError(
            "a volume must have shape (D, H, W), (1, D, H, W), or (3, T, H, W) for a colour video, "
            f"got {tuple(given.shape)}"
        )
    if parts.dtype == torch.uint8:
        unit = parts.float() / 255
    elif parts.is_floating_point():
        if not bool(torch.isfinite(parts).all()):
            raise ValueError("the volume holds NaN or infinity; replace them before it is drawn")
        # One scale for all channels keeps colours.
        unit = unit_range(parts.float().flatten(1).reshape(1, 1, -1)).reshape(parts.shape)
    else:
        raise TypeError(f"a volume must hold 8 bits (uint8) or floats, got {parts.dtype}")
    shape = tuple(maps.shape)
    while maps.dim() > 3 and len(maps) == 1:
        maps = maps[0]
    if maps.dim() != 3 or 0 in shape or not maps.is_floating_point():
        raise ValueError(
            f"a map of a volume must be floats of shape (d, h, w), also with leading 1s, got "
            f"{shape} of {maps.dtype}; of several give one, as maps[0]"
        )
    heat = prepared_maps(maps[None, None], 1, tuple(unit.shape[1:]), "the map")[0, 0]
    pixels = unit.movedim(1 + axis, 1).permute(1, 2, 3, 0).expand(-1, -1, -1, 3)
    return pixels.numpy(), heat.movedim(axis, 0).numpy()
