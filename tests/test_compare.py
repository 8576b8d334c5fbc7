"""compare(): the same maps as alone, on shared measurements, in readable results."""

import csv

import pytest
import torch
from captum.attr import (
    FeatureAblation,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import nn

from captum_unioncam import (
    METHODS,
    RISE,
    LayerFusionCAM,
    LayerGroupCAM,
    LayerScoreCAM,
    LayerUnionCAM,
    compare,
    metrics,
)
from captum_unioncam.methods.method_spec import parse_spec
from tests.methods import QUICK
from tests.networks import NETWORKS
from tests.test_forwards import counting

SHARING = ["unioncam", "scorecam", "scorecam:weights=softmax", "fusioncam", "grad++scorecam"]


def compared(methods, x, target=1, **options):
    net, layer, _ = NETWORKS["vgg_like"]()
    return compare(methods, x, target, forward_func=net, layer=layer, **options)


@pytest.fixture
def x():
    return NETWORKS["vgg_like"]()[2]


@pytest.mark.filterwarnings("ignore:.* is blank")
def test_maps_are_those_of_the_methods_alone(x):
    net, layer, _ = NETWORKS["vgg_like"]()
    names = [n for n in METHODS if n not in ("cam", "vitreciprocam", "legrad")]
    methods = {name: (name, QUICK.get(name, {})) for name in names}
    result = compared(methods, x, [1, 2], baselines=0.25, metrics=[])
    assert list(result.maps) == names
    for name in names:
        method, options = METHODS[name], dict(QUICK.get(name, {}))
        if method.needs_layer and not getattr(method.cls, "is_scaled", False):
            options["relu_attributions"] = True
        if "baselines" in method.options and not getattr(method.cls, "brings_baselines", False):
            options["baselines"] = 0.25
        made = method.cls(net, layer) if method.needs_layer else method.cls(net)
        alone = made.attribute(x, [1, 2], **options).detach()
        torch.testing.assert_close(result.maps[name], alone, msg=name)


def test_classes_and_methods_share_one_masked_pass(x):
    net, layer, _ = NETWORKS["vgg_like"]()
    alone, shared = [], []
    LayerScoreCAM(counting(net, alone), layer).attribute(x[:1], 1)
    compare(
        SHARING, x[:1], {"a": 0, "b": 1, "c": 2}, forward_func=counting(net, shared),
        layer=layer, metrics=[],
    )  # fmt: skip
    # Beyond the shared pass and baseline: one look at the classes, three clean passes, and D, R
    # and DR of UnionCAM and of Fusion-CAM for each class.
    baselines = 3
    assert sum(shared) <= sum(alone) + 1 + 3 + 2 * 3 * 3 + baselines


def test_maps_of_every_class(x):
    result = compared(SHARING, x, {"one": 1, "both": [2, 0]}, metrics=["average_drop"])
    assert result.classes == [["one", "both"]] * 2
    for label in result.maps:
        assert result.maps[label].shape[:2] == (2, 2)
    for number, target in enumerate(([1, 1], [2, 0])):
        single = compared(SHARING, x, target, metrics=["average_drop"])
        for label in result.maps:
            torch.testing.assert_close(result.maps[label][:, number], single.maps[label][:, 0])
        torch.testing.assert_close(result.probabilities[:, number], single.probabilities[:, 0])


def test_top_classes_are_each_examples_own(x):
    net, _, _ = NETWORKS["vgg_like"]()
    result = compared(["gradcam"], x, "top2", metrics=[])
    best = net(x).topk(2, dim=1)
    assert result.classes == [[str(c) for c in row] for row in best.indices.tolist()]
    torch.testing.assert_close(result.probabilities, net(x).softmax(1).topk(2, dim=1).values)


def test_rows_hold_the_metrics(x):
    net, _, _ = NETWORKS["vgg_like"]()
    wanted = ["average_drop", "deletion"]
    result = compared(
        ["scorecam", "unioncam"], x, "top2", baselines=0.5, metrics=wanted,
        metric_options={"deletion": {"step": 7}},
    )  # fmt: skip
    assert [(r["example"], r["method"]) for r in result.rows] == (
        [(n, m) for n in (0, 1) for _ in range(2) for m in ("Score-CAM", "UnionCAM")]
    )
    for row in result.rows:
        number = result.classes[row["example"]].index(row["class"])
        n = row["example"]
        one = result.maps[row["method"]][n : n + 1, number : number + 1]
        common = {"target": int(row["class"]), "baselines": 0.5}
        drop = metrics.average_drop(net, x[n : n + 1], one, **common)
        assert row["average_drop"] == pytest.approx(drop.item(), abs=1e-4)
        deletion = metrics.deletion(net, x[n : n + 1], one, step=7, **common)
        assert row["deletion"] == pytest.approx(deletion.item(), abs=1e-6)


def test_captums_attributions(x):
    net, layer, _ = NETWORKS["vgg_like"]()
    given = x.clone().requires_grad_()
    methods = [
        Saliency(net),
        (IntegratedGradients(net), {"n_steps": 4}),
        (Occlusion(net), {"sliding_window_shapes": (3, 4, 4)}),
        (NoiseTunnel(Saliency(net)), {"nt_samples": 2, "stdevs": 0.0}),
        LayerGradCam(net, layer),
        (LayerUnionCAM(net, layer), {"theta": 50}),
        (RISE(net), {"n_masks": 5}),
    ]
    result = compare(methods, given, 1, baselines=0.5, metrics=["average_drop"])
    saliency = Saliency(net).attribute(x.clone(), 1).sum(1, keepdim=True)
    torch.testing.assert_close(result.maps["Saliency"], saliency.relu())
    integrated = IntegratedGradients(net).attribute(x.clone(), 0.5, 1, n_steps=4)
    label = IntegratedGradients(net).get_name()
    torch.testing.assert_close(result.maps[label], integrated.sum(1, keepdim=True).relu())
    union = LayerUnionCAM(net, layer).attribute(x, 1, baselines=0.5, theta=50)
    torch.testing.assert_close(result.maps["UnionCAM"], union)
    assert given.grad is None
    assert given.requires_grad


def test_methods_that_bring_baselines_keep_them(x):
    net, layer, _ = NETWORKS["vgg_like"]()
    result = compared(["groupcam", ("groupcam", {"baselines": 0})], x, baselines=0.9, metrics=[])
    own = LayerGroupCAM(net, layer).attribute(x, 1).relu()
    zero = LayerGroupCAM(net, layer).attribute(x, 1, baselines=0).relu()
    torch.testing.assert_close(result.maps["Group-CAM"], own)
    torch.testing.assert_close(result.maps["Group-CAM #2"], zero)


def test_parts_of_fusioncam(x):
    net, layer, _ = NETWORKS["vgg_like"]()
    result = compared(["fusioncam.denoised", "fusioncam.region:theta=30"], x, 1, metrics=[])
    for theta, part, label in ((10, "denoised", "denoised"), (30, "region", "region theta=30")):
        _, details = LayerFusionCAM(net, layer).attribute(x, 1, theta=theta, return_details=True)
        torch.testing.assert_close(result.maps[f"Fusion-CAM {label}"], getattr(details, part))
    with pytest.raises(ValueError, match="no part 'edges'; fusioncam has denoised, region, union"):
        parse_spec("fusioncam.edges")


def test_parts_of_unioncam(x):
    net, layer, _ = NETWORKS["vgg_like"]()
    parts = ["unioncam.denoised", "unioncam.region:alpha=count", "unioncam.union"]
    result = compared(parts, x, metrics=[])
    details = LayerUnionCAM(net, layer).attribute(x, 1, return_details=True)[1]
    torch.testing.assert_close(result.maps["UnionCAM denoised"], details.denoised)
    torch.testing.assert_close(result.maps["UnionCAM region alpha=count"], details.region)
    torch.testing.assert_close(result.maps["UnionCAM union"], details.union)


def test_what_unioncam_found_is_in_the_rows(x, tmp_path):
    net, layer, _ = NETWORKS["vgg_like"]()
    result = compared(["gradcam", "unioncam", "unioncam.region"], x, "top2", metrics=["beta"])
    assert list(result.details) == ["UnionCAM"]
    own = [row for row in result.rows if row["method"] == "UnionCAM"]
    regions = [row for row in result.rows if row["method"] == "UnionCAM region"]
    for row, region in zip(own, regions, strict=True):
        n, c = row["example"], int(row["class"])
        details = LayerUnionCAM(net, layer).attribute(x[n : n + 1], c, return_details=True)[1]
        assert row["selected_union"] is bool(details.selected_union)
        for name in ("beta_denoised", "beta_region", "beta_union"):
            assert row[name] == pytest.approx(getattr(details, name).item(), abs=1e-6)
        chosen = row["beta_union"] if row["selected_union"] else row["beta_region"]
        assert row["beta"] == pytest.approx(chosen, abs=1e-6)
        assert region["beta"] == pytest.approx(row["beta_region"], abs=1e-6)
        assert "beta_region" not in region
    result.to_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["selected_union"] for row in read[:3]] == ["", str(own[0]["selected_union"]), ""]


