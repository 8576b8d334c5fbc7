"""The web app: its page in Streamlit's own test bench, what it makes, and the code it shows."""

import ast
import io
import json
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captum_unioncam import METHODS
from captum_unioncam.commands import app as command
from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.vision.pictures import PictureError
from captum_unioncam.visualization import boxes
from tests.test_cli import run

pytest.importorskip("streamlit", reason="the extra app is not installed")

from streamlit.testing.v1 import AppTest
from streamlit.web import cli as streamlit_cli

from captum_unioncam.app import choices, downloads, inputs, main, snippet, work

pytestmark = pytest.mark.filterwarnings("ignore:.*explains nothing", "ignore:.* is blank")

OWN = "tests.test_cli:small_network"
PAGE = str(Path(main.__file__))
SAMPLE = choices.Picture("cat", b"pixels", "digest", "cat")
DRAWING = downloads.Drawing(0.6, 0.4, True, True)


def quiet(done, total):
    return None


@pytest.fixture(scope="module")
def loaded():
    return work.load(OWN, "DEFAULT", "cpu")


def a_choice(specs=("gradcam", "unioncam"), **changes):
    wanted = choices.Choice(
        "digest", OWN, "DEFAULT", "1", (1, 0), tuple(specs), ("beta", "insertion")
    )
    return wanted._replace(**changes)


def a_page(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["main.py", *(words or ("--model", OWN))])
    return AppTest.from_file(PAGE, default_timeout=120)


def a_file(size=(60, 40), mode="RGB", kind="PNG"):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def labelled(elements, label):
    return next(one for one in elements if one.label == label)


def errors(page):
    assert not page.exception
    return [one.value for one in page.error]


def test_the_page_opens_with_a_map_of_a_sample(monkeypatch):
    page = a_page(monkeypatch).run()
    assert errors(page) == []
    assert page.subheader[0].value.startswith(("tabby cat", "tiger cat", "espresso"))
    titles = [one.value for one in page.markdown]
    assert {"**Grad-CAM**", "**UnionCAM max_masks=64**"} <= set(titles)
    assert any("β ↑" in text for text in titles)
    assert any("D, denoised gradients" in text for text in titles)
    assert len(page.get("vega_lite_chart") or page.get("arrow_vega_lite_chart")) == 2
    assert labelled(page.button, "Explain").disabled
    kinds = [one.label for one in page.get("download_button")]
    assert kinds == ["PNG", "NPY", "CSV", "JSON", "HTML", "Code"]
    # The code is a program.
    assert "LayerUnionCAM" in page.code[0].value
    ast.parse(page.code[0].value)


def test_sliders_draw_again_and_explain_nothing_again(monkeypatch):
    page = a_page(monkeypatch).run()
    before = [one.value for one in page.caption if "above 50%" in one.value]
    monkeypatch.setattr(work, "explained", lambda *_: pytest.fail("explained again"))
    labelled(page.slider, "Threshold").set_value(0.9).run()
    assert errors(page) == []
    assert len([one for one in page.caption if "above 90%" in one.value]) == len(before) > 0
    labelled(page.slider, "Opacity").set_value(0.0).run()
    assert errors(page) == []


def test_another_choice_waits_for_its_button_and_an_earlier_one_is_kept(monkeypatch):
    page = a_page(monkeypatch).run()
    methods = labelled(page.multiselect, "Methods")
    methods.set_value(["layercam"]).run()
    assert [one.value for one in page.info] == ["Press Explain to see the maps of what is chosen."]
    labelled(page.button, "Explain").click().run()
    assert errors(page) == []
    assert "**LayerCAM**" in [one.value for one in page.markdown]
    monkeypatch.setattr(work, "explained", lambda *_: pytest.fail("explained again"))
    labelled(page.multiselect, "Methods").set_value(["gradcam", "unioncam"]).run()
    assert "**UnionCAM max_masks=64**" in [one.value for one in page.markdown]


