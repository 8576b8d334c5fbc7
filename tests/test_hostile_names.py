"""Names of files and classes that would be obeyed where they are shown."""

import json
import sys
import unicodedata

import numpy as np
import pytest

from captum_unioncam.benchmark.report import write_report
from captum_unioncam.benchmark.rows import appending
from captum_unioncam.benchmark.settings import keep
from captum_unioncam.commands import main as cli
from tests.test_benchmark_rows import SETTINGS
from tests.test_cli import OWN, picture, run, small_model
from tests.test_report_html import Page

__all__ = ["picture"]

# Clears a terminal and sets its title; closes a page's elements; is a picture in Markdown.
TERMINAL = "\x1b[2J\x1b]0;owned\x07\x9b1m\r\n\x08x"
HTML = "<img src=x onerror=alert(1)>\"'&<!--"
MARKDOWN = "![a](https:example.com) ``` <script>alert(1)<!--"
NAMES = [f"{TERMINAL} {HTML}", "$" + "a" * 250]


def hostile_network():
    return small_model(), None, [TERMINAL, HTML, MARKDOWN]


def controls(text):
    return [c for c in text if unicodedata.category(c) == "Cc" and c != "\n"]


WORDS = ["--model", "tests.test_hostile_names:hostile_network", "--quiet", "--method", "layercam"]


@pytest.fixture
def folder(picture, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.png").write_bytes(picture.read_bytes())
    (folder / f"broken {TERMINAL}.png").write_bytes(b"broken")
    return folder


def test_names_are_shown_and_not_obeyed(folder, tmp_path, capsys):
    out, page = tmp_path / "out", tmp_path / "report.html"
    words = [*WORDS, "--target", "top3", "-o", out, "--html", page, "--csv", tmp_path / "rows.csv"]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    status, table, err = run(capsys, "explain", folder, *words)
    assert status == 1
    assert controls(table + err) == []
    # One picture is broken: one line, whatever its name.
    assert len(err.splitlines()) == 1
    assert err.startswith(
        f"unioncam: {folder}/broken \\x1b[2J\\x1b]0;owned\\x07\\x9b1m \\x08x.png: "
    )
    assert "\\x1b[2J" in table
    # Nothing is written but what was asked for, and nowhere else.
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {
        *("photo.png", "pictures", "out", "report.html", "rows.csv"),
    }
    assert len(list(out.iterdir())) == len(NAMES)
    found = Page(page.read_text(encoding="utf-8"))
    assert {tag for tag, _ in found.elements} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "main",
            "h1",
            "h2",
            "p",
            "div",
            "label",
        ),
        *("input", "output", "section", "figure", "img", "figcaption", "strong", "dl", "dt", "dd"),
        *("canvas", "table", "thead", "tbody", "tr", "th", "td", "button", "details", "summary"),
        *("pre", "script", "select", "option", "span"),
    }
    assert all(one["src"].startswith("data:image/png;base64,") for one in found.all("img"))
    assert len(found.texts["script"]) == 1
    assert not [name for _, own in found.elements for name in own if name.startswith("on")]
    [record] = found.texts["pre"]
    assert json.loads(record)["layer"] == "auto" or json.loads(record)["layer"]


def test_errors_and_warnings_are_shown_and_not_obeyed(tmp_path, capsys):
    missing = tmp_path / f"missing{TERMINAL}.png"
    for words in (
        ["explain", missing, *OWN],
        ["explain", missing, "--model", TERMINAL],
        ["explain", missing, *OWN, "--layer", TERMINAL],
        ["explain", missing, *OWN, "--target", TERMINAL],
        ["explain", missing, *OWN, "--weights", missing],
        ["benchmark", missing, *OWN, "--out", tmp_path / "out"],
        ["benchmark", "--report", missing],
    ):
        status, out, err = run(capsys, *words)
        assert status in (1, 2)
        assert controls(out + err) == []
        assert "\\x1b[2J" in err


def test_a_report_in_markdown_holds_no_links_and_no_tags(tmp_path):
    keep(SETTINGS, tmp_path)
    with appending(tmp_path / "rows-0.jsonl") as append:
        for name in (TERMINAL, HTML, MARKDOWN):
            append([{"image": name, "error": f"{name}: broken"}])
    write_report(tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    told = lines[lines.index("## Not measured") + 2 :]
    assert controls("\n".join(told)) == []
    for line, name in zip(told, sorted((TERMINAL, HTML, MARKDOWN)), strict=True):
        _, _, text = line.partition(" ")
        fence = text[: len(text) - len(text.lstrip("`"))]
        # In a code span that the name cannot end.
        assert text.endswith(fence)
        assert fence not in text[len(fence) : -len(fence)].strip("`")
        if name is not TERMINAL:
            assert name in text


def test_names_of_maps_stay_in_their_folder(picture, tmp_path, capsys):
    odd = picture.rename(tmp_path / "..%2f..%5c a.png")
    maps = tmp_path / "inner" / "maps"
    words = ["--target", "../../class", "--save-maps", maps, "-o", tmp_path / "o.png"]
    assert run(capsys, "explain", odd, *WORDS, *words)[0] == 2
    words[1] = "1"
    assert run(capsys, "explain", odd, *WORDS, *words)[0] == 0
    # Grad-CAM's and LayerCAM's.
    assert [np.load(path, allow_pickle=False).ndim for path in maps.iterdir()] == [2, 2]
    assert {path.name for path in tmp_path.iterdir()} == {odd.name, "inner", "o.png"}


def test_a_spec_is_read_and_not_evaluated(picture, capsys, tmp_path):
    left = tmp_path / "executed"
    for value in (f"__import__('os').mkdir({str(left)!r})", f"open({str(left)!r}, 'w')", "9**9**9"):
        for words in (["--method", f"unioncam:theta={value}"], ["--metrics", f"adcc:seed={value}"]):
            status, _, err = run(capsys, "explain", picture, *OWN, *words)
            assert status == 2
            assert err.count("\n") == 1
    assert not left.exists()


def test_folders_of_pictures_are_not_imported_from(picture, tmp_path, monkeypatch, capsys):
    """A module of the working folder is imported for --model module:function alone."""
    (tmp_path / "timm.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    cli.main(["explain", str(picture), "--model", "timm:nothing"])
    capsys.readouterr()
    assert not (tmp_path / "executed").exists()
