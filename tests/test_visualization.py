"""Overlays, regions, contours and boxes against versions written pixel by pixel."""

import math
import sys
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms import RandomCrop

from captum_unioncam.vision.networks import standard_preprocess
from captum_unioncam.visualization import boxes, contours, mask, outlined, overlay

SIZE = (19, 23)


def a_map(seed=0, size=(5, 7)):
    return torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(seed))


def a_picture(seed=0, size=SIZE):
    pixels = torch.rand(*size, 3, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray((255 * pixels).round().numpy().astype(np.uint8))


def scaled(cam, size=SIZE):
    """The map at the picture's size, min-max scaled, as nested lists."""
    big = interpolate(cam, size, mode="bilinear", align_corners=False)[0, 0]
    low, high = big.min().item(), big.max().item()
    return [[(v - low) / (high - low) for v in row] for row in big.tolist()]


def otsu(values):
    """The split of 256 bins with the greatest variance between the two classes."""
    low, high = min(values), max(values)
    width = (high - low) / 256
    centres = [low + (i + 0.5) * width for i in range(256)]
    counts = [0] * 256
    for value in values:
        counts[min(255, int((value - low) / width))] += 1
    best, level = -1.0, 0.0
    for split in range(255):
        n0, n1 = sum(counts[: split + 1]), sum(counts[split + 1 :])
        if n0 and n1:
            m0 = (
                sum(c * x for c, x in zip(counts[: split + 1], centres[: split + 1], strict=True))
                / n0
            )
            m1 = (
                sum(c * x for c, x in zip(counts[split + 1 :], centres[split + 1 :], strict=True))
                / n1
            )
            between = n0 * n1 * (m0 - m1) ** 2
            if between > best * (1 + 1e-12):
                best, level = between, centres[split]
    return level


def level_of(heat, threshold):
    values = sorted(v for row in heat for v in row)
    if threshold == "otsu":
        return otsu(values)
    if isinstance(threshold, str):
        rank = float(threshold[1:]) / 100 * (len(values) - 1)
        low, high = values[math.floor(rank)], values[math.ceil(rank)]
        return low + (high - low) * (rank - math.floor(rank))
    return threshold * values[-1]


def flooded(pixels):
    """The connected regions, as lists of pixels, row by row by their first one."""
    left = {(i, j) for i, row in enumerate(pixels) for j, is_in in enumerate(row) if is_in}
    regions = []
    while left:
        region, todo = [], [min(left)]
        left.remove(todo[0])
        while todo:
            i, j = todo.pop()
            region.append((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            todo += near
        regions.append(region)
    return regions


def is_inside(lines, x, y):
    """Whether a ray to the right crosses the lines an odd number of times."""
    crossed = 0
    for line in lines:
        for (x0, y0), (x1, y1) in pairwise(line):
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                crossed += 1
    return crossed % 2 == 1


THRESHOLDS = [0, 0.2, 0.5, 0.93, "p0", "p50", "p97.5", "otsu"]


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("seed", range(3))
def test_masks_and_boxes_equal_those_pixel_by_pixel(seed, threshold):
    cam, picture = a_map(seed), a_picture()
    heat = scaled(cam)
    level = level_of(heat, threshold)
    wanted = [[v > level for v in row] for row in heat]
    assert mask(cam, picture, threshold=threshold).tolist() == wanted
    regions = flooded(wanted)
    largest = max(regions, key=len)
    found = mask(cam, picture, threshold=threshold, largest=True)
    assert set(map(tuple, found.nonzero().tolist())) == set(largest)

    def share(region):
        return sum(heat[i][j] for i, j in region) / sum(v for row in heat for v in row)

    def box(region):
        rows, columns = zip(*region, strict=True)
        return [min(columns), min(rows), max(columns) + 1, max(rows) + 1]

    corners, scores = boxes(cam, picture, threshold=threshold)
    wanted_boxes = sorted(regions, key=lambda region: -share(region))
    assert corners.tolist() == [box(region) for region in wanted_boxes]
    torch.testing.assert_close(scores, torch.tensor([share(r) for r in wanted_boxes]))
    corners, scores = boxes(cam, picture, threshold=threshold, largest=True)
    assert corners.tolist() == [box(largest)]
    torch.testing.assert_close(scores, torch.tensor([share(largest)]))


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_contours_go_around_the_pixels_of_the_mask(threshold, largest):
    cam, picture = a_map(4), a_picture()
    lines = contours(cam, picture, threshold=threshold, largest=largest)
    pixels = mask(cam, picture, threshold=threshold, largest=largest)
    for i in range(SIZE[0]):
        for j in range(SIZE[1]):
            centre = (j + 0.5, i + 0.5)
            # A pixel exactly at the threshold lies on the line, and not in the mask.
            if any((line == centre).all(1).any() for line in lines):
                assert not pixels[i, j]
            else:
                assert is_inside(lines, *centre) == bool(pixels[i, j])
    for line in lines:
        assert line[0].tolist() == line[-1].tolist()
        assert (line >= 0).all()
        assert (line <= SIZE[::-1]).all()


def test_contours_lie_where_the_map_crosses_the_threshold():
    cam = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    # A quarter of the way from the pixel to its neighbours, and the picture's edge.
    [line] = contours(cam, threshold=0.75)
    assert {tuple(point) for point in line.tolist()} == {
        (2.25, 0.5), (2.75, 0.5), (2.5, 0.0), (2.5, 0.75),
    }  # fmt: skip


def test_regions_end_where_the_network_saw_the_picture():
    preprocess = standard_preprocess([0.5] * 3, [0.5] * 3)
    picture = a_picture(size=(300, 500))
    cam = torch.tensor([[1.0, 0.9], [1.0, 0.0]])
    # Resized by 256 / 300, and of that the middle 224: 262.5 pixels of the picture.
    for found in (
        boxes(cam, picture, threshold=0.1, preprocess=preprocess),
        boxes(cam, (300, 500), threshold=0.1, preprocess=preprocess),
    ):
        assert found.corners.tolist() == [[119, 19, 381, 281]]
        assert found.scores.item() == pytest.approx(1, abs=0.01)
    lines = np.concatenate(contours(cam, picture, threshold=0.1, preprocess=preprocess))
    assert lines.min(0).tolist() == [119, 19]
    assert lines.max(0).tolist() == [381, 281]
    drawn = np.asarray(overlay(picture, cam, preprocess=preprocess)).astype(int)
    changed = (drawn != np.asarray(picture)).any(2)
    assert changed[19:281, 119:381].mean() > 0.8
    changed[19:281, 119:381] = False
    assert not changed.any()
    with pytest.raises(ValueError, match="boxes cannot follow the step RandomCrop"):
        mask(cam, picture, preprocess=RandomCrop(8))


def test_ties_of_the_maximum_are_above_every_percentile():
    cam = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.25]])
    assert mask(cam, threshold="p90").tolist() == [[True, True, False]] * 2
    corners = boxes(cam, threshold="p90").corners
    assert corners.tolist() == [[0, 0, 2, 2]]
    [line] = contours(cam, threshold="p90")
    assert [*line.min(0), *line.max(0)] == pytest.approx([0, 0, 1.5 + 0.5, 2], abs=0.26)


