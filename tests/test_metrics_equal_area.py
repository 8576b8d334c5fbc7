"""Metrics at equal area against loops over pixels, on maps with and without ties."""

import math
import random

import pytest
import torch

from captum_unioncam.baselines import coarse_noise, named_baseline
from captum_unioncam.engine.areas import masks_at_area, pixel_order, rank_maps
from captum_unioncam.engine.log_odds import log_odds
from captum_unioncam.metrics import (
    METRICS,
    SharedScores,
    drop_at_area,
    grid_pointing_at_area,
    keep_at_area,
    metric_of,
    rank_average_drop,
)
from tests.networks import gap_head, images, of_rank, vgg_like

AREAS = (0.1, 0.25, 0.6)
TARGETS = [3, 1]
BOTH = [keep_at_area, drop_at_area]


def maps(*shape, seed=7):
    return images(*shape, seed=seed)


def largest(values, count):
    """Return the places of the largest values, one after the other, without ties."""
    left, found = dict(enumerate(values)), []
    for _ in range(count):
        best = max(left, key=left.get)
        found.append(best)
        del left[best]
    return found


def by_loop(net, x, cam, target, background, areas, keep):
    """Blend one example pixel by pixel and read its softmax by hand."""
    scores, values = [], cam.flatten().tolist()
    for area in areas:
        top = largest(values, round(area * len(values)))
        blended = background.clone().flatten(1)
        for pixel in range(len(values)):
            if (pixel in top) == keep:
                blended[:, pixel] = x.flatten(1)[:, pixel]
        z = net(blended.reshape(1, *x.shape))[0].tolist()
        scores.append(math.exp(z[target]) / sum(map(math.exp, z)))
    return scores


def backgrounds(x):
    """Return what each background shows, from the words that describe it."""
    mean = torch.stack([torch.stack([c.new_full(c.shape, c.mean()) for c in one]) for one in x])
    other = images(1, *x.shape[1:], seed=11)
    given = torch.full_like(x, -0.75)
    return {
        "black": ("black", given),
        "mean": ("mean", mean),
        "blur": ("blur", named_baseline("blur", x, 0)),
        "noise": ("noise", coarse_noise(x)),
        "photograph": (other, other.expand_as(x)),
    }


@pytest.mark.parametrize("kind", ["black", "mean", "blur", "noise", "photograph"])
@pytest.mark.parametrize("metric", BOTH)
def test_scores_are_those_of_a_loop(metric, kind):
    net, _, x = vgg_like()
    cam, (background, shown) = maps(2, 1, 12, 12), backgrounds(x)[kind]
    expected = [
        by_loop(net, x[i], cam[i], TARGETS[i], shown[i], AREAS, metric is keep_at_area)
        for i in range(2)
    ]
    options = {"target": TARGETS, "areas": AREAS, "background": background, "baselines": -0.75}
    value, curve = metric(net, x, cam, return_curve=True, **options)
    torch.testing.assert_close(curve, torch.tensor(expected).double())
    torch.testing.assert_close(value, torch.tensor([sum(v) / 3 for v in expected]).double())
    assert torch.equal(metric(net, x, cam, **options), value)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("metric", BOTH)
def test_inputs_of_any_rank(metric, rank):
    net, _, x = of_rank(rank)
    cam = maps(3, 1, *x.shape[2:])
    _, curve = metric(net, x, cam, target=[4, 0, 2], areas=AREAS, return_curve=True)
    for i, target in enumerate([4, 0, 2]):
        black = torch.zeros_like(x[i])
        expected = by_loop(net, x[i], cam[i], target, black, AREAS, metric is keep_at_area)
        assert curve[i].tolist() == pytest.approx(expected)


def test_the_drop_of_a_map_is_the_keep_of_its_inverse():
    net, _, x = vgg_like()
    cam, areas = maps(2, 1, 12, 12), (0.25, 0.75)
    dropped = drop_at_area(net, x, cam, target=1, areas=areas, return_curve=True)[1]
    kept = keep_at_area(net, x, -cam, target=1, areas=areas, return_curve=True)[1]
    torch.testing.assert_close(dropped, kept.flip(1))


