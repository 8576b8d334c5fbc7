"""Regression-CAM beyond its formula: what it recovers, shares, tells and refuses."""

import pytest
import torch
from torch import nn

from captum_unioncam import LayerRegressionCAM, LayerUnionCAM, compare
from captum_unioncam.engine.mask_pairs import spanning
from tests.networks import NETWORKS, images


def details_of(net, layer, x, target, **options):
    method = LayerRegressionCAM(net, layer)
    return method.explain_in_detail({"inputs": x, "target": target, "options": options})


def test_it_recovers_the_weights_of_a_linear_model():
    torch.manual_seed(0)
    mixing = nn.Conv2d(1, 30, 7, padding=3).double()
    head = nn.Linear(16, 1).double()

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixing, self.head = mixing, head

        def forward(self, x):
            # The layer only lends its channels as masks; the score is linear in the input.
            return self.head(x.flatten(1)) + 0 * self.mixing(x).relu().sum()

    x = torch.rand(1, 1, 4, 4, dtype=torch.float64) + 0.5
    net = Linear().eval()
    attr = LayerRegressionCAM(net, mixing).attribute(
        x, 0, prior=None, penalties=(1e-9,), select=False
    )
    expected = head.weight.detach().reshape(4, 4) * x[0, 0]
    together = torch.stack([attr.flatten(), expected.flatten()])
    assert torch.corrcoef(together)[0, 1] > 0.9999


def test_details_tell_candidates_and_scores():
    net, layer, x = NETWORKS["vgg_like"]()
    attr, details = details_of(net, layer, x, 1)
    assert details.candidates.shape == (2, 4, 6, 6)
    assert torch.equal(details.selected, details.scores.argmax(1))
    for n in range(2):
        assert torch.equal(attr[n, 0], details.candidates[n, details.selected[n]])
    denoised = LayerUnionCAM(net, layer).attribute(x, 1, return_details=True)[1].denoised
    torch.testing.assert_close(details.candidates[:, :1], denoised)
    attr, details = details_of(net, layer, x, 1, select=False)
    assert details.scores is None
    assert torch.equal(attr, details.candidates[:, :1])


def test_any_map_can_be_the_prior():
    net, layer, x = NETWORKS["vgg_like"]()
    method = LayerRegressionCAM(net, layer)
    denoised = LayerUnionCAM(net, layer).attribute(x, 1, return_details=True)[1].denoised
    torch.testing.assert_close(method.attribute(x, 1, prior=denoised), method.attribute(x, 1))
    finer = nn.functional.interpolate(denoised, (12, 12), mode="bilinear")
    assert method.attribute(x, 1, prior=finer).shape == denoised.shape
    pulled = method.attribute(x, 1, prior=images(2, 1, 6, 6), select=False)
    plain = method.attribute(x, 1, prior=None, select=False)
    assert not torch.allclose(pulled, plain, atol=1e-3)


def test_classes_share_the_forwards_of_the_pairs():
    net, layer, x = NETWORKS["vgg_like"]()
    rows = []
    net.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    options = {"forward_func": net, "layer": layer, "metrics": []}
    compare(["regressioncam:select=False"], x, 1, **options)
    one = sum(rows)
    rows.clear()
    compare(["regressioncam:select=False"], x, {"a": 1, "b": 2, "c": 3}, **options)
    # Each further class runs the clean inputs again for its gradients.
    assert sum(rows) == one + 2 * len(x)


@pytest.mark.filterwarnings("ignore:.*is blank for example")
def test_a_layer_of_flat_channels_is_blank():
    net, layer, x = NETWORKS["vgg_like"]()
    with torch.no_grad():
        net[3].weight.zero_()
        net[3].bias.fill_(1.0)
    assert not LayerRegressionCAM(net, layer).attribute(x, 1, prior=None).any()
    # The denoised map knows the gradients all the same.
    assert LayerRegressionCAM(net, layer).attribute(x, 1).any()


def test_spanning_goes_on_beyond_the_rank():
    masks = torch.rand(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chosen = spanning(masks, 12)
    assert len(chosen.unique(dim=0)) == 12
    assert len(spanning(masks, 50)) == 20
    assert len(spanning(masks[:0], 5)) == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prior": "denoise"}, ValueError, "prior must be one of 'denoised', got 'denoise'; clos"),
        ({"prior": 3}, TypeError, "prior must be 'denoised', None or a Tensor of maps"),
        ({"prior": torch.ones(2, 6, 6, 6)}, ValueError, r"maps of shape \(N, 1, \*spatial\)"),
        ({"prior": torch.ones(3, 1, 6, 6)}, ValueError, r"one map for each example, \(2, 1, "),
        ({"prior": torch.full((2, 1, 6, 6), torch.nan)}, ValueError, "prior hold NaN"),
        ({"penalties": 8}, TypeError, "penalties must be a tuple of numbers"),
        ({"penalties": ()}, TypeError, "penalties must be a tuple of numbers"),
        ({"penalties": (8, 0)}, ValueError, "each of penalties must be a finite number greater"),
        ({"pairs": 0}, ValueError, "pairs must be a finite number greater than 0"),
        ({"select": "no"}, TypeError, "select must be True or False"),
    ],
)
def test_bad_options(options, error, message):
    net, layer, x = NETWORKS["vgg_like"]()
    with pytest.raises(error, match=message):
        LayerRegressionCAM(net, layer).attribute(x, 1, **options)
