"""Refined CAM beyond its formula: what it climbs, where it starts, and what it refuses."""

import pytest
import torch
from torch import nn

from captum_unioncam import METHODS, LayerRefinedCAM, LayerRegressionCAM, compare
from captum_unioncam.engine.layer_state import measure_layer
from captum_unioncam.engine.mask_gradients import mask_gradients
from captum_unioncam.methods.regression_cam import kept_less_dropped
from tests.networks import NETWORKS, TARGETS, images, of_rank


@pytest.mark.parametrize("network", NETWORKS)
def test_it_climbs_what_it_optimises(network):
    net, layer, x = NETWORKS[network]()
    method = LayerRefinedCAM(net, layer)
    start = LayerRegressionCAM(net, layer).attribute(x, TARGETS[network], select=False)
    attr = method.attribute(
        x, TARGETS[network], start=start, grid=1, steps=40, backgrounds=("black", "blur")
    )
    prepared = method.prepare({"inputs": x, "target": TARGETS[network]})
    with measure_layer(prepared.request) as (state,):
        before, after = kept_less_dropped(state, torch.cat([start, attr], dim=1))[0].unbind(1)
    assert after.mean() > before.mean()


def test_it_starts_from_any_map():
    net, layer, x = NETWORKS["vgg_like"]()
    method = LayerRefinedCAM(net, layer)
    start = LayerRegressionCAM(net, layer).attribute(x, 1, select=False)
    torch.testing.assert_close(method.attribute(x, 1, start=start), method.attribute(x, 1))
    gradcam = METHODS["gradcam"].cls(net, layer).attribute(x, 1).detach()
    other = method.attribute(x, 1, start=gradcam)
    assert not torch.allclose(other, method.attribute(x, 1), atol=1e-2)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_grid_is_no_coarser_than_the_layer_and_no_finer_than_the_input(rank):
    net, layer, x = of_rank(rank)
    sizes = {}
    for grid in (1, 5, 99):
        attr = LayerRefinedCAM(net, layer).attribute(x, 2, grid=grid, steps=1)
        sizes[grid] = tuple(attr.shape[2:])
    low, full = net[:3](x).shape[2:], x.shape[2:]
    assert sizes[1] == tuple(low)
    assert sizes[5] == tuple(max(a, min(5, n)) for a, n in zip(low, full, strict=True))
    assert sizes[99] == tuple(full)


def test_a_layer_of_one_position_gives_its_one_value():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    x = images(2, 3, 6, 6)
    with pytest.warns(UserWarning, match="is blank"):
        attr = LayerRefinedCAM(net.double().eval(), net[1]).attribute(x, 1, grid=1)
    assert not attr.any()


def test_seeds_and_backgrounds_matter():
    net, layer, x = NETWORKS["vgg_like"]()
    method = LayerRefinedCAM(net, layer)
    first = method.attribute(x, 1)
    assert torch.equal(method.attribute(x, 1, seed=0), first)
    for options in ({"seed": 1}, {"backgrounds": ("blur", "black")}, {"steps": 7}):
        assert not torch.allclose(method.attribute(x, 1, **options), first, atol=1e-3), options


def test_a_scorer_runs_what_needs_no_gradients():
    net, layer, x = NETWORKS["vgg_like"]()
    rows = []

    def scorer(inputs):
        assert not inputs.requires_grad
        rows.append(len(inputs))
        return net(inputs)

    method = LayerRefinedCAM(net, layer)
    attr = method.attribute(x, 1, scorer=scorer)
    torch.testing.assert_close(attr, method.attribute(x, 1))
    assert rows


def test_classes_share_the_forwards_of_the_pairs():
    net, layer, x = NETWORKS["vgg_like"]()
    rows = []
    net.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    options = {"forward_func": net, "layer": layer, "metrics": []}
    compare(["refinedcam:steps=2"], x, 1, **options)
    one = sum(rows)
    rows.clear()
    compare(["refinedcam:steps=2"], x, {"a": 1, "b": 2}, **options)
    # The further class runs the clean inputs, and eight rows for each step.
    assert sum(rows) == one + len(x) * (1 + 2 * 8)


def test_gradients_at_masks_are_those_of_differences():
    net, layer, x = NETWORKS["signed"]()
    method = LayerRefinedCAM(net, layer)
    given = {"inputs": x, "target": 0}
    rows, masks = torch.tensor([0, 1, 1]), images(3, 1, 9, 9, seed=4)

    def gain(raw, scores, chunk):
        return scores * torch.tensor([1.0, -2.0, 3.0])[chunk]

    def total(scorer, masks):
        _, scores = scorer.score_rows(rows, lambda chunk: [masks[chunk]])[0]
        return gain(None, scores, slice(0, 3)).sum()

    found = []
    for chunk in (1, 2):
        prepared = method.prepare({**given, "perturbations_per_eval": chunk})
        with measure_layer(prepared.request) as (state,):
            found.append(mask_gradients(state.masks, rows, [masks], gain)[0])
            for at in ((0, 0, 2, 3), (1, 0, 8, 8), (2, 0, 0, 5)):
                more, less = masks.clone(), masks.clone()
                more[at] += 1e-5
                less[at] -= 1e-5
                slope = (total(state.masks, more) - total(state.masks, less)) / 2e-5
                torch.testing.assert_close(found[-1][at], slope, atol=1e-8, rtol=1e-5)
    torch.testing.assert_close(*found, atol=1e-14, rtol=0)


def test_a_model_that_hides_its_input_from_gradients_is_refused():
    net, _, x = NETWORKS["vgg_like"]()

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x.detach())

    with pytest.raises(ValueError, match="no gradients flow from the target's score to the input"):
        LayerRefinedCAM(Detached().eval(), net[4]).attribute(x, 1)
    frozen = Detached().eval().requires_grad_(False)
    with pytest.raises(ValueError, match="no gradients flow"):
        LayerRefinedCAM(frozen, net[4]).attribute(x, 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start": "regresion"}, ValueError, "start must be one of .*; closest: 'regression'"),
        ({"start": None}, TypeError, "start must be 'regression', 'denoised' or a Tensor of maps"),
        ({"start": torch.ones(2, 1, 6)}, ValueError, "start must hold one map for each example"),
        ({"backgrounds": "black"}, TypeError, r"a tuple of names, such as \('black',\)"),
        ({"backgrounds": ("black", "blurr")}, ValueError, "each of backgrounds .* closest: 'blur'"),
        ({"steps": 0}, ValueError, "steps must be a finite number greater than 0"),
        ({"grid": 1.5}, TypeError, "grid must be an int, got float"),
    ],
)
def test_bad_options(options, error, message):
    net, layer, x = NETWORKS["vgg_like"]()
    with pytest.raises(error, match=message):
        LayerRefinedCAM(net, layer).attribute(x, 1, **options)
