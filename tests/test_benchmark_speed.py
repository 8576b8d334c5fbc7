"""The speed benchmark: who is timed when, ratios, memory, the limit and the report."""

import csv
import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import shlex
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerActivation
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from benchmarks.speed import __main__ as command
from benchmarks.speed import contestants, measure, report, steps
from benchmarks.speed.contestants import LIMIT, Contestant, Plain
from benchmarks.speed.footprint import Footprint, footprint, footprint_alone
from benchmarks.speed.measure import Measurement, Timing
from benchmarks.speed.settings import SpeedSettings
from benchmarks.speed.speed_run import arithmetic, batches_of, load_run
from captum_unioncam import LayerScoreCAM, scorers

CHANNELS, LIVE, MASKS = 5, 4, 3
MEBIBYTE = 2**20


def tiny_network(classes=4):
    """Its layer shows red, green, blue, red again twice as bright, and nothing."""
    channels = nn.Conv2d(3, CHANNELS, 1, bias=False)
    with torch.no_grad():
        channels.weight.zero_()
        for channel, (colour, gain) in enumerate([(0, 1), (1, 1), (2, 1), (0, 2)]):
            channels.weight[channel, colour] = gain
    model = nn.Sequential(
        *(nn.AvgPool2d(4), channels, nn.ReLU(), nn.Flatten(), nn.Linear(CHANNELS * 16, classes))
    )
    torch.manual_seed(3)
    nn.init.normal_(model[4].weight)
    steps = [v2.PILToTensor(), v2.Resize((16, 16)), v2.ToDtype(torch.float32, True)]
    return model.eval(), v2.Compose(steps)


def viewing_network():
    model, preprocess = tiny_network()
    model[3] = Viewed()
    return model, preprocess


class Viewed(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)


def repeating_network():
    model, preprocess = tiny_network()
    return nn.Sequential(model[2], *model), preprocess


def map_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


def uneven_network():
    return tiny_network()[0], v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, True)])


def settings_of(**changed):
    given = {
        "model": "tests.test_benchmark_speed:tiny_network",
        "weights": "DEFAULT",
        "random_weights": False,
        "layer": "2",
        "images": (),
        "n": 2,
        "size": None,
        "repeats": 2,
        "methods": ("unioncam", "scorecam", "unioncam:max_masks=2"),
        "batches": (1,),
        "dtypes": ("float32",),
        "device": "cpu",
        "peer_rows": (16, 32),
        "beside": ("grad-cam", "torchcam", "compare", "limit", "memory"),
    }
    return SpeedSettings(**{**given, **changed})


def run_of(**changed):
    return load_run(settings_of(**changed), "float32")


@pytest.fixture
def no_peers(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    monkeypatch.setitem(sys.modules, "torchcam", None)


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.setattr(measure, "footprint_alone", lambda *_: Footprint(MEBIBYTE, 0))


def quick(settings, said=None):
    return measure.measured(settings, said.append if said is not None else str, len)


def test_masks_are_counted_and_photographs_begin_again():
    first, second = batches_of(run_of(n=None), 3)
    assert first.names == ("cat", "espresso", "rocket")
    assert second.names == ("motorcycle", "cat", "espresso")
    assert (first.channels, first.live, first.distinct) == (CHANNELS, 3 * LIVE, 3 * MASKS)
    assert first.x.shape == first.black.shape == (3, 3, 16, 16)
    model = run_of().network.model
    assert first.target == model(first.x).argmax(1).tolist()


def test_inputs_are_resized():
    batch = batches_of(run_of(model="tests.test_benchmark_speed:map_pooled", size=20), 1)[0]
    assert batch.x.shape == batch.black.shape == (1, 3, 20, 20)


def map_pooled():
    parts = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*parts), tiny_network()[1]


@pytest.mark.exhaustive
def test_all_are_timed_in_every_round(no_peers, no_memory):
    said = []
    (found,) = quick(settings_of(), said)
    labels = [c.label for c in found.contestants]
    assert labels == [
        *("UnionCAM", "Score-CAM", "UnionCAM max_masks=2"),
        *("compare(): 4 methods, 3 classes", LIMIT),
    ]
    rounds = [found.timings[i : i + 5] for i in range(0, 20, 5)]
    assert [(r[0].images, r[0].repeat) for r in rounds] == [
        *(("cat", 0), ("espresso", 0), ("cat", 1), ("espresso", 1))
    ]
    for number, timings in enumerate(rounds):
        assert len({(t.images, t.repeat) for t in timings}) == 1
        assert [t.contestant for t in timings] == labels[number:] + labels[:number]
    assert [line.split(": ", 1)[1] for line in said if "round" in line] == [
        t.contestant for t in found.timings
    ]


