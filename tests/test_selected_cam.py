"""Selected CAM beyond its formula: pools of any kind, shared measurements, ties, a comparison's."""

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam, Saliency
from torch import nn

from captum_unioncam import (
    LayerCAM,
    LayerScoreCAM,
    LayerSelectedCAM,
    LayerUnionCAM,
    compare,
)
from captum_unioncam.engine.area_scores import area_masks
from captum_unioncam.layer_fusion import MultiLayer, fuse_maps
from captum_unioncam.metrics import coherency, drop_at_area, keep_at_area
from tests.networks import NETWORKS, images

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is blank for example"),
    pytest.mark.filterwarnings("ignore:UnionCAM explains nothing"),
]


def details_of(net, layer, x, target, **options):
    arguments = {"inputs": x, "target": target, "options": options}
    return LayerSelectedCAM(net, layer).explain_in_detail(arguments)


def counted(net):
    rows = []
    net.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    return rows


def test_the_papers_pool_and_criterion_are_the_papers_modules():
    net, layer, x = NETWORKS["signed"]()
    _, paper = LayerUnionCAM(net, layer).attribute(x, 0, return_details=True)
    pool = ("unioncam.region", "unioncam.denoised")
    _, found = details_of(net, layer, x, 0, pool=pool, criterion="beta")
    maps = torch.cat([paper.region, paper.denoised, paper.union], dim=1)
    torch.testing.assert_close(found.candidates, maps)
    beta = torch.stack([paper.beta_region, paper.beta_denoised, paper.beta_union], dim=1)
    torch.testing.assert_close(found.beta, beta)
    assert found.keep is None
    assert found.drop is None


@pytest.mark.parametrize("network", ["vgg_like", "gap_head"])
def test_scores_are_those_of_the_metrics(network):
    net, layer, x = NETWORKS[network]()
    areas, pool = (0.2, 0.45), ("unioncam", "scorecam")
    attr, details = details_of(net, layer, x, 1, pool=pool, areas=areas)
    for k in range(3):
        cam = details.candidates[:, k : k + 1]
        kept, dropped = (
            sum(f(net, x, cam, target=1, areas=areas, background=b) for b in ("black", "blur")) / 2
            for f in (keep_at_area, drop_at_area)
        )
        live = details.scores[:, k] > -torch.inf
        torch.testing.assert_close(details.keep[live, k], kept[live])
        torch.testing.assert_close(details.drop[live, k], dropped[live])
        torch.testing.assert_close(details.scores[live, k], (kept - dropped)[live])
    for n, k in enumerate(details.selected.tolist()):
        assert details.scores[n, k] == details.scores[n].max()
        assert torch.equal(attr[n, 0], details.candidates[n, k])
        assert details.chosen[n] == details.names[k]


def test_the_first_of_equal_maps_is_selected():
    net, layer, x = NETWORKS["vgg_like"]()
    cam = images(2, 1, 12, 12)
    # Of one order: other values, the same pixels.
    pool = {"a": cam, "b": cam.sqrt(), "c": cam * 3 + 1}
    _, details = details_of(net, layer, x, 1, pool=pool, unions=False)
    assert (details.scores == details.scores[:, :1]).all()
    assert details.chosen == ["a", "a"]
    pool = {"c": cam * 3 + 1, "b": cam.sqrt()}
    assert details_of(net, layer, x, 1, pool=pool, unions=False)[1].chosen == ["c", "c"]


def test_equal_orders_are_forwarded_once():
    net, layer, x = NETWORKS["vgg_like"]()
    cam, rows = images(2, 1, 12, 12), counted(net)
    spent = []
    for pool in ((cam,), (cam, cam**2, cam.exp())):
        rows.clear()
        details_of(net, layer, x, 1, pool=pool, unions=False)
        spent.append(sum(rows))
    assert spent[0] == spent[1] > 2


def test_members_on_the_layer_share_its_measurements():
    net, layer, x = NETWORKS["vgg_like"]()
    rows, options = counted(net), {"unions": False, "areas": (0.5,), "backgrounds": ("black",)}
    spent = {}
    for pool in (("scorecam",), ("scorecam", "unioncam.region", "layercam", "gradcam")):
        rows.clear()
        details_of(net, layer, x, 1, pool=pool, **options)
        spent[len(pool)] = sum(rows)
    # UnionCAM's D, R and DR, and what is kept and dropped of three more maps.
    assert spent[4] <= spent[1] + len(x) * (3 + 2 * 3)


