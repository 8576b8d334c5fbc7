"""Values that rounding alone tells apart are equal: one bit moves no map."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from captum_unioncam import LayerFDCAM, LayerScoreCAM, LayerUnionCAM, LayerXGradCAM
from captum_unioncam.engine.maps import (
    extrema,
    resize,
    scale_for_resize,
    spatial_mean,
    unit_range,
)
from captum_unioncam.engine.mask_pairs import spanning
from captum_unioncam.engine.ties import TIE, first_largest, rounding, settled
from captum_unioncam.methods.fusion_cam import shares
from captum_unioncam.methods.union_cam import denoise, select
from tests.networks import images, seeded

pytestmark = pytest.mark.filterwarnings("ignore:UnionCAM")
close = torch.testing.assert_close
both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
UP, DOWN = torch.inf, -torch.inf


def one_bit(values, where, to):
    """Return the values with one of them moved by its last bit."""
    moved = values.clone()
    moved[where] = torch.nextafter(moved[where], torch.tensor(to, dtype=values.dtype))
    assert not torch.equal(moved, values)
    return moved


@both_precisions
def test_the_tolerance_is_the_one_that_is_stated(dtype):
    one = torch.ones((), dtype=dtype)
    eps = torch.finfo(dtype).eps
    assert rounding(one) == TIE * eps == 64 * eps
    assert settled(64 * eps * one, one) == 0
    assert settled(66 * eps * one, one) == 66 * eps
    # Half precision has been widened: it is exact there.
    assert settled(torch.tensor(0.004).bfloat16(), torch.tensor(1.0).bfloat16()) > 0


@both_precisions
@pytest.mark.parametrize("to", [UP, DOWN])
@pytest.mark.parametrize(
    ("denoise_on", "alpha"), list(itertools.product(["all", "positive"], ["sum", "count"]))
)
def test_denoising_keeps_gradients_that_equal_the_percentile(dtype, to, denoise_on, alpha):
    A = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    W = torch.full_like(A, 0.1)
    W[0, 1, :2] = -0.3
    for theta in (10, 60, 100):
        expected = denoise(A, W, theta, denoise_on, alpha)
        for where in ((0, 0, 1, 2), (0, 1, 3, 3)):
            moved = denoise(A, one_bit(W, where, to), theta, denoise_on, alpha)
            close(moved, expected, rtol=1e-5 if dtype == torch.float32 else 1e-13, atol=0)


def test_denoising_drops_what_is_below_the_percentile_by_more():
    A = torch.ones(1, 1, 4, dtype=torch.float64)
    W = torch.tensor([[[1.0, 1.0, 1.0, 1.0 - 1e-12]]], dtype=torch.float64)
    # The percentile at 60 is 1, the last but one gradient.
    assert denoise(A, W, 60)[0, 0, 3] == 0
    assert denoise(A, W, 60)[0, 0, 0] == pytest.approx(1 / 3)


def test_gradients_that_cancel_but_for_rounding_are_not_counted():
    A = torch.ones(1, 1, 4, dtype=torch.float64)
    W = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]], dtype=torch.float64)
    noisy = W + torch.tensor([0.0, 0.0, 1e-17, -1e-17], dtype=torch.float64)
    assert torch.equal(denoise(A, noisy, 0, "positive", "count"),
                       denoise(A, W, 0, "positive", "count"))  # fmt: skip


@both_precisions
@pytest.mark.parametrize("base", [0.0, 0.5])
def test_equal_betas_select_the_region(dtype, base):
    D, R, DR = torch.rand(3, 1, 1, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    beta = torch.full((1,), 0.25, dtype=dtype)
    over = torch.full((1,), base, dtype=dtype)
    for to in (UP, DOWN):
        L, selected = select(D, R, DR, beta, one_bit(beta, 0, to), over)
        assert torch.equal(L, R)
        assert not selected.any()
    L, selected = select(D, R, DR, beta, beta * 1.001, over)
    assert torch.equal(L, DR)
    assert selected.all()


def test_betas_round_with_the_score_of_the_baseline():
    D, R, DR = torch.rand(3, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    low, high = torch.tensor([1e-6]), torch.tensor([2e-6])
    assert select(D, R, DR, low, high)[1].all()
    # The same difference of scores near one is what single precision leaves of nothing.
    assert not select(D, R, DR, low, high, torch.tensor([1.0]))[1].any()


class Saturated(nn.Module):
    """Its score is one for whatever leaves anything, but for the last bits."""

    def __init__(self, sign):
        super().__init__()
        self.conv, self.sign = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU()), sign

    def forward(self, x):
        maps = self.conv(x)
        z = maps.flatten(1).sum(1)
        shown = x.flatten(1).abs().mean(1)
        # The gradient is that before the score saturates.
        value = (100 * z).clamp(max=1).detach() + z - z.detach() + self.sign * 2.0**-50 * shown
        return torch.stack([value, -value], dim=1)


def test_a_tie_of_scores_selects_the_region_whatever_the_last_bits():
    found = []
    for sign in (1, 0, -1):
        net = seeded(Saturated(sign))
        _, details = LayerUnionCAM(net, net.conv).attribute(
            images(1, 2, 8, 8), 0, score="logit", return_details=True
        )
        assert details.beta_region.item() == pytest.approx(1)
        assert details.denoised.any()
        assert not details.selected_union.any()
        found.append(details)
    close(found[0].union, found[1].union)
    close(found[0].union, found[2].union)


class Nearly(nn.Module):
    """A network that returns the same for everything, but for the last bit."""

    def __init__(self, sign):
        super().__init__()
        self.conv, self.sign = nn.Conv2d(2, 4, 3), sign

    def forward(self, x):
        maps = self.conv(x).relu()
        lit = (x.flatten(1).abs().sum(1) > 0).to(x.dtype)
        value = 1 + self.sign * 2.0**-52 * lit + 0 * maps.flatten(1).sum(1)
        return torch.stack([value, 2 - value], dim=1)


@pytest.mark.parametrize("sign", [1, -1])
def test_betas_of_rounding_are_zero(sign):
    net = seeded(Nearly(sign))
    x = images(1, 2, 8, 8)
    assert net(x)[0, 0] != net(0 * x)[0, 0]
    _, details = LayerUnionCAM(net, net.conv).attribute(x, 0, score="logit", return_details=True)
    assert not torch.cat(details[3:6]).any()
    assert not details.union.any()


class OnePosition(nn.Module):
    """Global pooling within the layer: every channel has one position, and they all are alike."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x):
        return self.head(self.layer(x))