@pytest.mark.parametrize("metric", [*BOTH, rank_average_drop])
def test_only_the_order_counts(metric):
    net, _, x = vgg_like()
    cam, best = maps(2, 1, 12, 12), net(x).argmax(1)
    plain = metric(net, x, cam, target=best)
    for same in (cam**0.5, cam**3, 5 * cam - 40):
        torch.testing.assert_close(metric(net, x, same, target=best), plain)
    assert (metric(net, x, 1 - cam, target=best) != plain).all()


def test_average_drop_of_ranks_is_that_of_a_loop():
    net, _, x = vgg_like()
    cam, black = maps(2, 1, 12, 12), images(1, 3, 12, 12, seed=9)
    expected = []
    for i, target in enumerate(TARGETS):
        values = cam[i].flatten().tolist()
        rank = [sum(v > value for v in values) for value in values]
        M = torch.tensor([1 - r / 143 for r in rank]).double().reshape(12, 12)
        clean, masked = (
            net(one)[0].softmax(0)[target].item()
            for one in (x[i, None], black + M * (x[i] - black))
        )
        expected.append(100 * max(0.0, clean - masked) / clean)
    found = rank_average_drop(net, x, cam, target=TARGETS, baselines=black)
    assert max(expected) > 0
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("metric", [*BOTH, rank_average_drop])
@pytest.mark.parametrize("background", ["mean", "blur", "noise"])
def test_chunks_and_company_do_not_matter(metric, background):
    net, _, _ = vgg_like()
    x, cam = images(5, 3, 12, 12, seed=2), maps(5, 2, 6, 5)
    cam[1] = 0.5
    cam[2, :, 2:] = 0
    best = net(x).argmax(1).tolist()
    whole = metric(net, x, cam, target=best, background=background)
    assert whole.unique().numel() == 5
    for chunk in (1, 2, 100):
        found = metric(
            net, x, cam, target=best, background=background, perturbations_per_eval=chunk
        )
        torch.testing.assert_close(found, whole)
    singles = [
        metric(net, x[i, None], cam[i, None], target=best[i], background=background)
        for i in range(5)
    ]
    torch.testing.assert_close(torch.cat(singles), whole)


def test_a_constant_map_gains_nothing_from_the_order_of_pixels():
    # All that counts is bright and comes first in memory.
    x = torch.zeros(1, 1, 20, 20)
    x[..., :10, :] = 1

    def bright(x):
        return x[..., :10, :].flatten(1).mean(1)

    flat = torch.full((1, 1, 20, 20), 0.3)
    kept = torch.cat([keep_at_area(bright, x, flat, areas=(0.3,), seed=s) for s in range(60)])
    assert kept.std() > 1e-3
    assert kept.mean().item() == pytest.approx(0.3, abs=4 * kept.std().item() / 60**0.5)
    assert keep_at_area(bright, x, x, areas=(0.3,)).item() == pytest.approx(0.6)
    dropped = torch.cat([drop_at_area(bright, x, flat, areas=(0.3,), seed=s) for s in range(60)])
    torch.testing.assert_close(dropped, 1 - kept)


def test_ties_are_broken_within_their_level_and_by_the_seed():
    cam = torch.zeros(1, 1, 20, 20)
    cam[..., :10] = 1
    first, second = (masks_at_area(cam, (0.25, 0.75), seed=s)[0, 0] for s in (0, 1))
    for mask in (first, second):
        assert mask.sum((1, 2)).tolist() == [100, 300]
        assert mask[0, :, 10:].sum() == 0
        assert mask[1, :, :10].all()
        # About half of every quarter of the level, not all of one.
        quarters = mask[0, :, :10].reshape(4, 5, 10).sum((1, 2))
        assert quarters.min() > 10
    assert not torch.equal(first, second)
    assert torch.equal(masks_at_area(cam, (0.25, 0.75))[0, 0], first)


