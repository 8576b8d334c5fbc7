"""How fast: methods, other libraries and the network's own forwards, timed in turn."""

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from benchmarks.speed.contestants import (
    Contestant,
    Plain,
    contestants_of,
    limit,
    plain_times,
)
from benchmarks.speed.footprint import Footprint, footprint_alone
from benchmarks.speed.scorers import scorer_contestants
from benchmarks.speed.settings import SpeedSettings
from benchmarks.speed.steps import step_contestants
from benchmarks.speed.subject import (
    Batch,
    SpeedSubject,
    arithmetic,
    batches_of,
    load_subject,
)
from captum_unioncam.engine.cost import measured_cost
from captum_unioncam.metrics.similarity import correlation


class Timing(NamedTuple):
    """One call of one contestant.

    Attributes:
        images (str): names of the photographs.
        repeat (int): round on these photographs, from 0.
        contestant (str): its label.
        seconds (float): time by the wall clock.
        rows (int): rows that it forwarded.
        correlations (tuple[float, ...]): of each map with the exact one; empty for contestants
            that approximate none.
    """

    images: str
    repeat: int
    contestant: str
    seconds: float
    rows: int
    correlations: tuple[float, ...] = ()


@dataclass
class Measurement:
    """All that was measured with one dtype and one number of photographs in a call.

    Attributes:
        dtype (str): arithmetic, as ``--dtype`` names it.
        batch (int): photographs in a call.
        network (str): the network's name.
        layer (str): the layer's dotted name.
        size (tuple[int, ...]): height and width of the inputs.
        channels (int): the layer's channels.
        live (float): share of channels that are not flat, over all photographs.
        distinct (float): share of channels that make a mask of their own.
        contestants (tuple[Contestant, ...]): who was timed.
        plain (dict[Plain, float]): seconds per row of plain forwards.
        timings (list[Timing]): every call.
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
    """Measure everything that was asked for.

    Args:
        settings (SpeedSettings): what was asked for.
        say (Callable): is told of the progress.
        keep (Callable): is given what is known after every round, to write it down.

    Returns:
        *list* of measurements, one per dtype and number of photographs in a call.

    Raises:
        ValueError: if there is no such network, layer or photograph, or a method of this package
            cannot explain it.
    """
    done: list[Measurement] = []
    for dtype in settings.dtypes:
        with arithmetic(dtype):
            subject = load_subject(settings, dtype)
            say(f"{subject.network.name}, {dtype}: plain forwards")
            plain = plain_times(subject)
            for size in settings.batches:
                batches = batches_of(subject, size)
                measurement = _begun(settings, subject, dtype, batches, plain)
                done.append(measurement)
                for _ in _rounds(measurement, subject, batches, settings.repeats, say):
                    keep(done)
            del subject, batches
    for measurement in done:
        for contestant in measurement.contestants:
            if contestant.label in measurement.errors or not contestant.has_footprint:
                continue
            say(f"{measurement.dtype}, memory: {contestant.label}")
            found = footprint_alone(
                settings, measurement.dtype, measurement.batch, contestant.label
            )
            measurement.footprints[contestant.label] = found
        keep(done)
    return done


def _begun(
    settings: SpeedSettings,
    subject: SpeedSubject,
    dtype: str,
    batches: Sequence[Batch],
    plain: dict[Plain, float],
) -> Measurement:
    channels = sum(batch.channels * len(batch.names) for batch in batches)
    begun = Measurement(
        dtype=dtype,
        batch=len(batches[0].names),
        network=subject.network.name,
        layer=subject.layer_name,
        size=tuple(batches[0].x.shape[2:]),
        channels=batches[0].channels,
        live=sum(batch.live for batch in batches) / channels,
        distinct=sum(batch.distinct for batch in batches) / channels,
        contestants=(),
        plain=plain,
    )
    own = contestants_of(settings, subject)
    own += scorer_contestants(settings.scorers, subject, own[0].label)
    if settings.steps:
        own += step_contestants(subject)
    return replace(begun, contestants=(*own, limit(subject, begun.best_plain)))


def _rounds(
    measurement: Measurement,
    subject: SpeedSubject,
    batches: Sequence[Batch],
    repeats: int,
    say: Callable[[str], None],
) -> Iterator[None]:
    """Time everybody on every batch, again and again; each round another one begins."""
    order = deque(measurement.contestants)
    # The first calls on an accelerator choose and compile kernels.
    warms_up = subject.device.type != "cpu"
    for repeat in range(-1 if warms_up else 0, repeats):
        for batch in batches[:1] if repeat < 0 else batches:
            maps: dict[str, Any] = {}
            taken: list[Timing] = []
            for contestant in order:
                if contestant.label in measurement.errors:
                    continue
                say(f"{'+'.join(batch.names)}, round {repeat + 1}: {contestant.label}")
                try:
                    timing, maps[contestant.label] = _timed(contestant, subject, batch, repeat)
                except Exception as error:
                    if not contestant.peer:
                        raise
                    reason = " ".join(str(error).split())[:200]
                    measurement.errors[contestant.label] = f"{type(error).__name__}: {reason}"
                    continue
                taken.append(timing)
            if repeat >= 0:
                measurement.timings += _with_correlations(taken, maps, measurement.contestants)
                yield
            order.rotate(-1)


def _timed(
    contestant: Contestant, subject: SpeedSubject, batch: Batch, repeat: int
) -> tuple[Timing, Any]:
    gc.collect()
    with contestant.opened() as call:
        watched = [subject.network.model, *subject.copies]
        with measured_cost(watched, subject.device) as cost:
            result = call(batch)
        images = "+".join(batch.names)
        return Timing(images, repeat, contestant.label, cost.seconds, cost.forwards or 0), result


def _with_correlations(
    taken: Sequence[Timing], maps: dict[str, Any], contestants: Sequence[Contestant]
) -> list[Timing]:
    exact = {c.label: maps[c.exact] for c in contestants if c.exact}
    return [
        timing._replace(
            correlations=correlations(maps[timing.contestant], exact[timing.contestant])
        )
        if timing.contestant in exact
        else timing
        for timing in taken
    ]


def correlations(maps: Tensor, others: Tensor) -> tuple[float, ...]:
    """Return Pearson's correlation of every example's map with another, NaN where one is flat.

    Examples::

        >>> maps = torch.tensor([[[[1.0, 2.0, 4.0]]], [[[1.0, 1.0, 1.0]]]])
        >>> ["%.4f" % r for r in correlations(maps, 3 - 2 * maps)]
        ['-1.0000', 'nan']
    """
    return tuple(correlation(maps, others).tolist())
