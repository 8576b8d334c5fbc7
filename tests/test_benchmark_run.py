"""Whole runs on a tiny network: killed, resumed, shared among processes, on broken pictures."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as skimage
from torch import nn
from torchvision.transforms import v2

from captum_unioncam import LayerUnionCAM
from captum_unioncam.benchmark import measure_picture as measuring
from captum_unioncam.benchmark.measure_all import MOST_FAILURES
from captum_unioncam.benchmark.presets import PRESETS
from captum_unioncam.benchmark.rows import read_rows
from captum_unioncam.commands import main as cli
from captum_unioncam.metrics import drop_at_area, grid_pointing_at_area, keep_at_area
from tests.networks import seeded
from tests.test_benchmark_data import write_voc

# Seconds; a start takes longer where other work runs.
PATIENCE = 300
PICTURES = 15
# A sample of this seed leaves the broken picture for the end.
SEED = 1
CHANGING = ("seconds", "peak_bytes", "device_name")
METHODS = "gradcam,scorecam,unioncam"


def tiny_network(classes=3):
    """Three convolutional channels; slow or failing where the environment says so."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 5, 3, stride=2), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, classes)),
    )
    model = seeded(model).float()
    if "SLOW" in os.environ:
        model.register_forward_pre_hook(lambda *_: time.sleep(0.03))
    if os.environ.get("FAILING_RANK", "none") == os.environ.get("RANK"):
        model.register_forward_pre_hook(fail)
    steps = [v2.PILToTensor(), v2.Resize(24), v2.CenterCrop(24), v2.ToDtype(torch.float32, True)]
    return model, v2.Compose(steps), [f"name {c}" for c in range(classes)]


def fail(module, args):
    if len(args[0]) > 1:
        raise TypeError("this process fails")


def voc_network():
    model, preprocess, _ = tiny_network(20)
    return model, preprocess


def nan_network():
    model, preprocess, names = tiny_network()
    model.register_forward_hook(lambda module, args, output: output * float("nan"))
    return model, preprocess, names


OWN = ("--model", "tests.test_benchmark_run:tiny_network", "--layer", "3", "--methods", METHODS)


