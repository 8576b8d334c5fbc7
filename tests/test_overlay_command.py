"""Boxes, records and pages that the command line writes."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import captum_unioncam
from captum_unioncam.commands.record import weights_sha256
from captum_unioncam.vision.networks import load_network
from captum_unioncam.visualization import boxes, overlay
from tests.test_cli import OWN, run, small_model


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (26, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((300, 260), Image.Resampling.BICUBIC).save(path)
    return path


def explained(capsys, photo, folder, *words):
    status, out, err = run(
        capsys, "explain", photo, *OWN, "--method", "layercam", "-o", f"{folder}/", *words
    )
    assert (status, err) == (0, "")
    return out


def the_map(photo, tmp_path, capsys):
    maps = tmp_path / "maps"
    explained(capsys, photo, tmp_path / "own", "--save-maps", maps)
    return torch.from_numpy(np.load(next(maps.glob("*layercam*.npy"))))


def test_boxes_of_an_overlay(photo, tmp_path, capsys):
    folder = tmp_path / "out"
    explained(capsys, photo, folder, "--overlay", "--boxes", "--threshold", "p90", "--largest")
    assert sorted(path.name for path in folder.iterdir()) == ["photo.json", "photo.png"]
    record = json.loads((folder / "photo.json").read_text("utf-8"))
    cam, preprocess = the_map(photo, tmp_path, capsys), load_network(OWN[1]).preprocess
    wanted = boxes(cam, (260, 300), threshold="p90", largest=True, preprocess=preprocess)
    assert [one["box"] for one in record["boxes"]] == wanted.corners.tolist()
    assert [one["score"] for one in record["boxes"]] == pytest.approx(wanted.scores.tolist())
    assert (record["threshold"], record["largest"]) == ("p90", True)
    assert record["pixels_of"] == "picture"
    with Image.open(folder / "photo.png") as drawn, Image.open(photo) as picture:
        plain = overlay(picture.convert("RGB"), cam, preprocess=preprocess)
        changed = (np.asarray(drawn) != np.asarray(plain)).any(2)
    x_min, y_min, x_max, y_max = wanted.corners[0].tolist()
    assert changed[y_min, x_min:x_max].all()
    assert changed[y_min:y_max, x_max - 1].all()
    outside = changed.copy()
    outside[y_min:y_max, x_min:x_max] = False
    assert not outside.any()


def test_boxes_alone_are_on_the_picture(photo, tmp_path, capsys):
    folder = tmp_path / "out"
    explained(capsys, photo, folder, "--boxes", "--threshold", "otsu")
    record = json.loads((folder / "photo.json").read_text("utf-8"))
    assert len(record["boxes"]) > 1
    scores = [one["score"] for one in record["boxes"]]
    assert scores == sorted(scores, reverse=True)
    with Image.open(folder / "photo.png") as drawn, Image.open(photo) as picture:
        same = (np.asarray(drawn) == np.asarray(picture)).all(2)
    assert 0.3 < same.mean() < 1


def test_a_record_holds_what_repeats_it(photo, tmp_path, capsys):
    folder = tmp_path / "out"
    words = ["--overlay", "--target", "espresso", "--method", "unioncam:max_masks=3"]
    explained(capsys, photo, folder, *words)
    record = json.loads((folder / "photo.json").read_text("utf-8"))
    run_of_all = record["run"]
    assert record["picture_sha256"] == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert record["picture_size"] == [300, 260]
    assert (record["target"], record["classes"]) == ("espresso", {"2": "espresso"})
    assert run_of_all["versions"]["captum-unioncam"] == captum_unioncam.__version__
    assert run_of_all["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert run_of_all["weights_sha256"] == weights_sha256(small_model())
    [method] = run_of_all["methods"].values()
    assert method["spec"] == "unioncam:max_masks=3"
    assert method["options"]["max_masks"] == 3
    assert method["options"]["theta"] == 10
    assert run_of_all["layer"] == "1"
    assert run_of_all["command"]["model"] == OWN[1]
    [row] = record["rows"]
    assert {"beta", "beta_denoised", "beta_region", "beta_union", "selected_union"} <= row.keys()


def test_a_hash_of_weights_sees_every_bit():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2)).bfloat16()
    before = weights_sha256(net)
    state = net.state_dict()
    for name, value in state.items():
        kept = value.clone()
        value.add_(1)
        assert weights_sha256(net) != before, name
        value.copy_(kept)
    assert weights_sha256(net) == before


def test_an_overlay_is_done_once_its_record_is_there(photo, tmp_path, capsys):
    folder = tmp_path / "out"
    explained(capsys, photo, folder, "--overlay")
    (folder / "photo.json").unlink()
    out = explained(capsys, photo, folder, "--overlay", "--resume")
    assert "were there already" not in out
    assert (folder / "photo.json").exists()
    assert "1 of 1 were there" in explained(capsys, photo, folder, "--overlay", "--resume")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threshold", "0.5"], "--threshold and --largest are about boxes: add --boxes"),
        (["--largest"], "add --boxes"),
        (["--boxes", "--threshold", "1"], "--threshold must be a share of the maximum from 0 to"),
        (["--boxes", "--threshold", "p100"], "or \"otsu\", got 'p100'"),
        (["--boxes", "--threshold", "nan"], "--threshold must be"),
        (["--boxes", "--target", "top2"], "an overlay shows one class"),
        (["--html", "no/such/folder/page.html"], "--html no/such/folder/page.html: give a file"),
        (["--html", "page.html", "--resume"], "whose maps are not at hand: drop one of the two"),
    ],
)
def test_bad_options(photo, tmp_path, capsys, words, message):
    folder = tmp_path / "out"
    status, _, err = run(capsys, "explain", photo, *OWN, "-o", f"{folder}/", *words)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_map_without_regions_is_named(photo, tmp_path, capsys):
    out = tmp_path / "out.png"
    words = ["--boxes", "--method", "ones", "-o", out]
    status, _, err = run(capsys, "explain", photo, *OWN, *words)
    assert status == 1
    assert "photo.png: the map is 1 everywhere, so that no threshold tells" in err
    assert not out.exists()
    assert not out.with_suffix(".json").exists()


def test_a_page_of_all_pictures(photo, tmp_path, capsys):
    second = tmp_path / "<b>second</b>.png".replace("/", "-")
    second.write_bytes(photo.read_bytes())
    page = tmp_path / "page.html"
    words = ["--methods", "gradcam,layercam", "--classes", "top2", "--html", page]
    status, _, _ = run(capsys, "compare", photo, second, *OWN, *words, "-o", tmp_path / "out.png")
    assert status == 0
    text = page.read_text("utf-8")
    assert text.count("<canvas") == 2 * 2 * 2
    assert "<b>second" not in text
    assert "&lt;b&gt;second&lt;-b&gt;.png" in text
    assert "tiger cat" in text
    assert "<h2>Means</h2>" in text
    [made] = re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)
    assert f"&quot;weights_sha256&quot;: &quot;{weights_sha256(small_model())}" in made
    photo_before = photo.read_bytes()
    status, _, err = run(capsys, "compare", photo, *OWN, "-o", tmp_path / "o.png", "--html", photo)
    assert status == 2
    assert "would write over the picture" in err
    assert photo.read_bytes() == photo_before