def test_masks_hold_exactly_the_largest_values_of_every_map():
    cams = maps(2, 3, 7, 9)
    masks = masks_at_area(cams, AREAS)
    assert masks.shape == (2, 3, 3, 7, 9)
    assert masks.dtype == cams.dtype
    for n in range(2):
        for k in range(3):
            for a, area in enumerate(AREAS):
                top = largest(cams[n, k].flatten().tolist(), round(area * 63))
                found = masks[n, k, a].flatten().nonzero()[:, 0].tolist()
                assert found == sorted(top)
    for rank, size in {1: (11,), 3: (3, 4, 5)}.items():
        assert masks_at_area(maps(1, 1, *size), (0.5,)).dim() == rank + 3


def test_orders_and_ranks_of_values_without_ties():
    values = random.Random(0).sample(range(1000), 30)
    cam = torch.tensor(values).double().reshape(1, 1, 5, 6)
    expected = [sum(v > value for v in values) for value in values]
    assert pixel_order(cam)[0, 0].tolist() == expected
    ranks = rank_maps(cam)
    assert ranks.flatten().tolist() == pytest.approx([1 - place / 29 for place in expected])


def test_users_random_state_and_inputs_are_left_alone():
    net, _, x = vgg_like()
    before, clean, cam = torch.get_rng_state(), x.clone(), maps(2, 1, 12, 12).requires_grad_()
    for metric in (*BOTH, rank_average_drop):
        found = metric(net, x, cam, target=1, background="noise")
        assert not found.requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, clean)


def test_controls_rank_as_they_must():
    """A map that finds the only pixels that count is best, its inverse worst, chance between."""
    x = torch.ones(1, 1, 10, 10)
    counts = torch.zeros(10, 10)
    counts[2:5, 3:6] = 1

    def nine(x):
        return (x * counts).flatten(1).sum(1) / 9

    informed = counts[None, None] + 0.1 * maps(1, 1, 10, 10).float()
    for metric, sign in ((keep_at_area, 1), (drop_at_area, -1)):
        best, chance, ones, worst = (
            sign * metric(nine, x, cam).item()
            for cam in (informed, maps(1, 1, 10, 10).float(), torch.ones(1, 1, 10, 10), -informed)
        )
        assert best > max(chance, ones) + 0.2
        assert min(chance, ones) > worst + 0.1
    assert keep_at_area(nine, x, informed).item() == pytest.approx(1)
    assert drop_at_area(nine, x, informed).item() == pytest.approx(0)
    assert rank_average_drop(nine, x, informed) < rank_average_drop(nine, x, -informed) - 50


def test_coarse_noise_is_of_each_pictures_colours():
    x = images(2, 3, 42, 56)
    x[1] = 4 * x[1] - 2
    noise = coarse_noise(x)
    assert noise.shape == x.shape
    assert torch.equal(noise, coarse_noise(x))
    assert not torch.equal(noise, coarse_noise(x, seed=1))
    torch.testing.assert_close(coarse_noise(x[1:]), noise[1:])
    # The pattern is one, its colours are each example's, as long as nothing is clipped.
    inside = (noise[0] > x[0].amin()) & (noise[0] < x[0].amax())
    assert inside.float().mean() > 0.5
    for i in range(2):
        for c in range(3):
            assert x[i, c].min() <= noise[i, c].min()
            assert noise[i, c].max() <= x[i, c].max()
            assert noise[i, c].mean().item() == pytest.approx(
                x[i, c].mean().item(), abs=0.3 * x[i, c].std().item()
            )
    # Neighbours resemble each other: it is coarse.
    steps = (noise[..., 1:] - noise[..., :-1]).abs().mean()
    assert steps < 0.5 * (x[..., 1:] - x[..., :-1]).abs().mean()
    assert coarse_noise(torch.ones(1, 2, 5)).tolist() == torch.ones(1, 2, 5).tolist()