def picture(path, seed, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(PICTURES):
        picture(folder / f"class{number % 3}" / f"{number}.png", number)
    (folder / "class1" / "broken.png").write_bytes(b"\x89PNG and no more")
    return folder


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert cli.main(arguments(photos, out)) == 1
    return out


def arguments(data, out, *changes):
    own = [*OWN, "--out", out, "--workers", 0, "--device", "cpu", "--quiet", *changes]
    return [str(a) for a in ("benchmark", data, *own)]


def run(capsys, *given):
    status = cli.main(list(map(str, given)))
    return status, *capsys.readouterr()


def table(out):
    """The rows without what differs from run to run, in one order."""
    rows = [{k: v for k, v in row.items() if k not in CHANGING} for row in read_rows(out)]
    return sorted(rows, key=lambda row: (row["image"], row.get("class", 0), row["row"]))


@contextmanager
def python(*words, **environment):
    """A process, ended with all that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def assert_same_tables(out, other):
    """The same rows; metrics up to rounding, which differs with the number of threads."""
    for row, expected in zip(table(out), table(other), strict=True):
        assert row.pop("metrics", {}) == pytest.approx(expected.pop("metrics", {}), abs=1e-4)
        for name in ("probability", "disagreement"):
            assert row.pop(name, 0) == pytest.approx(expected.pop(name, 0), abs=1e-5)
        assert row == expected


def test_a_run(photos, whole, capsys):
    rows = read_rows(whole)
    assert len(rows) == PICTURES * 3 + 1
    row = next(r for r in rows if r["image"] == "class2/5.png" and r["method"] == "UnionCAM")
    assert (row["labels"], row["class_name"], row["spec"]) == (
        [2],
        f"name {row['class']}",
        "unioncam",
    )
    assert row["predicted"] == row["class"]
    assert set(row["metrics"]) == {"average_drop", "average_increase"}
    assert row["versions"]["torch"] in torch.__version__
    assert row["layer"] == "3"
    assert len(row["weights_sha256"]) == 64
    [error] = [r for r in rows if "error" in r]
    assert error["image"] == "class1/broken.png"
    assert "not a readable picture" in error["error"]
    assert {p.name for p in whole.iterdir()} == {
        *(".lock", "gallery.png", "report.csv", "report.md", "rows-0.jsonl", "settings.json"),
    }
    with Image.open(whole / "gallery.png") as gallery:
        assert gallery.size[0] > 700
        assert gallery.size[1] > 1000
    # The same command goes on, where nothing is left to do.
    stamp = (whole / "gallery.png").stat().st_mtime_ns
    content = (whole / "rows-0.jsonl").read_bytes()
    status, out, err = run(capsys, *arguments(photos, whole))
    assert (status, err) == (1, "")
    assert "not measured: 1 of the pictures" in out
    assert f"report written to {whole / 'report.md'}" in out
    assert (whole / "rows-0.jsonl").read_bytes() == content
    assert (whole / "gallery.png").stat().st_mtime_ns == stamp


def test_the_metrics_are_those_of_the_maps(photos, whole):
    """Recomputed without the benchmark: prepare, explain, mask, score."""
    from captum_unioncam import LayerUnionCAM, black_baseline
    from captum_unioncam.engine.maps import resize

    model, preprocess, _ = tiny_network()
    row = next(r for r in table(whole) if r.get("method") == "UnionCAM")
    with Image.open(photos / row["image"]) as file:
        x = preprocess(file.convert("RGB"))[None]
    with torch.no_grad():
        clean = model(x).softmax(1)[0, row["class"]]
    black = black_baseline([0.0] * 3, [1.0] * 3, x)
    cam = LayerUnionCAM(model, model[3]).attribute(x, row["class"], baselines=black)
    mask = resize(cam, (24, 24))
    mask = (mask - mask.min()) / (mask.max() - mask.min())
    with torch.no_grad():
        masked = model(x * mask).softmax(1)[0, row["class"]]
    drop = 100 * float((clean - masked).clamp(min=0) / clean)
    assert row["probability"] == pytest.approx(float(clean), abs=1e-6)
    assert row["metrics"]["average_drop"] == pytest.approx(drop, abs=1e-3)


@pytest.mark.exhaustive
def test_a_killed_run_goes_on(photos, whole, tmp_path, capsys):
    path = tmp_path / "rows-0.jsonl"
    given = arguments(photos, tmp_path, "--workers", 1)
    with python("captum_unioncam", *given, SLOW="1") as process:
        deadline = time.time() + PATIENCE
        while not path.exists() or path.read_bytes().count(b"\n") < 9:
            assert process.poll() is None
            assert time.time() < deadline
            time.sleep(0.01)
        # Meanwhile nobody else may write there.
        status, _, err = run(capsys, *given)
        process.kill()
    assert (status, err) == (2, f"unioncam: another run is writing in {tmp_path}; wait for it\n")
    done = {row["image"] for row in read_rows(tmp_path)}
    assert 3 <= len(done) < PICTURES
    path.write_bytes(path.read_bytes() + b'{"image": "class1/1.p')
    assert cli.main(given) == 1
    assert len(read_rows(tmp_path)) == PICTURES * 3 + 1
    assert_same_tables(tmp_path, whole)


def failing_network():
    """Fails on the darkest picture as a network's own code may."""
    model, preprocess, names = tiny_network()

    def fail_on_black(module, args):
        if args[0].shape[0] == 1 and 0 < args[0].mean() < 0.02:
            raise RuntimeError("sizes\ndo not match")

    model.register_forward_pre_hook(fail_on_black)
    return model, preprocess, names


def test_a_picture_that_the_network_fails_on(photos, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        picture(folder / f"{number}.png", number)
    Image.new("RGB", (40, 30), (3, 3, 3)).save(folder / "dark.png")
    given = ["--model", "tests.test_benchmark_run:failing_network", "--methods", "layercam"]
    status, _, _ = run(capsys, *arguments(folder, tmp_path / "out", *given))
    rows = read_rows(tmp_path / "out")
    assert status == 1
    assert [r["error"] for r in rows if "error" in r] == ["sizes do not match"]
    assert sum("error" not in row for row in rows) == 3


def test_controls_draw_anew_for_every_picture(photos, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--methods", "random,random:seed=3", "--metrics", "complexity", "--n", "4"]
    run(capsys, *arguments(photos, out, *given))
    rows = [row for row in read_rows(out) if "error" not in row]
    for method, count in (("Random map", len(rows) // 2), ("Random map seed=3", 1)):
        own = [row for row in rows if row["method"] == method]
        assert len({row["metrics"]["complexity"] for row in own}) == count
        assert len({row["spec"] for row in own}) == count


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m")


@pytest.mark.exhaustive
def test_two_processes_make_the_same_table(photos, whole, tmp_path):
    # As torchrun must be told: it takes --n for its own.
    given = [*arguments(photos, tmp_path), "--pictures", PICTURES + 1]
    with python(*TORCHRUN, "captum_unioncam", *given) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert out.count("report written to") == 1
    assert "not measured: 1 of the pictures" in out
    shares = [(tmp_path / f"rows-{rank}.jsonl").read_bytes().count(b"\n") for rank in (0, 1)]
    assert sorted(shares) == [7 * 3 + 1, 8 * 3]
    assert_same_tables(tmp_path, whole)


@pytest.mark.exhaustive
def test_a_process_that_fails_ends_the_others(photos, tmp_path):
    given = arguments(photos, tmp_path)
    with python(*TORCHRUN, "captum_unioncam", *given, FAILING_RANK="1") as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "unioncam: this process fails" in err
    assert not (tmp_path / "report.md").exists()
    # What the other has done is kept, and the run can go on.
    assert cli.main(given) == 1
    assert len(read_rows(tmp_path)) == PICTURES * 3 + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--seed", "1"], "seed was 0, now 1"),
        (["--layer", "1"], "layer was '3', now '1'"),
        (["--n", "5"], "images was 16, now 5"),
        (["--protocol", "xplain"], "protocol was 'paper', now 'xplain'"),
        (["--methods", "gradcam,unioncam"], "methods Score-CAM was 'scorecam', now None"),
        (["--target", "truth"], "target was 'predicted', now 'truth'"),
        (["--preprocess", "paper"], "preprocess was 'own', now 'paper'"),
    ],
)
def test_other_settings_are_refused(photos, whole, capsys, changes, message):
    before = (whole / "rows-0.jsonl").read_bytes()
    status, out, err = run(capsys, *arguments(photos, whole), *changes)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert (whole / "rows-0.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--metrics", "average_dropp"], "no metric 'average_dropp'; closest: 'average_drop'"),
        (["--metrics", ","], "--metrics names no metric"),
        (["--metrics", "grid_pointing_game"], "a mosaic of 4 cells needs 4 different classes"),
        (["--metrics", "keep_at_area:area=1"], "closest: 'areas'"),
        (["--mosaics", "1"], "--mosaics must be a finite number greater than 1, got 1"),
        (["--metrics", "insertion,insertion"], "--metrics names one twice"),
        (["--methods", "unioncm"], "no method 'unioncm'; closest: 'unioncam'"),
        (["--n", "0"], "--n must be a finite number greater than 0, got 0"),
        (["--workers", "-1"], "--workers must be a finite number greater than -1"),
        (["--year", "2007"], "--year and --image-set are for a VOC devkit"),
        (["--layer", "33"], "no layer '33'"),
        (["--metrics", "pointing_game"], "add --target truth"),
        (["--metrics", "pointing_game", "--target", "truth"], "need boxes of objects"),
        (["--model", "tests.test_benchmark_run:voc_network", "--target", "truth"], "needs labels"),
    ],
)
def test_wrong_arguments(photos, tmp_path, capsys, changes, message):
    status, out, err = run(capsys, *arguments(photos, tmp_path / "out"), *changes)
    assert (status, out) == (2, "")
    assert err.startswith("unioncam: ")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_what_must_be_said(capsys, tmp_path):
    for given, wanted in [
        (["benchmark"], "benchmark needs DATA"),
        (["benchmark", "photos"], "benchmark needs --model"),
        (["benchmark", "photos", "--model", "demo"], "benchmark needs --out"),
        (["benchmark", "--report", tmp_path], "holds no benchmark"),
        (["benchmark", "none", "--model", "demo", "--out", tmp_path], "there is no folder none"),
    ]:
        status, _, err = run(capsys, *given)
        assert status == 2
        assert wanted in err