def test_rows_are_counted(no_peers, no_memory):
    (found,) = quick(settings_of(batches=(2,), repeats=1))
    rows = {t.contestant: t.rows for t in found.timings}
    # Besides the masks: the clean input, the baseline and three maps.
    assert rows["UnionCAM"] == 2 * (MASKS + 5)
    assert rows["UnionCAM max_masks=2"] == 2 * (2 + 5)
    assert rows["Score-CAM"] == 2 * (MASKS + 2)
    assert rows[LIMIT] == 2 * MASKS
    assert found.batch == 2
    assert (found.live, found.distinct) == (LIVE / CHANNELS, MASKS / CHANNELS)


def test_a_budget_that_covers_all_masks_correlates_fully(no_peers, no_memory):
    (found,) = quick(settings_of(methods=("unioncam", f"unioncam:max_masks={MASKS}"), n=1))
    assert [t.correlations for t in found.timings if "max_masks" in t.contestant] == [
        (pytest.approx(1),)
    ] * 2
    assert all(not t.correlations for t in found.timings if "max_masks" not in t.contestant)


def test_only_the_same_method_is_exact():
    methods = ("unioncam", "unioncam:theta=30:max_masks=2", "scorecam:max_masks=2", "scorecam")
    settings = settings_of(methods=methods)
    entered = contestants.contestants_of(settings, run_of(methods=methods))
    assert [c.exact for c in entered[:4]] == ["", "", "Score-CAM", ""]


def test_unioncam_is_always_timed_first():
    assert settings_of(methods=["scorecam", "unioncam"]).methods == ["unioncam", "scorecam"]
    assert settings_of(methods=["unioncam:theta=30"]).methods == ["unioncam", "unioncam:theta=30"]


def drawn(label, **changed):
    """Maps that differ from call to call."""
    drawn_maps = []

    def request(batch):
        drawn_maps.append(torch.rand(len(batch.names), 1, 4, 5))
        return drawn_maps[-1]

    return Contestant(label, lambda: nullcontext(request), **changed), drawn_maps


def test_correlations_are_pearsons(monkeypatch, no_memory):
    exact, maps = drawn("exact")
    near, others = drawn("near", exact="exact")
    monkeypatch.setattr(measure, "contestants_of", lambda *_: [exact, near])
    (found,) = quick(settings_of(batches=(2,), repeats=1))
    assert (len(maps), len(others)) == (1, 1)
    pairs = zip(maps[0].flatten(1).numpy(), others[0].flatten(1).numpy(), strict=True)
    expected = [np.corrcoef(x, y)[0, 1] for x, y in pairs]
    (timing,) = [t for t in found.timings if t.contestant == "near"]
    assert timing.correlations == pytest.approx(expected, rel=1e-5)


def test_plain_forwards_leave_out_layouts_that_the_network_refuses():
    ways = contestants.plain_times(run_of())
    assert set(ways) == {Plain(n, last) for n in (1, 2, 4, 8, 16, 32) for last in (False, True)}
    assert all(seconds > 0 for seconds in ways.values())
    # One position makes both layouts one; the other network has sixteen.
    viewing = run_of(model="tests.test_benchmark_speed:viewing_network")
    assert not any(way.channels_last for way in contestants.plain_times(viewing))


@pytest.mark.parametrize(("rows", "sizes"), [(7, [4, 3]), (8, [4, 4]), (3, [3])])
def test_plain_forwards_are_as_many_as_masks(rows, sizes):
    run, seen = run_of(), []
    run.network.model.register_forward_pre_hook(
        lambda module, args: seen.append(
            (len(args[0]), args[0].is_contiguous(memory_format=torch.channels_last))
        )
    )
    x = run.photographs[0].x
    contestants.forward_plainly(run, x, rows, Plain(4, True))
    assert seen == [(size, True) for size in sizes]


