"""What visitors of the web app can reach: not each other, and nothing that was not offered."""

import tempfile

import pytest

from captum_unioncam.app.choices import Settings, check_typed
from captum_unioncam.vision.networks import NetworkError
from tests.test_app import OWN, a_file, a_page, errors, labelled
from tests.test_cli import small_network

pytest.importorskip("streamlit", reason="the extra app is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:.*explains nothing", "ignore:.* is blank")


def texts(page):
    kinds = (page.caption, page.markdown, page.code, page.error, page.subheader, page.info)
    return " ".join(str(one.value) for kind in kinds for one in kind)


def test_visitors_see_nothing_of_each_other(monkeypatch):
    first, second = a_page(monkeypatch).run(), a_page(monkeypatch).run()
    first.file_uploader[0].set_value([("private.png", a_file(), "image/png")]).run()
    labelled(first.button, "Explain").click().run()
    assert errors(first) == []
    assert "private.png" in texts(first)
    second.run()
    third = a_page(monkeypatch).run()
    for page in (second, third):
        assert "private.png" not in labelled(page.selectbox, "Picture").options
        assert "private.png" not in texts(page)
        assert len(page.session_state.results) == 1
    shared = [set(map(id, page.session_state.results.values())) for page in (first, second, third)]
    assert not shared[0] & shared[1] | shared[1] & shared[2] | shared[0] & shared[2]


def test_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    page = a_page(monkeypatch).run()
    page.file_uploader[0].set_value([("../../own.png", a_file(), "image/png")]).run()
    labelled(page.button, "Explain").click().run()
    assert errors(page) == []
    assert list(tmp_path.rglob("*")) == []


CALLED = []


def never_offered():
    CALLED.append(1)
    return small_network()


@pytest.mark.parametrize("words", [(), ("--closed",)], ids=["here", "elsewhere"])
@pytest.mark.parametrize("name", ["tests.test_app_visitors:never_offered", "timm:resnet10t"])
def test_a_choice_that_was_not_offered_is_not_taken(name, words, monkeypatch):
    """As a program may send it that speaks to the server in place of the page."""
    import streamlit as st

    own = st.selectbox

    def forged(label, options, *more, **keywords):
        chosen = own(label, options, *more, **keywords)
        return name if label == "Network" else chosen

    monkeypatch.setattr(st, "selectbox", forged)
    page = a_page(monkeypatch, "--model", OWN, *words).run()
    [sentence] = errors(page)
    assert sentence == f"{name} is none of the networks to choose from."
    assert CALLED == []


@pytest.mark.parametrize(
    "name", ["os:abort", "a.b:c", "C:\\model", "http://x/y", ":f", "torch.hub:load"]
)
def test_a_typed_name_runs_no_code(name):
    with pytest.raises(NetworkError, match="would run code, which a page does not"):
        check_typed(name, Settings(("demo",)))


def marked_network():
    model, preprocess, _ = small_network()
    return model, preprocess, ["![](https://a.b/c.png)"] * 3


def test_names_of_classes_fetch_nothing(monkeypatch):
    """Markdown would show a picture from anywhere."""
    page = a_page(monkeypatch, "--model", "tests.test_app_visitors:marked_network").run()
    assert errors(page) == []
    assert page.subheader[0].value.startswith(r"\!\[\]\(https\:\/\/a\.b\/c\.png\): probability ")
    assert "![](" not in texts(page)