def test_members_are_the_maps_of_compare():
    net, layer, x = NETWORKS["vgg_like"]()
    other = net[1]
    pool = [
        "unioncam:theta=30", ("scorecam", {"weights": "softmax"}), "ablationcam", "groupcam",
        LayerGradCam(net, other), LayerCAM(net, other), Saliency(net),
        (IntegratedGradients(net), {"n_steps": 3}),
        MultiLayer(LayerCAM, net, [layer, other]),
    ]  # fmt: skip
    shown = compare(pool, x, 1, forward_func=net, layer=layer, metrics=[])
    attr, details = details_of(net, layer, x, 1, pool=pool, unions=False)
    assert attr.shape == (2, 1, 12, 12)
    assert details.names == tuple(shown.maps)
    for name, cam in zip(details.names, details.candidates.unbind(1), strict=True):
        wanted = nn.functional.interpolate(shown.maps[name], (12, 12), mode="bilinear")
        low, high = wanted.amin((2, 3), keepdim=True), wanted.amax((2, 3), keepdim=True)
        scaled = ((wanted - low) / (high - low)).nan_to_num()[:, 0]
        torch.testing.assert_close(cam, scaled, atol=1e-9, rtol=0)


def test_a_score_of_ones_own_is_the_members_too():
    net, layer, x = NETWORKS["vgg_like"]()
    rows, spent = counted(net), []
    for score in ("probability", "logit"):
        rows.clear()
        pool = ("scorecam", "layercam")
        _, details = details_of(net, layer, x, 1, pool=pool, unions=False, score=score)
        spent.append(sum(rows))
        expected = LayerScoreCAM(net, layer).attribute(x, 1, score=score).relu()
        for found, wanted in zip(details.candidates[:, 0], expected, strict=True):
            together = torch.stack([found.flatten(), wanted.flatten()])
            assert torch.corrcoef(together)[0, 1] > 1 - 1e-9
    # No member measures the layer again.
    assert spent[0] == spent[1]


@pytest.mark.parametrize("pool", [("layercam", "ablationcam"), ("scorecam", Saliency)])
def test_over_several_layers(pool):
    net, layer, x = NETWORKS["vgg_like"]()
    pool = tuple(m if isinstance(m, str) else m(net) for m in pool)
    layers = [layer, net[1]]
    fused = MultiLayer(LayerSelectedCAM, net, layers, pool=pool, areas=(0.25,)).attribute(x, 1)
    apart = [LayerSelectedCAM(net, one).attribute(x, 1, pool=pool, areas=(0.25,)) for one in layers]
    torch.testing.assert_close(fused, fuse_maps(apart), atol=1e-9, rtol=0)


def test_a_pool_on_another_model_waits_for_both():
    net, layer, x = NETWORKS["vgg_like"]()
    other = NETWORKS["vgg_like"]()[0]
    with torch.no_grad():
        other[3].weight.mul_(-1)
    pool = {"ours": "layercam", "theirs": LayerCAM(other, other[4])}
    names = details_of(net, layer, x, 1, pool=pool)[1].names
    assert names == ("ours", "theirs", "ours + theirs")
    before = [module._forward_hooks for module in (*net.modules(), *other.modules())]
    assert not any(before)


def test_the_column_of_the_best_can_be_explained_again():
    net, layer, x = NETWORKS["vgg_like"]()
    pool = ["gradcam", "layercam", Saliency(net)]
    shown = compare(
        pool, x, 1, forward_func=net, layer=layer, metrics=["coherency"], best_by="keep_at_area"
    )
    # Selected anew for other inputs, not what was selected for these.
    expected = coherency(
        net, x, shown.maps["best by keep_at_area"], target=1,
        explanation_func=LayerSelectedCAM(net, layer).attribute,
        explanation_kwargs={"pool": pool, "unions": False, "criterion": "keep_at_area"},
    )  # fmt: skip
    found = [row["coherency"] for row in shown.rows if row["method"].startswith("best")]
    torch.testing.assert_close(torch.tensor(found).to(expected), expected)


def test_flat_maps_are_never_selected_over_others():
    net, layer, x = NETWORKS["vgg_like"]()
    pool = ("ones", "random")
    attr, details = details_of(net, layer, x, 1, pool=pool)
    assert details.chosen == ["Random map", "Random map"]
    assert (details.scores[:, [0, 2]] == -torch.inf).all()
    assert attr.any()
    with pytest.warns(UserWarning, match="Selected CAM is blank"):
        attr, details = details_of(net, layer, x, 1, pool=("ones",))
    assert not attr.any()
    assert details.selected.tolist() == [0, 0]


def test_more_candidates_never_score_less():
    net, layer, x = NETWORKS["signed"]()
    few = details_of(net, layer, x, 0, pool=("layercam", "scorecam"), unions=False)[1].scores
    more = details_of(net, layer, x, 0, pool=("layercam", "scorecam", "hirescam"))[1].scores
    # Rounding depends on what else is in a forward.
    assert (more.amax(1) >= few.amax(1) - 1e-12).all()


