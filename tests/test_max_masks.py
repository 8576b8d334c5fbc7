"""max_masks: some masks are forwarded, the scores of the others predicted."""

import pytest
import torch
from torch import nn

from captum_unioncam import (
    LayerFusionCAM,
    LayerGradPlusPlusScoreCAM,
    LayerScoreCAM,
    LayerUnionCAM,
    compare,
)
from captum_unioncam.engine.layer_state import measure_layer
from captum_unioncam.engine.request import checked_request
from tests.networks import NETWORKS, images, seeded
from tests.test_forwards import counting

CLASSES = LayerScoreCAM, LayerUnionCAM, LayerFusionCAM, LayerGradPlusPlusScoreCAM


def wide(channels=64, kinds=8):
    """Many channels that all vary, of a few kinds, as those of a trained network are."""
    conv = nn.Conv2d(3, channels, 5, stride=2)
    net = nn.Sequential(conv, nn.Softplus(), nn.Flatten(), nn.Linear(channels * 36, 5))
    net = seeded(net)
    with torch.no_grad():
        conv.weight.copy_(
            conv.weight[:kinds].repeat(channels // kinds, 1, 1, 1) * 8 + conv.weight / 4
        )
    return net


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("network", ["vgg_like", "signed"])
def test_a_budget_for_all_masks_is_exact(cls, network, recwarn):
    net, layer, x = NETWORKS[network]()
    exact = cls(net, layer).attribute(x, 1)
    attr = cls(net, layer).attribute(x, 1, max_masks=100)
    torch.testing.assert_close(attr, exact, atol=0, rtol=0)
    assert all("explains nothing" in str(w.message) for w in recwarn)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_budget_holds_per_example(cls):
    net, x, rows = wide(), images(3, 3, 15, 15), []
    cls(counting(net, rows), net[1]).attribute(x, 1, max_masks=4)
    assert sum(rows) <= 3 * 4 + 3 * 4 + 1


@pytest.mark.parametrize("cls", CLASSES)
def test_maps_are_close_and_no_example_sees_another(cls):
    net, x = wide(), images(2, 3, 15, 15)
    exact = cls(net, net[1]).attribute(x, 1)
    attr = cls(net, net[1]).attribute(x, 1, max_masks=16)
    for n in range(2):
        alone = cls(net, net[1]).attribute(x[n : n + 1], 1, max_masks=16)
        torch.testing.assert_close(attr[n : n + 1], alone)
        shared = torch.stack([exact[n].flatten(), attr[n].flatten()])
        assert torch.corrcoef(shared)[0, 1] > 0.95


def test_measured_scores_are_kept_and_predicted_ones_say_how_sure_they_are():
    net, x = wide(), images(2, 3, 15, 15)
    with measure_layer(checked_request(net, net[1], x, 1)) as (state,):
        exact, some = state.channel_scores(), state.channel_scores(20)
    kept = some.score_std == 0
    assert kept.sum(1).tolist() == [20, 20]
    torch.testing.assert_close(some.scores[kept], exact.scores[kept])
    assert (some.score_std[~kept] > 0).all()
    assert ((some.scores >= 0) & (some.scores <= 1)).all()
    assert (exact.score_std == 0).all()
    details = LayerUnionCAM(net, net[1]).attribute(x, 1, max_masks=20, return_details=True)[1]
    torch.testing.assert_close(details.channel_std, some.score_std)


def test_classes_share_the_budget():
    net, x, rows = wide(), images(1, 3, 15, 15), []
    forward = counting(net, rows)
    methods = ["scorecam:max_masks=9", "unioncam:max_masks=9", "grad++scorecam:max_masks=9"]
    classes = {"a": 0, "b": 1, "c": 2}
    result = compare(methods, x, classes, forward_func=forward, layer=net[1], metrics=[])
    assert sum(rows) <= 1 + 3 + 9 + 3 + 3 * 3
    for number in range(3):
        alone = LayerScoreCAM(net, net[1]).attribute(x, number, max_masks=9)
        torch.testing.assert_close(result.maps["Score-CAM max_masks=9"][:, [number]], alone.relu())


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), ("all", TypeError)]
)
def test_bad_budgets(value, error):
    net, layer, x = NETWORKS["vgg_like"]()
    for cls in CLASSES:
        with pytest.raises(error, match="max_masks must be"):
            cls(net, layer).attribute(x, 1, max_masks=value)
