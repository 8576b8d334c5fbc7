"""The app in a Space and in a container, and the first notebook in Colab: what starts there."""

import argparse
import importlib
import json
import re
import sys
import types
from pathlib import Path

import pytest

from tests.test_cli import small_network

pytest.importorskip("streamlit", reason="the extra app is not installed")

import streamlit as st
from streamlit.testing.v1 import AppTest

from captum_unioncam.app import work
from captum_unioncam.commands import app as command
from captum_unioncam.vision.networks import load_network

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "spaces"
# pytest brings tomli where Python has none of its own.
toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
PROJECT = toml.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.filterwarnings("ignore:.*explains nothing", "ignore:.* is blank")


def instruction(path, word):
    """Return the words of a Dockerfile's only instruction of a kind, written as a list."""
    text = path.read_text().replace("\\\n", "")
    [words] = re.findall(rf"^{word} (\[.*\])$", text, re.MULTILINE)
    return json.loads(words)


def test_the_space_starts_with_the_demo_network_alone(monkeypatch):
    asked = []

    def loaded(model, weights):
        asked.append((model, weights))
        return load_network("tests.test_cli:small_network", "DEFAULT")

    monkeypatch.setattr(work, "load_network", loaded)
    st.cache_resource.clear()
    try:
        page = AppTest.from_file(SPACE / "app.py", default_timeout=120).run()
    finally:
        # Later tests have the network of that name.
        st.cache_resource.clear()
    assert not page.exception
    assert not page.error
    assert asked == [("demo", "DEFAULT")]
    [network] = [one for one in page.selectbox if one.label == "Network"]
    assert network.options == ["demo (EfficientNet-Lite0)"]
    assert page.subheader[0].value.startswith(tuple(small_network()[2]))


def test_the_space_installs_what_the_extra_asks_for():
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    found = [line for line in lines if not line.startswith("#")]
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["demo"], *extras["app"]]
    assert found == [one for one in wanted if not one.startswith("captum-unioncam")]


def started_for_others():
    """Return the words with which the container starts Streamlit."""
    _, name, *words = instruction(ROOT / "Dockerfile", "ENTRYPOINT")
    assert name == "app"
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.words_of(parser.parse_args(words))


def options_of(words):
    """Return Streamlit's options, by name, and what comes before and after them."""
    count = next((n for n, word in enumerate(words) if word == "--"), len(words))
    first, *given = words[1:count]
    return first, dict(zip(given[::2], given[1::2], strict=True)), words[count + 1 :]


def test_the_space_says_where_its_page_is():
    _, head, text = (SPACE / "README.md").read_text().split("---\n", 2)
    said = dict(line.split(": ", 1) for line in head.splitlines())
    assert said["sdk"] == "docker"
    assert said["license"] == PROJECT["license"].lower()
    assert f"EXPOSE {said['app_port']}\n" in (SPACE / "Dockerfile").read_text()
    script, options, _ = options_of(instruction(SPACE / "Dockerfile", "CMD")[1:])
    assert (SPACE / script).is_file()
    assert options["--server.port"] == said["app_port"]
    # What `unioncam app` has for others, but for the frame that a Space is shown in.
    assert options.pop("--server.enableXsrfProtection") == "false"
    assert options == options_of(started_for_others())[1]
    # What is to be copied is there.
    [copied] = re.findall(r"^    cp -r (.*) \S+$", text, re.MULTILINE)
    assert all((ROOT / name).exists() for name in copied.split())


def test_the_container_starts_the_app_for_others():
    program, *_ = instruction(ROOT / "Dockerfile", "ENTRYPOINT")
    assert program in PROJECT["scripts"]
    _, options, settings = options_of(started_for_others())
    assert settings == ["--model", "demo", "--weights", "DEFAULT", "--closed"]
    assert options["--server.address"] == "0.0.0.0"
    port = options["--server.port"]
    text = (ROOT / "Dockerfile").read_text()
    assert f"EXPOSE {port}\n" in text
    assert f"-p 127.0.0.1:{port}:{port}" in text


@pytest.mark.parametrize("path", [ROOT / "Dockerfile", SPACE / "Dockerfile"])
def test_containers_run_as_nobody_of_importance(path):
    lines = path.read_text().splitlines()
    users = [line for line in lines if line.startswith("USER ")]
    assert users
    assert "USER root" not in users
    for line in lines:
        if line.startswith("COPY"):
            *sources, _ = (word for word in line.split()[1:] if not word.startswith("--"))
            assert all((path.parent / source).exists() for source in sources), line


@pytest.mark.parametrize("is_colab", [False, True])
def test_the_first_notebook_installs_itself_in_colab(monkeypatch, is_colab):
    transformer = pytest.importorskip(
        "IPython.core.inputtransformer2", reason="IPython, of the extra notebooks, is not installed"
    ).TransformerManager()
    notebook = json.loads((ROOT / "tutorials" / "01_getting_started.ipynb").read_text())
    [cell] = [cell for cell in notebook["cells"] if cell["id"] == "colab"]
    assert cell["outputs"] == []
    # Before anything is imported that would be missing.
    assert cell is next(one for one in notebook["cells"] if one["cell_type"] == "code")
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    wheel = f"captum_unioncam-{PROJECT['version']}-py3-none-any.whl"
    if is_colab:
        files = types.SimpleNamespace(upload=lambda: {wheel: b""})
        colab = types.ModuleType("google.colab")
        colab.files = files
        monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
        monkeypatch.setitem(sys.modules, "google.colab", colab)
    ran = []
    shell = types.SimpleNamespace(run_line_magic=lambda *words: ran.append(words))
    names = {"get_ipython": lambda: shell}
    exec(transformer.transform_cell("".join(cell["source"])), names)
    expected = ("pip", 'install --quiet "./{wheel}[demo]"')
    assert ran == ([expected] if is_colab else [])
    assert not is_colab or names["wheel"] == wheel
