"""Opti-CAM beyond its formula: what it gains, and where the authors' code starts."""

import pytest
import torch

from captum_unioncam import LayerOptiCAM
from captum_unioncam.engine.layer_state import measure_layer
from tests.networks import NETWORKS, TARGETS


@pytest.mark.parametrize("network", NETWORKS)
def test_more_steps_keep_more_of_the_score(network):
    net, layer, x = NETWORKS[network]()
    method = LayerOptiCAM(net, layer)
    prepared = method.prepare({"inputs": x, "target": TARGETS[network]})
    # A tiny step leaves the weights equal, where the search begins.
    maps = [
        method.attribute(x, TARGETS[network], steps=steps, rate=rate)
        for steps, rate in ((1, 1e-9), (50, 0.1))
    ]
    with measure_layer(prepared.request) as (state,):
        equal, found = state.masks.score(torch.cat(maps, dim=1)).scores.unbind(1)
    assert (found > equal).all()


def test_the_search_begins_at_equal_weights():
    net, layer, x = NETWORKS["vgg_like"]()
    attr = LayerOptiCAM(net, layer).attribute(x, 1, steps=1, rate=1e-12)
    equal = net[:5](x).detach().mean(1, keepdim=True)
    resized = torch.nn.functional.interpolate(equal, (12, 12), mode="bilinear")
    low, high = (end(resized, dim=(1, 2, 3), keepdim=True) for end in (torch.amin, torch.amax))
    torch.testing.assert_close(attr, (equal - low) / (high - low), atol=1e-8, rtol=0)


@pytest.mark.parametrize(("option", "value"), [("steps", 0), ("rate", 0.0), ("rate", -1)])
def test_bad_options(option, value):
    net, layer, x = NETWORKS["vgg_like"]()
    with pytest.raises(ValueError, match=f"{option} must be a finite number greater than 0"):
        LayerOptiCAM(net, layer).attribute(x, 1, **{option: value})
