"""What is timed: methods of this package, Score-CAM of other libraries, plain forwards."""

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.speed.settings import SpeedSettings
from benchmarks.speed.speed_run import Batch, SpeedRun
from captum_unioncam.comparison.compare import DEFAULT_METRICS, compare
from captum_unioncam.comparison.result import Comparison
from captum_unioncam.engine import NamedScorer
from captum_unioncam.engine.cost import measured_cost
from captum_unioncam.methods.compared_methods import ComparedMethod, compared_methods_of
from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.metrics import METRICS

LIMIT = "the limit"
COMPARISON = ("unioncam", "scorecam", "fusioncam", "grad++scorecam")
CLASSES = 3
# Options with which a method approximates itself without them.
APPROXIMATING = ("max_masks", "tolerance", "scorer")
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
        builds (bool): whether its first call builds what later ones use.
    """

    label: str
    opened: Callable[[], AbstractContextManager[Request]]
    peer: str = ""
    exact: str = ""
    beside: str = ""
    has_footprint: bool = True
    builds: bool = False


class Plain(NamedTuple):
    """A way to run the network: rows in a forward, and whether they lie channels-last."""

    rows: int
    channels_last: bool


def contestants_of(settings: SpeedSettings, run: SpeedRun) -> list[Contestant]:
    """Return UnionCAM, the other methods, the peers that are installed, and a comparison."""
    methods = compared_methods_of(settings.methods, run.network.model, run.layer)
    specs = [parse_spec(text) for text in settings.methods]
    own = []
    for method, spec in zip(methods, specs, strict=True):
        plain = {n: v for n, v in spec.options.items() if n not in APPROXIMATING}
        exact = spec._replace(options=plain)
        own.append(_own(method, exact.title() if exact != spec and exact in specs else ""))
    peers = [
        Contestant(f"{name} ScoreCAM, {rows} rows", make(run, rows), peer=name)
        for name, (module, make) in PEERS.items()
        if name in settings.beside and find_spec(module) is not None
        for rows in settings.peer_rows
    ]
    score_cam = parse_spec("scorecam")
    beside = score_cam.title() if score_cam in specs else ""
    compared = [_comparison(run, beside)] if "compare" in settings.beside else []
    if "metrics" in settings.beside:
        scorers = dict.fromkeys(s.options["scorer"] for s in specs if "scorer" in s.options)
        compared += _with_metrics(run, list(scorers))
    return [*own, *peers, *compared]


def missing_peers(among: Collection[str]) -> list[str]:
    """Return those of the other libraries that are not installed."""
    return [name for name, (m, _) in PEERS.items() if name in among and find_spec(m) is None]


def plain_times(run: SpeedRun) -> dict[Plain, float]:
    """Return seconds per row of plain forwards, in turn: the median of some rounds of each way.

    Ways that the network does not run, for want of memory or of a layout it takes, are left out.
    """
    sizes = PLAIN_ROWS if run.device.type == "cpu" else PLAIN_ROWS + MORE_PLAIN_ROWS
    found: dict[Plain, list[float]] = {
        Plain(rows, last): [] for rows in sizes for last in (False, True)
    }
    # The first round only warms up.
    for round_number in range(PLAIN_ROUNDS + 1):
        for way in list(found):
            rows = max(sizes) if round_number else way.rows
            try:
                with measured_cost([], run.device) as cost:
                    forward_plainly(run, run.photographs[0].x, rows, way)
            except RuntimeError:
                del found[way]
                continue
            if round_number:
                found[way].append(cost.seconds / rows)
    return {way: median(seconds) for way, seconds in found.items()}


def forward_plainly(run: SpeedRun, x: torch.Tensor, rows: int, way: Plain) -> None:
    """Forward a photograph so often, as the network would without any mask."""
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    full = x[:1].repeat(way.rows, 1, 1, 1).contiguous(memory_format=layout)
    with torch.inference_mode():
        for start in range(0, rows, way.rows):
            run.network.model(full[: rows - start])


def limit(run: SpeedRun, way: Plain) -> Contestant:
    """Return as many plain forwards as there are different masks."""

    def call(batch: Batch) -> None:
        forward_plainly(run, batch.x, batch.distinct, way)

    return Contestant(LIMIT, lambda: nullcontext(call), has_footprint=False)


def _own(method: ComparedMethod, exact: str) -> Contestant:
    attribution: Any = method.attribution
    takes_baselines = "baselines" in attribution.options()

    def call(batch: Batch) -> Any:
        baselines = {"baselines": batch.black} if takes_baselines else {}
        return attribution.attribute(batch.x, target=batch.target, **baselines, **method.options)

    builds = "scorer" in method.options
    return Contestant(method.label, lambda: nullcontext(call), exact=exact, builds=builds)


def _comparison(run: SpeedRun, score_cam: str) -> Contestant:
    classes = _classes(run)
    call = partial(_compared, run, classes, metrics=())
    label = f"compare(): {len(COMPARISON)} methods, {classes} classes"
    return Contestant(label, lambda: nullcontext(call), beside=score_cam)


def _with_metrics(run: SpeedRun, scorers: Sequence[str]) -> list[Contestant]:
    """Return comparisons with metrics: each metric by itself, together, and with every scorer."""
    classes = _classes(run)
    alone = f"compare() and {len(DEFAULT_METRICS)} metrics, each by itself"
    together = f"compare() with {len(DEFAULT_METRICS)} metrics"

    def one_by_one(batch: Batch) -> None:
        maps = _compared(run, classes, batch, metrics=()).maps
        best = run.network.model(batch.x).topk(classes, dim=1).indices.T.tolist()
        for k, target in enumerate(best):
            measured: list[Tensor] = []
            for cams in maps.values():
                cam = cams[:, k : k + 1].to(run.device)
                # Equal maps were never measured twice.
                if any(torch.equal(cam, one) for one in measured):
                    continue
                measured.append(cam)
                for name in DEFAULT_METRICS:
                    METRICS[name].function(
                        run.network.model, batch.x, cam, target=target, baselines=batch.black
                    )

    found = [Contestant(alone, lambda: nullcontext(one_by_one), has_footprint=False)]
    calls = {together: partial(_compared, run, classes)}
    for name in scorers:
        # Built once, as a command does it.
        kept = NamedScorer(name)
        calls[f"{together}, scorer={name}"] = partial(_compared, run, classes, scorer=kept)
    for label, call in calls.items():
        builds = "scorer=" in label
        found.append(
            Contestant(label, _ready(call), beside=alone, has_footprint=False, builds=builds)
        )
    return found


def _ready(call: Request) -> Callable[[], AbstractContextManager[Request]]:
    return lambda: nullcontext(call)


def _classes(run: SpeedRun) -> int:
    with torch.no_grad():
        return min(CLASSES, len(run.network.outputs(run.photographs[0].x)[0]))


def _compared(run: SpeedRun, classes: int, batch: Batch, **options: Any) -> Comparison:
    return compare(
        COMPARISON, batch.x, f"top{classes}", forward_func=run.network.model, layer=run.layer,
        baselines=batch.black, **options,
    )  # fmt: skip


def _grad_cam(run: SpeedRun, rows: int) -> Callable[[], AbstractContextManager[Request]]:
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

        cam = LastCall(model=run.network.model, target_layers=[run.layer])
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


def _torchcam(run: SpeedRun, rows: int) -> Callable[[], AbstractContextManager[Request]]:
    @contextmanager
    def opened() -> Iterator[Request]:
        from torchcam.methods import ScoreCAM

        with ScoreCAM(run.network.model, run.layer, batch_size=rows) as cam:

            def call(batch: Batch) -> Any:
                with torch.inference_mode():
                    run.network.model(batch.x)
                return cam(class_idx=batch.target)

            yield call

    return opened


PEERS = {"grad-cam": ("pytorch_grad_cam", _grad_cam), "torchcam": ("torchcam", _torchcam)}