def test_what_was_chosen_is_in_the_figure(x):
    result = compared(["unioncam"], x, 1, metrics=["beta"])
    labels = [ax.get_xlabel() for ax in result.figure().axes[1:4:2]]
    for row, label in zip(result.rows, labels, strict=True):
        assert row["beta_union"] > 0
        assert ("union chosen:" in label) is row["selected_union"]
        assert "β_R" in label


def test_outputs_that_are_no_probabilities(x):
    class OneValue(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.layer, _ = NETWORKS["vgg_like"]()

        def forward(self, x):
            return self.net(x)[:, 1]

    net = OneValue().eval()
    result = compare(["gradcam"], x, forward_func=net, layer=net.layer, metrics=[])
    assert result.quantity == "output"
    torch.testing.assert_close(result.probabilities[:, 0], net(x).detach())
    assert result.figure().axes[0].get_xlabel().startswith("output ")


def test_the_model_is_as_before(x):
    net, layer, _ = NETWORKS["vgg_like"]()
    net.train()
    modes = [m.training for m in net.modules()]
    state = torch.random.get_rng_state()
    with pytest.warns(UserWarning, match="training mode"):
        compare(["unioncam", Saliency(net)], x, 1, forward_func=net, layer=layer)
    with pytest.raises(ValueError, match="out of range"):
        compare(["unioncam"], x, 99, forward_func=net.eval(), layer=layer)
    net.train()
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.is_grad_enabled()


def test_costs(x):
    result = compared(["gradcam", "scorecam", "unioncam"], x[:1], metrics=[])
    summary = {row["method"]: row for row in result.summary()}
    assert summary["Grad-CAM"]["forwards"] == 1
    assert summary["UnionCAM"]["forwards"] == 3
    assert all(row["seconds"] > 0 for row in summary.values())
    net, layer, _ = NETWORKS["vgg_like"]()
    hidden = compare(["gradcam"], x, 1, forward_func=lambda i: net(i), layer=layer, metrics=[])
    assert hidden.rows[0]["forwards"] is None
    assert "–" in repr(hidden)


def test_text_and_csv(x, tmp_path):
    result = compared(["gradcam", "unioncam"], x, "top2")
    lines = repr(result).splitlines()
    assert lines[0] == "2 methods, 2 examples, 2 classes each; means"
    assert "Average drop % ↓" in lines[1]
    assert lines[2].startswith("Grad-CAM ")
    assert result._repr_html_().count("<tr>") == 3
    result.to_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(result.rows) == 8
    assert float(read[3]["insertion"]) == result.rows[3]["insertion"]


def test_figure(x, tmp_path):
    result = compared({"one": "gradcam", "two": "unioncam"}, x, {"cat": 0, "dog": 1})
    result.save(tmp_path / "comparison.png", heading="both")
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    figure = result.figure(torch.rand(2, 3, 20, 20), names=str.upper)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:6] == ["CAT", "one", "two", "DOG", "one", "two"]
    assert "Deletion" in figure.axes[1].get_xlabel()
    with pytest.raises(ValueError, match=r"pictures must have shape \(2, 3 or 1, H, W\)"):
        result.figure(torch.rand(3, 20, 20))
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)).eval()
    flat = compare(["gradcam"], torch.rand(1, 2, 8), 1, forward_func=net, layer=net[1], metrics=[])
    with pytest.raises(ValueError, match="needs images"):
        flat.figure()


