"""The report of a speed benchmark: ratios with their spread, never bare times."""

import csv
import io
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import torch

from benchmarks.speed.contestants import LIMIT, PEERS, missing_peers
from benchmarks.speed.footprint import Footprint
from benchmarks.speed.measure import Measurement, Timing
from benchmarks.speed.settings import SpeedSettings
from captum_unioncam import __version__
from captum_unioncam.benchmark.report import _aligned as aligned
from captum_unioncam.comparison.result import formatted

COLUMNS = (
    *("dtype", "batch", "images", "repeat", "contestant", "seconds", "ms_per_image", "rows"),
    *("ratio_to_unioncam", "ratio_to_limit", "correlation", "peak_bytes", "kept_bytes"),
)


class Ratio(NamedTuple):
    """A ratio of times over images and rounds.

    Attributes:
        median (float): the middle one.
        low (float): the smallest.
        high (float): the largest.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return "{} [{}, {}]".format(*map(formatted, self))


def write_report(
    measurements: Sequence[Measurement], settings: SpeedSettings, folder: Path, about: Sequence[str]
) -> None:
    """Write ``report.md`` and ``speed.csv``, which replace earlier ones only when complete."""
    for name, text in (
        ("report.md", as_markdown(measurements, settings, folder, about)),
        ("speed.csv", as_csv(measurements)),
    ):
        partial = folder / f".{name}.partial"
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(folder / name)


def ratios(timings: Sequence[Timing], reference: str) -> dict[str, Ratio]:
    """Return every contestant's time over the reference's in the same round.

    Examples::

        >>> times = [("a", 0, "ours", 2.0), ("a", 0, "theirs", 8.0),
        ...          ("b", 0, "ours", 3.0), ("b", 0, "theirs", 9.0)]
        >>> timings = [Timing(*time, rows=1) for time in times]
        >>> ratios(timings, "ours")["theirs"]
        Ratio(median=3.5, low=3.0, high=4.0)
    """
    base = {(t.images, t.repeat): t.seconds for t in timings if t.contestant == reference}
    found: dict[str, list[float]] = {}
    for t in timings:
        if (t.images, t.repeat) in base:
            found.setdefault(t.contestant, []).append(t.seconds / base[t.images, t.repeat])
    return {label: Ratio(median(v), min(v), max(v)) for label, v in found.items()}


def better_peers(measurement: Measurement) -> list[str]:
    """Return the label of every other library at the faster of its numbers of rows."""
    to_ours = ratios(measurement.timings, measurement.contestants[0].label)
    best: dict[str, str] = {}
    for contestant in measurement.contestants:
        label, peer = contestant.label, contestant.peer
        is_timed = peer and label in to_ours and label not in measurement.errors
        if is_timed and (peer not in best or to_ours[label] < to_ours[best[peer]]):
            best[peer] = label
    return list(best.values())


def machine() -> list[str]:
    """Return lines that say where and with what a benchmark runs, and how busy that is."""
    packages = [name for name in ("torch", "captum", *PEERS) if name not in missing_peers()]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    lines = [
        f"Software: Python {platform.python_version()}, captum_unioncam {__version__}, {versions}.",
        f"Processor: {_processor()}, {os.cpu_count()} cores, of which torch uses {threads}.",
    ]
    if hasattr(os, "getloadavg"):
        # Ratios of times taken in turn bear a busy machine, but their spread shows it.
        lines.append(f"Load before the start, of other processes: {os.getloadavg()[0]:.1f}.")
    return lines


def as_text(measurement: Measurement) -> str:
    """Return the tables of a measurement as the command prints them."""
    return "\n".join([*contestants_table(measurement), "", *pairs_table(measurement)])


def as_markdown(
    measurements: Sequence[Measurement], settings: SpeedSettings, folder: Path, about: Sequence[str]
) -> str:
    """Return the report as Markdown."""
    lines = ["# Speed", "", _in_words(settings), *(f"- {line}" for line in about)]
    missing = missing_peers()
    if missing and settings.peers:
        lines.append(
            f"- Not installed, so left out: {', '.join(missing)} "
            '(`pip install "captum-unioncam[peers]"`).'
        )
    lines += ["", "```", settings.command(folder), "```"]
    for m in measurements:
        photographs = f"{m.batch} photograph{'s' * (m.batch > 1)}"
        lines += [
            "",
            f"## {m.network}, {m.dtype}, {photographs} in a call",
            "",
            _about(m),
            "",
            *contestants_table(m),
            "",
            *pairs_table(m),
            "",
            "Plain forwards, time per row over that of the fastest way:",
            "",
            *plain_table(m),
        ]
        failures = m.errors | {n: f.error for n, f in m.footprints.items() if f.error}
        if failures:
            lines += ["", "Not measured:", "", *(f"- {n}: {why}" for n, why in failures.items())]
    return "\n".join([*lines, ""])


def _in_words(settings: SpeedSettings) -> str:
    rounds = f"{settings.repeats} round{'s' * (settings.repeats > 1)}"
    return f"""\