@both_precisions
def test_fd_cam_of_one_position_scales_no_rounding(dtype):
    net = seeded(OnePosition()).to(dtype)
    x = images(2, 3, 8, 8).to(dtype)
    method = LayerFDCAM(net, net.layer)
    expected = method.attribute(x, 1)
    for rows in (1, 2, 3, 5, 16):
        close(method.attribute(x, 1, perturbations_per_eval=rows), expected)
    with torch.no_grad():
        A = net.layer(x).requires_grad_()
    with torch.enable_grad():
        (W,) = torch.autograd.grad(net.head(A)[:, 1].sum(), A)
    # All channels are alike, so that no group is above their quantile and all S are equal.
    live = (A > 0).flatten(1)
    assert live.all(1).any()
    alpha = unit_range(W.flatten(1)[:, None])[:, 0]
    close(expected.flatten(1)[live.all(1)],
          ((alpha - 0.5) * A.detach().flatten(1)).sum(1, keepdim=True)[live.all(1)])  # fmt: skip


@both_precisions
@pytest.mark.parametrize("to", [UP, DOWN])
def test_a_map_that_a_bit_makes_uneven_is_flat(dtype, to):
    flat = torch.full((1, 1, 3, 3), 0.7, dtype=dtype)
    uneven = one_bit(flat, (0, 0, 1, 1), to)
    low, high = extrema(uneven)
    assert torch.equal(low, high)
    assert not unit_range(uneven).any()
    assert not scale_for_resize(uneven, [(5, 5)]).any()
    # Contrast that is more than rounding still counts, however small the values.
    for scale in (1.0, 1e-30):
        contrast = (flat * scale).clone()
        contrast[0, 0, 1, 1] *= 1.001
        assert unit_range(contrast).amax() == 1