@pytest.mark.parametrize(
    ("methods", "options", "error", "message"),
    [
        ("unioncam", {}, TypeError, "sequence of names"),
        ([], {}, TypeError, "sequence of names"),
        ([3], {}, TypeError, "a name of the registry or an attribution object"),
        (["unioncamm"], {}, ValueError, "closest: 'unioncam'"),
        (["unioncam:tetha=3"], {}, ValueError, "closest: 'theta'"),
        (["unioncam.middle"], {}, ValueError, "denoised, region, union"),
        (["scorecam.region"], {}, ValueError, "scorecam has none"),
        (["unioncam:theta=300"], {}, ValueError, "0 to 100"),
        (["gradcam"], {"metrics": "average_drop"}, TypeError, "sequence of names"),
        (["gradcam"], {"metrics": ["averagedrop"]}, ValueError, "closest: 'average_drop'"),
        (["gradcam"], {"metric_options": {"insertion": {}}, "metrics": []}, ValueError, "not ask"),
        (["gradcam"], {"metrics": ["pointing_game"]}, ValueError, "needs metric_options for boxes"),
        (["gradcam"], {"target": "best"}, ValueError, '"top1"'),
        (["gradcam"], {"target": "top9"}, ValueError, "has 5 classes"),
        (["gradcam"], {"target": {}}, ValueError, "empty mapping"),
        (["gradcam"], {"layer": None}, ValueError, "suggest_layer"),
    ],
)
def test_bad_input(x, methods, options, error, message):
    net, layer, _ = NETWORKS["vgg_like"]()
    arguments = {"target": 1, "forward_func": net, "layer": layer, **options}
    with pytest.raises(error, match=message):
        compare(methods, x, arguments.pop("target"), **arguments)