- Device: {_device_name(settings.device)}.
- Times are ratios, of two calls of one round each: median over photographs and rounds [smallest,
  largest]. In a round all are timed in turn on the same photographs; {rounds} on every photograph.
  `speed.csv` holds every call.
- Explained is the most probable class. Masked-out parts show black, in other libraries zeros.
- Rows: images forwarded per photograph. Peak: the largest increase in memory during the call, in a
  process of its own. Kept: memory of tensors still held after the result is deleted, while the
  method's object still exists."""


def _about(m: Measurement) -> str:
    way = m.best_plain
    layout = "channels-last" if way.channels_last else "in the usual layout"
    return (
        f"Layer `{m.layer}`, {m.channels} channels, inputs {m.size[0]} x {m.size[1]}; "
        f"{100 * m.live:.0f} % of the channels are not flat, and {100 * m.distinct:.0f} % is what "
        "is left of them when equal masks are merged. The limit is a plain forward for each of "
        f"these, without making masks, at the network's fastest: {way.rows} "
        f"row{'s' * (way.rows > 1)} at a time, {layout}."
    )


def contestants_table(measurement: Measurement) -> list[str]:
    """Return the lines of a Markdown table, a contestant a line."""
    ours = measurement.contestants[0].label
    to_ours, to_limit = (ratios(measurement.timings, name) for name in (ours, LIMIT))
    header = ["", f"time / {ours}", "time / limit", "rows", "peak MiB", "kept MiB", "correlation"]
    body = []
    for contestant in measurement.contestants:
        label = contestant.label
        own = [t for t in measurement.timings if t.contestant == label]
        if not own or label in measurement.errors:
            continue
        footprint = measurement.footprints.get(label, Footprint())
        found = [value for t in own for value in t.correlations]
        body.append(
            [
                label,
                str(to_ours[label]),
                str(to_limit[label]) if label in to_limit else formatted(None),
                formatted(mean(t.rows for t in own) / measurement.batch),
                _mebibytes(footprint.peak_bytes),
                _mebibytes(footprint.kept_bytes),
                f"{mean(found):.4f}, worst {min(found):.4f}" if found else formatted(None),
            ]
        )
    return aligned(header, body)


def pairs_table(measurement: Measurement) -> list[str]:
    """Return the lines of a table of ratios between others than UnionCAM."""
    body = []
    for label, over in _pairs(measurement):
        ratio = ratios(measurement.timings, over).get(label)
        if ratio:
            body.append([label, over, str(ratio)])
    return aligned(["time of", "over that of", "ratio"], body)


def _pairs(measurement: Measurement) -> list[tuple[str, str]]:
    contestants, peers = measurement.contestants, better_peers(measurement)
    ours = contestants[0].label
    pairs = [(peer, ours) for peer in peers]
    to_ours = ratios(measurement.timings, ours)
    fastest = sorted(peers, key=lambda label: to_ours[label])[:1]
    pairs += [
        (peer, c.label) for peer in fastest for c in contestants if c.exact and c.has_footprint
    ]
    pairs += [(c.label, c.beside) for c in contestants if c.beside]
    return [*pairs, (ours, LIMIT)]


def plain_table(measurement: Measurement) -> list[str]:
    """Return the lines of a table of plain forwards, a layout a line."""
    plain = measurement.plain
    fastest = plain[measurement.best_plain]
    sizes = sorted({way.rows for way in plain})
    body = []
    for name, channels_last in (("usual layout", False), ("channels-last", True)):
        own = {way.rows: s for way, s in plain.items() if way.channels_last == channels_last}
        body.append([name, *(formatted(own[n] / fastest if n in own else None) for n in sizes)])
    return aligned(["rows in a forward", *map(str, sizes)], body)


def as_csv(measurements: Sequence[Measurement]) -> str:
    """Return every call as CSV."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for m in measurements:
        seconds = {(t.images, t.repeat, t.contestant): t.seconds for t in m.timings}
        for t in m.timings:
            ours, limit = (
                seconds.get((t.images, t.repeat, name)) for name in (m.contestants[0].label, LIMIT)
            )
            footprint = m.footprints.get(t.contestant, Footprint())
            writer.writerow(
                {
                    "dtype": m.dtype,
                    "batch": m.batch,
                    "images": t.images,
                    "repeat": t.repeat,
                    "contestant": t.contestant,
                    "seconds": t.seconds,
                    "ms_per_image": 1000 * t.seconds / m.batch,
                    "rows": t.rows,
                    "ratio_to_unioncam": ours and t.seconds / ours,
                    "ratio_to_limit": limit and t.seconds / limit,
                    "correlation": mean(t.correlations) if t.correlations else None,
                    "peak_bytes": footprint.peak_bytes,
                    "kept_bytes": footprint.kept_bytes,
                }
            )
    return file.getvalue()


def _mebibytes(count: int | None) -> str:
    return formatted(None) if count is None else formatted(count / 2**20) if count else "0"


def _device_name(device: str) -> str:
    kind = torch.device(device).type
    return f"{device}, {torch.cuda.get_device_name(device)}" if kind == "cuda" else device


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
