"""Extremal Perturbations against its naive version, and what its masks are."""

import pytest
import torch
from captum.attr import PerturbationAttribution
from torch import nn

from captum_unioncam import METHODS, ExtremalPerturbations
from captum_unioncam.engine.smooth_masks import SmoothMasks
from tests.methods import QUICK, in_turn
from tests.networks import NETWORKS, TARGETS, images, of_rank
from tests.oracles.extremal_perturbations import extremal_perturbations

# Few cells and neighbours, for the sake of loops over pixels.
SMALL = {"steps": 3, "areas": (0.1, 0.4), "cells": 4, "sigma": 1.0}
# Masks as they are found, of an input that fades.
MASKS = {"smooth": 0.0, "baselines": 0.0}
OPTIONS = [
    {**SMALL, "steps": 5, "rate": 1.0},
    {"steps": 2, "areas": (0.3,), "cells": 5, "sigma": 1.7, "smooth": 0.0, "area_weight": 30.0},
    {**SMALL, "rate": 0.7, "mirror": True, "baselines": -0.5},
    {**SMALL, "rate": 0.7, "least_score": 0.3, "score": "probability", "smooth": 0.2},
]


def agrees_with_naive(net, x, target, **options):
    attr = ExtremalPerturbations(net).attribute(x, target, **options)
    index = target if isinstance(target, tuple) else (target,)
    for i in range(len(x)):
        expected = extremal_perturbations(net, x[i : i + 1], index, **options)
        torch.testing.assert_close(attr[i, 0], expected, atol=1e-8, rtol=1e-6)
        assert expected.max() > expected.min()


@pytest.mark.parametrize(
    ("number", "network"),
    in_turn([(n,) for n in range(len(OPTIONS))], [(network,) for network in NETWORKS]),
)
def test_naive(number, network):
    net, _, x = NETWORKS[network]()
    agrees_with_naive(net, x, TARGETS[network], **OPTIONS[number])


@pytest.mark.parametrize("rank", [1, 3])
def test_naive_in_other_ranks(rank):
    net, _, x = of_rank(rank)
    agrees_with_naive(net, x[:1], 2, steps=2, rate=0.5, areas=(0.2,), cells=4, sigma=0.7)


class Brightness(nn.Module):
    """Scores how bright a corner is, and how dark."""

    def forward(self, x):
        corner = x[:, :, :6, 8:].mean((1, 2, 3))
        return torch.stack([corner, -corner], dim=1) * 40


@pytest.fixture
def bright():
    x = torch.zeros(1, 1, 24, 24)
    x[:, :, 1:5, 10:20] = 1
    return x


def test_masks_have_their_area_and_lie_where_the_score_comes_from(bright):
    method = ExtremalPerturbations(Brightness().eval())
    options = {**MASKS, "steps": 100, "rate": 0.08, "cells": 12, "sigma": 1.5}
    for area in (0.05, 0.1, 0.3):
        keeps = method.attribute(bright, 0, areas=(area,), **options)
        avoids = method.attribute(bright, 1, areas=(area,), **options)
        assert keeps.mean().item() == pytest.approx(area, abs=0.02)
        shown, hidden = (m[:, :, 1:5, 10:20].sum() / m.sum() for m in (keeps, avoids))
        # A mask at random would lie there by 0.07.
        assert shown > 0.5 * min(1, 40 / 576 / area)
        assert hidden < 0.02


def test_more_steps_keep_more_of_the_score():
    net, _, x = NETWORKS["vgg_like"]()
    method = ExtremalPerturbations(net)
    scores = []
    for weight in (0.0, 1.0):
        # Without a score there is the area alone: any mask of it.
        options = {**MASKS, "areas": (0.3,), "steps": 100, "rate": 0.08}
        m = method.attribute(x, 1, score=lambda out, w=weight: w * out, **options)
        scores.append(net(m * x)[:, 1].detach())
    assert (scores[1] > scores[0] + 0.1).all()


def test_the_smallest_area_that_scores_enough(bright):
    method = ExtremalPerturbations(Brightness().eval())
    options = {**MASKS, "steps": 60, "rate": 0.2, "cells": 8, "sigma": 1.0}
    areas = (0.4, 0.02, 0.1)
    alone = {a: method.attribute(bright, 0, areas=(a,), **options) for a in areas}
    scores = {a: Brightness().eval()(alone[a] * bright)[0, 0].item() for a in areas}
    assert scores[0.02] < scores[0.1] <= scores[0.4]
    for least, area in (
        (scores[0.02] - 1e-3, 0.02),
        (scores[0.02] + 1e-3, 0.1),
        (scores[0.4] + 1, 0.4),
    ):
        attr = method.attribute(bright, 0, areas=areas, least_score=least, **options)
        torch.testing.assert_close(attr, alone[area])
    mean = method.attribute(bright, 0, areas=areas, **options)
    torch.testing.assert_close(mean, sum(alone.values()) / 3)