def test_specs():
    assert parse_spec("rise:n_masks=20:keep=0.25").options == {"n_masks": 20, "keep": 0.25}
    assert parse_spec("scorecam:weights=softmax") == ("scorecam", "", {"weights": "softmax"})
    assert parse_spec(" unioncam.union ") == ("unioncam", "union", {})
    with pytest.raises(TypeError, match="named by a str"):
        parse_spec(3)


class BeginsInPlace(nn.Module):
    """A network that writes into what it is given, as some normalise."""

    def __init__(self):
        super().__init__()
        self.net, self.layer, _ = NETWORKS["vgg_like"]()

    def forward(self, x):
        return self.net(x.sub_(0.5))


def test_a_network_that_begins_in_place(x):
    in_place, kept = BeginsInPlace().eval(), x.clone()
    methods = [LayerUnionCAM(in_place, in_place.layer), LayerGradCam(in_place, in_place.layer)]
    found = compare(methods, x, "top2", forward_func=in_place, metrics=["average_drop"])
    assert torch.equal(x, kept)
    net, layer, _ = NETWORKS["vgg_like"]()
    plain = [LayerUnionCAM(net, layer), LayerGradCam(net, layer)]
    wanted = compare(
        plain, x - 0.5, "top2", forward_func=net, metrics=["average_drop"], baselines=-0.5
    )
    for label, maps in wanted.maps.items():
        torch.testing.assert_close(found.maps[label], maps)
    drops = [[row["average_drop"] for row in result.rows] for result in (found, wanted)]
    assert drops[0] == pytest.approx(drops[1])


def test_the_map_that_is_measured_is_the_one_that_was_scored(x):
    net, layer, _ = NETWORKS["vgg_like"]()
    result = compared(["unioncam"], x, "top1", metrics=["average_drop"])
    best = [int(labels[0]) for labels in result.classes]
    found = LayerUnionCAM(net, layer).attribute(x, best, return_details=True)[1]
    beta = torch.where(found.selected_union, found.beta_union, found.beta_region)
    black = net(torch.zeros_like(x)).softmax(1)[range(2), best]
    clean = result.probabilities[:, 0]
    drops = 100 * (clean - beta - black).clamp(min=0) / clean
    assert [row["average_drop"] for row in result.rows] == pytest.approx(drops.tolist(), abs=1e-4)


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.layer, _ = NETWORKS["vgg_like"]()

    def forward(self, x, shift):
        return self.net(x + shift)