@pytest.mark.parametrize("fade", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_an_overlay_equals_the_formula(fade, threshold):
    cam, picture = a_map(1), a_picture()
    drawn = overlay(picture, cam, opacity=0.7, colormap="viridis", fade=fade, threshold=threshold)
    assert (drawn.mode, drawn.size) == ("RGB", SIZE[::-1])
    colors = mpl.colormaps["viridis"]
    for i, row in enumerate(scaled(cam)):
        for j, value in enumerate(row):
            share = 0.7 * (min(1, 2 * value) if fade else 1)
            share *= threshold is None or value > threshold
            below = [channel / 255 for channel in picture.getpixel((j, i))]
            wanted = [
                255 * (share * color + (1 - share) * under)
                for color, under in zip(colors(value)[:3], below, strict=True)
            ]
            # A colour next to the map's value, where rounding decides.
            assert drawn.getpixel((j, i)) == pytest.approx(wanted, abs=3)


def test_pictures_of_every_kind_are_one_picture():
    picture, cam = a_picture(), a_map()
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    wanted = np.asarray(overlay(picture, cam))
    for same in (array, array / 255, tensor, tensor / 255, tensor[None] / 255.0):
        np.testing.assert_array_equal(np.asarray(overlay(same, cam)), wanted)
        assert mask(cam, same).tolist() == mask(cam, picture).tolist()
    grey = picture.convert("L")
    wanted = np.asarray(overlay(grey.convert("RGB"), cam))
    for same in (grey, np.asarray(grey), np.asarray(grey)[..., None]):
        np.testing.assert_array_equal(np.asarray(overlay(same, cam)), wanted)
    clear = Image.new("RGBA", (8, 6), (0, 0, 0, 0))
    assert overlay(clear, cam, opacity=0).getpixel((0, 0)) == (255, 255, 255)


def test_maps_of_every_kind_are_one_map():
    cam, picture = a_map(), a_picture()
    wanted = mask(cam, picture).tolist()
    for same in (cam[0], cam[0, 0], cam.numpy(), cam.double(), cam.clone().requires_grad_()):
        assert mask(same, picture).tolist() == wanted
    several = torch.cat([cam / 4, cam * 3 / 4], dim=1)
    assert mask(several, picture).tolist() == wanted


def test_what_is_given_stays_as_it_is():
    cam, picture = a_map(), torch.rand(3, *SIZE)
    cams, pictures = cam.clone(), picture.clone()
    overlay(picture, cam)
    found = boxes(cam, picture)
    outlined(picture, boxes=found, contours=contours(cam, picture))
    assert torch.equal(cam, cams)
    assert torch.equal(picture, pictures)


def test_outlines_are_drawn_on_the_edges_of_regions():
    black = Image.new("RGB", (40, 30), (90, 90, 90))
    cam = torch.zeros(30, 40)
    cam[10:20, 15:30] = 1
    found = boxes(cam)
    drawn = np.asarray(outlined(black, boxes=found, color="#ff0000", width=1))
    red = (drawn == (255, 0, 0)).all(2)
    wanted = np.zeros((30, 40), dtype=bool)
    wanted[10:20, 15:30] = True
    wanted[11:19, 16:29] = False
    assert (red == wanted).all()
    drawn = np.asarray(outlined(black, contours=contours(cam), color="#ff0000", width=1))
    near = np.zeros((30, 40), dtype=bool)
    near[8:22, 13:32] = True
    near[12:18, 17:28] = False
    red = (drawn == (255, 0, 0)).all(2)
    assert red.sum() > 40
    assert not red[~near].any()
    with_scores = np.asarray(outlined(black, boxes=found, scores=True, width=1))
    assert (with_scores[12:19, 17:28] > 200).all(2).any()


RAMP = torch.linspace(0, 1, 12).reshape(3, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mask(RAMP, threshold=1.0), ValueError, "from 0 to below 1"),
        (lambda: mask(RAMP, threshold=-0.1), ValueError, "got -0.1"),
        (lambda: mask(RAMP, threshold=float("nan")), ValueError, "finite number"),
        (lambda: mask(RAMP, threshold="p100"), ValueError, '"p0" to below "p100"'),
        (lambda: mask(RAMP, threshold="pnan"), ValueError, "got 'pnan'"),
        (lambda: mask(RAMP, threshold="huang"), ValueError, 'or "otsu", got \'huang\''),
        (lambda: mask(RAMP, threshold=None), TypeError, "threshold must be a number"),
        (lambda: mask(RAMP, largest=1), TypeError, "largest must be True or False"),
        (lambda: mask(torch.ones(3, 4)), ValueError, "the map is 1 everywhere"),
        (lambda: boxes(torch.zeros(3, 4)), ValueError, "the map is 0 everywhere"),
        (lambda: contours(torch.zeros(3, 4)), ValueError, "the map is 0 everywhere"),
        (lambda: mask(RAMP / 0), ValueError, "the map hold NaN or infinity"),
        (lambda: mask(RAMP.long()), TypeError, "floating point Tensor or array, got torch.int64"),
        (lambda: mask([[0.0, 1.0]]), TypeError, "a map must be .* got list"),
        (lambda: mask(torch.rand(2, 1, 3, 4)), ValueError, r"of several give one, as maps\[0\]"),
        (lambda: mask(torch.rand(0, 4)), ValueError, r"a map must have shape .* got \(0, 4\)"),
        (lambda: mask(RAMP, (3, 0)), ValueError, r"\(height, width\), two ints above 0"),
        (lambda: mask(RAMP, "photo.png"), TypeError, "PIL.Image.Image, an array or a Tensor"),
        (lambda: overlay(torch.rand(4, 5, 5), RAMP), ValueError, r"\(3 or 1, H, W\)"),
        (lambda: overlay(np.ones((5, 5, 4)), RAMP), ValueError, r"\(H, W, 3 or 1\)"),
        (lambda: overlay(2 * torch.rand(3, 5, 5), RAMP), ValueError, r"must lie in \[0, 1\]"),
        (lambda: overlay(torch.full((3, 5, 5), math.nan), RAMP), ValueError, "got nan"),
        (lambda: overlay(np.ones((5, 5), dtype=int), RAMP), TypeError, "got int64"),
        (lambda: overlay(Image.new("F", (5, 5)), RAMP), ValueError, "mode F has no known white"),
        (lambda: overlay(np.ones((5, 5)), RAMP, opacity=1.5), ValueError, "at least 0 and at most"),
        (lambda: overlay(np.ones((5, 5)), RAMP, colormap="turb"), ValueError, "no colormap 'turb'"),
        (lambda: overlay(np.ones((5, 5)), RAMP, fade="no"), TypeError, "fade must be True or"),
        (lambda: overlay(np.ones((5, 5)), RAMP, threshold=7), ValueError, "from 0 to below 1"),
        (lambda: outlined(np.ones((5, 5)), width=0), ValueError, "width must .* greater than 0"),
        (lambda: outlined(np.ones((5, 5)), color="nocolor"), ValueError, "nocolor"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("skimage", lambda: boxes(RAMP)),
        ("skimage", lambda: mask(RAMP, threshold="otsu")),
        ("matplotlib", lambda: overlay(np.ones((5, 5)), RAMP)),
        ("PIL", lambda: outlined(np.ones((5, 5)))),
    ],
)
def test_missing_packages_are_named_with_what_installs_them(monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    line = r'is not installed \(.*\): pip install "captum-unioncam\[demo\]"'
    with pytest.raises(ModuleNotFoundError, match=line):
        call()


def test_thresholds_of_shares_need_no_image_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert mask(RAMP, threshold=0.5).sum() == 6
