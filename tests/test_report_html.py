"""The report of a comparison: one file that loads nothing, looked at in a browser where one is."""

import base64
import copy
import hashlib
import io
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captum_unioncam import compare
from captum_unioncam.comparison import html
from captum_unioncam.visualization import boxes, mask

HOSTILE = "<img src=x onerror=alert(1)>\"'&</script>"
METRICS = ["average_drop", "insertion", "deletion"]


def a_comparison(metrics=METRICS, size=(2, 3, 24, 32)):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(54, 4),
    ).eval()  # fmt: skip
    methods = {"Grad-CAM": "gradcam", HOSTILE: "layercam", "last": "unioncam"}
    x = torch.rand(*size)
    return compare(methods, x, "top2", forward_func=net, layer=net[1], metrics=list(metrics))


pytestmark = pytest.mark.filterwarnings("ignore:.*explains nothing", "ignore:.* is blank")


class Page(HTMLParser):
    """Elements with their attributes, and the text of each kind."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input", "path", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    result = a_comparison()
    path = tmp_path_factory.mktemp("report") / "report.html"
    result.to_html(path, names=lambda label: f"{HOSTILE}{label}", heading=f"{HOSTILE}\nblack")
    return result, path


def test_the_page_loads_nothing_and_runs_its_own_script_alone(written):
    _, path = written
    page = Page(path.read_text(encoding="utf-8"))
    [policy] = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind in ("script", "style"):
        [text] = page.texts[kind]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    for tag, attributes in page.elements:
        assert not attributes.keys() & {"href", "style", "srcset", "action", "data"}, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert attributes.get("src", "data:").startswith("data:"), tag
    assert not re.search(r"https?://|//\w+\.\w", path.read_text(encoding="utf-8"))


def test_names_stay_text(written):
    _, path = written
    page = Page(path.read_text(encoding="utf-8"))
    # One picture per example: none of the names became one.
    assert len(page.all("img")) == 2
    assert page.texts["title"][0] == HOSTILE
    assert page.texts["h1"] == [HOSTILE]
    assert page.texts["strong"].count(HOSTILE) == 4
    assert len(page.all("canvas")) == 2 * 2 * 3


def test_tables_hold_every_number(written):
    result, path = written
    page = Page(path.read_text(encoding="utf-8"))
    values = [cell["data-value"] for cell in page.all("td")]
    of_means, of_all = 1 + len(METRICS) + 3, 3 + 1 + len(METRICS) + 3 + 1
    assert len(page.texts["button"]) == of_means + of_all
    assert len(values) == 3 * of_means + len(result.rows) * of_all
    for row in result.rows:
        for name in ("probability", *METRICS):
            assert str(row[name]) in values


def test_what_ran_masked_pictures_and_what_was_chosen_are_told_where_there_is_any():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3)).eval()
    x = torch.rand(1, 3, 16, 16)
    common = {"forward_func": net, "layer": net[1], "metrics": ["average_drop"]}
    plain = compare(["gradcam"], x, 1, **common)
    page = Page(html.report([html.Shown(plain)], plain.summary(), str))
    assert "chosen" not in page.texts["button"]
    assert "p" not in page.texts
    result = compare(["unioncam"], x, 1, scorer=copy.deepcopy(net), **common)
    page = Page(html.report([html.Shown(result)], result.summary(), str))
    assert page.texts["button"][-1] == "chosen"
    assert page.texts["p"][0].startswith("masked pictures run by ")


def test_curves_are_those_of_the_metrics():
    result = a_comparison()
    for metric in ("insertion", "deletion"):
        for method in result.maps:
            curve = result.curves[method][metric]
            areas = torch.trapezoid(curve, dim=2) / (curve.shape[2] - 1)
            rows = [row[metric] for row in result.rows if row["method"] == method]
            torch.testing.assert_close(areas.flatten(), torch.tensor(rows))
    page = Page(html.report([html.Shown(result)], result.summary(), str))
    lines = [one["points"].split() for one in page.all("polyline")]
    assert len(lines) == 2 * 2 * 2 * 3
    width, height = html.CHART
    curve = result.curves["Grad-CAM"]["insertion"][0, 0]
    top = max(result.curves[m]["insertion"][0, 0].max().item() for m in result.maps)
    drawn = [[float(number) for number in point.split(",")] for point in lines[0]]
    wanted = [[width * i / 28, height * (1 - v / top)] for i, v in enumerate(curve.tolist())]
    np.testing.assert_allclose(drawn, wanted, atol=0.06)


def test_a_page_that_fails_leaves_the_one_before(written, tmp_path):
    result, _ = written
    path = tmp_path / "report.html"
    path.write_text("before")
    with pytest.raises(ValueError, match="pictures must have shape"):
        result.to_html(path, torch.rand(3, 3, 4, 4))
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        result.to_html(tmp_path / "no" / "report.html")


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_inputs_of_any_channels_are_drawn(tmp_path, channels):
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3))
    x = torch.randn(1, channels, 16, 16)
    result = compare(["gradcam"], x, 1, forward_func=net.eval(), layer=net[1], metrics=[])
    result.to_html(tmp_path / "report.html")
    [picture] = Page((tmp_path / "report.html").read_text()).all("img")
    with Image.open(io.BytesIO(base64.b64decode(picture["src"].partition(",")[2]))) as image:
        pixels = np.asarray(image)
    wanted = x[0] if channels == 3 else x[0].mean(0, keepdim=True).expand(3, -1, -1)
    unit = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    assert (pixels == (255 * unit).round().permute(1, 2, 0).numpy()).mean() > 0.99


def test_inputs_that_are_no_images_have_numbers_alone(tmp_path):
    net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).eval()
    result = compare(
        ["gradcam", "layercam"], torch.rand(2, 1, 20), 1, forward_func=net, layer=net[1],
        metrics=["deletion"],
    )  # fmt: skip
    result.to_html(tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert not page.all("canvas")
    assert not page.all("input")
    assert len(page.all("polyline")) == 4
    assert "<iframe" not in result._repr_html_()


def test_a_notebook_shows_a_table_and_the_page_in_a_frame():
    result = a_comparison(metrics=["average_drop"], size=(4, 3, 16, 16))
    shown = Page(result._repr_html_())
    assert len(shown.all("table")) == 1
    [frame] = shown.all("iframe")
    assert frame["sandbox"] == "allow-scripts"
    page = Page(frame["srcdoc"])
    assert len(page.all("canvas")) == 3 * html.IN_NOTEBOOK
    assert "The first 6 of 8; to_html writes all of them." in page.texts["p"]
    assert len(page.all("tr")) == 1 + 3 + 1 + 3 * html.IN_NOTEBOOK


@pytest.mark.parametrize("package", ["matplotlib", "PIL"])
def test_without_the_extra_a_notebook_shows_the_table(monkeypatch, package, tmp_path):
    result = a_comparison(metrics=[], size=(1, 3, 16, 16))
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.setitem(sys.modules, name, None)
    for name in ("html", "figure", "drawing"):
        monkeypatch.delitem(sys.modules, f"captum_unioncam.comparison.{name}", raising=False)
    shown = Page(result._repr_html_())
    assert len(shown.all("table")) == 1
    assert not shown.all("iframe")
    with pytest.raises(ModuleNotFoundError):
        result.to_html(tmp_path / "report.html")


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def opened(tmp_path, url, *options):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
        "--window-size=1200,1600", *options, url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout


def changed(path, tmp_path, script):
    """The page with another script, which its policy would not let run."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text("utf-8"))
    other = tmp_path / "changed.html"
    other.write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    return other.as_uri()


