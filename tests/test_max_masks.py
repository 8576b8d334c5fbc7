"""max_masks: some masks are forwarded, the scores of the others predicted."""

from itertools import pairwise

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
from captum_unioncam.engine import Budget
from captum_unioncam.engine.layer_state import measure_layer
from captum_unioncam.engine.request import checked_request
from captum_unioncam.methods.method_spec import parse_spec
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
    ("value", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), ("all", ValueError)]
)
def test_bad_budgets(value, error):
    net, layer, x = NETWORKS["vgg_like"]()
    for cls in CLASSES:
        with pytest.raises(error, match="max_masks must be"):
            cls(net, layer).attribute(x, 1, max_masks=value)


def mild():
    """A network of 192 channels that leaves no class without a chance, as a mask's score shows."""
    net = wide(192)
    with torch.no_grad():
        net[3].weight /= 16
    return net


def spent(cls, net, x, **options):
    """The map, how many masks it took for each example and how far it may be off."""
    with measure_layer(checked_request(net, net[1], x, 1)) as (state,):
        table = state.channel_scores("auto", **options)
    attr = cls(net, net[1]).attribute(x, 1, max_masks="auto", **without_weights(options))
    return attr, table.spent.masks, table.spent.deviation


def without_weights(options):
    return {name: value for name, value in options.items() if name != "weights"}


def correlation(first, second):
    return torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].item()


@pytest.mark.parametrize("cls", CLASSES)
def test_auto_is_as_near_as_it_says_and_no_example_sees_another(cls):
    net, x = mild(), images(3, 3, 15, 15)
    rows, exact_rows = [], []
    exact = cls(counting(net, exact_rows), net[1]).attribute(x, 1)
    attr = cls(counting(net, rows), net[1]).attribute(x, 1, max_masks="auto", tolerance=0.05)
    assert sum(rows) < sum(exact_rows)
    for n in range(3):
        alone = cls(net, net[1]).attribute(x[n : n + 1], 1, max_masks="auto", tolerance=0.05)
        torch.testing.assert_close(attr[n : n + 1], alone)
        assert correlation(exact[n], attr[n]) > 0.995


def test_examples_stop_each_for_itself():
    net, x = mild(), images(3, 3, 15, 15)
    x[1] = x[1] / 8
    _, masks, deviation = spent(LayerScoreCAM, net, x, tolerance=0.02)
    assert len(set(masks.tolist())) > 1
    for n in range(3):
        _, own_masks, own_deviation = spent(LayerScoreCAM, net, x[n : n + 1], tolerance=0.02)
        assert own_masks.item() == masks[n].item()
        torch.testing.assert_close(own_deviation, deviation[n : n + 1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("rows_per_forward", [1, 7, 50])
def test_chunks_decide_nothing(rows_per_forward):
    net, x = mild(), images(2, 3, 15, 15)
    some = LayerUnionCAM(net, net[1]).attribute(
        x, 1, max_masks="auto", perturbations_per_eval=rows_per_forward, return_details=True
    )[1]
    details = LayerUnionCAM(net, net[1]).attribute(x, 1, max_masks="auto", return_details=True)[1]
    assert torch.equal(some.channel_masks, details.channel_masks)
    for values, expected in zip(some, details, strict=True):
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("weights", ["score", "softmax"])
def test_less_tolerance_takes_more_masks_until_it_is_exact(weights):
    net, x = mild(), images(2, 3, 15, 15)
    counts = []
    for tolerance in (0.5, 0.05, 0.01, 1e-9):
        with measure_layer(checked_request(net, net[1], x, 1)) as (state,):
            exact = state.channel_scores()
            table = state.channel_scores("auto", tolerance, weights)
        masks, deviation = table.spent
        assert (deviation <= tolerance).all()
        counts.append(masks)
    assert all((less <= more).all() for less, more in pairwise(counts))
    assert (counts[0] < counts[-1]).all()
    assert torch.equal(counts[-1], exact.spent.masks)
    assert torch.equal(table.scores, exact.scores)
    assert not deviation.any()


def test_where_the_masks_do_not_tell_all_are_forwarded():
    net, x, rows = mild(), images(2, 3, 15, 15), []
    with torch.no_grad():
        net[3].weight.zero_()
    attr, details = LayerUnionCAM(counting(net, rows), net[1]).attribute(
        x, 1, max_masks="auto", tolerance=10.0, return_details=True
    )
    torch.testing.assert_close(attr, LayerUnionCAM(net, net[1]).attribute(x, 1))
    assert details.channel_masks.tolist() == [192, 192]
    assert not details.deviation.any()


def test_details_tell_what_a_fixed_budget_is_worth():
    net, x = mild(), images(2, 3, 15, 15)
    found = [
        LayerFusionCAM(net, net[1]).attribute(x, 1, max_masks=n, return_details=True)[1]
        for n in (1, 20, 80, 192)
    ]
    assert [d.channel_masks.tolist() for d in found] == [[n, n] for n in (1, 20, 80, 192)]
    assert found[0].deviation.isinf().all()
    assert (found[1].deviation > found[2].deviation).all()
    assert (found[2].deviation > 0).all()
    assert not found[3].deviation.any()


def test_classes_stop_each_for_itself_and_budgets_share_forwards():
    net, x, rows = mild(), images(1, 3, 15, 15), []
    specs = ["scorecam", "scorecam:max_masks=9", "scorecam:max_masks=auto:tolerance=0.02"]
    specs.append("scorecam:weights=softmax:max_masks=auto")
    classes = {"a": 0, "b": 1, "c": 2}
    result = compare(specs, x, classes, forward_func=counting(net, rows), layer=net[1], metrics=[])
    # One clean input for each class, the baseline, and every mask once.
    assert sum(rows) <= 192 + 3 + 2
    for number in range(3):
        for spec in specs:
            _, _, options = parse_spec(spec)
            alone = LayerScoreCAM(net, net[1]).attribute(x, number, **options)
            shared = result.maps[parse_spec(spec).title()][:, [number]]
            torch.testing.assert_close(shared, alone.relu(), rtol=1e-4, atol=1e-6)


def test_a_larger_budget_takes_nothing_twice():
    net, x, rows = mild(), images(2, 3, 15, 15), []
    with measure_layer(checked_request(counting(net, rows), net[1], x, 1)) as (state,):
        before = sum(rows)
        for count in (10, 30, 20, 30):
            state.channel_scores(count)
        assert sum(rows) - before <= 2 * 30 + 1
        alone = state.masks.score(state.activations, budget=Budget(20))
        torch.testing.assert_close(state.channel_scores(20).scores, alone.scores)


def test_auto_takes_an_example_without_a_mask():
    net, x = mild(), images(2, 3, 15, 15)
    x[0] = 0
    attr = LayerScoreCAM(net, net[1]).attribute(x, 1, max_masks="auto")
    assert not attr[0].any()
    assert attr[1].any()


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-0.1, ValueError), ("small", TypeError)]
)
def test_bad_tolerances(value, error):
    net, layer, x = NETWORKS["vgg_like"]()
    for cls in CLASSES:
        with pytest.raises(error, match="tolerance must be"):
            cls(net, layer).attribute(x, 1, max_masks="auto", tolerance=value)
