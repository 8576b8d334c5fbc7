"""Slices of volumes and moving pictures, against overlays of each slice alone."""

import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch.nn.functional import interpolate

from captum_unioncam.visualization import animate, overlay, slices

VIDEO = torch.rand(3, 5, 12, 16, generator=torch.Generator().manual_seed(0))
CAM = torch.rand(1, 1, 2, 3, 4, generator=torch.Generator().manual_seed(1))


def wanted(axis, volume=VIDEO):
    """The overlay of every slice, on the scale of the whole volume and the whole map."""
    heat = interpolate(CAM, volume.shape[1:], mode="trilinear", align_corners=False)[0, 0]
    heat = (heat - heat.min()) / (heat.max() - heat.min())
    unit = (volume - volume.min()) / (volume.max() - volume.min())
    found = []
    for number in range(volume.shape[1 + axis]):
        cam = heat.select(axis, number).clone()
        share = 0.55 * np.minimum(1, 2 * cam.numpy())[..., None]
        under = unit.select(1 + axis, number).permute(1, 2, 0).numpy()
        # Colours of a map whose extrema are those of the whole: an overlay scales each alone.
        padded = torch.cat([cam, torch.tensor([[0.0, 1.0] + [0.0] * (cam.shape[1] - 2)])])
        flat = np.zeros((*padded.shape, 3))
        colors = np.asarray(overlay(flat, padded, opacity=1, fade=False))[:-1] / 255
        found.append(255 * (share * colors + (1 - share) * under))
    return found


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_overlays_on_one_scale(axis):
    total = VIDEO.shape[1 + axis]
    figure = slices(VIDEO, CAM, axis=axis, count=total)
    assert len(figure.axes) == 2 * total
    for number, drawn in enumerate(wanted(axis)):
        alone, under_map = figure.axes[number], figure.axes[total + number]
        assert alone.get_title() == f"{number + 1} of {total}"
        np.testing.assert_allclose(under_map.images[0].get_array(), drawn, atol=2)
        unit = (VIDEO - VIDEO.min()) / (VIDEO.max() - VIDEO.min())
        image = unit.select(1 + axis, number).permute(1, 2, 0)
        np.testing.assert_allclose(alone.images[0].get_array(), image, atol=1e-6)


def test_slices_are_evenly_spaced():
    titles = [ax.get_title() for ax in slices(torch.rand(9, 4, 4), CAM, count=3).axes[:3]]
    assert titles == ["1 of 9", "5 of 9", "9 of 9"]
    assert len(slices(torch.rand(2, 4, 4), CAM, count=6).axes) == 2 * 2


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_moving_pictures_hold_every_frame(tmp_path, suffix):
    path = tmp_path / f"video.{suffix}"
    animate(VIDEO, CAM, path, fps=4)
    with Image.open(path) as moving:
        assert moving.info["loop"] == 0
        frames, durations = [], []
        for frame in ImageSequence.Iterator(moving):
            frames.append(np.asarray(frame.convert("RGB")).astype(int))
            durations.append(frame.info["duration"])
    assert len(frames) == 5
    assert durations == [250] * 5
    for frame, drawn in zip(frames, wanted(0), strict=True):
        # A GIF has 256 colours in a frame.
        assert np.abs(frame - drawn).mean() < (12 if suffix == "gif" else 1)
    other = np.abs(frames[0] - wanted(0)[3]).mean()
    assert np.abs(frames[0] - wanted(0)[0]).mean() < other / 2


def test_an_mp4_holds_every_frame(tmp_path):
    av = pytest.importorskip("av", reason="PyAV, which the extra video brings, is not installed")
    path = tmp_path / "video.mp4"
    animate(VIDEO, CAM, path, fps=4)
    with av.open(str(path)) as file:
        [stream] = file.streams
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.average_rate, stream.frames) == (4, 5)
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(stream)]
    assert len(frames) == 5
    for frame, drawn in zip(frames, wanted(0), strict=True):
        # Noise is what H.264 is worst at: it halves the resolution of colours.
        off = [np.abs(frame.mean(2) - other.mean(2)).mean() for other in wanted(0)]
        assert np.abs(frame.mean(2) - drawn.mean(2)).mean() == min(off) < 12
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def test_an_mp4_of_odd_sides_repeats_the_last_row_and_column(tmp_path):
    av = pytest.importorskip("av", reason="PyAV, which the extra video brings, is not installed")
    path = tmp_path / "video.mp4"
    grey = torch.linspace(0, 1, 33).expand(4, 21, 33)
    animate(grey, CAM, path, opacity=0)
    with av.open(str(path)) as file:
        frame = next(file.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert frame.shape == (22, 34, 3)
    padded = torch.cat([grey[0], grey[0, :, -1:]], dim=1)
    wanted = 255 * torch.cat([padded, padded[-1:]]).numpy()
    assert np.abs(frame.mean(2) - wanted).max() < 8


def test_without_pyav_an_mp4_is_an_error_that_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / "video.mp4"
    path.write_bytes(b"before")
    with pytest.raises(ModuleNotFoundError, match=r'pip install "captum-unioncam\[video\]", or wr'):
        animate(VIDEO, CAM, path)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def test_grey_volumes_and_bytes():
    grey = VIDEO[:1]
    for volume in (grey, grey[0], grey[None], grey[0].numpy()):
        ax = slices(volume, CAM[0, 0], count=5).axes[0]
        unit = (grey - grey.min()) / (grey.max() - grey.min())
        assert np.allclose(ax.images[0].get_array()[..., 2], unit[0, 0], atol=1e-6)
    dark = torch.full((4, 5, 6), 51, dtype=torch.uint8)
    assert np.allclose(slices(dark, CAM).axes[0].images[0].get_array(), 0.2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"volume": torch.rand(2, 4, 5, 6)}, ValueError, r"\(3, T, H, W\) for a colour video, got"),
        ({"volume": torch.rand(4, 5)}, ValueError, "a volume must have shape"),
        ({"volume": torch.ones(3, 4, 5, dtype=torch.long)}, TypeError, "8 bits .* or floats"),
        ({"volume": torch.full((3, 4, 5), math.inf)}, ValueError, "the volume holds NaN or"),
        ({"cam": torch.rand(2, 1, 2, 3, 4)}, ValueError, r"of several give one, as maps\[0\]"),
        ({"cam": torch.rand(3, 4)}, ValueError, "a map of a volume must be floats"),
        ({"cam": CAM * math.nan}, ValueError, "the map hold NaN"),
        ({"axis": 3}, ValueError, "axis must be .* at least 0 and at most 2"),
        ({"opacity": 2}, ValueError, "opacity must be"),
        ({"colormap": "turb"}, ValueError, "no colormap 'turb'"),
    ],
)
def test_bad_input(tmp_path, arguments, error, message):
    given = {"volume": VIDEO, "cam": CAM, **arguments}
    with pytest.raises(error, match=message):
        slices(**given)
    video = given.pop("volume")
    with pytest.raises(error, match=message):
        animate(video, path=tmp_path / "video.gif", **given)
    assert not list(tmp_path.iterdir())


def test_bad_input_of_one_alone(tmp_path):
    with pytest.raises(ValueError, match="count must be"):
        slices(VIDEO, CAM, count=0)
    with pytest.raises(ValueError, match="fps must be .* at least 1 and at most 50"):
        animate(VIDEO, CAM, tmp_path / "video.gif", fps=0)
    with pytest.raises(ValueError, match=r"video.avi: end the file in one of .gif, .mp4, .png"):
        animate(VIDEO, CAM, tmp_path / "video.avi")
