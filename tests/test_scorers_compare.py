"""Scorers in metrics and in compare, and what metrics of the same inputs measure once."""

import copy
import csv
import json
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from captum_unioncam import LayerFusionCAM, LayerScoreCAM, LayerUnionCAM, compare, scorers
from captum_unioncam.benchmark.rows import read_rows
from captum_unioncam.benchmark.settings import keep, load, versions
from captum_unioncam.commands import main as cli
from captum_unioncam.commands.demo import demo_session
from captum_unioncam.comparison.text import scorers_told
from captum_unioncam.engine import NamedScorer
from captum_unioncam.layer_fusion import MultiLayer
from captum_unioncam.metrics import (
    SharedScores,
    adcc,
    average_drop,
    average_gain,
    average_increase,
    beta,
    complexity,
    deletion,
    insertion,
    road,
)
from tests.test_benchmark_rows import SETTINGS
from tests.test_benchmark_run import picture

RUNNING = (average_drop, average_increase, average_gain, beta, deletion, insertion, road)
METHODS = ["unioncam", "scorecam", "gradcam"]


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 10, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5)),
    ).eval()
    return net, net[4], torch.rand(2, 3, 16, 16)


def needs(name):
    if not scorers.is_installed(name):
        pytest.skip(f"{name} is not installed")


def counting(function, seen):
    return lambda *given: seen.append(len(given[0])) or function(*given)


def counted(net):
    """Return a copy of a network, and where it notes the rows of its forwards."""
    net, rows = copy.deepcopy(net), []
    net.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    return net, rows


@pytest.mark.parametrize("metric", RUNNING, ids=lambda metric: metric.__name__)
def test_metrics_run_changed_inputs_through_the_scorer(metric):
    net, _, x = network()
    cam = torch.rand(2, 1, 8, 8)
    other = copy.deepcopy(net)
    nn.init.normal_(other[7].weight)
    clean, changed = [], []
    found = metric(counting(net, clean), x, cam, target=1, scorer=counting(other, changed))
    assert clean == [2], "the clean inputs run through the model"
    assert sum(changed) > 2
    torch.testing.assert_close(found, metric(other, x, cam, target=1))
    assert not torch.equal(found, metric(net, x, cam, target=1)) or metric is average_increase


def test_metrics_compare_a_scorer_first():
    net, _, x = network()
    scorer = scorers.half(net, tolerance=0)
    with pytest.warns(UserWarning, match="scorer 'half' is not used"):
        found = deletion(net, x, x, target=1, scorer=scorer)
    assert torch.equal(found, deletion(net, x, x, target=1))
    assert scorer.deviation > 0


def test_maps_alone_need_no_scorer(monkeypatch):
    net, _, x = network()
    monkeypatch.setitem(scorers.BUILDERS, "half", lambda *given: pytest.fail("built"))
    complexity(net, x, x, target=1, scorer="half")


def test_what_metrics_share_is_measured_once():
    net, rows = counted(network()[0])
    x = network()[2]
    cam, other = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    shared = SharedScores()
    common = {"target": 1, "baselines": 0.5}

    def run(metric, maps=cam, **options):
        rows.clear()
        found = metric(net, x, maps, **common, shared=shared, **options)
        count = sum(rows)
        assert torch.equal(found, metric(net, x, maps, **common, **options))
        return count

    assert run(average_drop) == 6, "clean, whole and shown"
    assert run(average_increase) == run(average_gain) == 0
    assert run(beta) == 2, "the baseline"
    assert run(deletion, step=64) == 2 * 3, "both ends are known"
    assert run(insertion, step=64) == 2 * 3 + 2, "the blurred inputs are not"
    assert run(average_drop, keep=0.5) == 2
    assert run(average_increase, keep=0.5) == 0
    assert run(average_drop, maps=other) == 2
    assert run(average_drop) == 2, "of maps the last are known"
    assert run(insertion, maps=other, step=64) == 2 * 3, "by now they are"
    common["baselines"] = 0.25
    assert run(average_drop, maps=other) == 2, "another baseline"
    common["target"] = 2
    assert run(average_drop, maps=other) == 6, "another target"


