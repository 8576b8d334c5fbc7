"""How fast: methods, other libraries and the network's own forwards, timed in turn."""

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.speed.contestants import Contestant, Plain, contestants_of, limit, plain_times
from benchmarks.speed.footprint import Footprint, footprint_alone
from benchmarks.speed.settings import SpeedSettings
from benchmarks.speed.speed_run import Batch, SpeedRun, arithmetic, batches_of, load_run
from benchmarks.speed.steps import step_contestants
from captum_unioncam.engine.cost import measured_cost
from captum_unioncam.metrics.similarity import correlation

# Follows the label of a first call that builds what later ones use.
BUILT = ", with what it builds"


class Timing(NamedTuple):
    """One call of one contestant.

    Attributes:
        images (str): names of the photographs.
        repeat (int): round on these photographs, from 0.
        contestant (str): its label.
        seconds (float): time by the wall clock.
        rows (int): rows that it forwarded.
        correlations (tuple[float, ...]): Pearson's, of each map with the exact one, NaN where one
            is flat; empty for contestants that approximate none.
        differences (tuple[float, ...]): the largest of each map from the exact one, as a part of
            that one's largest value.
    """

    images: str
    repeat: int
    contestant: str
    seconds: float
    rows: int
    correlations: tuple[float, ...] = ()
    differences: tuple[float, ...] = ()


@dataclass
class Measurement:
    """All that was measured with one dtype and one number of photographs in a call.

    Attributes:
        live (float): share of channels that are not flat, over all photographs.
        distinct (float): share of channels that make a mask of their own.
        plain (dict[Plain, float]): seconds per row of plain forwards; empty without the limit.
        footprints (dict[str, Footprint]): memory of one call, by contestant.
        errors (dict[str, str]): what other libraries failed with, by contestant.
    """

    dtype: str
    batch: int
    network: str
    layer: str
    size: tuple[int, ...]
    channels: int
    live: float
    distinct: float
    contestants: tuple[Contestant, ...]
    plain: dict[Plain, float]
    timings: list[Timing] = field(default_factory=list)
    footprints: dict[str, Footprint] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def best_plain(self) -> Plain:
        """The network's fastest way to run, by its time per row."""
        return min(self.plain, key=lambda way: self.plain[way])


def measured(
    settings: SpeedSettings, say: Callable[[str], None], keep: Callable[[list[Measurement]], None]
) -> list[Measurement]:
    """Measure everything that was asked for, per dtype and number of photographs in a call.

    Args:
        settings (SpeedSettings): what was asked for.
        say (Callable): is told of the progress.
        keep (Callable): is given what is known after every round, to write it down.

    Raises:
        ValueError: if there is no such network, layer or photograph, or a method of this package
            cannot explain it.
    """
    done: list[Measurement] = []
    for dtype in settings.dtypes:
        with arithmetic(dtype):
            run = load_run(settings, dtype)
            plain: dict[Plain, float] = {}
            if "limit" in settings.beside:
                say(f"{run.network.name}, {dtype}: plain forwards")
                plain = plain_times(run)
            for size in settings.batches:
                batches = batches_of(run, size)
                measurement = _begun(settings, run, dtype, batches, plain)
                done.append(measurement)
                for _ in _rounds(measurement, run, batches, settings.repeats, say):
                    keep(done)
            # Their memory belongs to the next dtype.
            del run, batches
    for measurement in done if "memory" in settings.beside else ():
        for contestant in measurement.contestants:
            label = contestant.label
            if label in measurement.errors or not contestant.has_footprint:
                continue
            say(f"{measurement.dtype}, memory: {label}")
            measurement.footprints[label] = footprint_alone(
                settings, measurement.dtype, measurement.batch, label
            )
        keep(done)
    return done


def _begun(
    settings: SpeedSettings,
    run: SpeedRun,
    dtype: str,
    batches: Sequence[Batch],
    plain: dict[Plain, float],
) -> Measurement:
    channels = sum(batch.channels * len(batch.names) for batch in batches)
    own = contestants_of(settings, run)
    own += step_contestants(run) if "steps" in settings.beside else []
    begun = Measurement(
        dtype=dtype,
        batch=len(batches[0].names),
        network=run.network.name,
        layer=run.layer_name,
        size=tuple(batches[0].x.shape[2:]),
        channels=batches[0].channels,
        live=sum(batch.live for batch in batches) / channels,
        distinct=sum(batch.distinct for batch in batches) / channels,
        contestants=tuple(own),
        plain=plain,
    )
    if plain:
        begun.contestants += (limit(run, begun.best_plain),)
    return begun


def _rounds(
    measurement: Measurement,
    run: SpeedRun,
    batches: Sequence[Batch],
    repeats: int,
    say: Callable[[str], None],
) -> Iterator[None]:
    """Time everybody on every batch, again and again; each round another one begins."""
    order = deque(measurement.contestants)
    exact = {c.label: c.exact for c in order if c.exact}
    for contestant in order:
        if contestant.builds:
            say(f"{contestant.label}: built")
            timing, _ = timed(contestant, run, batches[0], 0)
            built = timing._replace(contestant=f"{contestant.label}{BUILT}")
            measurement.timings.append(built)
    # The first calls on an accelerator choose and compile kernels.
    warms_up = run.device.type != "cpu"
    for repeat in range(-1 if warms_up else 0, repeats):
        for batch in batches[:1] if repeat < 0 else batches:
            maps: dict[str, Any] = {}
            taken: list[Timing] = []
            for contestant in order:
                if contestant.label in measurement.errors:
                    continue
                say(f"{'+'.join(batch.names)}, round {repeat + 1}: {contestant.label}")
                try:
                    timing, maps[contestant.label] = timed(contestant, run, batch, repeat)
                except Exception as error:
                    if not contestant.peer:
                        raise
                    reason = " ".join(str(error).split())[:200]
                    measurement.errors[contestant.label] = f"{type(error).__name__}: {reason}"
                    continue
                taken.append(timing)
            order.rotate(-1)
            if repeat < 0:
                continue
            for t in taken:
                if t.contestant in exact:
                    cam, own = (maps[n].detach() for n in (t.contestant, exact[t.contestant]))
                    found = correlation(cam, own)
                    apart = (cam - own).flatten(1).abs().amax(1) / own.flatten(1).abs().amax(1)
                    t = t._replace(
                        correlations=tuple(found.tolist()), differences=tuple(apart.tolist())
                    )
                measurement.timings.append(t)
            yield


def timed(contestant: Contestant, run: SpeedRun, batch: Batch, repeat: int) -> tuple[Timing, Any]:
    """Return what one call took, and its result."""
    gc.collect()
    with contestant.opened() as call:
        with measured_cost([run.network.model], run.device) as cost:
            result = call(batch)
        images = "+".join(batch.names)
        return Timing(images, repeat, contestant.label, cost.seconds, cost.forwards or 0), result
