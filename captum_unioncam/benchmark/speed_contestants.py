"""What is timed: methods of this package, Score-CAM of other libraries, plain forwards."""

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_unioncam.benchmark.speed_settings import Batch, SpeedSettings, SpeedSubject
from captum_unioncam.compare import compare
from captum_unioncam.engine.cost import measured_cost
from captum_unioncam.entries import Entry, entries_of
from captum_unioncam.specs import parse_spec

LIMIT = "the limit"
COMPARED = ("unioncam", "scorecam", "fusioncam", "gradppscorecam")
COMPARED_CLASSES = 3
# The sizes at which other libraries' Score-CAM forwards masked images here.
PEER_ROWS = (16, 32)
# Rows in a plain forward; the second are worth a try only on an accelerator.
PLAIN_ROWS, MORE_PLAIN_ROWS = (1, 2, 4, 8, 16, 32), (64, 128, 256, 512)
PLAIN_ROUNDS = 3

Call = Callable[[Batch], Any]


class Contestant(NamedTuple):
    """Something that is timed.

    Attributes:
        label (str): what tables call it.
        opened (Callable): makes a context that gives the call to time, with whatever it hooks
            into the network until the context ends.
        peer (str): the other library that it belongs to; empty for this package.
        exact (str): label of the method whose map it approximates; empty if it does not.
    """

    label: str
    opened: Callable[[], AbstractContextManager[Call]]
    peer: str = ""
    exact: str = ""


class Plain(NamedTuple):
    """A way to run the network.

    Attributes:
        rows (int): rows in a forward.
        channels_last (bool): whether they lie channels-last.
    """

    rows: int
    channels_last: bool


def contestants_of(settings: SpeedSettings, subject: SpeedSubject) -> list[Contestant]:
    """Return UnionCAM, the other methods, the installed peers, and a comparison."""
    model = subject.network.model
    entries = entries_of(settings.methods, model, subject.layer)
    labels = [_Key.of(method) for method in settings.methods]
    own = [
        _own(entry, next((e.label for e, k in zip(entries, labels, strict=True) if k == key), ""))
        for entry, key in zip(entries, map(_Key.exact, settings.methods), strict=True)
    ]
    peers = [
        Contestant(f"{name} ScoreCAM, {rows} rows", make(subject, rows), peer=name)
        for name, (module, make) in PEERS.items()
        if find_spec(module) is not None
        for rows in PEER_ROWS
    ]
    return [*own, *peers, _comparison(subject)]


def missing_peers() -> list[str]:
    """Return the other libraries that are not installed."""
    return [name for name, (module, _) in PEERS.items() if find_spec(module) is None]