def test_what_is_shared_follows_the_rows_of_a_forward():
    """Scores of a chunk that was halved for want of memory are not set against those before."""
    net, _, x = network()
    x = x.repeat(2, 1, 1, 1)
    most, seen = [4], []

    def forward(images):
        seen.append(len(images))
        if len(images) > most[0]:
            raise torch.OutOfMemoryError
        return net(images)

    shared, cam = SharedScores(), torch.rand(4, 1, 8, 8)
    average_drop(forward, x, cam, target=1, shared=shared)
    assert seen == [4, 4, 4]
    most[0] = 2
    seen.clear()
    with pytest.warns(UserWarning, match="512 rows in a forward do not fit"):
        average_drop(forward, x, torch.rand(4, 1, 8, 8), target=1, shared=shared)
    # The maps in halves, and then everything anew in such.
    assert seen == [4, 2, 2, 2, 2, 2, 2]


def test_bad_shared():
    net, _, x = network()
    with pytest.raises(TypeError, match=r"shared must be SharedScores\(\) or None, got dict"):
        average_drop(net, x, x, target=1, shared={})


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_compare_through_a_runtime(name, tmp_path):
    needs(name)
    net, layer, x = network()
    common = {"forward_func": net, "layer": layer, "metrics": ["average_drop", "beta", "deletion"]}
    expected = compare(METHODS, x, "top2", **common)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(METHODS, x, "top2", scorer=name, **common)
    for label, cam in expected.maps.items():
        torch.testing.assert_close(found.maps[label], cam, atol=1e-5, rtol=1e-4)
    for one, other in zip(found.rows, expected.rows, strict=True):
        for metric in common["metrics"]:
            assert one[metric] == pytest.approx(other[metric], abs=1e-3)
        assert one["forwards"] == other["forwards"]
    assert found.scorer == name
    assert 0 < found.scorer_deviation < 1e-4
    assert f"changed inputs run by {name}, scores at most" in repr(found)
    found.to_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["scorer"] for row in rows} == {name}
    assert {float(row["scorer_deviation"]) for row in rows} == {found.scorer_deviation}
    assert "scorer" not in expected.rows[0]
    assert expected.scorer_deviation is None


def test_compare_runs_the_model_on_clean_inputs_alone():
    net, layer, x = network()
    scorer = scorers.half(net)
    exact, changed = copy.deepcopy(net), []
    scorer._run = counting(exact, changed)
    watched, rows = net, []
    watched.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    common = {"forward_func": net, "layer": layer, "metrics": ["average_drop", "insertion"]}
    found = compare(METHODS, x, [1, 2], scorer=scorer, **common)
    compared = 4
    # What finds the classes, the check of the scorer, the layer, Captum's Grad-CAM, the metrics.
    assert sum(rows) == 2 + (2 + compared) + 2 + 2 + 2
    assert sum(changed) > 100
    expected = compare(METHODS, x, [1, 2], **common)
    assert torch.equal(found.maps["UnionCAM"], expected.maps["UnionCAM"])


def test_a_scorer_must_be_near_for_every_class():
    net, layer, x = network()
    scorer = scorers.half(net)
    exact = copy.deepcopy(net)

    def wrong_for_class_2(images):
        output = exact(images)
        return output + torch.tensor([0, 0, 9.0, 0, 0])

    scorer._run = wrong_for_class_2
    common = {"forward_func": net, "layer": layer, "score": "logit", "metrics": ["beta"]}
    one = compare(METHODS, x, 1, scorer=scorer, **common)
    assert (one.scorer, one.scorer_deviation) == ("half", 0)
    expected = compare(METHODS, x, {"a": 1, "b": 2}, **common)
    with pytest.warns(UserWarning, match="scorer 'half' is not used"):
        found = compare(METHODS, x, {"a": 1, "b": 2}, scorer=scorer, **common)
    assert (found.scorer, found.scorer_deviation) == ("model", None)
    for label, cam in expected.maps.items():
        assert torch.equal(found.maps[label], cam)
    assert [r["beta"] for r in found.rows] == [r["beta"] for r in expected.rows]


