"""What holds for any shape and any values (hypothesis)."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from captum_unioncam import LayerUnionCAM
from captum_unioncam.engine.maps import distinct, percentile, resize, scale_for_resize, unit_range
from captum_unioncam.methods.union_cam import denoise, unite
from tests.networks import images, seeded

pytestmark = pytest.mark.filterwarnings("ignore:UnionCAM is blank")
examples = settings(max_examples=60, deadline=None)
sizes = st.integers(1, 6)
seeds = st.integers(0, 10_000)


def values(seed, *shape):
    """Values with zeros, repeats and flat channels among them, as ReLU layers have."""
    generator = np.random.default_rng(seed)
    data = generator.normal(size=shape) * 10.0 ** generator.integers(-12, 3)
    data[generator.random(shape) < generator.random()] = 0
    data[:, generator.random(shape[1]) < 0.3] = generator.normal()
    return torch.from_numpy(data)


@examples
@given(seeds, sizes, sizes, sizes, sizes)
def test_any_layer_shape(seed, batch, channels, height, width):
    net = nn.Sequential(
        *(nn.Conv2d(2, channels, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d((height, width))),
        *(nn.Flatten(), nn.Linear(channels * height * width, 3)),
    )
    seeded(net, seed)
    x = values(seed, batch, 2, 7, 8)
    attr, details = LayerUnionCAM(net, net[2]).attribute(
        x, 1, score="logit" if seed % 2 else "probability", return_details=True
    )
    for maps in (attr, *details[:3]):
        assert maps.shape == (batch, 1, height, width)
        up = resize(maps, (7, 8)).flatten(1)
        shown = up.any(1)
        assert torch.allclose(up[shown].amin(1), up.new_zeros(()), atol=1e-9)
        assert torch.allclose(up[shown].amax(1), up.new_ones(()), atol=1e-9)
    assert not details.selected_union[~details.union.flatten(1).any(1)].any()
    expected = torch.where(
        details.selected_union[:, None, None, None], details.union, details.region
    )
    assert torch.equal(attr, expected)
    if height == width == 1:
        assert not attr.any()


@examples
@given(seeds, sizes, sizes, sizes, st.floats(0, 100))
def test_percentile_is_numpys(seed, rows, channels, length, theta):
    maps = values(seed, rows, channels, length)
    expected = np.percentile(maps.numpy(), theta, axis=2, keepdims=True)
    torch.testing.assert_close(percentile(maps, theta), torch.from_numpy(expected))
    positive = percentile(maps, theta, of_positive=True)
    for i in range(rows):
        for k in range(channels):
            above = maps[i, k][maps[i, k] > 0]
            wanted = np.percentile(above.numpy(), theta) if len(above) else maps[i, k].max()
            assert np.isclose(positive[i, k].item(), wanted, atol=0)


@examples
@given(seeds, sizes, sizes, st.integers(2, 6), st.floats(0, 99))
def test_denoising_invariants(seed, rows, channels, length, theta):
    A, W = values(seed, rows, channels, length).abs(), values(seed + 1, rows, channels, length)
    L = denoise(A, W, theta)
    # Sum: each channel's coefficients add up to one, so scaling its gradients changes nothing.
    scale = torch.rand(1, channels, 1, dtype=torch.float64) + 0.5
    torch.testing.assert_close(denoise(A, W * scale, theta), L)
    live = (W > 0).any(2)
    torch.testing.assert_close(
        denoise(torch.ones_like(A), W, theta).sum((1, 2)), live.sum(1).double()
    )
    assert torch.equal(denoise(A, -W.abs(), theta), torch.zeros_like(L))
    torch.testing.assert_close(denoise(A, W, 0), denoise(A, W.relu(), 0))
    assert torch.isfinite(denoise(A, W, theta, "positive", "count")).all()


@examples
@given(seeds, sizes, sizes, sizes, sizes)
def test_scaling_spans_the_resized_map(seed, rows, channels, height, width):
    maps = values(seed, rows, channels, height, width)
    scaled = scale_for_resize(maps, [(9, 11), (4, 5)])
    assert torch.isfinite(scaled).all()
    ups = [resize(scaled, size).flatten(2) for size in [(9, 11), (4, 5)]]
    low = torch.minimum(ups[0].amin(2), ups[1].amin(2))
    high = torch.maximum(ups[0].amax(2), ups[1].amax(2))
    shown = scaled.flatten(2).any(2)
    assert torch.allclose(low[shown], low.new_zeros(()), atol=1e-9)
    assert torch.allclose(high[shown], low.new_ones(()), atol=1e-9)
    flat = maps.flatten(2).amax(2) == maps.flatten(2).amin(2)
    assert not shown[flat].any()


@examples
@given(seeds, sizes, sizes, sizes)
def test_distinct_maps_reproduce_the_stack(seed, rows, channels, length):
    generator = np.random.default_rng(seed)
    unit = unit_range(torch.from_numpy(generator.integers(0, 3, (rows, channels, length)) * 1.0))
    found = distinct(unit)
    rebuilt = torch.zeros_like(unit)
    rebuilt[found.channels] = found.maps[found.inverse, 0]
    assert torch.equal(rebuilt, unit)
    stack = {(int(r), *m.flatten().tolist()) for r, m in zip(found.rows, found.maps, strict=True)}
    assert len(stack) == len(found.rows)
    assert found.maps.flatten(1).any(1).all()


def test_two_negative_scores_unite_to_nothing():
    D, R = torch.tensor([[[[-0.02, 1.0]]]]), torch.tensor([[[[1.02, 0.0]]]])
    assert not unite(D, R, torch.tensor([-0.5]), torch.tensor([-0.1])).any()
    assert unite(D, R, torch.tensor([-0.5]), torch.tensor([0.1])).any()


def test_a_constant_network_selects_the_region():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            maps = self.conv(x)
            return maps.flatten(1)[:, :2] * 0 + torch.tensor([2.0, 1.0])

    net = seeded(Constant())
    net.conv.weight.data.abs_()
    attr, details = LayerUnionCAM(net, net.conv).attribute(
        images(2, 3, 8, 8), 0, return_details=True
    )
    assert not details.selected_union.any()
    assert not torch.cat(details[3:6]).any()
    assert torch.equal(attr, details.region)
    assert attr.any()