@needs_browser
@pytest.mark.parametrize("threshold", [0, 0.3, 0.75])
def test_sliders_show_the_pixels_above_a_threshold(written, tmp_path, threshold):
    result, path = written
    dom = opened(tmp_path, f"{path.as_uri()}#threshold={threshold}", "--dump-dom")
    shares = [float(text) for text in re.findall(r'class="above">([\d.]+) %<', dom)]
    wanted = []
    for n in range(2):
        for k in range(2):
            for maps in result.maps.values():
                cam = maps[n, k]
                flat = cam.max() == cam.min()
                above = 1.0 if not threshold else 0.0
                if threshold and not flat:
                    above = mask(cam, (24, 32), threshold=threshold).float().mean().item()
                wanted.append(100 * above)
    # A pixel of 768 may fall to the other side by the rounding to 16 bits.
    assert shares == pytest.approx(wanted, abs=100 / 768 + 0.06)
    assert len(set(wanted)) > 1 or not threshold


@needs_browser
def test_boxes_are_those_of_the_library(written, tmp_path):
    (result, path), threshold = written, 0.4
    dom = opened(tmp_path, f"{path.as_uri()}#threshold={threshold}&boxes=1", "--dump-dom")
    found = [sorted((canvas["title"] or "").splitlines()) for canvas in Page(dom).all("canvas")]
    wanted = []
    for n in range(2):
        for k in range(2):
            for maps in result.maps.values():
                cam = maps[n, k]
                corners = []
                if cam.max() > cam.min():
                    corners = boxes(cam, (24, 32), threshold=threshold).corners.tolist()
                wanted.append(sorted(", ".join(map(str, corner)) for corner in corners))
    assert found == wanted
    assert max(map(len, wanted)) > 1
    plain = opened(tmp_path, f"{path.as_uri()}#threshold={threshold}", "--dump-dom")
    assert not any(canvas["title"] for canvas in Page(plain).all("canvas"))


