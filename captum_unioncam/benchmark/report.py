"""The report of a benchmark, made from its rows alone."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from captum_unioncam.benchmark.presets import needs_boxes
from captum_unioncam.benchmark.rows import read_rows
from captum_unioncam.benchmark.settings import Settings, load
from captum_unioncam.benchmark.table import LEVEL, RESAMPLES, SEED, Estimate, Table, table_of
from captum_unioncam.comparison.text import formatted, heading_of, markdown, printable
from captum_unioncam.files import written_whole
from captum_unioncam.metrics import metric_of

MOST_ERRORS = 10
# Below this the percentile bootstrap covers noticeably less than it promises.
FEW = 20
COLUMNS = (
    *("method", "spec", "metric", "higher_is_better", "images", "mean", "low", "high"),
    *("difference", "difference_low", "difference_high", "excludes_zero", "mean_over_classes"),
    *("best_other", "from_best_other", "from_best_other_low", "from_best_other_high"),
)


def write_report(folder: Path) -> Table:
    """Write ``report.md`` and ``report.csv`` of the rows in a folder.

    Raises:
        ValueError: if there is no benchmark there.
    """
    settings = load(folder)
    table = table_of(read_rows(folder), settings)
    for name, text in (
        ("report.md", as_markdown(table, settings, folder)),
        ("report.csv", as_csv(table, settings)),
    ):
        with written_whole(folder / name) as partial:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return table


def as_text(table: Table, folder: Path) -> str:
    """Return what the command prints when it is done."""
    lines = means_table(table, load(folder))
    if table.errors:
        lines.append(f"not measured: {len(table.errors)} of the pictures; the report says why")
    return "\n".join([*lines, f"report written to {folder / 'report.md'}"])


def as_markdown(table: Table, settings: Settings, folder: Path) -> str:
    """Return the report as Markdown: settings in words, means, differences, what failed."""
    pairs = f", {table.pairs} pairs of picture and class" if table.pairs != table.images else ""
    side = settings.mosaics
    word = "mosaic" if table.mosaics == 1 else "mosaics"
    pairs += f", {table.mosaics} {word} of {side} x {side} of them" * bool(table.mosaics)
    skipped = f"{len(table.errors)} could not be" if table.errors else "none was skipped"
    lines = [
        f"# {len(settings.methods)} methods on {table.images} pictures",
        "",
        *(f"- {line}" for line in settings.in_words()),
        f"- Measured: {table.images} pictures{pairs}; {skipped}.",
    ]
    if table.accuracy is not None:
        right = f"{100 * table.accuracy:.1f} %"
        lines.append(f"- The most probable class is among the labels of {right} of them.")
    lines += ["", "```", settings.command(folder), "```"]
    for heading, about, body in _sections(table, settings):
        lines += ["", f"## {heading}", "", *([about, ""] if about else []), *body]
    return "\n".join([*lines, ""])


def _sections(table: Table, settings: Settings) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the sections that there is something for: heading, explanation, lines."""
    boxed = [name for name in settings.metrics if needs_boxes(name)]
    if table.means:
        costs = (
            "Every method ran on its own; time is relative to the fastest."
            if settings.alone
            else "Methods share their masked forwards, which count for the first that needs them; "
            "`--alone` measures what each costs by itself."
        )
        counts = [count for count in (table.images, table.mosaics) if count]
        few = f" Of fewer than {FEW} images or mosaics such intervals are too narrow."
        about = (
            f"In brackets the {LEVEL} % percentile bootstrap interval over images ({RESAMPLES} "
            f"resamples, seed {SEED}). {costs}{few * (min(counts) < FEW)}"
        )
        yield "Means", about, means_table(table, settings)
    if table.means and boxed:
        about = (
            "Every class counts alike, as the pointing game is published; the distance that it "
            "tolerates is in pixels of the picture, before preprocessing."
        )
        yield "Means over classes", about, _over_classes(table, boxed)
    if table.differences:
        about = (
            f"The method's mean minus {table.reference}'s on the same images. Bold where the "
            f"interval excludes 0: ▼ worse than {table.reference}, ▲ better."
        )
        yield f"Differences from {table.reference}", about, _differences(table, settings)
    if len(table.means) > 1 and len(settings.metrics) > 1:
        reference = f"from {table.reference}, and " if table.reference else ""
        about = (
            "Metrics on which a method's mean differs so that the interval excludes 0: "
            f"{reference}from the other method with the best mean there, whichever that is. "
            "Controls are no rivals."
        )
        yield "Better and worse", about, _counts(table, settings)
    if table.errors:
        body = [f"- {_code(f'{image}: {error}')}" for image, error in table.errors[:MOST_ERRORS]]
        more = len(table.errors) - len(body)
        yield "Not measured", "", body + [f"- and {more} more, in rows-*.jsonl"] * (more > 0)