def test_log_odds_are_those_of_the_probability():
    z = 6 * images(4, 5, 3, seed=3) - 3
    p = z.softmax(1)
    torch.testing.assert_close(log_odds(z), (p / (1 - p)).log())
    far = torch.tensor([[500.0, 0.0, 0.0]])
    torch.testing.assert_close(log_odds(far), torch.tensor([[500 - math.log(2), -500.0, -500.0]]))
    one = torch.tensor([[1.5], [-2.0]])
    assert torch.equal(log_odds(one), one)
    torch.autograd.gradcheck(log_odds, z[:2].requires_grad_())
    tied = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.functional.jacobian(lambda z: log_odds(z)[0], tied)[:, 0]
    probabilities = tied[0].softmax(0)
    expected = torch.stack([-probabilities / (1 - p) for p in probabilities])
    expected.fill_diagonal_(1)
    torch.testing.assert_close(slopes, expected.detach())


def test_scores_as_log_odds():
    net, _, x = gap_head()
    cam = maps(2, 1, 10, 14)
    options = {"target": 1, "areas": AREAS, "return_curve": True}
    odds = keep_at_area(net, x, cam, score=log_odds, **options)[1]
    p = keep_at_area(net, x, cam, **options)[1]
    torch.testing.assert_close(odds, (p / (1 - p)).log())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"areas": 0.5}, TypeError, "areas must be a sequence of numbers, such as"),
        ({"areas": ()}, TypeError, "areas must be a sequence of numbers, such as"),
        ({"areas": "0.5"}, TypeError, "areas must be a sequence of numbers, such as"),
        ({"areas": ("a",)}, TypeError, "an area must be a number, got str"),
        ({"areas": (25,)}, ValueError, "between 0 and 1, got 25; 25 percent are 0.25"),
        ({"areas": (0.5, 1)}, ValueError, "between 0 and 1, got 1"),
        ({"areas": (0.0,)}, ValueError, "between 0 and 1, got 0"),
        ({"areas": (float("nan"),)}, ValueError, "finite"),
        ({"areas": (0.001,)}, ValueError, "holds 0 of 144 pixels.*at least 0.0069 and at most"),
        ({"areas": (0.999,)}, ValueError, "holds 144 of 144 pixels"),
        ({"background": "nois"}, ValueError, "background must be one of.*closest: 'noise'"),
        ({"background": "photograph"}, ValueError, "give another photograph as a tensor"),
        ({"background": 0.5}, TypeError, "the name of a kind or a tensor.*got float"),
        ({"background": torch.zeros(1, 3, 5, 5)}, ValueError, "5"),
        ({"seed": 0.5}, TypeError, "seed must be an int"),
        ({"return_curve": 1}, TypeError, "return_curve must be True or False"),
        ({"area": (0.5,)}, TypeError, "closest: 'areas'"),
    ],
)
@pytest.mark.parametrize("metric", BOTH)
def test_bad_options_name_the_valid_ones(metric, options, error, words):
    net, _, x = vgg_like()
    with pytest.raises(error, match=words):
        metric(net, x, maps(2, 1, 12, 12), target=1, **options)