def test_a_callable_runs_changed_inputs():
    net, layer, x = network()
    common = {"forward_func": net, "layer": layer, "metrics": ["average_drop"]}

    def twice(images):
        return 2 * net(images)

    found = compare(METHODS, x, 1, scorer=twice, **common)
    assert (found.scorer, found.scorer_deviation) == ("twice", None)
    expected = LayerScoreCAM(net, layer).attribute(x, 1, scorer=twice, relu_attributions=True)
    assert torch.equal(found.maps["Score-CAM"], expected)
    assert all(row["forwards"] is None for row in found.rows), "its rows cannot be counted"
    double = copy.deepcopy(net)
    counted = compare(METHODS, x, 1, scorer=double, **common)
    assert [r["forwards"] for r in counted.rows] == [
        r["forwards"] for r in compare(METHODS, x, 1, **common).rows
    ]


def test_a_scorer_of_a_methods_own_is_kept():
    net, layer, x = network()
    seen = []
    own = counting(net, seen)
    found = compare(
        {"a": ("scorecam", {"scorer": own})}, x, 1, forward_func=net, layer=layer, metrics=(),
        scorer=lambda images: pytest.fail("the method has its own"),
    )  # fmt: skip
    assert sum(seen) > 10
    assert torch.equal(found.maps["a"], LayerScoreCAM(net, layer).attribute(x, 1).relu())


def test_nothing_is_built_for_nothing(monkeypatch):
    net, layer, x = network()
    monkeypatch.setitem(scorers.BUILDERS, "half", lambda *given: pytest.fail("built"))
    found = compare(["gradcam"], x, 1, forward_func=net, layer=layer, metrics=(), scorer="half")
    assert (found.scorer, found.scorer_deviation) == ("model", None)


def test_a_named_scorer_is_built_once_for_several_calls(monkeypatch):
    net, layer, x = network()
    made, half = [], scorers.BUILDERS["half"]
    monkeypatch.setitem(
        scorers.BUILDERS, "half", lambda *given: made.append(half(*given)) or made[-1]
    )
    common = {"forward_func": net, "layer": layer, "metrics": ["average_drop", "road"]}
    kept = NamedScorer("half")
    for _ in range(2):
        found = compare(METHODS, x, "top2", scorer=kept, **common)
    assert len(made) == 1
    assert found.scorer == "half"
    compare(METHODS, x, "top2", scorer="half", **common)
    assert len(made) == 2


def test_compare_forwards_what_metrics_share_once():
    net, rows = counted(network()[0])
    x = network()[2]
    curves = {"insertion": {"step": 64}, "deletion": {"step": 64}}
    metrics = {"metrics": ["average_drop", "average_increase", *curves], "metric_options": curves}
    common = {"forward_func": net, "layer": net[4]}
    compare(["gradcam", "layercam"], x, {"a": 1, "b": 2}, metrics=(), **common)
    before = sum(rows)
    rows.clear()
    compare(["gradcam", "layercam"], x, {"a": 1, "b": 2}, **common, **metrics)
    # A class: clean, whole, baseline, blurred; a map of it: shown, three and three of its curves.
    assert sum(rows) - before == 2 * 2 * (4 + 2 * (1 + 3 + 3))


def test_metrics_that_explain_take_the_scorer():
    net, layer, x = network()
    scorer = scorers.half(net)
    exact, changed = copy.deepcopy(net), []
    scorer._run = counting(exact, changed)
    cam = LayerScoreCAM(net, layer)
    attr = cam.attribute(x, 1)
    expected = adcc(net, x, attr, explanation_func=cam.attribute, target=1)
    found = adcc(net, x, attr, explanation_func=cam.attribute, target=1, scorer=scorer)
    torch.testing.assert_close(found, expected)
    assert sum(changed) == 4 + 2 + 2


