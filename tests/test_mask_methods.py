"""What holds of the methods that mask the input, beyond agreement with their naive versions."""

import pytest
import torch
from captum.attr import LayerGradCam, PerturbationAttribution
from torch import nn

from captum_unioncam.engine.maps import scale_for_resize
from captum_unioncam.methods.controls import LayerCenterCAM, LayerOnesCAM, LayerRandomCAM
from captum_unioncam.methods.feature_cam import LayerFeatureCAM
from captum_unioncam.methods.fusion_cam import LayerFusionCAM, shares
from captum_unioncam.methods.grad_cam_plus_plus import LayerGradCAMPlusPlus, plus_plus_weights
from captum_unioncam.methods.grad_plus_plus_score_cam import (
    LayerGradPlusPlusScoreCAM,
)
from captum_unioncam.methods.group_cam import LayerGroupCAM, blurred
from captum_unioncam.methods.is_cam import LayerISCAM
from captum_unioncam.methods.rise import RISE
from captum_unioncam.methods.score_cam import LayerScoreCAM
from captum_unioncam.methods.ss_cam import LayerSSCAM
from captum_unioncam.methods.union_cam import LayerUnionCAM
from tests.networks import NETWORKS, TARGETS, TwoInputs, images, of_rank, seeded
from tests.oracles.masks import rise

pytestmark = pytest.mark.filterwarnings("ignore:.*is blank for example")

LAYER_METHODS = [
    (LayerScoreCAM, {}),
    (LayerSSCAM, {"n_samples": 3}),
    (LayerSSCAM, {"n_samples": 3, "noise_on": "mask"}),
    (LayerSSCAM, {"n_samples": 3, "noise_on": "input"}),
    (LayerISCAM, {"n_steps": 3}),
    (LayerGroupCAM, {"groups": 3}),
    (LayerFusionCAM, {}),
    (LayerGradPlusPlusScoreCAM, {}),
    (LayerGradPlusPlusScoreCAM, {"combine": "product"}),
]
CONTROLS = [(LayerOnesCAM, {}), (LayerRandomCAM, {"seed": 3}), (LayerCenterCAM, {})]
RISE_OPTIONS = {"n_masks": 40, "cells": 4, "keep": 0.4}


def ids(cases):
    return ["-".join([cls.__name__, *map(str, options.values())]) for cls, options in cases]


every_method = pytest.mark.parametrize(
    ("cls", "options"), LAYER_METHODS + CONTROLS, ids=ids(LAYER_METHODS + CONTROLS)
)
scored_methods = pytest.mark.parametrize(("cls", "options"), LAYER_METHODS, ids=ids(LAYER_METHODS))


