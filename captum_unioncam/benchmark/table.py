"""The numbers of a benchmark's table: means, bootstrap intervals, paired differences."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captum_unioncam.benchmark.presets import REFERENCE, needs_mosaics
from captum_unioncam.benchmark.rows import Row
from captum_unioncam.benchmark.settings import Settings
from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.methods.registry import METHODS
from captum_unioncam.metrics import metric_of

RESAMPLES = 10_000
SEED = 0
LEVEL = 95
COSTS = ("forwards", "seconds")
# Resamples held in memory at a time.
CHUNK = 500

Values = NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean and the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


class Rival(NamedTuple):
    """The method with the best mean of all others but controls, and the difference from it."""

    method: str
    difference: Estimate


class Table(NamedTuple):
    """What the report says in numbers.

    Attributes:
        means (dict): per method and metric, the mean.
        rivals (dict): per method and metric, how it differs from the best other method.
        differences (dict): per method and metric, the mean minus the reference's.
        costs (dict): per method, mean forwards and seconds; None where unknown.
        over_classes (dict): per method and metric of one value per row, the mean of every class's
            mean, as the pointing game is published.
        reference (str): label of UnionCAM as it is, or else of the first with options; empty if
            none was measured.
        images (int): pictures measured.
        mosaics (int): mosaics measured.
        pairs (int): pairs of picture and class measured.
        errors (list): pictures that could not be measured, and why.
        accuracy (float, optional): share of pictures whose most probable class is a label.
    """

    means: dict[str, dict[str, Estimate]]
    rivals: dict[str, dict[str, Rival]]
    differences: dict[str, dict[str, Estimate]]
    costs: dict[str, dict[str, float | None]]
    over_classes: dict[str, dict[str, float]]
    reference: str
    images: int
    mosaics: int
    pairs: int
    errors: list[tuple[str, str]]
    accuracy: float | None


def resampled(
    columns: Sequence[Values],
    images: Sequence[int],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Values, Values]:
    """Return the mean of every column, and its means over bootstrap samples of the images.

    Images are drawn with replacement, all rows of one together, and every column sees the same
    draws, so that differences of columns are paired (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993). A column of several values per row, such as one for each of MaxBoxAcc's
    thresholds, counts with the largest of its means.

    Args:
        columns (Sequence[ndarray]): each (R,) or (R, thresholds), a row per measurement.
        images (Sequence[int]): number of the image that each row belongs to, 0 and up.
        resamples (int, optional): draws. Default: 10000
        seed (int, optional): of the draws. Default: 0

    Returns:
        *tuple* of means, (columns,), and their resamples, (resamples, columns).

    Examples::

        >>> means, drawn = resampled([np.array([0.0, 1.0])], [0, 1])
        >>> means, np.unique(drawn)
        (array([0.5]), array([0. , 0.5, 1. ]))
    """
    wide = [column.reshape(len(images), -1) for column in columns]
    starts = np.cumsum([0, *(column.shape[1] for column in wide[:-1])])
    values = np.column_stack([*wide, np.ones(len(images))])
    count = max(images) + 1
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, np.asarray(images), values)

    def means(weights: NDArray[np.int64]) -> Values:
        totals = weights @ sums
        best: Values = np.maximum.reduceat(totals[:, :-1] / totals[:, -1:], starts, axis=1)
        return best

    generator = np.random.default_rng(seed)
    sizes = [min(CHUNK, resamples - start) for start in range(0, resamples, CHUNK)]
    drawn = [means(generator.multinomial(count, np.full(count, 1 / count), n)) for n in sizes]
    return means(np.ones((1, count), dtype=np.int64))[0], np.concatenate(drawn)


def table_of(rows: Sequence[Row], settings: Settings) -> Table:
    """Compute the table of a run's rows, which may be in any order."""
    measured = sorted(
        (row for row in rows if "error" not in row), key=lambda row: (row["image"], row["class"])
    )
    # Mosaics have metrics of their own, and are drawn apart from pictures.
    pictures = [row for row in measured if not _is_of_mosaic(row)]
    mosaics = [row for row in measured if _is_of_mosaic(row)]
    by_method = {
        m: [row for row in pictures or mosaics if row["method"] == m] for m in settings.methods
    }
    one = next(iter(by_method.values()))
    whole = [m for m, spec in settings.methods.items() if parse_spec(spec)[:2] == (REFERENCE, "")]
    # UnionCAM as it is, or else the first that has options.
    reference = next((m for m in whole if settings.methods[m] == REFERENCE), (whole or [""])[0])
    labelled = {
        row["image"]: row["predicted"] in row["labels"] for row in one if pictures and row["labels"]
    }
    table = Table(
        {}, {}, {},
        {m: {n: _mean([r[n] for r in own]) for n in COSTS} for m, own in by_method.items()},
        {m: _over_classes(own) for m, own in by_method.items()},
        reference,
        len({row["image"] for row in pictures}),
        len({row["image"] for row in mosaics}),
        len(one) if pictures else 0,
        sorted((row["image"], row["error"]) for row in rows if "error" in row),
        _mean(list(labelled.values())),
    )  # fmt: skip
    for kind in (pictures, mosaics):
        _estimate_all(table, kind, settings)
    return table


def _is_of_mosaic(row: Row) -> bool:
    return any(map(needs_mosaics, row["metrics"]))


def _estimate_all(table: Table, rows: Sequence[Row], settings: Settings) -> None:
    """Enter means and differences of the metrics that rows of one kind have."""
    by_method = {m: [row for row in rows if row["method"] == m] for m in settings.methods}
    one = next(iter(by_method.values()))
    if not one:
        return
    metrics = [name for name in settings.metrics if name in one[0]["metrics"]]
    numbers = {image: i for i, image in enumerate(dict.fromkeys(row["image"] for row in one))}
    cells = [(method, metric) for method in by_method for metric in metrics]
    columns = [np.array([r["metrics"][name] for r in by_method[m]]) for m, name in cells]
    found, drawn = resampled(columns, [numbers[row["image"]] for row in one])
    number = {cell: i for i, cell in enumerate(cells)}

    def difference(method: str, other: str, metric: str) -> Estimate:
        i, j = number[method, metric], number[other, metric]
        return _estimate(found[i] - found[j], drawn[:, i] - drawn[:, j])

    for method, metric in cells:
        i = number[method, metric]
        table.means.setdefault(method, {})[metric] = _estimate(found[i], drawn[:, i])
        if table.reference and method != table.reference:
            table.differences.setdefault(method, {})[metric] = difference(
                method, table.reference, metric
            )
        others = [m for m, spec in settings.methods.items() if m != method and _is_rival(spec)]
        if others:
            sign = 1 if metric_of(metric).higher_is_better else -1
            best = max(others, key=lambda other: sign * found[number[other, metric]])
            rival = Rival(best, difference(method, best, metric))
            table.rivals.setdefault(method, {})[metric] = rival


def _is_rival(spec: str) -> bool:
    """Return whether a method is none of the controls, which have no source."""
    return bool(METHODS[parse_spec(spec).name].source.paper)


def _estimate(mean: float, drawn: Values) -> Estimate:
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Estimate(float(mean), float(low), float(high))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _over_classes(rows: Sequence[Row]) -> dict[str, float]:
    found = {}
    for metric in rows[0]["metrics"] if rows else ():
        values: dict[int, list[float]] = {}
        for row in rows:
            values.setdefault(row["class"], []).append(row["metrics"][metric])
        if not isinstance(rows[0]["metrics"][metric], list):
            found[metric] = float(np.mean([np.mean(own) for own in values.values()]))
    return found