def test_each_example_has_its_own_smallest_area(bright):
    method = ExtremalPerturbations(Brightness().eval())
    options = {**MASKS, "steps": 60, "rate": 0.2, "cells": 8, "sigma": 1.0}
    options |= {"areas": (0.02, 0.2), "least_score": 10.0}
    x = torch.cat([bright, bright * 5])
    attr = method.attribute(x, 0, **options)
    for i in range(2):
        torch.testing.assert_close(attr[[i]], method.attribute(x[[i]], 0, **options))
    areas = attr.mean((1, 2, 3))
    assert areas.tolist() == pytest.approx([0.2, 0.02], abs=0.03)


def test_the_authors_grid_at_their_size():
    made = SmoothMasks((224, 224), 32, 3.0, torch.zeros(()))
    assert made.grid == [32, 32]
    # Seven pixels a cell, nine by nine grid points around each.
    assert made.kernel.shape == (7, 7, 81)
    # A grid point is whole within half of its reach, 21 pixels, and falls off beyond.
    assert made.kernel[3, 3].reshape(9, 9)[4].tolist() == pytest.approx(
        [0.2494, 0.6065, 0.9460, 1, 1, 1, 0.9460, 0.6065, 0.2494], abs=1e-4
    )


def test_masks_of_a_uniform_grid_hide_nothing_before_the_first_step():
    made = SmoothMasks((30, 20), 6, 1.0, torch.zeros((), dtype=torch.float64))
    m = made.masks(torch.ones(2, 1, *made.grid, dtype=torch.float64))
    assert m.shape == (2, 1, 30, 20)
    assert (m > 0.9).all()
    assert (m <= 1).all()
    assert not made.masks(torch.zeros(1, 1, *made.grid, dtype=torch.float64)).any()


def test_inputs_of_other_sizes_share_the_masks():
    net, _, x = NETWORKS["gap_head"]()
    small = images(2, 3, 7, 9, seed=4)
    attr = ExtremalPerturbations(lambda a, b: net(a) + 0 * net(b)).attribute((x, small), 1, **SMALL)
    torch.testing.assert_close(attr, ExtremalPerturbations(net).attribute(x, 1, **SMALL))
    both = ExtremalPerturbations(lambda a, b: net(a) + net(b)).attribute((x, small), 1, **SMALL)
    assert not torch.allclose(both, attr)


def test_a_scorer_runs_what_needs_no_gradients():
    net, _, x = NETWORKS["vgg_like"]()
    rows = []

    def scorer(inputs):
        assert not inputs.requires_grad
        rows.append(len(inputs))
        return net(inputs)

    options = {**SMALL, "least_score": 0.0}
    attr = ExtremalPerturbations(net).attribute(x, 1, scorer=scorer, **options)
    torch.testing.assert_close(attr, ExtremalPerturbations(net).attribute(x, 1, **options))
    assert rows


@pytest.mark.parametrize("name", ["extremalperturbations", "opticam", "refinedcam"])
def test_one_example_in_a_callers_inference_mode(name):
    # A row that is taken without a copy is the caller's own tensor.
    net, layer, x = of_rank(1)
    method = METHODS[name].cls(*(net, layer)[: 1 + METHODS[name].needs_layer])
    expected = method.attribute(x[:1], 1, **QUICK[name])
    with torch.inference_mode():
        attr = method.attribute(x[:1].clone(), 1, **QUICK[name])
    assert torch.equal(attr, expected)


def test_progress_on_request_only(capsys):
    net, _, x = NETWORKS["vgg_like"]()
    ExtremalPerturbations(net).attribute(x, 1, **SMALL)
    assert capsys.readouterr() == ("", "")
    ExtremalPerturbations(net).attribute(x, 1, show_progress=True, **SMALL)
    assert "Extremal Perturbations attribution: 100%" in capsys.readouterr().err


def test_it_is_a_captum_object():
    method = ExtremalPerturbations(NETWORKS["vgg_like"]()[0])
    assert isinstance(method, PerturbationAttribution)
    assert method.get_name() == "Extremal Perturbations"


def test_a_model_that_hides_its_input_from_gradients_is_refused():
    net, _, x = NETWORKS["vgg_like"]()
    with pytest.raises(ValueError, match="no gradients flow from the target's score to the input"):
        ExtremalPerturbations(lambda i: net(i.detach())).attribute(x, 1, **SMALL)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"areas": 0.1}, TypeError, r"areas must be a sequence of numbers, such as \(0.1"),
        ({"areas": (5,)}, ValueError, "between 0 and 1, got 5; 5 percent are 0.05"),
        ({"areas": (0.001,)}, ValueError, "an area of 0.001 holds 0 of 144 pixels"),
        ({"steps": 0}, ValueError, "steps must be a finite number greater than 0"),
        ({"cells": 1.5}, TypeError, "cells must be an int, got float"),
        ({"sigma": 0}, ValueError, "sigma must be a finite number greater than 0"),
        ({"smooth": -1}, ValueError, "smooth must be a finite number at least 0"),
        ({"mirror": 1}, TypeError, "mirror"),
        ({"least_score": "high"}, TypeError, "least_score must be a number, got str"),
    ],
)
def test_bad_options(options, error, message):
    net, _, x = NETWORKS["vgg_like"]()
    with pytest.raises(error, match=message):
        ExtremalPerturbations(net).attribute(x, 1, **options)