def test_a_channel_that_a_bit_makes_uneven_masks_nothing():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Conv2d(2, 3, 1), nn.Linear(3 * 36, 4)

        def forward(self, x):
            return self.head(self.layer(x).flatten(1))

    net = seeded(Net())
    net.layer.weight.data[1] = 0
    net.layer.bias.data[1] = 0.7
    x = images(1, 2, 6, 6)
    expected = LayerScoreCAM(net, net.layer).attribute(x, 2)
    # The channel is 0.7 but for the last bits.
    net.layer.weight.data[1] = 1e-16
    A = net.layer(x)[0, 1]
    assert A.amax() > A.amin()
    close(LayerScoreCAM(net, net.layer).attribute(x, 2), expected)


def test_means_that_cancel_are_zero():
    values = torch.tensor([[[0.1, 0.2, -0.3]]], dtype=torch.float64)
    assert values.mean() != 0
    assert spatial_mean(values).item() == 0
    assert spatial_mean(values + 1e-9).item() == pytest.approx(1e-9, rel=1e-6)


def test_the_first_of_equal_ones_is_the_largest():
    values = torch.tensor([[0.2, 0.5, 0.5, 0.1], [1.0, 0.3, 0.2, 1.0 + 1e-3]])
    size = torch.tensor(1.0)
    assert first_largest(values, size).tolist() == [1, 3]
    assert first_largest(one_bit(values, (0, 2), UP), size).tolist() == [1, 3]
    assert first_largest(torch.full((1, 3), -torch.inf), size).tolist() == [0]


@both_precisions
@pytest.mark.parametrize("to", [UP, DOWN])
def test_xgrad_cam_weighs_no_channel_whose_sum_is_rounding(dtype, to):
    A = torch.tensor([[[0.5, 0.25, -0.75], [0.1, 0.2, 0.3]]], dtype=dtype)
    W = torch.tensor([[[0.3, 0.1, 0.2], [0.1, 0.1, 0.1]]], dtype=dtype)
    expected = LayerXGradCAM.cam(None, SimpleNamespace(activations=A, gradients=W))
    moved = SimpleNamespace(activations=one_bit(A, (0, 0, 2), to), gradients=W)
    assert moved.activations[0, 0].sum() != 0
    close(LayerXGradCAM.cam(None, moved), expected)
    close(expected, 0.1 * A[:, 1:])


@both_precisions
def test_shares_of_fusion_cam_divide_by_no_rounding(dtype):
    first = torch.tensor([0.3, -0.2, -0.2], dtype=dtype)
    second = torch.tensor([-0.3, -0.2, -0.3], dtype=dtype)
    expected = torch.tensor([1.0, 0.5, 1.0], dtype=dtype)
    for where, to in itertools.product((0, 1), (UP, DOWN)):
        close(shares(first, one_bit(second, where, to))[0], expected)


@both_precisions
def test_resizing_one_position_makes_no_order(dtype):
    maps = torch.rand(2, 3, 1, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    resized = resize(maps, (7, 9))
    assert resized.shape == (2, 3, 7, 9)
    assert torch.equal(resized, resized[:, :, :1].expand_as(resized))
    close(resized, nn.functional.interpolate(maps, (7, 9), mode="bilinear"))


def test_of_masks_that_tell_equally_much_the_first_is_taken():
    # Two centred masks are each other's negatives: their variances are equal.
    masks = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for where, to in itertools.product(itertools.product((0, 1), range(6)), (UP, DOWN)):
        moved = one_bit(masks, where, to)
        assert torch.equal(spanning(moved, 1), moved[:1])
