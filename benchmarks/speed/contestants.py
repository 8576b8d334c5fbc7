"""What is timed: methods of this package, Score-CAM of other libraries, plain forwards."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

import torch

from benchmarks.speed.settings import SpeedSettings
from benchmarks.speed.subject import Batch, SpeedSubject
from captum_unioncam.comparison.compare import compare
from captum_unioncam.comparison.compared_methods import ComparedMethod, compared_methods_of
from captum_unioncam.comparison.method_spec import Spec, parse_spec
from captum_unioncam.engine.cost import measured_cost

LIMIT = "the limit"
COMPARISON = ("unioncam", "scorecam", "fusioncam", "grad++scorecam")
CLASSES = 3
# Masked images in a forward of another library's Score-CAM.
PEER_ROWS = (16, 32)
# Rows in a plain forward; the larger ones are only tried on accelerators.
PLAIN_ROWS, MORE_PLAIN_ROWS = (1, 2, 4, 8, 16, 32), (64, 128, 256, 512)
PLAIN_ROUNDS = 3

Request = Callable[[Batch], Any]


class Contestant(NamedTuple):
    """Something that is timed.

    Attributes:
        label (str): what tables call it.
        opened (Callable): makes a context that gives the call to time, with whatever it hooks
            into the network until the context ends.
        peer (str): the other library that it belongs to; empty for this package.
        exact (str): label of the method whose map it approximates; empty if it does not.
        beside (str): label of another contestant that its time is set against; empty for none.
        has_footprint (bool): whether its memory is measured as well.
    """

    label: str
    opened: Callable[[], AbstractContextManager[Request]]
    peer: str = ""
    exact: str = ""
    beside: str = ""
    has_footprint: bool = True


class Plain(NamedTuple):
    """A way to run the network.

    Attributes:
        rows (int): rows in a forward.
        channels_last (bool): whether they lie channels-last.
    """

    rows: int
    channels_last: bool


def contestants_of(settings: SpeedSettings, subject: SpeedSubject) -> list[Contestant]:
    """Return UnionCAM, the other methods, the peers that are installed, and a comparison."""
    entries = compared_methods_of(settings.methods, subject.network.model, subject.layer)
    specs = [parse_spec(method) for method in settings.methods]
    labels = [entry.label for entry in entries]
    own = [_own(e, _exact(spec, specs, labels)) for e, spec in zip(entries, specs, strict=True)]
    peers = [
        Contestant(f"{name} ScoreCAM, {rows} rows", make(subject, rows), peer=name)
        for name, (module, make) in PEERS.items()
        if settings.peers and find_spec(module) is not None
        for rows in PEER_ROWS
    ]
    scores = labels[settings.methods.index("scorecam")] if "scorecam" in settings.methods else ""
    return [*own, *peers, _comparison(subject, scores)]


def missing_peers() -> list[str]:
    """Return the other libraries that are not installed."""
    return [name for name, (module, _) in PEERS.items() if find_spec(module) is None]


def plain_times(subject: SpeedSubject) -> dict[Plain, float]:
    """Return seconds per row of plain forwards, in turn: the median of some rounds of each way.

    Ways that the network does not run, for want of memory or of a layout it takes, are left out.
    """
    sizes = PLAIN_ROWS if subject.device.type == "cpu" else PLAIN_ROWS + MORE_PLAIN_ROWS
    ways = [Plain(rows, last) for rows in sizes for last in (False, True)]
    found: dict[Plain, list[float]] = {way: [] for way in ways}
    x = subject.photographs[0].x
    # The first round only warms up.
    for round_number in range(PLAIN_ROUNDS + 1):
        for way in list(found):
            rows = max(sizes) if round_number else way.rows
            try:
                with measured_cost([], subject.device) as cost:
                    forward_plainly(subject, x, rows, way)
            except RuntimeError:
                del found[way]
                continue
            if round_number:
                found[way].append(cost.seconds / rows)
    return {way: median(seconds) for way, seconds in found.items()}


def forward_plainly(subject: SpeedSubject, x: torch.Tensor, rows: int, way: Plain) -> None:
    """Forward a photograph so often, as the network would without any mask."""
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    full = x[:1].repeat(way.rows, 1, 1, 1).contiguous(memory_format=layout)
    with torch.inference_mode():
        for start in range(0, rows, way.rows):
            subject.network.model(full[: rows - start])


def limit(subject: SpeedSubject, way: Plain) -> Contestant:
    """Return as many plain forwards as there are different masks."""

    def call(batch: Batch) -> None:
        forward_plainly(subject, batch.x, batch.distinct, way)

    return Contestant(LIMIT, lambda: nullcontext(call), has_footprint=False)


def _own(entry: ComparedMethod, exact: str) -> Contestant:
    attribution: Any = entry.attribution
    takes_baselines = "baselines" in attribution.options()

    def call(batch: Batch) -> Any:
        baselines = {"baselines": batch.black} if takes_baselines else {}
        return attribution.attribute(batch.x, target=batch.target, **baselines, **entry.options)

    return Contestant(entry.label, lambda: nullcontext(call), exact=exact)


def _exact(spec: Spec, specs: Sequence[Spec], labels: Sequence[str]) -> str:
    """Return the label of the same method without a budget of masks, or nothing."""
    options = {name: value for name, value in spec.options.items() if name != "max_masks"}
    exact = spec._replace(options=options)
    return labels[specs.index(exact)] if exact != spec and exact in specs else ""


def _comparison(subject: SpeedSubject, score_cam: str) -> Contestant:
    model = subject.network.model
    with torch.no_grad():
        classes = min(CLASSES, model(subject.photographs[0].x).shape[1])

    def call(batch: Batch) -> Any:
        return compare(
            COMPARISON, batch.x, f"top{classes}", forward_func=model, layer=subject.layer,
            baselines=batch.black, metrics=(),
        )  # fmt: skip

    label = f"compare(): {len(COMPARISON)} methods, {classes} classes"
    return Contestant(label, lambda: nullcontext(call), beside=score_cam)


def _grad_cam(subject: SpeedSubject, rows: int) -> Callable[[], AbstractContextManager[Request]]:
    @contextmanager
    def opened() -> Iterator[Request]:
        from pytorch_grad_cam import ScoreCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        class LastCall(ScoreCAM):
            # Of a layer that runs several times it would read the first call, the others the last.
            def compute_cam_per_layer(self, *args: Any) -> Any:
                seen = self.activations_and_grads
                seen.activations = seen.activations[-1:]
                return super().compute_cam_per_layer(*args)

        cam = LastCall(model=subject.network.model, target_layers=[subject.layer])
        cam.batch_size = rows

        def call(batch: Batch) -> Any:
            # Its progress bar cannot be turned off.
            with redirect_stderr(io.StringIO()):
                return cam(batch.x, [ClassifierOutputTarget(c) for c in batch.target])

        try:
            yield call
        finally:
            cam.activations_and_grads.release()

    return opened


def _torchcam(subject: SpeedSubject, rows: int) -> Callable[[], AbstractContextManager[Request]]:
    @contextmanager
    def opened() -> Iterator[Request]:
        from torchcam.methods import ScoreCAM

        with ScoreCAM(subject.network.model, subject.layer, batch_size=rows) as cam:

            def call(batch: Batch) -> Any:
                with torch.inference_mode():
                    subject.network.model(batch.x)
                return cam(class_idx=batch.target)

            yield call

    return opened


PEERS = {"grad-cam": ("pytorch_grad_cam", _grad_cam), "torchcam": ("torchcam", _torchcam)}
