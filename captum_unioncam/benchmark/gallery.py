"""A picture of the pictures on which methods disagree most."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from captum_unioncam.benchmark.benchmark_run import BenchmarkRun
from captum_unioncam.benchmark.loading import Pictures
from captum_unioncam.benchmark.measure_picture import compared
from captum_unioncam.benchmark.rows import Row
from captum_unioncam.comparison.drawing import save

SHOWN = 6


def most_disputed(rows: Sequence[Row], count: int = SHOWN) -> dict[str, int]:
    """Return the images on which methods disagree most, with the class that shows it.

    Examples::

        >>> rows = [{"image": i, "class": c, "disagreement": d}
        ...         for i, c, d in [("a", 0, 0.1), ("b", 1, 0.5), ("b", 2, 0.4), ("c", 3, 0.3)]]
        >>> most_disputed([*rows, {"image": "d", "error": "broken"}], 2)
        {'b': 1, 'c': 3}
    """
    measured = [row for row in rows if "error" not in row]
    ordered = sorted(measured, key=lambda r: (-r["disagreement"], r["image"], r["class"]))
    classes: dict[str, int] = {}
    for row in ordered:
        classes.setdefault(row["image"], row["class"])
    return dict(list(classes.items())[:count])


def write_gallery(
    run: BenchmarkRun, rows: Sequence[Row], path: Path, *, quiet: bool = True
) -> None:
    """Explain the most disputed images again and draw every method's map over them.

    Maps are made again rather than stored: a few pictures cost less than all maps of a run. Methods
    that draw take their default seed.
    """
    items = {item.image: item for item in run.data.items if not item.cells}
    rows = [row for row in rows if row["image"] in items]
    disputed = most_disputed(rows)
    data = replace(run.data, items=tuple(items[image] for image in disputed))
    prepared = Pictures(data, run.network)
    pictures = [p for p in (prepared[i] for i in range(len(prepared))) if not p.error]
    # Networks that take any size see each picture at its own; a grid needs one size.
    pictures = [p for p in pictures if p.x.shape == pictures[0].x.shape]
    if not pictures:
        return
    x = torch.cat([p.x for p in pictures]).to(run.device)
    black = torch.cat([p.black for p in pictures]).to(run.device)
    target = [disputed[p.item.image] for p in pictures]
    methods = run.settings.methods
    result = compared(run, methods, ["average_drop"], x, black, target, show_progress=not quiet)
    count = len({row["image"] for row in rows if "error" not in row})
    figure = result.figure(
        torch.cat([p.shown for p in pictures]),
        names=lambda label: run.network.class_name(int(label)),
        heading=f"Where the methods disagree most, of {count} pictures",
    )
    save(figure, path)