@pytest.mark.parametrize(
    ("peer", "module", "further"),
    # Both forward every channel; torchcam also the image again.
    [("grad-cam", "pytorch_grad_cam", 1), ("torchcam", "torchcam", 2)],
)
def test_peers_explain_and_leave_no_hooks(no_memory, peer, module, further):
    pytest.importorskip(module)
    settings = settings_of(n=1, repeats=1)
    run = load_run(settings, "float32")
    batch = batches_of(run, 1)[0]
    theirs = [c for c in contestants.contestants_of(settings, run) if c.peer == peer]
    assert [c.label for c in theirs] == [f"{peer} ScoreCAM, {n} rows" for n in (16, 32)]
    for contestant in theirs:
        timing, result = measure.timed(contestant, run, batch, 0)
        assert timing.rows == CHANNELS + further
        assert np.asarray(result[0]).size in (16, 16 * 16)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in run.network.model.modules())


@pytest.mark.parametrize("size", [1, 3])
def test_no_step_changes_what_channels_score(size):
    run = run_of(n=None)
    batch = batches_of(run, size)[0]
    layer = run.layer
    exact = LayerScoreCAM(run.network.model, layer).attribute(
        batch.x, batch.target, baselines=batch.black, relu_attributions=False
    )
    A = LayerActivation(run.network.model, layer).attribute(batch.x).detach()
    rows = []
    for contestant in steps.step_contestants(run):
        timing, scores = measure.timed(contestant, run, batch, 0)
        baseline = run.network.model(batch.black).softmax(1)
        torch.testing.assert_close(scores[:, -1], baseline[range(size), batch.target])
        live = A.flatten(2).std(2) > 0
        cam = ((scores * live)[:, :, None, None] * A).sum(1, keepdim=True)
        torch.testing.assert_close(cam.detach(), exact, rtol=1e-5, atol=1e-6)
        rows.append(timing.rows)
    # The image, every channel; then the image, the baseline, and distinct masks only.
    assert rows == [size * (1 + CHANNELS)] + [size * (2 + MASKS)] * (len(rows) - 1)


