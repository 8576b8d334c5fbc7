"""The command ``unioncam compare``: methods and classes of photographs, side by side."""

import argparse
import csv
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_unioncam.commands.arguments import add_pictures, add_scorer, check_layers
from captum_unioncam.commands.outputs import MOST_ROWS, Work, works
from captum_unioncam.commands.overlays import Overlay, save_overlay
from captum_unioncam.commands.record import record_of_run
from captum_unioncam.commands.session import (
    Methods,
    Row,
    Session,
    checked_metrics,
    load_session,
)
from captum_unioncam.comparison.result import summary_of, write_rows
from captum_unioncam.comparison.text import printable, scorers_told
from captum_unioncam.files import written_whole
from captum_unioncam.methods.method_spec import parse_spec, parts
from captum_unioncam.methods.selected_cam import CRITERIA
from captum_unioncam.vision.pictures import PictureError, find_pictures, load_picture

if TYPE_CHECKING:
    from captum_unioncam.comparison.figure import Shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Explain photographs with several methods for several classes; write figures, rows classes "
        "and columns methods, and print their scores."
    )
    add_pictures(parser, metrics="average_drop,insertion,deletion", output="unioncam_compare.png")
    add_scorer(parser)
    parser.add_argument(
        "--methods",
        default="gradcam,gradcam++,scorecam,unioncam",
        help="names that 'unioncam methods' lists, separated by commas, with options after "
        "colons: unioncam:theta=30; unioncam.denoised, .region and .union are its modules "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--classes",
        default="top1",
        help="top1, top3, ... or numbers and names separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--best-by",
        choices=CRITERIA,
        help="also show the best of the methods' maps for every picture and class, by this",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare methods on photographs; write figures and print the table."""
    methods = parts(arguments.methods)
    if not methods:
        raise ValueError("--methods names no method")
    return compare_pictures(arguments, methods, arguments.classes)


def compare_pictures(
    arguments: argparse.Namespace,
    methods: Methods,
    wanted: str,
    *,
    overlay: Overlay | None = None,
) -> int:
    """Compare methods on every picture that is named; write what was asked for.

    Args:
        arguments (Namespace): what `add_pictures` adds.
        methods (Mapping or Sequence): the methods, as `compare` takes them, by name.
        wanted (str): the classes.
        overlay (Overlay, optional): write pictures under the last method's map instead of
            figures. Default: None

    Returns:
        *int*: 0, or 1 if some picture could not be explained.
    """
    from captum_unioncam.comparison import drawing, figure

    metrics = checked_metrics(arguments.metrics)
    check_layers(arguments)
    specs = list(methods.values() if isinstance(methods, Mapping) else methods)
    for spec in specs:
        parse_spec(spec)
    images = find_pictures(arguments.images)
    # As they are named, so that what was done is known before any forward.
    most = re.fullmatch(r"top([1-9]\d*)", wanted)
    classes = [f"top{n + 1}" for n in range(int(most[1]))] if most else parts(wanted)
    if overlay and len(classes) > 1:
        raise ValueError(f"an overlay shows one class, and these are {len(classes)}: {wanted}")
    if arguments.against is not None:
        classes = [f"{one} against {arguments.against}" for one in classes]
    if arguments.region is not None:
        classes = [f"{one} over {arguments.region.name}" for one in classes]
    suffixes = drawing.picture_suffixes() if overlay else drawing.writable_suffixes()
    per_page = 1 if overlay else max(1, MOST_ROWS // max(1, len(classes)))
    best_by = getattr(arguments, "best_by", None)
    columns = [*specs, f"best by {best_by}"] if best_by else specs
    todo = works(arguments, images, suffixes, columns, classes, per_page)
    if overlay:
        todo = [work._replace(record=work.figure.with_suffix(".json")) for work in todo]
    todo, kept = _left(arguments, todo) if arguments.resume else (todo, [])
    if not todo:
        return 0
    session = load_session(arguments, methods, wanted, metrics)
    found = session.target.classes
    if arguments.save_maps is not None and isinstance(found, dict) and len(found) < len(classes):
        raise ValueError(
            f"{wanted} is {len(found)} of the network's classes, but --save-maps would name maps "
            f"of {len(classes)}; give each class once, by its number or a name without a comma"
        )
    named_specs = (
        methods if isinstance(methods, Mapping) else {parse_spec(one).title(): one for one in specs}
    )
    run = record_of_run(session, arguments, dict(named_specs)) if overlay or arguments.html else {}
    rows: list[Row] = []
    page: list[Shown] = []
    reported: list[Shown] = []
    drawn, failed, warned = Path(), 0, Counter[str]()
    for number, work in enumerate(todo, 1):
        if not arguments.quiet:
            print(f"{printable(work.path.name)} ({number} of {len(todo)})", file=sys.stderr)
        try:
            with _naming_warnings(work.path, warned):
                picture = load_picture(work.path)
                shown = session.compared(picture, work.path.name)
                rows_of_page = [*page, shown] if work.figure == drawn else [shown]
                # Drawn after every picture: a run that is stopped leaves what it has finished.
                if overlay:
                    save_overlay(session, shown, picture, work, wanted, overlay, run)
                else:
                    drawn_page = figure.draw(rows_of_page, session.class_name, session.heading())
                    drawing.save(drawn_page, work.figure)
                page, drawn = rows_of_page, work.figure
        # The picture may be to blame, and the others are explained without it.
        except (ValueError, TypeError, RuntimeError) as error:
            where = "" if isinstance(error, PictureError) else f"{work.path}: "
            text = printable(f"{where}{' '.join(str(error).split())}")
            print(f"unioncam: {text}", file=sys.stderr)
            failed += 1
            continue
        _save_maps(shown, work.maps)
        rows += session.rows(shown, str(work.path))
        if arguments.html is not None:
            reported.append(shown)
        if arguments.csv is not None:
            write_rows(arguments.csv, [*kept, *rows])
    for text, count in warned.items():
        if count > 1:
            print(f"unioncam: {count - 1} more: {printable(text)}", file=sys.stderr)
    if reported:
        _save_report(session, reported, rows, run, arguments.html)
    if rows:
        named = [{**row, "image": Path(row["image"]).name} for row in rows]
        print(session.table(named, shown.comparison.quantity))
        if told := scorers_told(rows):
            print(told)
        print(_where(arguments.output, [work.figure for work in todo]))
    return 1 if failed else 0


def _left(arguments: argparse.Namespace, todo: Sequence[Work]) -> tuple[list[Work], list[Row]]:
    """Return what an earlier run has not finished, and the rows that it wrote of the rest."""
    rows = _rows_of(arguments.csv) if arguments.csv is not None else []
    told = {row["image"] for row in rows}
    left = [
        work
        for work in todo
        if not work.is_done() or (arguments.csv is not None and str(work.path) not in told)
    ]
    if len(left) < len(todo):
        done = len(todo) - len(left)
        print(f"{done} of {len(todo)} were there already and are left as they are")
    again = {str(work.path) for work in left}
    return left, [row for row in rows if row["image"] not in again]


def _rows_of(path: Path) -> list[Row]:
    """Return the rows of a CSV; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [dict(row) for row in csv.DictReader(file)]


def _where(output: str, figures: Sequence[Path]) -> str:
    first, last = figures[0], figures[-1]
    if Path(output).is_dir():
        return f"pictures written to {output}"
    return f"picture written to {first}" + (f", the last to {last}" if first != last else "")


def _save_maps(shown: "Shown", files: Sequence[Path]) -> None:
    cams = [cam[0, k] for cam in shown.comparison.maps.values() for k in range(cam.shape[1])]
    for file, cam in zip(files, cams, strict=bool(files)):
        with written_whole(file) as partial:
            np.save(partial, cam.float().numpy())


def _save_report(
    session: Session,
    pages: Sequence["Shown"],
    rows: Sequence[Row],
    run: Mapping[str, Any],
    path: Path,
) -> None:
    from captum_unioncam.comparison.html import report

    means = summary_of(rows, session.metrics)
    page = report(pages, means, session.class_name, session.heading(), record=run)
    with written_whole(path) as partial:
        partial.write_text(page, encoding="utf-8")


@contextmanager
def _naming_warnings(path: Path, warned: Counter[str]) -> Iterator[None]:
    """Print every warning once, in a line with the picture, and count for how many it holds."""
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        finally:
            for text in dict.fromkeys(" ".join(str(w.message).split()) for w in caught):
                if not warned[text]:
                    print(f"unioncam: {printable(f'{path.name}: {text}')}", file=sys.stderr)
                warned[text] += 1
