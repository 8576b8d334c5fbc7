"""The page of the web app; Streamlit runs this file, from the top at every change."""

import sys
import time
from collections import OrderedDict

import streamlit as st

from captum_unioncam.app import inputs, panels
from captum_unioncam.app.choices import Choice, Settings, settings_of, unmarked
from captum_unioncam.app.work import WAITING, Result, explained, my_turn, time_left

TITLE = "What did the network look at?"
# Results that a page keeps; earlier ones are made again.
KEPT = 8


def page(settings: Settings) -> None:
    """Show the page.

    Args:
        settings (Settings): what the app was started with.
    """
    st.set_page_config(page_title="UnionCAM", page_icon="🔥", layout="wide")
    st.title(TITLE)
    results: OrderedDict[Choice, Result] = st.session_state.setdefault("results", OrderedDict())
    try:
        wanted = inputs.wanted(settings)
    # One sentence says what was wrong; the widgets stay, to put it right.
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        st.error(_sentence(error))
        return
    is_first = "was_open" not in st.session_state
    st.session_state.was_open = True
    is_asked = st.button("Explain", type="primary", disabled=wanted.choice in results)
    if (is_asked or is_first) and wanted.choice not in results:
        _explain(wanted, results)
    if wanted.choice in results:
        panels.show(results[wanted.choice])
    elif st.session_state.pop("was_stopped", False):
        st.info("Stopped. Nothing has changed; press Explain to begin again.")
    else:
        st.info("Press Explain to see the maps of what is chosen.")
        st.image(wanted.picture.load(), caption=unmarked(wanted.picture.name), width=320)


def _explain(wanted: inputs.Wanted, results: "OrderedDict[Choice, Result]") -> None:
    """Make a result, under a bar that tells how far it is; any click ends the work."""
    place = st.empty()
    with place.container():
        st.button("Stop", on_click=_stopped)
        bar = st.progress(0.0, "starting")
    began = time.monotonic()

    def tell(done: int, total: int) -> None:
        text = time_left(time.monotonic() - began, done, total)
        bar.progress(min(0.99, done / total), text)

    try:
        with my_turn(lambda: bar.progress(0.0, WAITING)):
            began = time.monotonic()
            made = explained(wanted.loaded, wanted.picture, wanted.choice, tell)
    # The choice may be to blame, and another one can be explained.
    except (ValueError, TypeError, RuntimeError) as error:
        st.error(_sentence(error))
        place.empty()
        return
    results[wanted.choice] = made
    while len(results) > KEPT:
        results.popitem(last=False)
    # Drawn anew, the page has no bar, and its button knows that all is done.
    st.rerun()


def _stopped() -> None:
    st.session_state.was_stopped = True


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    page(settings_of(sys.argv[1:]))
