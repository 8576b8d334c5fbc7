"""Every test and every example in a docstring starts from the same random state."""

import gc
import importlib.util

import pytest
import torch

# Examples in the web app's files need what it needs.
has_streamlit = importlib.util.find_spec("streamlit") is not None
collect_ignore_glob = [] if has_streamlit else ["captum_unioncam/app/*"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_collection_finish() -> None:
    """Leave what importing made out of the objects that tests of memory go through."""
    gc.collect()
    gc.freeze()
