"""Kinds of baselines against loops, and by name."""

import math

import pytest
import torch

from captum_unioncam import LayerScoreCAM
from captum_unioncam.baselines import BASELINES, black_baseline, blurred, named_baseline
from captum_unioncam.metrics import average_drop
from tests.networks import images, vgg_like


def blurred_by_loops(values, size, stdev):
    """Blur one line, each pixel a mean of its neighbours, the line reflected at its ends."""
    n = len(values)
    half = min(size // 2, n - 1)
    weights = {o: math.exp(-0.5 * (o / stdev) ** 2) for o in range(-half, half + 1)}
    found = []
    for i in range(n):
        places = {o: abs(i + o) if i + o < n else 2 * (n - 1) - (i + o) for o in weights}
        found.append(sum(w * values[places[o]] for o, w in weights.items()) / sum(weights.values()))
    return found


@pytest.mark.parametrize(("length", "size", "stdev"), [(9, 5, 1.0), (9, 51, 50.0), (4, 3, 2.0)])
def test_a_blur_is_a_weighted_mean(length, size, stdev):
    x = images(2, 3, length)
    expected = [[blurred_by_loops(c, size, stdev) for c in one] for one in x.tolist()]
    torch.testing.assert_close(blurred(x, size, stdev), torch.tensor(expected).double())


def test_a_blur_of_pictures_is_that_of_rows_and_columns():
    x = images(1, 2, 6, 9)
    columns = [[blurred_by_loops(c, 5, 2.0) for c in one.T.tolist()] for one in x[0]]
    both = [[blurred_by_loops(r, 5, 2.0) for r in torch.tensor(c).T.tolist()] for c in columns]
    torch.testing.assert_close(blurred(x, 5, 2.0)[0], torch.tensor(both).double())
    assert blurred(x.half()).dtype == torch.float32


def test_kinds():
    x, black = images(2, 3, 5, 6), torch.full((1, 3, 1, 1), -2.0).double()
    assert named_baseline("black", x, black) is black
    mean = named_baseline("mean", x, black)
    expected = [[sum(c.flatten().tolist()) / 30 for c in one] for one in x]
    torch.testing.assert_close(mean[..., 0, 0], torch.tensor(expected).double())
    assert mean.shape == (2, 3, 1, 1)
    assert torch.equal(named_baseline("blur", x, black), blurred(x))
    assert all(kind.about for kind in BASELINES.values())
    with pytest.raises(ValueError, match="baseline must be one of.*'blurr'; closest: 'blur'"):
        named_baseline("blurr", x, black)


@pytest.mark.parametrize("name", ["mean", "blur"])
def test_each_input_has_its_own_baseline_and_tables_have_none(name):
    picture, table, whole = images(2, 3, 5, 6), images(2, 4), torch.ones(2, 3, 5, 6).long()
    found = named_baseline(name, (picture, table, whole), (1.0, 2.0, 3.0))
    assert torch.equal(found[0], named_baseline(name, picture, 0))
    assert found[1:] == (0, 0)
    # What is wrong with inputs is said by whoever takes them.
    assert named_baseline(name, torch.full((1, 1, 4), torch.nan), 0) == 0
    assert named_baseline(name, "x", 0) == 0


@pytest.mark.parametrize("name", BASELINES)
def test_methods_and_metrics_take_every_kind(name):
    net, layer, x = vgg_like()
    x.requires_grad_()
    hidden = named_baseline(name, x, black_baseline([0.5] * 3, [0.2] * 3, x))
    assert not hidden.requires_grad
    maps = LayerScoreCAM(net, layer).attribute(x, 1, baselines=hidden)
    drop = average_drop(net, x, maps.clamp(min=0), target=1, baselines=hidden)
    assert drop.shape == (2,)
    everywhere = hidden.expand_as(x).contiguous()
    again = average_drop(net, x, maps.clamp(min=0), target=1, baselines=everywhere)
    torch.testing.assert_close(drop, again)
    assert x.grad is None