def close(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def with_dead_channels(network="vgg_like"):
    """A network like another, with three channels more that are always zero."""
    net, layer, x = NETWORKS[network]()
    conv, channels = net[3], net[3].out_channels
    wider = nn.Conv2d(conv.in_channels, channels + 3, 3, padding=1).double()
    head = nn.Linear((channels + 3) * 9, 5).double()
    with torch.no_grad():
        wider.weight[:channels], wider.bias[:channels] = conv.weight, conv.bias
        wider.weight[channels:], wider.bias[channels:] = 0, -1
        head.weight[:, : channels * 9], head.bias[:] = net[7].weight, net[7].bias
        head.weight[:, channels * 9 :] = 5
    wide = nn.Sequential(*net[:3], wider, nn.ReLU(), net[5], nn.Flatten(), head).eval()
    return (net, layer), (wide, wide[4]), x


def permuted_gap_head(order):
    """The network with a global average pool, its last channels in another order."""
    net, layer, x = NETWORKS["gap_head"]()
    with torch.no_grad():
        net[2].weight[:], net[2].bias[:] = net[2].weight[order], net[2].bias[order]
        net[6].weight[:] = net[6].weight[:, order]
    return net, layer, x


class TestEveryMethod:
    @every_method
    @pytest.mark.parametrize("network", NETWORKS)
    def test_a_batch_equals_single_calls(self, cls, options, network):
        net, layer, x = NETWORKS[network]()
        x = torch.cat([x, x.flip(-1) * 0.5])
        batch = cls(net, layer).attribute(x, TARGETS[network], **options)
        for i in range(len(x)):
            single = cls(net, layer).attribute(x[i : i + 1], TARGETS[network], **options)
            close(batch[i : i + 1], single)

    @scored_methods
    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_chunks_do_not_change_the_map(self, cls, options, rank):
        net, layer, x = of_rank(rank)
        method = cls(net, layer)
        expected = method.attribute(x, 2, **options)
        assert expected.shape == (3, 1, *net[:3](x).shape[2:])
        for chunk in (1, 7, 64):
            close(method.attribute(x, 2, perturbations_per_eval=chunk, **options), expected)

    @every_method
    def test_the_users_random_state_is_not_touched(self, cls, options):
        net, layer, x = of_rank(2)
        maps = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            maps.append(cls(net, layer).attribute(x, 1, **options))
            assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(*maps)

    @scored_methods
    def test_dead_channels_change_nothing(self, cls, options):
        # Group-CAM's groups are consecutive channels: one a channel, so that none changes.
        options = options | {"groups": 99} if cls is LayerGroupCAM else options
        narrow, wide, x = with_dead_channels()
        close(cls(*wide).attribute(x, 1, **options), cls(*narrow).attribute(x, 1, **options))

    @scored_methods
    def test_a_dead_layer_is_blank(self, cls, options):
        net, layer, x = NETWORKS["vgg_like"]()
        with torch.no_grad():
            net[3].bias.fill_(-1e3)
        with pytest.warns(UserWarning, match=f"{cls.get_name()} is blank".replace("+", r"\+")):
            attr = cls(net, layer).attribute(x, 1, **options)
        assert not attr.any()

    @scored_methods
    def test_the_order_of_channels_does_not_matter(self, cls, options):
        # I6: to all but Group-CAM with its consecutive channels.
        net, layer, x = NETWORKS["gap_head"]()
        expected = cls(net, layer).attribute(x, 1, **options)
        attr = cls(*permuted_gap_head([3, 0, 5, 1, 4, 2])[:2]).attribute(x, 1, **options)
        if cls is LayerGroupCAM:
            assert not torch.allclose(attr, expected)
        else:
            close(attr, expected)

    @scored_methods
    def test_two_masked_inputs_of_different_sizes(self, cls, options):
        net, layer, x = NETWORKS["gap_head"]()
        small = images(2, 3, 7, 9, seed=4)

        def both(a, b):
            return net(b) + net(a)

        attr = cls(both, layer).attribute((x, small), 1, **options)
        assert attr.shape == (2, 1, 5, 7)
        assert attr.isfinite().all()
        single = cls(both, layer).attribute((x[1:], small[1:]), 1, **options)
        close(attr[1:], single)

    @scored_methods
    def test_the_baselines_count(self, cls, options):
        net, layer, x = NETWORKS["vgg_like"]()
        method = cls(net, layer)
        black = method.attribute(x, 1, baselines=0, **options)
        close(method.attribute(x, 1, baselines=torch.zeros_like(x), **options), black)
        assert not torch.allclose(method.attribute(x, 1, baselines=0.7, **options), black)

    @every_method
    def test_half_precision(self, cls, options):
        net, layer, x = NETWORKS["vgg_like"]()
        expected = cls(net, layer).attribute(x, 2, **options)
        attr = cls(net.bfloat16(), layer).attribute(x.bfloat16(), 2, **options)
        assert attr.dtype == torch.bfloat16
        if cls is not LayerOnesCAM:
            pair = torch.stack([attr.double().flatten(), expected.flatten()])
            assert torch.corrcoef(pair)[0, 1] > 0.9

    def test_progress_bars_on_request(self, capsys):
        net, layer, x = of_rank(2)
        for cls, options in LAYER_METHODS:
            cls(net, layer).attribute(x, 1, show_progress=True, **options)
            assert f"{cls.get_name()} attribution: 100%" in capsys.readouterr().err
            cls(net, layer).attribute(x, 1, **options)
            assert capsys.readouterr() == ("", "")


class TestScoreFamily:
    @pytest.mark.parametrize(
        ("cls", "options"),
        [
            (LayerScoreCAM, {}),
            (LayerSSCAM, {"n_samples": 2, "weights": "score"}),
            (LayerISCAM, {"n_steps": 2, "weights": "score"}),
        ],
    )
    @pytest.mark.parametrize("network", ["vgg_like", "signed"])
    def test_a_constant_score_sums_the_live_channels(self, cls, options, network):
        net, layer, x = NETWORKS[network]()
        kept = []
        handle = layer.register_forward_hook(lambda m, i, o: kept.append(o.detach().clone()))
        net(x)
        handle.remove()
        attr = cls(net, layer).attribute(
            x, 0, score=lambda out: torch.full_like(out[:, 0], 0.25), **options
        )
        close(attr, 0.25 * kept[0].sum(1, keepdim=True))

    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("noise_on", ["activations", "mask", "input"])
    def test_without_noise_ss_cam_is_score_cam(self, network, noise_on):
        net, layer, x = NETWORKS[network]()
        target = TARGETS[network]
        expected = LayerScoreCAM(net, layer).attribute(x, target, weights="softmax")
        attr = LayerSSCAM(net, layer).attribute(
            x, target, noise_on=noise_on, stdev=0.0, n_samples=2
        )
        close(attr, expected)

    def test_one_step_of_is_cam_is_score_cam(self):
        net, layer, x = NETWORKS["vgg_like"]()
        expected = LayerScoreCAM(net, layer).attribute(x, 1, weights="softmax")
        for cumulative in (False, True):
            attr = LayerISCAM(net, layer).attribute(x, 1, n_steps=1, cumulative=cumulative)
            close(attr, expected)

    @pytest.mark.parametrize("network", NETWORKS)
    def test_the_region_of_union_cam_is_score_cam(self, network):
        # I9: where the union is not selected the map is Score-CAM's, scaled, bit for bit.
        net, layer, x = NETWORKS[network]()
        target = TARGETS[network]
        attr, details = LayerUnionCAM(net, layer).attribute(x, target, return_details=True)
        region = LayerScoreCAM(net, layer).attribute(x, target, relu_attributions=True)
        assert torch.equal(scale_for_resize(region, [x.shape[2:]]), details.region)
        same = (attr == details.region).flatten(1).all(1)
        assert torch.equal(same, ~details.selected_union)

    def test_seeds_of_ss_cam(self):
        net, layer, x = NETWORKS["vgg_like"]()
        method = LayerSSCAM(net, layer)
        maps = [method.attribute(x, 1, n_samples=2, seed=seed) for seed in (0, 0, 1)]
        assert torch.equal(maps[0], maps[1])
        assert not torch.allclose(maps[0], maps[2])

    def test_inputs_that_are_not_masked_stay_clean(self):
        net = seeded(TwoInputs())
        image, table, scale = images(3, 2, 6, 6), images(3, 3, seed=1), images(3, seed=2)
        seen = []

        def forward(i, t, s):
            seen.append(t.clone())
            return net(i, t, s)

        method = LayerSSCAM(forward, net.conv)
        method.attribute((image, table), 2, scale, noise_on="input", n_samples=2)
        assert all((row == table).all(1).any() for rows in seen for row in rows)


class TestGroupCAM:
    @pytest.mark.parametrize("groups", [1, 2, 3, 6, 7, 50])
    def test_rows_forwarded(self, groups):
        net, layer, x = NETWORKS["vgg_like"]()
        rows = []
        method = LayerGroupCAM(lambda i: rows.append(len(i)) or net(i), layer)
        method.attribute(x[:1], 1, groups=groups)
        assert sum(rows) <= 2 + min(groups, 7)

    def test_one_group_is_one_map(self):
        # I10: the map is Grad-CAM's, as a mask, times what that earns.
        net, layer, x = NETWORKS["vgg_like"]()
        attr = LayerGroupCAM(net, layer).attribute(x, 2, groups=1, theta=0)
        gradcam = LayerGradCam(net, layer).attribute(x, 2, relu_attributions=True).detach()
        assert attr.flatten(1).any(1).all()
        for L, G in zip(attr.flatten(1), gradcam.flatten(1), strict=True):
            assert torch.corrcoef(torch.stack([L, G]))[0, 1].abs() > 1 - 1e-9

    def test_a_constant_score_is_blank(self):
        net, layer, x = NETWORKS["vgg_like"]()
        attr = LayerGroupCAM(net, layer).attribute(
            x, 1, groups=3, score=lambda out: torch.ones_like(out[:, 0])
        )
        assert not attr.any()

    def test_nothing_lies_above_the_largest_value(self):
        net, layer, x = NETWORKS["vgg_like"]()
        assert not LayerGroupCAM(net, layer).attribute(x, 1, theta=100).any()

    def test_the_default_baseline_is_the_blurred_input(self):
        net, layer, x = NETWORKS["vgg_like"]()
        method = LayerGroupCAM(net, layer)
        close(method.attribute(x, 1), method.attribute(x, 1, baselines=blurred(x)))
        assert not torch.allclose(method.attribute(x, 1), method.attribute(x, 1, baselines=0))

    def test_blur(self):
        x = images(2, 3, 60, 64)
        assert blurred(x).std() < 0.2 * x.std()
        flat = torch.full((1, 2, 30), 0.3, dtype=torch.float64)
        close(blurred(flat), flat)
        close(blurred(x.flip(-1)), blurred(x).flip(-1))
        close(blurred(x.transpose(2, 3)), blurred(x).transpose(2, 3))
        assert blurred(images(1, 2, 1, 4, 5)).shape == (1, 2, 1, 4, 5)

    def test_wrong_inputs_are_named_as_elsewhere(self):
        net, layer, x = NETWORKS["vgg_like"]()
        method = LayerGroupCAM(net, layer)
        with pytest.raises(TypeError, match="inputs must be a Tensor"):
            method.attribute([x], 1)
        x[0, 0, 0, 0] = torch.nan
        with pytest.raises(ValueError, match="inputs hold NaN"):
            method.attribute(x, 1)


class TestFusionCAM:
    @pytest.mark.parametrize("network", NETWORKS)
    def test_the_map_spans_the_unit_interval_once_resized(self, network):
        net, layer, x = NETWORKS[network]()
        attr = LayerFusionCAM(net, layer).attribute(x, TARGETS[network])
        up = nn.functional.interpolate(attr, x.shape[2:], mode="bilinear")
        close(up.amin((1, 2, 3)), torch.zeros(len(x), dtype=torch.float64))
        close(up.amax((1, 2, 3)), torch.ones(len(x), dtype=torch.float64))

    def test_shares_where_the_sum_is_not_positive(self):
        first = torch.tensor([0.3, -0.1, 0.5, -0.2, 0.0, 0.4])
        second = torch.tensor([0.1, 0.5, -0.6, -0.2, 0.0, -0.4])
        one, other = shares(first, second)
        close(one, torch.tensor([0.75, -0.25, 1.0, 0.5, 0.5, 1.0]), atol=1e-6)
        close(one + other, torch.ones(6), atol=1e-6)

    @pytest.mark.parametrize("sign", [1, -1, 0])
    def test_scores_of_either_sign_give_a_map(self, sign):
        net, layer, x = NETWORKS["vgg_like"]()
        attr = LayerFusionCAM(net, layer).attribute(x, 1, score=lambda out: sign * out[:, 1].exp())
        assert attr.isfinite().all()
        assert (attr != 0).flatten(1).any(1).all()


class TestFeatureCAM:
    def test_without_edges_it_is_grad_cam(self):
        net, layer, x = NETWORKS["signed"]()
        attr = LayerFeatureCAM(net, layer).attribute(x, 0, strength=0)
        expected = LayerGradCam(net, layer).attribute(x, 0)
        close(attr, nn.functional.interpolate(expected, x.shape[2:], mode="bilinear"))

    def test_a_flat_image_is_blank(self):
        net, layer, x = NETWORKS["vgg_like"]()
        attr = LayerFeatureCAM(net, layer).attribute(torch.full_like(x, 0.3), 1)
        assert attr.shape == (2, 1, 12, 12)
        assert not attr.any()

    @pytest.mark.parametrize("rank", [1, 3])
    def test_images_only(self, rank):
        net, layer, x = of_rank(rank)
        with pytest.raises(ValueError, match="defined on images"):
            LayerFeatureCAM(net, layer).attribute(x, 1)

    @pytest.mark.parametrize(
        "edges", [lambda x: x, lambda x: x[:, 0], lambda x: None, lambda x: x[:, :1] / 0]
    )
    def test_edges_of_the_wrong_kind(self, edges):
        net, layer, x = NETWORKS["vgg_like"]()
        with pytest.raises(ValueError, match="edges"):
            LayerFeatureCAM(net, layer).attribute(x, 1, edges=edges)


class TestGradPlusPlusScoreCAM:
    @pytest.mark.parametrize("network", NETWORKS)
    def test_a_constant_score_gives_grad_cam_plus_plus(self, network):
        net, layer, x = NETWORKS[network]()
        target = TARGETS[network]
        attr = LayerGradPlusPlusScoreCAM(net, layer).attribute(
            x, target, score=lambda out: torch.ones(len(out), dtype=out.dtype)
        )
        expected = LayerGradCAMPlusPlus(net, layer).attribute(x, target)
        torch.testing.assert_close(attr, expected, atol=1e-12, rtol=1e-9)

    def test_stable_form_of_alpha(self):
        # I16: the quotient of the paper, where it is finite.
        A, g = images(1, 2, 3, 4), images(1, 2, 3, 4, seed=1)
        alpha = g**2 / (2 * g**2 + A.sum((2, 3), keepdim=True) * g**3)
        assert (alpha <= 0.5).all()
        close(plus_plus_weights(A, g), (alpha * g).sum((2, 3)))
        assert not plus_plus_weights(A, -g).any()


class TestRISE:
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("options", [RISE_OPTIONS, {"n_masks": 20, "cells": 7, "keep": 0.7}])
    @pytest.mark.parametrize("baseline", [0.0, -0.5])
    def test_naive(self, network, options, baseline):
        net, _, x = NETWORKS[network]()
        target = TARGETS[network]
        attr = RISE(net).attribute(x, target, baselines=baseline, seed=2, **options)
        index = target if isinstance(target, tuple) else (target,)
        for i in range(len(x)):
            expected = rise(net, x[i : i + 1], index, seed=2, baseline=baseline, **options)
            close(attr[i, 0], expected)

    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_ranks(self, rank):
        net, _, x = of_rank(rank)
        attr = RISE(net).attribute(x, 2, **RISE_OPTIONS)
        assert attr.shape == (3, 1, *x.shape[2:])
        for i in range(3):
            close(attr[i, 0], rise(net, x[i : i + 1], (2,), **RISE_OPTIONS))

    @pytest.mark.parametrize("elements", [1, 1000, 10**9])
    @pytest.mark.parametrize("chunk", [None, 1, 7, 64])
    def test_neither_chunks_nor_slices_change_the_map(self, monkeypatch, elements, chunk):
        net, _, x = NETWORKS["vgg_like"]()
        expected = RISE(net).attribute(x, 1, **RISE_OPTIONS)
        monkeypatch.setattr("captum_unioncam.methods.rise.SLICE_ELEMENTS", elements)
        attr = RISE(net).attribute(x, 1, perturbations_per_eval=chunk, **RISE_OPTIONS)
        close(attr, expected)

    def test_a_batch_equals_single_calls(self):
        net, _, x = NETWORKS["vgg_like"]()
        batch = RISE(net).attribute(x, 1, **RISE_OPTIONS)
        for i in range(2):
            close(batch[i : i + 1], RISE(net).attribute(x[i : i + 1], 1, **RISE_OPTIONS))

    def test_masks_that_hide_nothing(self):
        # I10: the score of the input, everywhere.
        net, _, x = NETWORKS["vgg_like"]()
        attr = RISE(net).attribute(x, 1, n_masks=3, keep=1)
        score = net(x).softmax(1)[:, 1].detach()
        close(attr, score.reshape(2, 1, 1, 1).expand(2, 1, 12, 12))

    def test_seeds_and_the_users_random_state(self):
        net, _, x = NETWORKS["vgg_like"]()
        state = torch.get_rng_state()
        maps = [RISE(net).attribute(x, 1, seed=seed, **RISE_OPTIONS) for seed in (0, 0, 1)]
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(maps[0], maps[1])
        assert not torch.allclose(maps[0], maps[2])

    def test_rows_forwarded(self):
        net, _, x = NETWORKS["vgg_like"]()
        rows = []
        RISE(lambda i: rows.append(len(i)) or net(i)).attribute(
            x[:1], 1, n_masks=30, perturbations_per_eval=7
        )
        assert sum(rows) == 31
        assert max(rows) == 7

    def test_inputs_of_different_sizes_share_the_grids(self):
        net, _, x = NETWORKS["gap_head"]()
        small = images(2, 3, 7, 9, seed=4)
        attr = RISE(lambda a, b: net(a) + 0 * net(b)).attribute((x, small), 1, **RISE_OPTIONS)
        close(attr, RISE(net).attribute(x, 1, **RISE_OPTIONS))

    def test_precision(self):
        net, _, x = NETWORKS["vgg_like"]()
        expected = RISE(net).attribute(x, 1, **RISE_OPTIONS)
        attr = RISE(net.float()).attribute(x.float(), 1, **RISE_OPTIONS)
        close(attr, expected.float(), atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            attr = RISE(net).attribute(x.float(), 1, **RISE_OPTIONS)
        close(attr, expected.float(), atol=0.05)
        half = RISE(net.bfloat16()).attribute(x.bfloat16(), 1, **RISE_OPTIONS)
        assert half.dtype == torch.bfloat16
        close(half.double(), expected, atol=0.05)

    def test_progress_on_request_only(self, capsys):
        net, _, x = NETWORKS["vgg_like"]()
        RISE(net).attribute(x, 1, **RISE_OPTIONS)
        assert capsys.readouterr() == ("", "")
        RISE(net).attribute(x, 1, show_progress=True, **RISE_OPTIONS)
        assert "RISE attribution: 100%" in capsys.readouterr().err

    def test_training_mode_is_said_and_put_back(self):
        net, _, x = NETWORKS["signed"]()
        expected = RISE(net).attribute(x, 0, **RISE_OPTIONS)
        net.train()
        with pytest.warns(UserWarning, match="explained in evaluation mode") as caught:
            attr = RISE(net).attribute(x, 0, **RISE_OPTIONS)
        assert caught[0].filename == __file__
        assert net.training
        assert torch.equal(attr, expected)

    def test_it_is_a_captum_object(self):
        method = RISE(NETWORKS["vgg_like"]()[0])
        assert isinstance(method, PerturbationAttribution)
        assert method.get_name() == "RISE"
        assert not method.has_convergence_delta()
        with pytest.raises(NotImplementedError, match="RISE"):
            method.attribute_future()

    @pytest.mark.parametrize("shape", [(2, 3), (2, 3, 2, 2, 2, 2)])
    def test_inputs_without_space(self, shape):
        with pytest.raises(ValueError, match="no input can be masked"):
            RISE(lambda x: x.flatten(1)).attribute(images(*shape), 1, n_masks=2)


class TestControls:
    def test_ones(self):
        net, layer, x = NETWORKS["vgg_like"]()
        assert torch.equal(
            LayerOnesCAM(net, layer).attribute(x, 1), torch.ones(2, 1, 6, 6).double()
        )

    def test_random(self):
        net, layer, x = NETWORKS["vgg_like"]()
        attr = LayerRandomCAM(net, layer).attribute(x, 1, seed=1)
        assert torch.equal(attr[0], attr[1])
        assert 0 <= attr.min() < attr.max() < 1
        assert not torch.equal(attr, LayerRandomCAM(net, layer).attribute(x, 1, seed=2))

    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_center(self, rank):
        net, layer, x = of_rank(rank)
        attr = LayerCenterCAM(net, layer).attribute(x, 1)
        assert attr.shape == (3, 1, *net[:3](x).shape[2:])
        for dim in range(2, attr.dim()):
            close(attr, attr.flip(dim))
        if rank == 1:
            # The centres of 4 cells lie at -0.75, -0.25, 0.25 and 0.75.
            close(attr[0, 0, :2], torch.tensor([-0.5 * 1.5**2, -0.5 * 0.5**2]).double().exp())

    @pytest.mark.parametrize("cls", [LayerOnesCAM, LayerRandomCAM, LayerCenterCAM])
    def test_they_run_one_forward_and_no_backward(self, cls):
        net, layer, x = NETWORKS["vgg_like"]()
        rows = []

        def forward(i):
            rows.append(len(i))
            with torch.no_grad():
                return net(i)

        cls(forward, layer).attribute(x, 1)
        assert rows == [2]


class TestErrors:
    @pytest.mark.parametrize(
        ("cls", "options", "error"),
        [
            (LayerSSCAM, {"noise_on": "gradients"}, ValueError),
            (LayerSSCAM, {"n_samples": 0}, ValueError),
            (LayerSSCAM, {"n_samples": 1.5}, TypeError),
            (LayerSSCAM, {"stdev": -1.0}, ValueError),
            (LayerSSCAM, {"stdev": float("nan")}, ValueError),
            (LayerSSCAM, {"weights": "logit"}, ValueError),
            (LayerSSCAM, {"seed": None}, TypeError),
            (LayerISCAM, {"n_steps": 0}, ValueError),
            (LayerISCAM, {"cumulative": 1}, TypeError),
            (LayerISCAM, {"weights": None}, ValueError),
            (LayerGroupCAM, {"groups": 0}, ValueError),
            (LayerGroupCAM, {"theta": 101}, ValueError),
            (LayerGroupCAM, {"baselines": "blur"}, TypeError),
            (LayerFusionCAM, {"theta": -1}, ValueError),
            (LayerFusionCAM, {"region_weights": "logit"}, ValueError),
            (LayerFeatureCAM, {"edges": "hed"}, ValueError),
            (LayerFeatureCAM, {"strength": 1.1}, ValueError),
            (LayerFeatureCAM, {"strength": True}, TypeError),
            (LayerGradPlusPlusScoreCAM, {"combine": "union"}, ValueError),
            (LayerGradPlusPlusScoreCAM, {"weights": "logit"}, ValueError),
            (LayerRandomCAM, {"seed": 0.5}, TypeError),
            (LayerCenterCAM, {"stdev": 0}, ValueError),
        ],
    )
    def test_wrong_options(self, cls, options, error):
        net, layer, x = NETWORKS["vgg_like"]()
        calls = []
        with pytest.raises(error, match=next(iter(options))[:8]):
            cls(lambda i: calls.append(1) or net(i), layer).attribute(x, 1, **options)
        assert not calls

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"n_masks": 0}, ValueError),
            ({"n_masks": 2.5}, TypeError),
            ({"cells": 0}, ValueError),
            ({"keep": 0}, ValueError),
            ({"keep": 1.5}, ValueError),
            ({"seed": "a"}, TypeError),
            ({"score": "loss"}, ValueError),
            ({"perturbations_per_eval": 0}, ValueError),
            ({"show_progress": 1}, TypeError),
        ],
    )
    def test_wrong_options_of_rise(self, options, error):
        net, _, x = NETWORKS["vgg_like"]()
        calls = []
        with pytest.raises(error, match=next(iter(options))):
            RISE(lambda i: calls.append(1) or net(i)).attribute(x, 1, **options)
        assert not calls