def test_wrapped_attributions_get_what_those_inside_take(x):
    net = Shifted().eval()
    tunnel = NoiseTunnel(LayerUnionCAM(net, net.layer))
    result = compare(
        {
            "tunnel": (tunnel, {"nt_samples": 1, "stdevs": 0.0, "theta": 40.0}),
            "plain": (LayerUnionCAM(net, net.layer), {"theta": 40.0}),
        },
        x, 1, additional_forward_args=torch.tensor(0.2), baselines=3.0, metrics=[],
    )  # fmt: skip
    torch.testing.assert_close(result.maps["tunnel"], result.maps["plain"].relu())
    # FeatureAblation takes any keyword, so that not all of its options are known by name.
    ablation = FeatureAblation(net)
    result = compare(
        {
            "tunnel": (NoiseTunnel(ablation), {"nt_samples": 1, "stdevs": 0.0}),
            "plain": ablation,
        },
        x[:1], 1, additional_forward_args=torch.tensor(0.2), baselines=3.0, metrics=[],
    )  # fmt: skip
    torch.testing.assert_close(result.maps["tunnel"], result.maps["plain"])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda net: (Saliency(net), {"foo": 3}), "Saliency has no option 'foo'; it takes abs"),
        (
            lambda net: (IntegratedGradients(net), {"n_step": 1}),
            "has no option 'n_step'; closest: 'n_steps'",
        ),
        (lambda net: (NoiseTunnel(Saliency(net)), {"nt_sample": 1}), "closest: 'nt_samples'"),
        (lambda net: ("layercam", 3), "options of LayerCAM must be a dict, got 3"),
        (lambda net: ("layercam",), "a method must be a name"),
    ],
)
def test_options_that_no_attribution_takes(x, method, message):
    net, layer, _ = NETWORKS["vgg_like"]()
    with pytest.raises(TypeError, match=message):
        compare([method(net)], x, 1, forward_func=net, layer=layer)


def test_labels_of_the_user_stay_and_lose_no_method(x):
    given = {"a #2": "layercam", "a": "hirescam", "a #1": "gradcam"}
    assert list(compared(given, x, metrics=[]).maps) == list(given)
    twice = compared(["layercam", "layercam", "layercam"], x, metrics=[])
    assert list(twice.maps) == ["LayerCAM", "LayerCAM #2", "LayerCAM #3"]
    with pytest.raises(TypeError, match="labels of methods must be str and not empty, got 1"):
        compared({1: "layercam"}, x)


def test_maps_of_several_inputs_are_not_dropped(x):
    net = Shifted().eval()
    with pytest.raises(ValueError, match="Saliency gives 2 maps, one for each input"):
        compare([Saliency(net)], (x, torch.zeros_like(x)), 1, forward_func=net)


def test_under_inference_mode(x):
    net, layer, _ = NETWORKS["vgg_like"]()
    methods = [Saliency(net), LayerGradCam(net, layer), LayerUnionCAM(net, layer)]
    wanted = compare(methods, x, 1)
    with torch.inference_mode():
        found = compare(methods, x.clone(), 1)
    assert all(torch.equal(found.maps[label], wanted.maps[label]) for label in wanted.maps)


def test_max_box_acc_has_a_mean(x):
    boxes = [torch.tensor([[0.0, 0.0, x.shape[3], x.shape[2]]])] * 2
    options = {"max_box_acc": {"boxes": boxes}}
    result = compared(["ones"], x, metrics=["max_box_acc"], metric_options=options)
    assert result.summary()[0]["max_box_acc"] == 1
    assert isinstance(result.rows[0]["max_box_acc"], list)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": None}, TypeError, "metrics must be a sequence of names, got None"),
        ({"metrics": [1]}, ValueError, "no metric 1"),
        ({"metric_options": [1]}, TypeError, "metric_options must map metrics"),
        (
            {"metric_options": {"deletion": {"return_curve": True}}},
            ValueError,
            "'deletion' gives more than",
        ),
    ],
)
def test_wrong_metrics(x, options, error, message):
    with pytest.raises(error, match=message):
        compared(["ones"], x, **{"metrics": ["deletion"], **options})
