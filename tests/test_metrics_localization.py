"""Pointing games, IoU, MaxBoxAcc and mosaics against hand-computed numbers and naive loops."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_unioncam.metrics.components import largest_boxes
from captum_unioncam.metrics.localization import (
    energy_pointing_game,
    iou,
    max_box_acc,
    max_box_accuracy,
    pointing_game,
)
from captum_unioncam.metrics.mosaic import grid_pointing_game, make_mosaics

IMAGE = torch.zeros(1, 3, 40, 60)


def box(*edges: float) -> list[Tensor]:
    return [torch.tensor([edges])]


def point(row: int, column: int, height: int = 40, width: int = 60) -> Tensor:
    L = torch.zeros(1, 1, height, width)
    L[0, 0, row, column] = 2.0
    return L


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("row", "column", "hit"),
    [
        (10, 20, 1), (19, 39, 1),  # the box's first and last pixel
        (10, 6, 1), (10, 5, 0),    # 14 and 15 pixels to the left of column 20
        (33, 30, 1), (34, 30, 0),  # 14 and 15 below row 19
        (1, 9, 1), (1, 8, 0),      # corner: 9 up and 11 left is 14.2, 9 and 12 is 15
    ],
)  # fmt: skip
def test_pointing_game_by_hand(row: int, column: int, hit: int) -> None:
    found = pointing_game(None, IMAGE, point(row, column), boxes=box(20, 10, 40, 20))
    assert found.tolist() == [hit]


def test_tolerance_zero_asks_for_the_object_itself() -> None:
    for column, hit in ((20, 1.0), (19, 0.0)):
        options = {"boxes": box(20, 10, 40, 20), "tolerance": 0}
        assert pointing_game(None, IMAGE, point(12, column), **options).item() == hit


def test_the_nearest_of_several_boxes_counts() -> None:
    boxes = [torch.tensor([[50, 30, 60, 40], [0, 0, 5, 5]])]
    assert pointing_game(None, IMAGE, point(2, 2), boxes=boxes, tolerance=1).item() == 1
    assert pointing_game(None, IMAGE, point(35, 55), boxes=boxes, tolerance=1).item() == 1
    # Between the two: in the hull of the boxes, in none of them.
    assert pointing_game(None, IMAGE, point(20, 30), boxes=boxes, tolerance=1).item() == 0


def test_of_equal_largest_values_the_first_row_by_row_points() -> None:
    L = torch.zeros(1, 1, 40, 60)
    L[0, 0, [3, 30], [50, 2]] = 1
    assert pointing_game(None, IMAGE, L, boxes=box(48, 0, 60, 5), tolerance=1).item() == 1
    constant = torch.ones(1, 1, 40, 60)
    assert pointing_game(None, IMAGE, constant, boxes=box(0, 0, 1, 1), tolerance=1).item() == 1


def test_small_maps_are_resized_bilinearly() -> None:
    L = uniform(4, 1, 5, 7)
    images = torch.zeros(4, 3, 40, 60)
    resized = F.interpolate(L, (40, 60), mode="bilinear")
    for metric in (pointing_game, energy_pointing_game, iou):
        boxes = [torch.tensor([[10.0, 5.0, 33.0, 21.0]])] * 4
        assert torch.equal(
            metric(None, images, L, boxes=boxes), metric(None, images, resized, boxes=boxes)
        )


def test_a_pixel_belongs_to_a_box_that_holds_its_centre() -> None:
    ones, square = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    share = functools.partial(energy_pointing_game, None, square, ones)
    assert share(boxes=box(0, 0, 4, 4)).item() == 1
    assert share(boxes=box(1, 2, 3, 3)).item() == 2 / 16  # row 2, columns 1 and 2
    assert share(boxes=box(0.5, 0.5, 2.5, 1.0)).item() == 2 / 16  # the left edge is in
    assert share(boxes=box(0.51, 0.0, 2.51, 1.0)).item() == 2 / 16
    assert share(boxes=box(0.51, 0.0, 2.50, 1.0)).item() == 1 / 16  # the right edge is not
    assert share(boxes=box(-0.4, -0.4, 4.3, 4.3)).item() == 1  # rounding of scaled boxes


def test_boxes_equal_their_masks_and_overlaps_count_once() -> None:
    boxes = [torch.tensor([[1, 2, 9, 8], [5, 5, 12, 11]]), torch.tensor([[0, 0, 3, 14]])]
    masks = torch.zeros(2, 14, 15, dtype=torch.bool)
    masks[0, 2:8, 1:9] = True
    masks[0, 5:11, 5:12] = True
    masks[1, :14, :3] = True
    images, L = torch.zeros(2, 3, 14, 15), uniform(2, 1, 14, 15)
    for metric in (pointing_game, energy_pointing_game, iou):
        by_masks = metric(None, images, L, masks=masks)
        assert torch.equal(metric(None, images, L, boxes=boxes), by_masks)
        lists = [b.tolist() for b in boxes]
        assert torch.equal(metric(None, images, L, boxes=lists), by_masks)
    share = energy_pointing_game(None, images, L, masks=masks)
    expected = [(m * w).sum().item() / m.sum().item() for m, w in zip(L[:, 0], masks, strict=True)]
    assert share.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("metric", [pointing_game, energy_pointing_game, iou])
@pytest.mark.parametrize(
    ("objects", "error", "match"),
    [
        ({}, TypeError, "neither"),
        (
            {"boxes": box(0, 0, 2, 2), "masks": torch.ones(1, 40, 60, dtype=torch.bool)},
            TypeError,
            "both",
        ),
        ({"boxes": [torch.zeros(0, 4)]}, ValueError, "leave out examples without boxes"),
        ({"boxes": [torch.tensor([0, 0, 2, 2])]}, ValueError, "shape"),
        ({"boxes": box(0, 0, 2, 2) * 2}, ValueError, "2 for 1"),
        ({"boxes": 5}, TypeError, "sequence"),
        ({"boxes": box(5, 5, 5, 9)}, ValueError, "x_min < x_max"),
        ({"boxes": box(9, 5, 5, 9)}, ValueError, "x_min < x_max"),
        ({"boxes": box(0, 0, 61, 40)}, ValueError, "scale and clip"),
        ({"boxes": box(-1, 0, 5, 5)}, ValueError, "scale and clip"),
        ({"boxes": box(0, 0, 5, float("nan"))}, ValueError, "x_min < x_max"),
        ({"masks": torch.ones(1, 40, 60)}, TypeError, "bool"),
        ({"masks": torch.ones(1, 60, 40, dtype=torch.bool)}, ValueError, "images' size"),
    ],
)
def test_wrong_objects_are_named(
    metric: object, objects: dict, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        metric(None, IMAGE, point(1, 1), **objects)


@pytest.mark.parametrize("metric", [pointing_game, energy_pointing_game])
def test_an_example_without_object_pixels_is_refused(metric: object) -> None:
    with pytest.raises(ValueError, match=r"example\(s\) \[0\] have no object pixel"):
        metric(None, IMAGE, point(1, 1), masks=torch.zeros(1, 40, 60, dtype=torch.bool))
    with pytest.raises(ValueError, match="no object pixel"):
        metric(None, IMAGE, point(1, 1), boxes=box(0.6, 0.6, 0.9, 0.9))


@pytest.mark.parametrize("metric", [pointing_game, energy_pointing_game, iou, max_box_acc])
def test_wrong_maps_and_inputs_are_named(metric: object) -> None:
    objects = {"boxes": box(0, 0, 2, 2)}
    with pytest.raises(ValueError, match=r"shape \(1, C, \*, \*\)"):
        metric(None, IMAGE, torch.ones(2, 1, 4, 4), **objects)
    with pytest.raises(ValueError, match="NaN"):
        metric(None, IMAGE, torch.full((1, 1, 4, 4), torch.nan), **objects)
    with pytest.raises(TypeError, match="floating point Tensor"):
        metric(None, IMAGE, torch.ones(1, 1, 4, 4, dtype=torch.long), **objects)
    with pytest.raises(ValueError, match="images"):
        metric(None, torch.zeros(1, 3, 40), torch.ones(1, 1, 4), **objects)
    with pytest.raises(TypeError, match="must be a Tensor"):
        metric(None, "image", torch.ones(1, 1, 4, 4), **objects)


def test_energy_is_the_positive_part_at_any_scale() -> None:
    L = uniform(2, 1, 12, 12) - 0.4
    masks = uniform(2, 12, 12, seed=1) > 0.6
    images = torch.zeros(2, 1, 12, 12)
    share = energy_pointing_game(None, images, L, masks=masks)
    expected = [
        sum(max(v, 0) for v, m in zip(cam.flatten().tolist(), mask.flatten().tolist(), strict=True)
            if m) / sum(max(v, 0) for v in cam.flatten().tolist())
        for cam, mask in zip(L, masks, strict=True)
    ]  # fmt: skip
    assert share.tolist() == pytest.approx(expected, rel=1e-6)
    scaled = energy_pointing_game(None, images, L * 1e-9, masks=masks)
    assert scaled.tolist() == pytest.approx(expected, rel=1e-6)


def test_energy_of_maps_that_say_nothing() -> None:
    share = functools.partial(energy_pointing_game, None, IMAGE, boxes=box(0, 0, 30, 20))
    assert share(torch.zeros(1, 1, 40, 60)).item() == 0
    assert share(-torch.rand(1, 1, 40, 60)).item() == 0
    assert share(torch.ones(1, 1, 7, 7)).item() == pytest.approx(0.25, abs=1e-6)
    assert share(torch.full((1, 1, 40, 60), 0.01)).item() == pytest.approx(0.25, abs=1e-6)


def test_channels_are_summed_and_the_first_image_gives_the_size() -> None:
    L = uniform(1, 3, 40, 60) - 0.5
    boxes = box(3, 4, 30, 22)
    summed = energy_pointing_game(None, IMAGE, L.sum(1, keepdim=True), boxes=boxes)
    assert torch.equal(energy_pointing_game(None, IMAGE, (L,), boxes=boxes), summed)
    several = (torch.zeros(1, 9), IMAGE, torch.zeros(1, 3, 8, 8))
    assert torch.equal(energy_pointing_game(None, several, L, boxes=boxes), summed)


def test_iou_by_hand() -> None:
    L = torch.tensor([[[[0.0, 0.5, 0.51], [1.0, 0.2, 0.9]]]])
    mask = torch.tensor([[[False, True, True], [True, False, False]]])
    image = torch.zeros(1, 1, 2, 3)
    assert iou(None, image, L, masks=mask).item() == 2 / 4  # 0.5 itself is not above 0.5
    assert iou(None, image, 7 * L - 3, masks=mask).item() == 2 / 4
    assert iou(None, image, L, masks=mask, threshold=0.49).item() == pytest.approx(3 / 4)
    assert iou(None, image, L, masks=mask, threshold=0).item() == pytest.approx(3 / 5)


def test_iou_of_empty_and_full_maps() -> None:
    image, none = torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool)
    one = none.clone()
    one[0, 0, 0] = True
    zeros, ones = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.3)
    assert iou(None, image, zeros, masks=none).item() == 1
    assert iou(None, image, zeros, masks=one).item() == 0
    assert iou(None, image, ones, masks=none).item() == 0
    assert iou(None, image, ones, masks=one).item() == 0.25


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_iou_thresholds_out_of_range(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        iou(None, IMAGE, point(1, 1), boxes=box(0, 0, 2, 2), threshold=threshold)


def largest_box_by_flood(mask: np.ndarray) -> list[int]:
    """Flood every region pixel by pixel, and keep the first of the largest."""
    left = {(y, x) for y, x in zip(*np.nonzero(mask), strict=True)}
    best: list[tuple[int, int]] = []
    for start in sorted(left):
        if start not in left:
            continue
        region, edge = [], [start]
        left.discard(start)
        while edge:
            y, x = edge.pop()
            region.append((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        if len(region) > len(best):
            best = region
    if not best:
        return [0, 0, 0, 0]
    y, x = zip(*best, strict=True)
    return [min(x), min(y), max(x) + 1, max(y) + 1]


def test_largest_boxes_equal_a_flood() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        masks = random.random((3, *random.integers(1, 10, 2))) < random.random()
        assert largest_boxes(masks).tolist() == [largest_box_by_flood(m) for m in masks]


def test_largest_boxes_equal_those_of_scikit_image() -> None:
    measure = pytest.importorskip("skimage.measure")
    filters = pytest.importorskip("skimage.filters")
    noise = filters.gaussian(np.random.default_rng(1).random((90, 70)), 2)
    levels = np.quantile(noise, np.linspace(0, 1, 30))
    masks = noise > levels[:, None, None]
    for mask, found in zip(masks, largest_boxes(masks), strict=True):
        regions = measure.regionprops(measure.label(mask, connectivity=2))
        y0, x0, y1, x1 = max(regions, key=lambda r: r.area).bbox if regions else (0, 0, 0, 0)
        assert found.tolist() == [x0, y0, x1, y1]


def test_largest_box_of_a_winding_region() -> None:
    mask = np.zeros((1, 41, 41), dtype=bool)
    mask[0, ::2] = True
    mask[0, 1::4, -1] = True
    mask[0, 3::4, 0] = True
    assert largest_boxes(mask).tolist() == [[0, 0, 41, 41]]
    mask[0, 20, 20] = False  # cuts it into halves of equal size: the upper one comes first
    assert largest_boxes(mask).tolist() == [[0, 0, 41, 21]]


def naive_hits(cam: Tensor, boxes: Tensor, iou_threshold: float, thresholds: int) -> list[float]:
    unit = (cam - cam.min()) / (cam.max() - cam.min())
    hits = []
    for i in range(thresholds):
        x0, y0, x1, y1 = largest_box_by_flood((unit > i / thresholds).numpy())
        best = 0.0
        for a0, b0, a1, b1 in boxes.tolist():
            both = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
            area = (x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - both
            best = max(best, both / area)
        hits.append(float(best >= iou_threshold))
    return hits


@pytest.mark.parametrize("iou_threshold", [0.3, 0.5, 0.7])
def test_max_box_acc_equals_the_loop(iou_threshold: float) -> None:
    cams = F.interpolate(uniform(4, 1, 6, 6).double(), (24, 20), mode="bicubic")
    boxes = [
        torch.tensor([[2, 3, 12, 14], [10, 0, 20, 24]]),
        torch.tensor([[0.0, 0.0, 19.5, 20.0]]),
        torch.tensor([[5, 5, 15, 20]]),
        torch.tensor([[0, 0, 10, 10], [0, 12, 9, 24]]),
    ]
    images = torch.zeros(4, 3, 24, 20)
    hits = max_box_acc(None, images, cams, boxes=boxes, iou_threshold=iou_threshold, thresholds=25)
    expected = [naive_hits(c[0], b, iou_threshold, 25) for c, b in zip(cams, boxes, strict=True)]
    assert hits.tolist() == expected
    assert 0 < hits.mean() < 1


def test_max_box_acc_of_maps_that_say_nothing() -> None:
    images = torch.zeros(2, 1, 8, 8)
    maps = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.2)])
    hits = max_box_acc(None, images, maps, boxes=[torch.tensor([[0, 0, 8, 6]])] * 2)
    assert hits.shape == (2, 100)
    assert hits.any(1).tolist() == [False, True]
    assert hits[1].all()


def test_max_box_accuracy_is_the_best_threshold_of_the_data_set() -> None:
    hits = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]])
    assert max_box_accuracy(hits) == (pytest.approx(2 / 3), 0.25)
    with pytest.raises(ValueError, match=r"\(N, T\)"):
        max_box_accuracy(hits[0])
    with pytest.raises(ValueError, match=r"\(N, T\)"):
        max_box_accuracy(hits[:0])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"iou_threshold": 0}, ValueError, "iou_threshold"),
        ({"iou_threshold": 1.1}, ValueError, "at most 1"),
        ({"thresholds": 0}, ValueError, "thresholds"),
        ({"thresholds": 0.5}, TypeError, "thresholds"),
    ],
)
def test_max_box_acc_bad_arguments(options: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        max_box_acc(None, IMAGE, point(1, 1), boxes=box(0, 0, 2, 2), **options)


@pytest.mark.parametrize("metric", [pointing_game, energy_pointing_game, iou, max_box_acc])
def test_batch_equals_singles(metric: object) -> None:
    images, L = torch.zeros(5, 3, 20, 30), uniform(5, 1, 5, 6)
    L[2] = 0
    boxes = [torch.tensor([[2.0 * i, 1.0, 2.0 * i + 12, 15.0]]) for i in range(5)]
    whole = metric(None, images, L, boxes=boxes)
    assert whole.dtype == torch.float32
    assert not whole.requires_grad
    for i in range(5):
        one = slice(i, i + 1)
        assert torch.equal(metric(None, images[one], L[one], boxes=boxes[one])[0], whole[i])


def test_mosaics_show_different_classes_and_use_no_image_twice() -> None:
    classes = torch.tensor([5, 5, 5, 1, 2, 2, 9, 9, 9, 4])
    x = torch.arange(10.0)[:, None, None, None].expand(10, 3, 12, 12)
    mosaics = make_mosaics(x, classes, seed=3)
    assert mosaics.inputs.shape == (2, 3, 12, 12)
    used = mosaics.sources.flatten().tolist()
    assert len(set(used)) == 8
    for M, targets, sources in zip(*mosaics, strict=True):
        assert len(set(targets.tolist())) == 4
        assert torch.equal(classes[sources], targets)
        corners = [M[0, i, j].item() for i in (0, 11) for j in (0, 11)]
        assert corners == sources.tolist()


def test_as_many_mosaics_as_the_images_give() -> None:
    # With both of the single images in the first mosaic there would be no second.
    classes = [0, 0, 1, 1, 2, 2, 3, 4]
    for seed in range(20):
        assert len(make_mosaics(torch.zeros(8, 1, 4, 4), classes, seed=seed).inputs) == 2
        nine = list(range(9)) * 3
        assert len(make_mosaics(torch.zeros(27, 1, 9, 9), nine, cells=3, seed=seed).inputs) == 3


def test_cells_are_resized_with_antialiasing_or_kept_at_full_size() -> None:
    x, classes = uniform(4, 3, 16, 16), [0, 1, 2, 3]
    mosaic, _, sources = make_mosaics(x, classes)
    small = F.interpolate(x, (8, 8), mode="bilinear", antialias=True)
    for cell, (row, column) in enumerate([(0, 0), (0, 8), (8, 0), (8, 8)]):
        shown = mosaic[0, :, row : row + 8, column : column + 8]
        torch.testing.assert_close(shown, small[sources[0, cell]])
    full, _, sources = make_mosaics(x, classes, shrink=False)
    assert full.shape == (1, 3, 32, 32)
    assert torch.equal(full[0, :, :16, 16:], x[sources[0, 1]])
    assert torch.equal(full[0, :, 16:, :16], x[sources[0, 2]])


def test_uneven_cells_meet_at_whole_pixels() -> None:
    x = torch.arange(9.0)[:, None, None, None].expand(9, 1, 11, 10).to(torch.float16)
    M, _, sources = make_mosaics(x, range(9), cells=3)
    assert M.shape == (1, 1, 11, 10)
    assert M.dtype == torch.float16
    for cell in range(9):
        inside = M[0, 0] == sources[0, cell]
        image = torch.zeros(1, 1, 11, 10)
        L = inside[None, None].float()
        assert grid_pointing_game(None, image, L, cell=cell, cells=3).item() == 1
        assert inside.sum() in (9, 12, 16)


def test_mosaics_depend_on_the_seed_alone() -> None:
    x, classes = uniform(12, 1, 8, 8), list(range(6)) * 2
    state = torch.get_rng_state()
    first, again, other = (make_mosaics(x, classes, seed=s).sources for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((uniform(4, 1, 8, 8), [0, 1, 2, 2]), ValueError, "needs 4 different classes, got 3"),
        ((uniform(4, 1, 8, 8), [0, 1, 2]), ValueError, r"\(4,\)"),
        ((uniform(4, 1, 8, 8), [0.0, 1, 2, 3]), TypeError, "class indices"),
        ((uniform(4, 8, 8), [0, 1, 2, 3]), TypeError, r"\(N, C, H, W\)"),
        ((uniform(4, 1, 8, 8).long(), [0, 1, 2, 3]), TypeError, "floating point"),
        ((uniform(4, 1, 1, 8), [0, 1, 2, 3]), ValueError, "do not fit"),
        ((uniform(4, 1, 8, 8), [0, 1, 2, 3], 0), ValueError, "cells"),
        ((uniform(4, 1, 8, 8), [0, 1, 2, 3], 2.0), TypeError, "cells"),
    ],
)
def test_bad_mosaics(arguments: tuple, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make_mosaics(*arguments)


def test_grid_pointing_game_by_hand() -> None:
    L = torch.tensor([[4.0, 1, 0, 0], [0, 0, 2, -9], [0, 0, 0, 1], [0, 0, 0, 2]])
    maps, images = L.expand(4, 1, 4, 4), torch.zeros(4, 3, 4, 4)
    shares = grid_pointing_game(None, images, maps, cell=[0, 1, 2, 3])
    assert shares.tolist() == pytest.approx([0.5, 0.2, 0.0, 0.3])
    alone = grid_pointing_game(None, images[:1], maps[:1], cell=3)
    assert torch.equal(alone, shares[3:])


@pytest.mark.parametrize(("cells", "side"), [(1, 5), (2, 8), (3, 9)])
def test_a_map_of_ones_scores_a_cell_and_zeros_nothing(cells: int, side: int) -> None:
    image = torch.zeros(1, 3, side, side)
    for cell in range(cells**2):
        share = grid_pointing_game(None, image, torch.ones(1, 1, 3, 3), cell=cell, cells=cells)
        assert share.item() == pytest.approx(1 / cells**2, abs=1e-6)
        none = grid_pointing_game(None, image, torch.zeros(1, 1, 3, 3), cell=cell, cells=cells)
        assert none.item() == 0


@pytest.mark.parametrize(
    ("cell", "error", "match"),
    [
        (4, ValueError, "0 to 3"),
        (-1, ValueError, "0 to 3"),
        ([0, 1], ValueError, r"\(1,\)"),
        (0.5, TypeError, "integers"),
        (True, TypeError, "integers"),
    ],
)
def test_bad_cells(cell: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        grid_pointing_game(None, IMAGE, point(1, 1), cell=cell)


def test_tolerance_along_rows_and_columns() -> None:
    # The object is the pixel in row 20 and column 30.
    boxes = box(30, 20, 31, 21)
    for row, column, hit in ((24, 30, 1), (25, 30, 0), (20, 31, 1), (20, 32, 0), (24, 31, 1)):
        found = pointing_game(None, IMAGE, point(row, column), boxes=boxes, tolerance=(5, 2))
        assert found.item() == hit, (row, column)
    near = point(23, 31)
    assert pointing_game(None, IMAGE, near, boxes=boxes, tolerance=(3.2, 2)).item() == 0
    for wrong in ((5, -1), (1, 2, 3)):
        with pytest.raises(ValueError, match="tolerance must be"):
            pointing_game(None, IMAGE, point(1, 1), boxes=boxes, tolerance=wrong)