def test_methods_that_mask_nothing_share_the_clean_pass():
    net, rows = counted(network()[0])
    x = network()[2]
    common = {
        "forward_func": net,
        "layer": net[4],
        "metrics": (),
        "baselines": torch.ones(1, 3, 1, 1),
    }
    compare(["unioncam"], x, 1, **common)
    alone = sum(rows)
    rows.clear()
    compare(["layercam", "unioncam", "xgradcam"], x, 1, **common)
    assert sum(rows) == alone


def test_settings_tell_scorer_and_tolerance(tmp_path):
    assert "--scorer model" in SETTINGS.command(tmp_path)
    assert not any("run by" in line for line in SETTINGS.in_words())
    with_scorer = replace(SETTINGS, scorer="half", tolerance=0.3)
    (line,) = (line for line in with_scorer.in_words() if "run by" in line)
    assert line.endswith("run by half, and by the network itself where a score is more than 0.3 of "
                         "the largest off.")  # fmt: skip
    assert {"scorer": "half", "tolerance": 0.3}.items() <= with_scorer.for_rows().items()
    keep(with_scorer, tmp_path)
    keep(with_scorer, tmp_path)
    with pytest.raises(
        ValueError, match=r"tolerance was 0\.3, now None; scorer was 'half', now 'mo"
    ):
        keep(SETTINGS, tmp_path)
    # What was written before there were scorers.
    old = json.loads((tmp_path / "settings.json").read_text())
    del old["scorer"], old["tolerance"]
    (tmp_path / "settings.json").write_text(json.dumps(old))
    assert load(tmp_path).scorer == "model"


def test_versions_tell_the_runtimes():
    needs("onnxruntime")
    assert "onnxruntime" not in versions()
    assert {"onnxruntime", "onnx", "onnxscript"} < set(versions("onnxruntime"))


TINY = ("--model", "tests.test_benchmark_run:tiny_network", "--layer", "3")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number in range(2):
        picture(folder / f"{number}.png", number)
    return folder


@pytest.mark.parametrize(
    "command", [("compare", "--methods", "scorecam,unioncam"), ("explain", "--method", "scorecam")]
)
def test_commands_take_a_scorer(command, photos, tmp_path, capsys):
    name, *words = command
    table = tmp_path / "rows.csv"
    where = ("-o", str(tmp_path / "a.png"), "--csv", str(table), "--quiet")
    assert cli.main([name, str(photos), *TINY, *words, *where, "--scorer", "half"]) == 0
    assert "\nmasked pictures run by half; scores off by at most " in capsys.readouterr().out
    with table.open(newline="") as file:
        assert {row["scorer"] for row in csv.DictReader(file)} == {"half"}
    assert cli.main([name, str(photos), *TINY, *words, *where, "--scorer", "model"]) == 0
    assert "masked pictures" not in capsys.readouterr().out