@pytest.mark.parametrize(("cells", "size"), [(2, (9, 12)), (3, (10, 8))])
@pytest.mark.parametrize("area", [0.1, 0.25])
def test_pointing_at_equal_area_is_that_of_a_loop(cells, size, area):
    height, width = size
    cams, x = maps(4, 1, *size), images(4, 3, *size)
    cell = [0, cells * cells - 1, 1, cells]
    found = grid_pointing_at_area(None, x, cams, cell=cell, cells=cells, area=area)
    edges = [[n * i // cells for i in range(cells + 1)] for n in size]
    for i, number in enumerate(cell):
        r, c = divmod(number, cells)
        top = largest(cams[i].flatten().tolist(), round(area * height * width))
        inside = [
            edges[0][r] <= p // width < edges[0][r + 1]
            and edges[1][c] <= p % width < edges[1][c + 1]
            for p in top
        ]
        assert found[i].item() == pytest.approx(sum(inside) / len(top))
    assert torch.equal(
        grid_pointing_at_area(None, x, cams**3, cell=cell, cells=cells, area=area), found
    )


def test_pointing_of_maps_that_know_and_of_maps_that_do_not():
    x = torch.rand(4, 3, 20, 20)
    cell = torch.arange(4)
    right = torch.zeros(4, 1, 20, 20)
    for i in range(4):
        right[i, 0, 10 * (i // 2) :, 10 * (i % 2) :][:10, :10] = 1
    for area in (0.1, 0.25):
        found = grid_pointing_at_area(None, x, right, cell=cell, area=area)
        assert found.tolist() == [1.0] * 4
        wrong = grid_pointing_at_area(None, x, -right, cell=cell, area=area)
        assert wrong.tolist() == [0.0] * 4
        flat = torch.stack(
            [
                grid_pointing_at_area(None, x, torch.ones(4, 1, 5, 5), cell=cell, area=area, seed=s)
                for s in range(40)
            ]
        )
        assert flat.mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.03)
    # A map that keeps everything small above zero loses energy, but points all the same.
    assert grid_pointing_at_area(None, x, right + 9, cell=cell).tolist() == [1.0] * 4
    with pytest.raises(ValueError, match="between 0 and 1, got 10"):
        grid_pointing_at_area(None, x, right, cell=cell, area=10)
    with pytest.raises(ValueError, match="cell must be from 0 to 3, got 4"):
        grid_pointing_at_area(None, x, right, cell=4)


def test_metrics_are_named_with_options():
    net, _, x = vgg_like()
    cam = maps(2, 1, 12, 12)
    named = metric_of("keep_at_area:background=noise:seed=4")
    assert named.title == "Keep at area background=noise seed=4"
    expected = keep_at_area(net, x, cam, target=1, background="noise", seed=4)
    assert torch.equal(named.function(net, x, cam, target=1), expected)
    assert metric_of("drop_at_area:background=blur").higher_is_better is False
    assert metric_of(" insertion ") is METRICS["insertion"]
    for text, words in {
        "keep_at_are": "no metric 'keep_at_are'; closest: 'keep_at_area'",
        "keep_at_area:backgroud=blur": "no option=value of keep_at_area; closest: 'background'",
        "keep_at_area:inputs=3": "no option=value of keep_at_area",
        "keep_at_area:blur": "no option=value of keep_at_area.*it takes areas, background",
        "": "no metric ''",
    }.items():
        with pytest.raises(ValueError, match=words):
            metric_of(text)
    with pytest.raises(ValueError, match="no metric 3; known"):
        metric_of(3)


def test_shared_measurements_change_nothing():
    """Backgrounds, black given as a number, and photographs are told apart in what is shared."""
    net, _, x = vgg_like()
    cam, other, shared = maps(2, 1, 6, 6), images(1, 3, 12, 12, seed=11), SharedScores()
    kinds = ["black", "mean", "blur", "noise", other, 1 - other]
    for metric in (*BOTH, rank_average_drop):
        for background in kinds:
            options = {"target": TARGETS, "background": background, "baselines": -0.75}
            found = metric(net, x, cam, shared=shared, **options)
            torch.testing.assert_close(found, metric(net, x, cam, **options))
    again = keep_at_area(net, x, 1 - cam, target=TARGETS, background=other, shared=shared)
    torch.testing.assert_close(
        again, keep_at_area(net, x, 1 - cam, target=TARGETS, background=other)
    )


def test_a_scorer_runs_the_changed_inputs():
    net, _, x = vgg_like()
    cam, seen = maps(2, 1, 6, 6), []

    def counted(rows):
        seen.append(len(rows))
        return net(rows)

    found = keep_at_area(net, x, cam, target=TARGETS, background="blur", scorer=counted)
    assert sum(seen) >= 2 * 5
    plain = keep_at_area(net, x, cam, target=TARGETS, background="blur")
    torch.testing.assert_close(found, plain)