def test_layers_classes_and_parameters(monkeypatch):
    page = a_page(monkeypatch).run()
    layer = labelled(page.selectbox, "Layer")
    assert layer.options[0].endswith("(suggested)")
    assert {one.removesuffix(" (suggested)") for one in layer.options} >= {"0", "1"}
    classes = labelled(page.multiselect, "Classes")
    assert len(classes.options) == 3
    assert all("%" in one for one in classes.options)
    shares = [float(one.rpartition(", ")[2].rstrip("%")) for one in classes.options]
    assert shares == sorted(shares, reverse=True)
    classes.set_value([0, 2])
    layer.set_value("0")
    labelled(page.selectbox, "Budget").set_value("all")
    next(one for one in page.slider if "percentile" in one.label).set_value(30.0)
    labelled(page.text_input, "Methods with options").set_value(
        "unioncam.region, unioncam:alpha=count"
    )
    page.run()
    labelled(page.button, "Explain").click().run()
    assert errors(page) == []
    titles = [one.value for one in page.markdown]
    for method in (
        "UnionCAM theta=30",
        "UnionCAM region theta=30",
        "UnionCAM alpha=count theta=30",
    ):
        assert titles.count(f"**{method}**") == 2
    heads = [one.value for one in page.subheader]
    assert heads[0].startswith("tabby cat")
    assert heads[1].startswith("espresso")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: labelled(p.multiselect, "Methods").set_value([]), "Choose at least one method."),
        (lambda p: labelled(p.multiselect, "Classes").set_value([]), "Choose at least one class."),
        (lambda p: labelled(p.selectbox, "Network").set_value("another one …"), "Give the name"),
        (
            lambda p: labelled(p.text_input, "Methods with options").set_value("unoncam"),
            "no method 'unoncam'; closest: 'unioncam'",
        ),
    ],
)
def test_what_is_missing_is_one_sentence(monkeypatch, change, told):
    page = a_page(monkeypatch).run()
    change(page).run()
    [sentence] = errors(page)
    assert sentence.startswith(told)
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "weights", "told"),
    [
        ("os:getcwd", "", "os:getcwd would run code, which a page does not: start the app with it"),
        ("resnet19", "", "no model 'resnet19'"),
        ("resnet18", "/no/such/file.pth", "no file of weights at /no/such/file.pth"),
        ("hf:/no/such/folder", "", ""),
    ],
)
def test_networks_that_cannot_be_had_are_one_sentence(monkeypatch, name, weights, told):
    page = a_page(monkeypatch).run()
    labelled(page.selectbox, "Network").set_value("another one …").run()
    labelled(page.text_input, "Its name").set_value(name)
    labelled(page.text_input, "File of its weights").set_value(weights).run()
    [sentence] = errors(page)
    assert sentence.startswith(told)


def test_a_closed_page_has_no_other_networks(monkeypatch):
    page = a_page(monkeypatch, "--model", OWN, "--closed").run()
    assert labelled(page.selectbox, "Network").options == [OWN]


def test_dropped_pictures(monkeypatch):
    page = a_page(monkeypatch).run()
    page.file_uploader[0].set_value(
        [("own.png", a_file(), "image/png"), ("broken.png", a_file()[:200], "image/png")]
    ).run()
    assert labelled(page.selectbox, "Picture").options[:2] == ["own.png", "broken.png (1)"]
    assert errors(page) == []
    labelled(page.button, "Explain").click().run()
    assert errors(page) == []
    assert "load_picture(Path('own.png'))" in page.code[0].value
    labelled(page.selectbox, "Picture").set_value("broken.png (1)").run()
    [sentence] = errors(page)
    assert sentence.startswith("broken.png: not a readable picture (")


def test_pictures_over_the_limit_are_refused_before_they_are_decoded(monkeypatch):
    from captum_unioncam.vision import pictures

    monkeypatch.setattr(pictures, "MAX_PIXELS", 2_000)
    huge = choices.Picture("huge.png", a_file(), "digest")
    # Pillow's readers make pictures of their own when they are first imported.
    Image.init()
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(PictureError, match=r"^huge.png: 60 x 40 pixels is more than the limit of"):
        huge.load()


def test_postscript_is_not_run(monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("run"))
    with pytest.raises(PictureError, match="PostScript is a program, which is not run"):
        choices.Picture("a.png", a_file(kind="EPS"), "digest").load()


SPECS = [
    "gradcam", "layercam", "hirescam", "scorecam:max_masks=3", "groupcam:groups=2",
    "unioncam:theta=30:max_masks=3", "unioncam", "unioncam.denoised", "unioncam.union:alpha=count",
    "fusioncam", "rise:n_masks=40", "ablationcam", "smoothgradcam++", "random", "sscam",
]  # fmt: skip