def test_explain_takes_auto_where_every_channel_masks(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("captum_unioncam.engine.scorer_choice.AUTO", ("half",))
    common = ["explain", str(photos), *TINY, "-o", str(tmp_path / "a.png"), "--quiet"]
    for words, told in (
        (["--method", "scorecam"], True),
        (["--method", "scorecam:max_masks=3"], False),
        (["--method", "scorecam:max_masks=3", "--scorer", "auto"], True),
        (["--method", "layercam"], False),
    ):
        assert cli.main([*common, *words]) == 0
        assert ("masked pictures run by half" in capsys.readouterr().out) == told


def test_a_wrong_scorer_is_named(photos, capsys):
    with pytest.raises(SystemExit):
        cli.main(["compare", str(photos), *TINY, "--scorer", "onxruntime"])
    assert "invalid choice: 'onxruntime'" in capsys.readouterr().err


def test_the_demo_runs_where_no_runtime_is_installed(monkeypatch):
    monkeypatch.setattr("captum_unioncam.engine.scorer_choice.is_installed", lambda name: False)
    session = demo_session(["layercam", "scorecam:max_masks=2"], quiet=True, scorer="auto")
    shown = session.compared(Image.new("RGB", (300, 300), "grey"), "grey")
    rows = session.rows(shown, "grey")
    assert scorers_told(rows) == "masked pictures run by the model"


def test_a_benchmark_keeps_to_its_scorer(photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    common = ["benchmark", str(photos), *TINY, "--methods", "scorecam,gradcam", "--out", str(out)]
    common += ["--metrics", "average_drop", "--workers", "0", "--quiet"]
    monkeypatch.setattr("captum_unioncam.engine.scorer_choice.AUTO", ("half",))
    assert cli.main([*common, "--scorer", "auto"]) == 0
    settings = load(out)
    assert (settings.scorer, settings.tolerance) == ("half", 0.3)
    assert "--scorer half" in (out / "report.md").read_text()
    assert "run by half, and by the network itself where" in (out / "report.md").read_text()
    rows = read_rows(out)
    assert len(rows) == 4
    for row in rows:
        assert (row["scorer"], row["tolerance"], row["ran"]) == ("half", 0.3, "half")
        assert 0 < row["scorer_deviation"] < 0.3
    assert cli.main([*common, "--scorer", "half"]) == 0
    capsys.readouterr()
    assert cli.main(common) == 2
    assert "scorer was 'half', now 'model'" in capsys.readouterr().err


def test_a_benchmark_says_what_it_lacks(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    words = ["benchmark", str(photos), *TINY, "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main([*words, "--scorer", "openvino"]) == 2
    assert "openvino needs openvino: pip install" in capsys.readouterr().err


@pytest.mark.parametrize("method", [LayerUnionCAM, LayerFusionCAM])
def test_exact_leaves_the_betas_to_the_model(method):
    net, layer, x = network()
    other = copy.deepcopy(net)
    nn.init.normal_(other[7].weight)
    ran, changed = [], []
    exact = {"scorer": counting(other, changed), "exact": True, "return_details": True}
    watched = counting(net, ran)
    _, details = method(watched, layer).attribute(x, 1, **exact)
    # The clean pass, the baseline, two maps and what unites them where that is not flat.
    assert sum(ran) == 2 + 1 + 2 * 2 + int(details.union.flatten(1).any(1).sum())
    assert len(changed) > 1
    for name in ("denoised", "region", "union"):
        expected = beta(net, x, getattr(details, name), target=1)
        torch.testing.assert_close(getattr(details, f"beta_{name}"), expected)
    assert details.scorer_deviation is None
    _, loose = method(net, layer).attribute(x, 1, **{**exact, "exact": False})
    expected = beta(other, x, loose.denoised, target=1)
    torch.testing.assert_close(loose.beta_denoised, expected)
    assert not torch.allclose(loose.beta_denoised, details.beta_denoised)
    plain = method(net, layer).attribute(x, 1, exact=True)
    assert torch.equal(plain, method(net, layer).attribute(x, 1))


@pytest.mark.parametrize("method", [LayerUnionCAM, LayerFusionCAM])
def test_details_tell_the_deviation(method):
    net, layer, x = network()
    scorer = scorers.half(net)
    _, details = method(net, layer).attribute(x, 1, scorer=scorer, return_details=True)
    assert 0 < details.scorer_deviation == scorer.deviation
    _, details = method(net, layer).attribute(x, 1, return_details=True)
    assert details.scorer_deviation is None


def test_maps_of_several_layers_take_the_scorer():
    net, layer, x = network()
    changed = []
    method = MultiLayer(LayerScoreCAM, net, [net[1], layer])
    scorer = counting(net, changed)
    found = compare([method], x, 1, forward_func=net, metrics=(), scorer=scorer)
    assert sum(changed) > 20
    expected = compare([method], x, 1, forward_func=net, metrics=())
    (cam,), (other,) = found.maps.values(), expected.maps.values()
    torch.testing.assert_close(cam, other)