def test_the_report_alone(whole, capsys):
    before = (whole / "report.csv").read_bytes()
    (whole / "report.csv").unlink()
    status, out, _ = run(capsys, "benchmark", "--report", whole)
    assert status == 0
    assert "UnionCAM" in out
    assert (whole / "report.csv").read_bytes() == before


def test_labels_and_a_sample(photos, tmp_path, capsys):
    status, out, err = run(
        capsys, *arguments(photos, tmp_path), "--target", "truth", "--n", 6, "--seed", SEED,
        "--alone", "--protocol", "scorecam", "--metrics", "average_drop,insertion,complexity",
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "relative time" in out
    rows = read_rows(tmp_path)
    assert len(rows) == 6 * 3
    for row in rows:
        assert row["image"].startswith(f"class{row['class']}/")
        assert row["class"] in row["labels"]
    # Every method alone runs its own masked forwards.
    forwards = {row["method"]: row["forwards"] for row in rows}
    assert forwards["UnionCAM"] > forwards["Score-CAM"] > forwards["Grad-CAM"]


def test_boxes(tmp_path, capsys):
    data, out = tmp_path / "voc", tmp_path / "out"
    everything = ("cat", 0, 1, 1, 40, 30)
    write_voc(
        data,
        {
            "1": [everything],
            "2": [("dog", 0, 6, 1, 35, 30), ("bird", 0, 1, 1, 40, 30)],
            # To the right of the crop, which shows columns 5 to 35 of 40.
            "3": [("cat", 0, 37, 1, 40, 30)],
            "4": [("cow", 1, 1, 1, 40, 30)],
        },
        size=(40, 30),
    )
    for name in "1234":
        picture(data / f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg", int(name))
    boxed = "pointing_game,energy_pointing_game,max_box_acc"
    status, _, err = run(
        capsys, *arguments(data, out), "--model", "tests.test_benchmark_run:voc_network",
        "--target", "truth", "--metrics", f"average_drop,{boxed}",
    )  # fmt: skip
    assert (status, err) == (1, "")
    rows = read_rows(out)
    assert sorted(r["image"][-5:-4] for r in rows if "error" in r) == ["3", "4"]
    assert all("no labelled object is in the part" in r["error"] for r in rows if "error" in r)
    measured = [row for row in rows if "error" not in row]
    pairs = {(row["image"][-5:-4], row["class"]) for row in measured}
    assert pairs == {("1", 7), ("2", 2), ("2", 11)}
    assert len(measured) == 3 * 3
    for row in measured:
        # These boxes hold all of the input.
        assert row["metrics"]["pointing_game"] == 1
        assert row["metrics"]["energy_pointing_game"] == pytest.approx(1, abs=1e-6)
        assert len(row["metrics"]["max_box_acc"]) == 100
    text = (out / "report.md").read_text()
    assert "2 pictures, 3 pairs of picture and class; 2 could not be." in text
    assert "## Means over classes" in text


def test_a_network_that_fails_on_everything(photos, tmp_path, capsys):
    status, _, err = run(
        capsys, *arguments(photos, tmp_path), "--model", "tests.test_benchmark_run:nan_network"
    )
    assert status == 2
    assert f"none of the first {MOST_FAILURES} pictures could be measured" in err
    assert all("not a readable picture" in row["error"] for row in read_rows(tmp_path))


def test_one_picture_that_cannot_be_measured(photos, tmp_path, capsys, monkeypatch):
    compare = measuring.compare
    calls = []

    def failing(methods, x, *args, **kwargs):
        calls.append(x)
        if len(calls) in (1, 4):
            raise ValueError("scores hold NaN or infinity")
        return compare(methods, x, *args, **kwargs)

    monkeypatch.setattr(measuring, "compare", failing)
    status, _, _ = run(capsys, *arguments(photos, tmp_path), "--n", 8)
    assert status == 1
    rows = read_rows(tmp_path)
    # The first to fail is kept once another shows that the network works.
    reasons = [row["error"] for row in rows if row.get("error", "").startswith("scores")]
    assert reasons == ["scores hold NaN or infinity"] * 2
    assert len({row["image"] for row in rows}) == 8


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: device-side assert triggered"), torch.OutOfMemoryError("memory")],
)
def test_a_device_that_fails_is_no_fault_of_the_pictures(
    photos, tmp_path, capsys, monkeypatch, error
):
    compare = measuring.compare
    calls = []

    def failing(methods, x, *args, **kwargs):
        calls.append(x)
        if len(calls) == 3:
            raise error
        return compare(methods, x, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "compare", failing)
        with pytest.raises(type(error)):
            run(capsys, *arguments(photos, tmp_path), "--n", 5)
    run(capsys, *arguments(photos, tmp_path), "--n", 5)
    rows = read_rows(tmp_path)
    assert len({row["image"] for row in rows}) == 5
    assert {row["image"] for row in rows if "error" in row} <= {"class1/broken.png"}


def test_interrupted(photos, tmp_path, capsys, monkeypatch):
    calls = []

    def interrupting(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure_picture(*args)

    measure_picture = measuring.measure_picture
    monkeypatch.setattr("captum_unioncam.benchmark.measure_all.measure_picture", interrupting)
    status, out, err = run(capsys, *arguments(photos, tmp_path))
    assert (status, out) == (130, "")
    first, command = err.splitlines()
    assert first == "unioncam: interrupted; this goes on:"
    assert len({row["image"] for row in read_rows(tmp_path)}) >= 2
    monkeypatch.undo()
    words = [word.strip("'") for word in command.split()]
    assert words[:2] == ["unioncam", "benchmark"]
    assert cli.main([*words[1:], "--quiet", "--workers", "0"]) == 1
    assert len(read_rows(tmp_path)) == PICTURES * 3 + 1


def test_progress_on_stderr(photos, tmp_path, capsys):
    loud = [a for a in arguments(photos, tmp_path, "--n", 3, "--seed", SEED) if a != "--quiet"]
    status, _, err = run(capsys, *loud)
    assert status == 0
    assert err.startswith("3 pictures chosen: a folder per class (3 classes)")
    assert "3/3" in err
    assert "image/s" in err or "s/image" in err


@pytest.mark.network
@pytest.mark.exhaustive
def test_a_miniature_on_photographs(tmp_path, capsys):
    photographs = {"tiger cat": skimage.cat(), "espresso": skimage.coffee()}
    for name, pixels in photographs.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / "photo.png")
    out = tmp_path / "out"
    status, _, err = run(
        capsys, "benchmark", tmp_path / "photos", "--model", "demo", "--layer", "_blocks.4",
        "--methods", "unioncam,ones", "--metrics", "average_drop,average_increase",
        "--out", out, "--quiet",
    )  # fmt: skip
    assert (status, err) == (0, "")
    rows = read_rows(out)
    # Folders are found among ImageNet's names.
    assert {row["class_name"] for row in rows} == set(photographs)
    assert all(row["predicted"] in row["labels"] for row in rows)
    values = {row["method"]: list(row["metrics"].values()) for row in rows}
    assert values["All ones"] == [0, 0]
    assert 0 < values["UnionCAM"][0] < 100
    assert "is among the labels of 100.0 %" in (out / "report.md").read_text()


def test_settings_are_readable(whole):
    settings = json.loads((whole / "settings.json").read_text())
    assert settings["methods"] == {
        "Grad-CAM": "gradcam",
        "Score-CAM": "scorecam",
        "UnionCAM": "unioncam",
    }
    assert (settings["images"], settings["n"], settings["device"]) == (PICTURES + 1, None, "cpu")


@pytest.fixture(scope="module")
def labelled_photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    lines = ["file,class_index"]
    for number in range(9):
        picture(folder / f"{number}.png", number, (24, 24))
        lines.append(f"{number}.png,{number}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def test_equal_areas_and_mosaics(labelled_photos, tmp_path, capsys):
    given = [
        *("benchmark", labelled_photos, "--model", "tests.test_benchmark_run:voc_network"),
        *("--layer", "3", "--preset", "equal-area", "--methods", "gradcam,unioncam,ones"),
        *("--device", "cpu", "--workers", "0", "--quiet"),
    ]
    status, _, err = run(capsys, *given, "--out", tmp_path)
    assert (status, err) == (0, "")
    rows = read_rows(tmp_path)
    mosaics = [r for r in rows if " + " in r["image"]]
    pictures = [r for r in rows if r not in mosaics]
    # Two mosaics of four classes, three methods each.
    assert (len(pictures), len(mosaics)) == (9 * 3, 2 * 4 * 3)
    wanted = list(PRESETS["equal-area"].metrics)
    assert len(wanted) == 16
    of_mosaics = [m for m in wanted if m.startswith("grid_pointing")]
    assert all(list(r["metrics"]) == of_mosaics for r in mosaics)
    assert all(list(r["metrics"]) == [m for m in wanted if m not in of_mosaics] for r in pictures)
    assert len({r["class"] for r in mosaics}) == 8

    # One row of each kind, measured again by hand.
    model, preprocess = voc_network()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0)).tolist()
    files = [f"{i}.png" for i in order]
    shown = {f: preprocess(Image.open(labelled_photos / f))[None] for f in files}
    row = next(r for r in pictures if r["method"] == "UnionCAM")
    x, other = shown[row["image"]], shown[files[(files.index(row["image"]) + 1) % 9]]
    target = row["class"]
    cam = LayerUnionCAM(model, model[3]).attribute(x, target)
    for background in ("noise", "photograph"):
        b = other if background == "photograph" else background
        for name, metric in (("keep", keep_at_area), ("drop", drop_at_area)):
            value = metric(model, x, cam, target=target, background=b).item()
            expected = row["metrics"][f"{name}_at_area:background={background}"]
            assert value == pytest.approx(expected, abs=1e-5)
    row = next(r for r in mosaics if r["method"] == "UnionCAM" and r["class"] == r["labels"][2])
    quarters = [
        torch.nn.functional.interpolate(shown[f], (12, 12), mode="bilinear", antialias=True)
        for f in row["image"].split(" + ")
    ]
    x = torch.cat([torch.cat(quarters[:2], 3), torch.cat(quarters[2:], 3)], 2)
    cam = LayerUnionCAM(model, model[3]).attribute(x, row["class"])
    for area in (0.1, 0.25):
        share = grid_pointing_at_area(None, x, cam, cell=2, area=area).item()
        name = f"grid_pointing_at_area:area={area}"
        assert share == pytest.approx(row["metrics"][name], abs=1 / 57)

    # It goes on where it was stopped, and nothing is left to do.
    before = (tmp_path / "rows-0.jsonl").read_bytes()
    lines = before.splitlines(keepends=True)
    (tmp_path / "rows-0.jsonl").write_bytes(b"".join(lines[:30]))
    assert run(capsys, *given, "--out", tmp_path)[0] == 0
    again = read_rows(tmp_path)
    assert [r["metrics"] for r in again] == [pytest.approx(r["metrics"], abs=1e-4) for r in rows]
    assert "## Better and worse" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "gallery.png").is_file()


def test_mosaics_alone(labelled_photos, tmp_path, capsys):
    status, *_ = run(
        *(capsys, "benchmark", labelled_photos, "--out", tmp_path, "--quiet", "--workers", "0"),
        *("--model", "tests.test_benchmark_run:voc_network", "--layer", "3", "--device", "cpu"),
        *("--methods", "gradcam", "--metrics", "grid_pointing_game", "--mosaics", "3"),
    )
    assert status == 0
    rows = read_rows(tmp_path)
    assert len(rows) == 9
    assert {len(r["image"].split(" + ")) for r in rows} == {9}
