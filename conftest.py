"""Every test and every example in a docstring starts from the same random state."""

import gc

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_collection_finish() -> None:
    """Leave what importing made out of the objects that tests of memory go through."""
    gc.collect()
    gc.freeze()