@pytest.mark.parametrize("baseline", ["black", "blur"])
@pytest.mark.parametrize("spec", SPECS)
def test_the_code_makes_the_very_map(loaded, spec, baseline, tmp_path, monkeypatch):
    content = a_file((300, 260))
    (tmp_path / "it's.png").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    picture = choices.Picture("it's.png", content, "digest")
    choice = a_choice([spec], metrics=("beta",), baseline=baseline)
    result = work.explained(loaded, picture, choice, quiet)
    [method] = result.methods
    for number in range(2):
        text = snippet.code_of(result, method, number)
        lines = [line for line in text.splitlines() if line and "import" not in line]
        assert len(lines) <= 10
        names = {}
        exec(text, names)
        cam = names["cam"].detach()
        assert cam.shape == (1, 1, *result.map_of(method, number).shape)
        torch.testing.assert_close(cam[0, 0].float(), result.map_of(method, number))


def test_the_code_of_a_sample_and_of_every_kind_of_method(loaded):
    result = work.explained(loaded, SAMPLE, a_choice(["unioncam"]), quiet)
    names = {}
    exec(snippet.code_of(result, "UnionCAM", 0), names)
    torch.testing.assert_close(names["cam"][0, 0], result.map_of("UnionCAM", 0))
    assert {parse_spec(spec).name for spec in SPECS} < set(METHODS)


class TestTokens:
    def test_grad_cam_of_tokens_is_not_captums(self, monkeypatch):
        from torchvision import models

        torch.manual_seed(0)
        model = models.VisionTransformer(224, 56, 2, 2, 16, 32, num_classes=5).eval()
        monkeypatch.setitem(globals(), "kept", lambda: model)
        loaded = work.load(f"{__name__}:kept", "DEFAULT", "cpu")
        choice = a_choice(
            ["gradcam"], model=f"{__name__}:kept", layer=loaded.suggested, classes=(2,)
        )
        result = work.explained(loaded, SAMPLE, choice, quiet)
        text = snippet.code_of(result, "Grad-CAM", 0)
        assert "LaidOutGradCAM" in text
        names = {}
        exec(text, names)
        found = names["cam"][0, 0].detach()
        torch.testing.assert_close(found.relu(), result.map_of("Grad-CAM", 0))


def test_what_is_taken_along(loaded):
    result = work.explained(loaded, SAMPLE, a_choice(), quiet)
    method = "UnionCAM"
    cam = result.map_of(method, 1)
    files = {one.kind: one for one in downloads.files(result, method, 1, DRAWING)}
    assert [one.name for one in files.values()] == [
        f"cat.unioncam.{end}" for end in ("png", "npy", "csv", "json", "html", "py")
    ]
    assert np.array_equal(np.load(io.BytesIO(files["NPY"].content())), cam.numpy())
    with Image.open(io.BytesIO(files["PNG"].content())) as drawn:
        assert drawn.size == SAMPLE.load().size
    lines = files["CSV"].content().decode().splitlines()
    assert len(lines) == 1 + 2 * 2
    assert {"image", "class_name", "beta", "beta_union"} <= set(lines[0].split(","))
    record = json.loads(files["JSON"].content())
    assert record["run"]["layer"] == "1"
    assert record["run"]["command"]["model"] == OWN
    assert record["run"]["methods"][method]["options"]["theta"] == 10.0
    size = SAMPLE.load().size[::-1]
    preprocess = result.session.network.preprocess
    wanted = boxes(cam, size, threshold=0.4, preprocess=preprocess)
    assert [one["box"] for one in record["boxes"]] == wanted.corners.tolist()
    assert [one["score"] for one in record["boxes"]] == wanted.scores.tolist()
    assert b"<!doctype html>" in files["HTML"].content()
    assert files["Code"].content().decode() == snippet.code_of(result, method, 1)


def test_boxes_of_a_large_picture_are_in_its_own_pixels(loaded, monkeypatch):
    monkeypatch.setattr(work, "LONGEST_SIDE", 60)
    result = work.explained(loaded, SAMPLE, a_choice(), quiet)
    cam, size = result.map_of("UnionCAM", 0), SAMPLE.load().size
    options = {"threshold": 0.4, "preprocess": result.session.network.preprocess}
    wanted = boxes(cam, size[::-1], **options).corners
    record = json.loads(downloads.record(result, "UnionCAM", 0, DRAWING))
    assert record["picture_size"] == list(size)
    assert [one["box"] for one in record["boxes"]] == wanted.tolist()
    # What the page draws is coarser.
    scale = size[0] / result.ground.width
    assert scale > 5
    drawn = (boxes(cam, result.ground, **options).corners * scale).round()
    assert drawn.shape != wanted.shape or (drawn != wanted).any()


