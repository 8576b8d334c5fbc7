"""Rows and settings on disk: nothing torn, glued, lost or mixed."""

import argparse
import json
import shlex
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from captum_unioncam.benchmark.options import given
from captum_unioncam.benchmark.rows import appending, read_rows
from captum_unioncam.benchmark.settings import Settings, keep, load, versions, weights_sha256
from captum_unioncam.commands import benchmark

SETTINGS = Settings(
    data="photos",
    dataset="pictures without labels",
    images=3,
    images_sha256="0" * 64,
    year=None,
    image_set=None,
    model="demo",
    weights="DEFAULT",
    weights_sha256="1" * 64,
    layer="features.3",
    methods={"Grad-CAM": "gradcam", "UnionCAM": "unioncam"},
    metrics=["average_drop"],
    protocol="paper",
    preprocess="own",
    target="predicted",
    mosaics=2,
    alone=False,
    n=None,
    seed=0,
    device="cpu",
    versions=versions(),
    scorer="model",
    tolerance=None,
)


def rows_of(image):
    return [{"image": image, "method": method} for method in ("gradcam", "unioncam")]


def images_in(folder):
    return [row["image"] for row in read_rows(folder)]


def test_rows_come_back(tmp_path):
    with appending(tmp_path / "rows-0.jsonl") as append:
        append([{"image": "ä.jpg", "value": 0.1 + 0.2}])
        # On disk already, while the run goes on.
        assert read_rows(tmp_path) == [{"image": "ä.jpg", "value": 0.1 + 0.2, "row": 1, "rows": 1}]
        append(rows_of("b"))
    with appending(tmp_path / "rows-1.jsonl") as append:
        append(rows_of("\udcff.jpg"))
    assert images_in(tmp_path) == ["ä.jpg", "b", "b", "\udcff.jpg", "\udcff.jpg"]


def test_a_file_cut_anywhere_keeps_its_complete_images(tmp_path):
    path = tmp_path / "rows-0.jsonl"
    ends = [0]
    with appending(path) as append:
        for image in ("a", "b", "c"):
            append(rows_of(image))
            ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for cut in sorted({*range(0, len(whole), 9), *(end + d for end in ends for d in (-1, 0, 1))}):
        if not 0 <= cut <= len(whole):
            continue
        path.write_bytes(whole[:cut])
        complete = sum(end <= cut for end in ends[1:])
        kept = [image for image in "abc"[:complete] for _ in range(2)]
        assert images_in(tmp_path) == kept
        with appending(path) as append:
            append(rows_of("next"))
        assert images_in(tmp_path) == [*kept, "next", "next"]
        assert path.read_bytes().startswith(whole[: ends[complete]] + b'{"image": "next"')


def test_values_that_are_no_json_are_refused(tmp_path):
    with appending(tmp_path / "rows-0.jsonl") as append:
        with pytest.raises(ValueError, match="not JSON compliant"):
            append([{"image": "a", "value": float("nan")}])
        append(rows_of("b"))
    assert images_in(tmp_path) == ["b", "b"]


def test_broken_lines_are_not_passed_over(tmp_path):
    path = tmp_path / "rows-0.jsonl"
    with appending(path) as append:
        append(rows_of("a"))
    path.write_bytes(path.read_bytes() + b'{"image": "b"}\n')
    with pytest.raises(ValueError, match=r"rows-0.jsonl, line 3: not a row \('row'\)"):
        read_rows(tmp_path)
    path.write_bytes(b"\x00\x00\n")
    with pytest.raises(ValueError, match="line 1: not a row"):
        read_rows(tmp_path)


def test_an_image_measured_twice_is_an_error(tmp_path):
    for rank in (0, 1):
        with appending(tmp_path / f"rows-{rank}.jsonl") as append:
            append(rows_of("a"))
    with pytest.raises(ValueError, match="a was measured more than once"):
        read_rows(tmp_path)


def test_settings_come_back(tmp_path):
    keep(SETTINGS, tmp_path)
    assert load(tmp_path) == SETTINGS
    keep(SETTINGS, tmp_path)
    # The same pictures may have been moved.
    keep(replace(SETTINGS, data="elsewhere/photos"), tmp_path)
    assert load(tmp_path) == SETTINGS
    assert [p.name for p in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"layer": "features.2"}, "layer was 'features.3', now 'features.2'"),
        ({"images_sha256": "2"}, "images_sha256 was '0*', now '2'"),
        ({"weights_sha256": "2"}, "weights_sha256 was '1*', now '2'"),
        ({"methods": {"Grad-CAM": "gradcam"}}, "methods UnionCAM was 'unioncam', now None"),
        ({"metrics": ["insertion"]}, r"metrics was \['average_drop'\], now \['insertion'\]"),
        ({"protocol": "xplain", "n": 3}, "protocol was 'paper', now 'xplain'; n was None, now 3"),
        ({"versions": {**versions(), "torch": "9"}}, "versions torch was '.*', now '9'"),
    ],
)
def test_changed_settings_are_refused(tmp_path, change, message):
    keep(SETTINGS, tmp_path)
    with pytest.raises(ValueError, match=f"{message}. Go on as it was begun, or choose another"):
        keep(replace(SETTINGS, **change), tmp_path)
    assert load(tmp_path) == SETTINGS


def test_rows_of_unknown_settings_are_refused(tmp_path):
    with appending(tmp_path / "rows-0.jsonl") as append:
        append(rows_of("a"))
    with pytest.raises(ValueError, match="holds rows but no settings.json"):
        keep(SETTINGS, tmp_path)
    with pytest.raises(ValueError, match="holds no benchmark"):
        load(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps({"seed": 0}))
    with pytest.raises(ValueError, match="is not what this version of the package writes"):
        load(tmp_path)


def test_the_command_says_everything():
    settings = replace(SETTINGS, data="my photos", n=5, alone=True, image_set="val", year="2012")
    command = settings.command("out")
    assert command.startswith("unioncam benchmark 'my photos' --model demo --weights DEFAULT")
    for part in (
        "--methods gradcam,unioncam",
        "--pictures 5",
        "--alone",
        "--year 2012",
        "--out out",
    ):
        assert part in command
    assert "--pictures" not in SETTINGS.command("out")


@pytest.mark.parametrize(
    "changes", [{}, {"n": 5, "alone": True, "image_set": "val", "year": "2012", "seed": 3}]
)
def test_the_command_gives_the_same_options_again(tmp_path, changes):
    settings = replace(SETTINGS, data="my photos", **changes)
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    again = parser.parse_args(shlex.split(settings.command(tmp_path))[2:])
    values = given(again, Settings)
    assert values.pop("methods") == "gradcam,unioncam"
    assert values.pop("metrics") == "average_drop"
    assert values == {name: getattr(settings, name) for name in values}
    assert set(values) | {"methods", "metrics"} == set(asdict(settings)) - {
        *("dataset", "images", "images_sha256", "weights_sha256", "versions", "tolerance"),
    }
    assert again.out == tmp_path


def test_the_digest_of_weights_sees_every_value():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(torch.bfloat16)
    before = weights_sha256(model)
    assert weights_sha256(model) == before
    with torch.no_grad():
        model[1].running_mean[1] += 1
    changed = weights_sha256(model)
    assert changed != before
    model[1].running_mean.copy_(torch.zeros(2))
    assert weights_sha256(model) == before
    assert weights_sha256(model.float()) != before