def test_everything_beside_methods_can_be_left_out(monkeypatch):
    monkeypatch.setattr(measure, "footprint_alone", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(measure, "plain_times", lambda *_: pytest.fail("measured"))
    settings = settings_of(n=1, repeats=1, beside=("nothing",))
    (found,) = quick(settings)
    assert [c.label for c in found.contestants] == ["UnionCAM", "Score-CAM", "UnionCAM max_masks=2"]
    assert "--beside nothing" in settings.command(Path("out"))
    text = report.as_markdown([found], settings, Path("out"), [])
    assert "left out" not in text
    assert "Plain forwards" not in text
    assert "The limit" not in text


def test_some_peers_can_be_left_out():
    pytest.importorskip("torchcam")
    settings = settings_of(n=1, beside=("torchcam",), peer_rows=(8,))
    found = contestants.contestants_of(settings, run_of(n=1))
    assert [c.label for c in found if c.peer] == ["torchcam ScoreCAM, 8 rows"]


@pytest.mark.exhaustive
def test_steps_are_timed_on_request(no_peers, no_memory):
    settings = settings_of(n=1, repeats=1, methods=("unioncam",), beside=("steps",))
    (found,) = quick(settings)
    assert [c.label[:7] for c in found.contestants if "step" in c.label] == [
        f"step {n}:" for n in range(6)
    ]
    assert len(found.timings) == len(found.contestants)
    assert "--beside steps" in settings.command(Path("out"))


@pytest.mark.parametrize(("peer", "module"), [("grad-cam", "pytorch_grad_cam"), ("torchcam",) * 2])
def test_peers_explain_the_last_call_of_a_layer(peer, module):
    pytest.importorskip(module)
    once, twice = run_of(n=1), run_of(n=1, model=f"{__name__}:repeating_network", layer="0")
    maps = []
    for run in (once, twice):
        settings, batch = settings_of(n=1), batches_of(run, 1)[0]
        theirs = [c for c in contestants.contestants_of(settings, run) if c.peer == peer]
        maps.append(measure.timed(theirs[0], run, batch, 0)[1][0])
    np.testing.assert_allclose(*maps, rtol=1e-5)


def test_scorers_are_built_before_they_are_timed(monkeypatch, no_peers, no_memory):
    built, half = [], scorers.BUILDERS["half"]
    monkeypatch.setitem(scorers.BUILDERS, "half", lambda *given: built.append(1) or half(*given))
    methods = ("unioncam", "unioncam:scorer=half", "unioncam:max_masks=2:scorer=half")
    settings = settings_of(n=1, repeats=2, methods=methods, beside=("metrics",))
    (found,) = quick(settings)
    labels = ["UnionCAM", "UnionCAM scorer=half", "UnionCAM max_masks=2 scorer=half"]
    alone, together = "compare() and 4 metrics, each by itself", "compare() with 4 metrics"
    assert [c.label for c in found.contestants] == [
        *(*labels, alone, together, f"{together}, scorer=half")
    ]
    assert len(built) == 3
    timings = {c.label: [t for t in found.timings if t.contestant == c.label]
               for c in found.contestants}  # fmt: skip
    for label in labels[1:]:
        (first,) = (t for t in found.timings if t.contestant == f"{label}, with what it builds")
        # What it is compared with the model by.
        assert first.rows == timings[label][0].rows + 2 * 4
    # The model's forwards and the scorer's, of all masked pictures.
    assert [t.rows for t in timings[labels[1]]] == [t.rows for t in timings["UnionCAM"]]
    assert timings[labels[1]][0].differences[0] < 0.05
    assert timings[labels[1]][0].correlations[0] > 0.99
    assert [c.exact for c in found.contestants] == ["", "UnionCAM", "UnionCAM", "", "", ""]
    assert timings[together][0].rows < timings[alone][0].rows
    pairs = {tuple(row[:2]) for row in cells(report.pairs_table(found))[2:]}
    assert (f"{together}, scorer=half", alone) in pairs
    assert ("UnionCAM scorer=half, with what it builds", "UnionCAM") in pairs


def test_missing_peers_are_left_out_and_named(no_peers, no_memory, tmp_path):
    settings = settings_of(n=1, repeats=1)
    found = quick(settings)
    assert not any(c.peer for c in found[0].contestants)
    text = report.as_markdown(found, settings, tmp_path, report.machine())
    assert "left out: grad-cam, torchcam" in text
    assert "ScoreCAM" not in text


def failing(label, peer):
    def request(batch):
        raise TypeError("no\nbfloat16")

    return Contestant(label, lambda: nullcontext(request), peer=peer)


@pytest.mark.exhaustive
def test_failures_of_others_are_said_and_own_ones_raised(monkeypatch, no_memory, tmp_path):
    own = contestants.contestants_of

    def with_a_peer(*args):
        return [*own(*args), failing("theirs", "other")]

    monkeypatch.setattr(measure, "contestants_of", with_a_peer)
    settings = settings_of(methods=("unioncam",))
    found = quick(settings)
    assert found[0].errors["theirs"] == "TypeError: no bfloat16"
    assert "theirs" not in {t.contestant for t in found[0].timings}
    text = report.as_markdown(found, settings, tmp_path, [])
    assert "- theirs: TypeError: no bfloat16" in text

    monkeypatch.setattr(measure, "contestants_of", lambda *args: [failing("ours", "")])
    with pytest.raises(TypeError, match="no\nbfloat16"):
        quick(settings)


def measurement(timings, contestants, **changed):
    given = {
        "dtype": "float32",
        "batch": 1,
        "network": "net",
        "layer": "features",
        "size": (8, 8),
        "channels": 10,
        "live": 0.6,
        "distinct": 0.5,
        "contestants": tuple(contestants),
        "plain": {Plain(1, False): 0.4, Plain(4, True): 0.2},
        "timings": [Timing(*t) for t in timings],
    }
    return Measurement(**{**given, **changed})


def contestant(label, **changed):
    return Contestant(label, nullcontext, **changed)


def by_hand():
    """Two photographs, of which the second takes everybody twice as long."""
    once = {"UnionCAM": 2.0, "few": 0.5, "A, 16 rows": 9.0, "A, 32 rows": 8.0, "B": 10.0}
    once |= {"Score-CAM": 1.6, "compare()": 2.4, LIMIT: 1.6}
    timings = [
        (image, 0, label, factor * seconds, 10 * factor, (0.9 + factor / 100,) * (label == "few"))
        for image, factor in (("a", 1), ("b", 2))
        for label, seconds in once.items()
    ]
    others = {
        "few": {"exact": "UnionCAM"},
        "A, 16 rows": {"peer": "A"},
        "A, 32 rows": {"peer": "A"},
        "B": {"peer": "B"},
        "compare()": {"beside": "Score-CAM"},
    }
    return measurement(timings, [contestant(label, **others.get(label, {})) for label in once])


def cells(lines):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_times_are_divided_within_a_round():
    rows = [("a", 0, "x", 2.0, 1), ("a", 1, "x", 4.0, 1), ("a", 0, "y", 6.0, 1)]
    rows += [("a", 1, "y", 4.0, 1), ("b", 0, "y", 100.0, 1)]
    assert report.ratios([Timing(*row) for row in rows], "x")["y"] == (2.0, 1.0, 3.0)


def test_the_table_by_hand():
    found = by_hand()
    found.footprints["few"] = Footprint(3 * MEBIBYTE, 0)
    table = {row[0]: row[1:] for row in cells(report.contestants_table(found))}
    assert table["few"] == [
        *("0.250 [0.250, 0.250]", "0.312 [0.312, 0.312]", "15.0", "3.00", "0"),
        *("0.9150, worst 0.9100", "–"),
    ]
    assert table["A, 16 rows"] == ["4.50 [4.50, 4.50]", "5.62 [5.62, 5.62]", "15.0", *"––––"]


def test_pairs_by_hand():
    pairs = [tuple(row) for row in cells(report.pairs_table(by_hand()))[2:]]
    assert pairs == [
        ("A, 32 rows", "UnionCAM", "4.00 [4.00, 4.00]"),
        ("B", "UnionCAM", "5.00 [5.00, 5.00]"),
        ("A, 32 rows", "few", "16.0 [16.0, 16.0]"),
        ("B", "few", "20.0 [20.0, 20.0]"),
        ("compare()", "Score-CAM", "1.50 [1.50, 1.50]"),
        ("UnionCAM", LIMIT, "1.25 [1.25, 1.25]"),
    ]


def test_plain_table_by_hand():
    table = cells(report.plain_table(by_hand()))
    assert table[0][1:] == ["1", "4"]
    assert table[2:] == [["usual layout", "2.00", "–"], ["channels-last", "–", "1.00"]]


def test_what_a_call_takes_and_keeps():
    kept = []

    def request(batch):
        kept.append(torch.ones(48 * MEBIBYTE // 4))
        # Views and the result itself are not counted again.
        kept.append(kept[0][:10])
        return torch.ones(64 * MEBIBYTE // 4)

    # Memory that the allocator has kept from other tests is resident already.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        gc.collect()
        trim(0)
    found = footprint(request, None, torch.device("cpu"))
    assert found.kept_bytes == 48 * MEBIBYTE
    if Path("/proc/self/clear_refs").exists():
        assert 111 * MEBIBYTE < found.peak_bytes < 140 * MEBIBYTE


@pytest.mark.exhaustive
def test_memory_is_measured_in_a_process_of_its_own():
    settings = settings_of(n=1)
    found = footprint_alone(settings, "float32", 1, "UnionCAM")
    assert found.kept_bytes == 0
    assert not found.error
    failed = footprint_alone(settings, "float32", 1, "nobody")
    assert failed == Footprint(error="KeyError: 'nobody'")


def test_the_command_writes_a_report_without_bare_times(tmp_path, no_peers, no_memory, capsys):
    picture = tmp_path / "a picture.png"
    Image.effect_noise((40, 30), 90).convert("RGB").save(picture)
    words = ["--model", "tests.test_benchmark_speed:tiny_network", "--repeats", "1", "--quiet"]
    words += ["--images", str(picture), "--batches", "1,2", "--layer", "2"]
    words += ["--methods", "unioncam,scorecam,unioncam:max_masks=2", "--device", "cpu"]
    out = tmp_path / "out"
    assert command.main([*words, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"report written to {out / 'report.md'}" in captured.out
    written = (out / "report.md").read_text()
    assert " ms" not in written
    assert "second" not in written
    assert "## tests.test_benchmark_speed:tiny_network, float32, 2 photographs in a call" in written
    assert f"Layer `2`, {CHANNELS} channels, inputs 16 x 16" in written
    assert f"torch {importlib.metadata.version('torch')}" in written
    assert "1 thread" in written or f"{torch.get_num_threads()} threads" in written
    with (out / "speed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 5
    first = rows[0]
    assert first["contestant"] == "UnionCAM"
    assert float(first["ms_per_image"]) == pytest.approx(1000 * float(first["seconds"]))
    assert float(rows[5]["ms_per_image"]) == pytest.approx(500 * float(rows[5]["seconds"]))
    assert float(first["ratio_to_unioncam"]) == 1
    assert first["peak_bytes"] == str(MEBIBYTE)
    assert [row["images"] for row in rows[::5]] == ["a picture.png", "a picture.png+a picture.png"]
    # The command in the report measures the same again.
    (repeated,) = [
        line for line in written.splitlines() if line.startswith("python -m benchmarks.speed")
    ]
    again = command.make_parser().parse_args(shlex.split(repeated)[3:])
    assert vars(again) == vars(command.make_parser().parse_args([*words, "--out", str(out)])) | {
        "quiet": False
    }


def test_rounds_are_written_as_they_are_done(tmp_path, no_peers, no_memory):
    lengths = []
    measure.measured(settings_of(), str, lambda so_far: lengths.append(len(so_far[0].timings)))
    assert lengths == [5, 10, 15, 20, 20]


def test_settings_survive_json():
    settings = settings_of(
        images=["a.png"], batches=[1, 8], dtypes=["float32"], beside=["limit"], peer_rows=[8]
    )
    assert SpeedSettings(**json.loads(json.dumps(asdict(settings)))) == settings


def test_arithmetic_is_as_it_was_before():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with arithmetic("float32"):
        assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(KeyError), arithmetic("tf32"):
        raise KeyError
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
    with arithmetic("tf32"):
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_half_precision_networks_are_timed(no_peers, no_memory):
    (found,) = quick(settings_of(dtypes=("bfloat16",), n=1, repeats=1))
    assert {t.contestant for t in found.timings} == {c.label for c in found.contestants}


def test_random_weights_are_the_same_each_time():
    state = torch.get_rng_state()
    given = {"model": "squeezenet1_1", "random_weights": True, "layer": "auto", "n": 1}
    first, second = (run_of(**given).network.model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 0}, "--n must be a finite number greater than 0"),
        ({"repeats": 0}, "--repeats"),
        ({"size": -3}, "--size"),
        ({"batches": (1, 0)}, "--batches"),
        ({"batches": ()}, "--batches names nothing"),
        ({"batches": (2, 2)}, "--batches names one twice"),
        ({"methods": ()}, "--methods names nothing"),
        ({"methods": ("scorecam", "scorecam")}, "--methods names one twice"),
        ({"methods": ("union",)}, "closest: 'unioncam'"),
        ({"methods": ("unioncam.region",)}, "give 'unioncam'"),
        ({"dtypes": ("float16",)}, "--dtype must be one of .*'bfloat16'"),
        ({"dtypes": ("tf32",)}, "tf32 is arithmetic of CUDA devices"),
        ({"peer_rows": (0,)}, "--peer-rows"),
        ({"beside": ("peers",)}, "--beside must be one of"),
        ({"beside": ()}, "--beside names nothing"),
        ({"beside": ("limit", "limit")}, "--beside names one twice"),
        ({"random_weights": True, "weights": "x.pth"}, "contradict"),
    ],
)
def test_bad_settings_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        settings_of(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 5}, "there are 4 photographs; give more with --images"),
        ({"images": ("nowhere.png",), "n": 1}, "nowhere.png: no such file"),
        ({"layer": "7"}, "no layer '7'"),
        ({"model": "demo", "random_weights": True}, "needs a classifier of torchvision"),
        ({"model": "resnet81", "random_weights": True}, "closest: 'resnet18'"),
        ({"model": "tests.test_benchmark_speed:uneven_network"}, "cannot be batched: say --size"),
    ],
)
def test_what_cannot_be_loaded_is_named(changed, message):
    with pytest.raises(ValueError, match=message):
        run_of(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "tests.test_benchmark_speed:map_network", "layer": "1"}, "is no classifier"),
        ({"layer": "4"}, "layer 4 gives no maps"),
    ],
)
def test_only_maps_of_classifiers_are_timed(changed, message):
    with pytest.raises(ValueError, match=message):
        batches_of(run_of(**changed), 1)


def test_batches_must_be_numbers(tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        command.main(["--batches", "1,two", "--out", str(tmp_path / "out")])
    assert refused.value.code == 2
    assert "--batches: takes whole numbers, got '1,two'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_run_is_one_line(tmp_path, capsys):
    assert command.main(["--methods", "union", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("python -m benchmarks.speed: no method 'union'; closest: 'unioncam'")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_peers_are_where_they_are_looked_for():
    found = {name: importlib.util.find_spec(m) for name, (m, _) in contestants.PEERS.items()}
    assert contestants.missing_peers(contestants.PEERS) == [
        name for name, spec in found.items() if not spec
    ]
