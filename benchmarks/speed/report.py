"""The report of a speed benchmark: ratios with their spread, never bare times."""

import csv
import io
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import torch

from benchmarks.speed.contestants import LIMIT, PEERS, missing_peers
from benchmarks.speed.footprint import Footprint
from benchmarks.speed.measure import BUILT, Measurement, Timing
from benchmarks.speed.settings import SpeedSettings
from captum_unioncam import __version__
from captum_unioncam.comparison.text import formatted, markdown
from captum_unioncam.files import written_whole

COLUMNS = (
    *("dtype", "batch", "images", "repeat", "contestant", "seconds", "ms_per_image", "rows"),
    *("ratio_to_unioncam", "ratio_to_limit", "correlation", "largest_difference"),
    *("peak_bytes", "kept_bytes"),
)


class Ratio(NamedTuple):
    """The median, smallest and largest ratio of times over images and rounds."""

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
        with written_whole(folder / name) as partial:
            partial.write_text(text, encoding="utf-8", newline="")


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


def machine() -> list[str]:
    """Return lines that say where and with what a benchmark runs, and how busy that is."""
    named = ("torch", "captum", *PEERS, "onnxruntime", "openvino")
    packages = [name for name in named if find_spec(PEERS.get(name, (name,))[0]) is not None]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    threads = _count(torch.get_num_threads(), "thread")
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
    missing = missing_peers(settings.beside)
    if missing:
        lines.append(
            f"- Not installed, so left out: {', '.join(missing)} "
            '(`pip install "captum-unioncam[peers]"`).'
        )
    lines += ["", "```", settings.command(folder), "```"]
    for m in measurements:
        failures = m.errors | {n: f.error for n, f in m.footprints.items() if f.error}
        lines += [
            "",
            f"## {m.network}, {m.dtype}, {_count(m.batch, 'photograph')} in a call",
            "",
            _about(m),
            "",
            *contestants_table(m),
            "",
            *pairs_table(m),
            *_plain(m),
            *(["", "Not measured:", ""] if failures else []),
            *(f"- {label}: {reason}" for label, reason in failures.items()),
        ]
    return "\n".join([*lines, ""])


def _in_words(settings: SpeedSettings) -> str:
    device = settings.device
    if device.startswith("cuda"):
        device = f"{device}, {torch.cuda.get_device_name(device)}"
    return f"""\
- Device: {device}.
- Times are ratios, of two calls of one round each: median over photographs and rounds [smallest,
  largest]. In a round all are timed in turn on the same photographs; \
{_count(settings.repeats, "round")} on every photograph.
  `speed.csv` holds every call.
- Explained is the most probable class. Masked-out parts show black, in other libraries zeros.
- Rows: images forwarded per photograph. Peak: the largest increase in memory during a first call,
  with what it builds, in a process of its own. Kept: memory of tensors still held after the
  result is deleted, while the method's object still exists."""


def _about(m: Measurement) -> str:
    about = (
        f"Layer `{m.layer}`, {m.channels} channels, inputs {m.size[0]} x {m.size[1]}; "
        f"{100 * m.live:.0f} % of the channels are not flat, and {100 * m.distinct:.0f} % is what "
        "is left of them when equal masks are merged."
    )
    if not m.plain:
        return about
    way = m.best_plain
    layout = "channels-last" if way.channels_last else "in the usual layout"
    return (
        f"{about} The limit is a plain forward for each of these, without making masks, at the "
        f"network's fastest: {_count(way.rows, 'row')} at a time, {layout}."
    )


def _plain(m: Measurement) -> list[str]:
    if not m.plain:
        return []
    about = "Plain forwards, time per row over that of the fastest way:"
    return ["", about, "", *plain_table(m)]


def contestants_table(measurement: Measurement) -> list[str]:
    """Return the lines of a Markdown table, a contestant a line."""
    ours = measurement.contestants[0].label
    to_ours, to_limit = (ratios(measurement.timings, name) for name in (ours, LIMIT))
    header = ["", f"time / {ours}", "time / limit", "rows", "peak MiB", "kept MiB", "correlation"]
    header.append("largest difference")
    body = []
    for label in (c.label for c in measurement.contestants):
        own = [t for t in measurement.timings if t.contestant == label]
        if not own or label in measurement.errors:
            continue
        footprint = measurement.footprints.get(label, Footprint())
        found = [value for t in own for value in t.correlations]
        apart = [value for t in own for value in t.differences]
        body.append(
            [
                label,
                str(to_ours[label]),
                str(to_limit.get(label, formatted(None))),
                formatted(mean(t.rows for t in own) / measurement.batch),
                _mebibytes(footprint.peak_bytes),
                _mebibytes(footprint.kept_bytes),
                f"{mean(found):.4f}, worst {min(found):.4f}" if found else formatted(None),
                f"{max(apart):.1e}" if apart else formatted(None),
            ]
        )
    return markdown(header, body)


def pairs_table(measurement: Measurement) -> list[str]:
    """Return the lines of a table of ratios between others than UnionCAM.

    Other libraries, each at the faster of its numbers of rows, over UnionCAM and over what
    approximates it; what is set beside another; first calls that build something; UnionCAM over the
    limit.
    """
    contestants = measurement.contestants
    ours = contestants[0].label
    to_ours = ratios(measurement.timings, ours)
    best: dict[str, str] = {}
    for c in sorted(contestants, key=lambda c: to_ours.get(c.label, (float("inf"),))):
        if c.peer and c.label in to_ours and c.label not in measurement.errors:
            best.setdefault(c.peer, c.label)
    peers = [c.label for c in contestants if c.label in best.values()]
    near = [c.label for c in contestants if c.exact and c.has_footprint]
    pairs = [(peer, own) for own in (ours, *near) for peer in peers]
    pairs += [(c.label, c.beside) for c in contestants if c.beside]
    pairs += [(f"{c.label}{BUILT}", ours) for c in contestants if c.builds]
    body = []
    for label, over in [*pairs, (ours, LIMIT)]:
        ratio = ratios(measurement.timings, over).get(label)
        if ratio:
            body.append([label, over, str(ratio)])
    return markdown(["time of", "over that of", "ratio"], body)


def plain_table(measurement: Measurement) -> list[str]:
    """Return the lines of a table of plain forwards, a layout a line."""
    plain = measurement.plain
    fastest = plain[measurement.best_plain]
    sizes = sorted({way.rows for way in plain})
    body = []
    for name, channels_last in (("usual layout", False), ("channels-last", True)):
        own = {way.rows: s for way, s in plain.items() if way.channels_last == channels_last}
        body.append([name, *(formatted(own[n] / fastest if n in own else None) for n in sizes)])
    return markdown(["rows in a forward", *map(str, sizes)], body)


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
                    "largest_difference": max(t.differences, default=None),
                    "peak_bytes": footprint.peak_bytes,
                    "kept_bytes": footprint.kept_bytes,
                }
            )
    return file.getvalue()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def _mebibytes(count: int | None) -> str:
    return "0" if count == 0 else formatted(count and count / 2**20)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