def test_a_blank_map_has_no_regions_and_breaks_nothing(loaded):
    result = work.explained(loaded, SAMPLE, a_choice(["ones"]), quiet)
    [method] = result.methods
    cam = torch.zeros_like(result.map_of(method, 0))
    picture, count = downloads.drawn(result.ground, cam, DRAWING, result.preprocess)
    assert (picture.size, count) == (result.ground.size, None)
    assert json.loads(downloads.record(result, method, 0, DRAWING))["boxes"] == []


class Ended(BaseException):
    pass


def test_what_is_stopped_leaves_nothing_behind(loaded):
    model = loaded.network.model
    told = []

    def stop(done, total):
        told.append((done, total))
        raise Ended

    with pytest.raises(Ended), work.my_turn(lambda: None):
        work.explained(loaded, SAMPLE, a_choice(), stop)
    assert told[0][0] > 0
    assert not any(one._forward_pre_hooks or one._forward_hooks for one in model.modules())
    assert not work.TURN.locked()
    again = work.explained(loaded, SAMPLE, a_choice(), quiet)
    assert again.methods == ["Grad-CAM", "UnionCAM"]


def test_progress_grows_to_about_what_was_expected(loaded, monkeypatch):
    monkeypatch.setattr(work.time, "monotonic", iter(range(10_000)).__next__)
    told = []
    work.explained(loaded, SAMPLE, a_choice(), lambda *one: told.append(one))
    done, totals = zip(*told, strict=True)
    assert list(done) == sorted(done)
    assert len(set(totals)) == 1
    assert 0.5 < done[-1] / totals[0] < 1.5


def test_rows_of_a_runtime_are_told(loaded):
    told = []
    choice = a_choice(["scorecam"], scorer="half", metrics=("beta",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = work.explained(loaded, SAMPLE, choice, lambda *one: told.append(one))
    assert told
    assert result.choice.scorer == "half"
    assert not any(one._forward_pre_hooks for one in loaded.network.model.modules())


def test_pages_take_turns():
    order, began = [], threading.Event()

    def second():
        began.set()
        with work.my_turn(lambda: order.append("waiting")):
            order.append("second")

    with work.my_turn(lambda: None):
        thread = threading.Thread(target=second)
        thread.start()
        began.wait()
        thread.join(0.8)
        order.append("first")
    thread.join(10)
    assert order[-1] == "second"
    assert "waiting" in order[: order.index("first")]


def test_no_page_waits_for_a_download(monkeypatch):
    events, load_network, find_layer = [], work.load_network, work.find_layer

    def noted(call, *arguments):
        events.append((call.__name__, work.TURN.locked()))
        return call(*arguments)

    monkeypatch.setattr(work, "load_network", lambda *one: noted(load_network, *one))
    monkeypatch.setattr(work, "find_layer", lambda *one: noted(find_layer, *one))
    inputs._loaded.clear()
    inputs._loaded(OWN, "DEFAULT", "cpu")
    assert events == [("load_network", False), ("find_layer", True)]
    assert not work.TURN.locked()


def test_the_command_listens_on_this_machine_alone(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(streamlit_cli, "main", lambda words, **_: calls.append(words))
    assert run(capsys, "app", "--model", OWN, "demo", "--headless") == (0, "", "")
    command_name, page, *words = calls[0]
    assert (command_name, page) == ("run", PAGE)
    end = words.index("--")
    given = dict(zip(words[:end:2], words[1:end:2], strict=True))
    assert given["--server.address"] == "localhost"
    assert given["--browser.gatherUsageStats"] == "false"
    assert given["--server.headless"] == "true"
    assert words[end + 1 :] == ["--model", OWN, "demo", "--weights", "DEFAULT"]
    run(capsys, "app", "--model", OWN, "--address", "0.0.0.0")
    assert calls[1][-1] == "--closed"
    settings = choices.settings_of(calls[1][calls[1].index("--") + 1 :])
    assert settings == choices.Settings((OWN,), is_closed=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "resnet19"], "no model 'resnet19'"),
        (["--port", "0"], "--port must be"),
        (["--max-upload", "0"], "--max-upload must be"),
        (
            ["--model", "resnet18", "--weights", "/no/file.pth"],
            "no file of weights at /no/file.pth",
        ),
    ],
)
def test_what_the_command_cannot_do_is_one_line(capsys, words, told):
    status, out, err = run(capsys, "app", *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"unioncam: {told}")
    assert err.count("\n") == 1


def test_without_streamlit_one_line_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    status, _, err = run(capsys, "app", "--model", OWN)
    assert status == 2
    assert err == f"unioncam: {command.MISSING}\n"