def test_masks_of_several_inputs_count_as_one():
    maps = images(2, 3, 4, 4)
    live = torch.ones(2, 3, dtype=torch.bool)
    found = area_masks(maps, live, (0.25, 0.5), [(4, 4), (8, 8)])
    assert [m.shape[1:] for m in found.masks] == [(1, 4, 4), (1, 8, 8)]
    assert found.rows.tolist() == [0] * 6 + [1] * 6
    assert (found.masks[1].flatten(1).sum(1) == torch.tensor([16, 32] * 6)).all()


@pytest.mark.parametrize("unions", [True, False])
def test_compare_by_name_and_a_column_of_the_best(unions):
    net, layer, x = NETWORKS["vgg_like"]()
    pool = ["gradcam", "unioncam", "layercam"]
    names = [*pool, f"selectedcam:pool={'/'.join(pool)}:unions={unions}"]
    shown = compare(
        names, x, {"one": 1, "two": 2}, forward_func=net, layer=layer,
        metrics=["average_drop"], best_by="keep_less_drop_at_area",
    )  # fmt: skip
    label = "best by keep_less_drop_at_area"
    assert list(shown.maps)[-1] == label
    rows = {(r["example"], r["class"], r["method"]): r for r in shown.rows}
    for (n, kind, method), row in rows.items():
        if method == label:
            k = ["one", "two"].index(kind)
            # The same criterion, over maps that are there.
            found = shown.maps[row["chosen"]][n, k]
            best = shown.maps[label][n, k]
            span = (found - found.min()) / (found.max() - found.min())
            torch.testing.assert_close(
                (best - best.min()) / (best.max() - best.min()), span, atol=1e-9, rtol=0
            )
    if not unions:
        own = next(m for m in shown.maps if m.startswith("Selected"))
        torch.testing.assert_close(shown.maps[label], shown.maps[own])


def test_the_best_column_explains_nothing_again():
    net, layer, x = NETWORKS["vgg_like"]()
    rows, spent = counted(net), []
    for best_by in (None, "keep_at_area"):
        rows.clear()
        compare(
            ["scorecam", "ablationcam"], x, 1, forward_func=net, layer=layer, metrics=[],
            best_by=best_by,
        )  # fmt: skip
        spent.append(sum(rows))
    # Another clean pass and baseline at most, and what two maps keep at three areas on two.
    assert spent[1] <= spent[0] + 2 * len(x) + len(x) * 2 * 3 * 2


def test_best_of_pixel_attributions_needs_a_layer():
    net, layer, x = NETWORKS["vgg_like"]()
    with pytest.raises(ValueError, match="best_by needs the layer of its map"):
        compare([Saliency(net)], x, 1, best_by="beta", metrics=[])
    shown = compare([Saliency(net)], x, 1, layer=layer, best_by="beta", metrics=[])
    assert shown.maps["best by beta"].shape == (2, 1, 12, 12)
    with pytest.raises(ValueError, match="best_by must be one of .*closest"):
        compare(["gradcam"], x, 1, forward_func=net, layer=layer, best_by="betta")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pool": ()}, ValueError, "pool is empty; name at least one method"),
        ({"pool": 3}, TypeError, "pool must be a tuple of names, attributions and maps"),
        ({"pool": torch.ones(2, 1, 6, 6)}, TypeError, "pool must be a tuple of names"),
        ({"pool": ("unionkam",)}, ValueError, "no method 'unionkam'; closest: 'unioncam'"),
        ({"pool": "gradcam/unioncam.regoin"}, ValueError, "no part 'regoin'"),
        ({"pool": ("unioncam:thea=3",)}, ValueError, "'thea=3' is no option=value of unioncam"),
        ({"pool": (3,)}, TypeError, "must be a name of the registry or an attribution object"),
        ({"pool": (torch.ones(2, 6, 6, 6),)}, ValueError, r"maps of shape \(N, 1, \*spatial\)"),
        ({"pool": (torch.ones(3, 1, 6, 6),)}, ValueError, "the map of 'map 1' must hold one map"),
        ({"criterion": "keep"}, ValueError, "criterion must be one of 'keep_less_drop_at_area'"),
        ({"areas": ()}, TypeError, "areas must be a sequence of numbers"),
        ({"areas": (10,)}, ValueError, "between 0 and 1, got 10; 10 percent are 0.1"),
        ({"areas": (0.001,)}, ValueError, "holds 0 of 144 pixels"),
        ({"backgrounds": ("blurry",)}, ValueError, "each of backgrounds must be one of"),
        ({"unions": "no"}, TypeError, "unions must be True or False"),
    ],
)
def test_bad_options(options, error, message):
    net, layer, x = NETWORKS["vgg_like"]()
    with pytest.raises(error, match=message):
        LayerSelectedCAM(net, layer).attribute(x, 1, **options)