def _code(text: str) -> str:
    """Return a text as code in Markdown, in which nothing is a link or a tag."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    # A blank keeps a fence apart from a text that begins with one.
    blank = " " * bool(longest)
    return f"{fence}{blank}{printable(text)}{blank}{fence}"


def means_table(table: Table, settings: Settings) -> list[str]:
    """Return the lines of a Markdown table of means and costs, aligned to be read as they are."""
    header = ["method", *map(heading_of, settings.metrics), "rows forwarded"]
    seconds = [costs["seconds"] for costs in table.costs.values() if costs["seconds"]]
    shows_time = settings.alone and bool(seconds)
    body = []
    for method, found in table.means.items():
        costs = table.costs[method]
        cells = [
            "{} [{}, {}]".format(*map(formatted, found[name])) if name in found else "–"
            for name in settings.metrics
        ]
        cells.append(formatted(costs["forwards"]))
        if shows_time:
            cells.append(formatted(costs["seconds"] and costs["seconds"] / min(seconds)))
        body.append([method, *cells])
    return markdown([*header, *["relative time"] * shows_time], body)


def _over_classes(table: Table, metrics: Sequence[str]) -> list[str]:
    body = [
        [method, *(formatted(found.get(name)) for name in metrics)]
        for method, found in table.over_classes.items()
    ]
    return markdown(["method", *map(heading_of, metrics)], body)


def _differences(table: Table, settings: Settings) -> list[str]:
    body = []
    for method, found in table.differences.items():
        cells = []
        for name in settings.metrics:
            e = found.get(name)
            if e is None:
                cells.append("–")
                continue
            text = f"{e.mean:+.3g} [{e.low:+.3g}, {e.high:+.3g}]"
            arrow = "▲" if _is_better(name, e) else "▼"
            cells.append(f"**{text}** {arrow}" if e.excludes_zero else text)
        body.append([method, *cells])
    return markdown(["method", *map(heading_of, settings.metrics)], body)


def _is_better(metric: str, difference: Estimate) -> bool:
    return (difference.mean > 0) == metric_of(metric).higher_is_better


def _counts(table: Table, settings: Settings) -> list[str]:
    """Return the lines of a table of how often each method is better and worse, and on what."""
    whom = [table.reference] if table.reference else []
    whom += ["the best other"]
    header = ["method", *(f"{word} than {one}" for one in whom for word in ("better", "worse"))]
    body, lines = [], []
    for method in table.means:
        rivals = {n: rival.difference for n, rival in table.rivals.get(method, {}).items()}
        compared = {table.reference: table.differences.get(method, {}), "the best other": rivals}
        row = [method]
        for one in whom:
            found = compared[one]
            clear = [n for n in settings.metrics if n in found and found[n].excludes_zero]
            worse = [n for n in clear if not _is_better(n, found[n])]
            counts = len(clear) - len(worse), len(worse)
            row += [f"{count} of {len(found)}" if found else "–" for count in counts]
            if worse:
                names = ", ".join(metric_of(n).title for n in worse)
                lines.append(f"- {method} is worse than {one} on {names}.")
        body.append(row)
    return [*markdown(header, body), *([""] if lines else []), *lines]


def as_csv(table: Table, settings: Settings) -> str:
    """Return the table as CSV, a line per method and metric, then one per cost."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for method, found in table.means.items():
        about = {"method": method, "spec": settings.methods[method], "images": table.images}
        for name, e in found.items():
            line = {"metric": name, "higher_is_better": metric_of(name).higher_is_better}
            line |= {"mean_over_classes": table.over_classes[method].get(name)}
            d = table.differences.get(method, {}).get(name)
            if d:
                line |= {"difference": d.mean, "difference_low": d.low, "difference_high": d.high}
                line |= {"excludes_zero": d.excludes_zero}
            if rival := table.rivals.get(method, {}).get(name):
                line |= {"best_other": rival.method, "from_best_other": rival.difference.mean}
                line |= {"from_best_other_low": rival.difference.low}
                line |= {"from_best_other_high": rival.difference.high}
            writer.writerow({**about, **line, **e._asdict()})
        for name, mean in table.costs[method].items():
            writer.writerow({**about, "metric": name, "higher_is_better": False, "mean": mean})
    return file.getvalue()