@needs_browser
def test_the_page_is_drawn_and_changes_with_the_sliders(written, tmp_path):
    _, path = written
    pixels = []
    for fragment in ("opacity=0", "opacity=1", "opacity=1&threshold=0.5"):
        shot = tmp_path / "shot.png"
        opened(tmp_path, f"{path.as_uri()}#{fragment}", f"--screenshot={shot}")
        with Image.open(shot) as image:
            pixels.append(np.asarray(image.convert("RGB")).astype(int))
    assert (pixels[0] != pixels[1]).any(2).mean() > 0.02
    assert (pixels[1] != pixels[2]).any(2).mean() > 0.02


@needs_browser
def test_a_notebook_draws_the_page_in_its_frame(written, tmp_path):
    frame = written[0]._repr_html_()
    shots = []
    for text in (frame, frame.replace('sandbox="allow-scripts"', "sandbox")):
        page, shot = tmp_path / "notebook.html", tmp_path / "shot.png"
        page.write_text(f"<!doctype html>{text}", "utf-8")
        # In a process of its own the frame would be later than the picture.
        options = "--disable-features=IsolateSandboxedIframes", f"--screenshot={shot}"
        opened(tmp_path, page.as_uri(), *options)
        with Image.open(shot) as image:
            shots.append(np.asarray(image.convert("RGB")).astype(int))
    assert (shots[0] != shots[1]).any(2).mean() > 0.02


@needs_browser
def test_a_slider_that_is_moved_draws_again(written, tmp_path):
    _, path = written
    move = (
        "setTimeout(() => { const slider = document.getElementById('threshold');"
        "slider.value = 0.9; slider.dispatchEvent(new Event('input')); }, 1000);"
    )
    dom = opened(tmp_path, changed(path, tmp_path, move), "--dump-dom")
    assert re.search(r'id="threshold-value"[^>]*>90 %<', dom)
    shares = [float(text) for text in re.findall(r'class="above">([\d.]+) %<', dom)]
    assert 0 < max(shares) < 30


@needs_browser
def test_a_table_is_sorted_by_the_column_that_is_pressed(written, tmp_path):
    result, path = written
    press = (
        "const head = [...document.querySelectorAll('table')].at(-1).tHead.rows[0];"
        "head.cells[4].firstChild.click(); head.cells[4].firstChild.click();"
    )
    page = Page(opened(tmp_path, changed(path, tmp_path, press), "--dump-dom"))
    cells = [cell["data-value"] for cell in page.all("td")]
    columns = 3 + 1 + len(METRICS) + 3 + 1
    own = cells[-len(result.rows) * columns :]
    found = [float(value) for value in own[4::columns]]
    assert found == sorted((row["average_drop"] for row in result.rows), reverse=True)
    assert len(set(found)) > 2
    [head] = [th for th in page.all("th") if "aria-sort" in th]
    assert head["aria-sort"] == "descending"


@needs_browser
def test_the_policy_stops_other_scripts(written, tmp_path):
    _, path = written
    text = path.read_text("utf-8")
    other = tmp_path / "other.html"
    script = "<script>document.title = 'changed'</script></body>"
    other.write_text(text.replace("</body>", script), "utf-8")
    assert "<title>changed" not in opened(tmp_path, other.as_uri(), "--dump-dom")
    loose = changed(path, tmp_path, "document.title = 'changed'")
    assert "<title>changed" in opened(tmp_path, loose, "--dump-dom")
