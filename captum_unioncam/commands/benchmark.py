"""The command ``unioncam benchmark``: methods measured over a data set."""

import argparse
import sys
from pathlib import Path

from captum_unioncam.benchmark.options import add_options
from captum_unioncam.benchmark.presets import PRESETS, labelled, needs_boxes
from captum_unioncam.benchmark.settings import Settings
from captum_unioncam.commands.arguments import add_network, add_scorer
from captum_unioncam.engine.arguments import check_number
from captum_unioncam.engine.randomness import check_seed
from captum_unioncam.methods.method_spec import parts
from captum_unioncam.metrics import metric_of

DEFAULT_PRESET = "table1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes: what decides the numbers, and how the run is made."""
    add_network(parser, required=False)
    add_options(parser, Settings)
    add_scorer(parser)
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="methods and metrics by name, where --methods or --metrics do not say which (default: "
        f"{DEFAULT_PRESET}): "
        + "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items()),
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for rows and report; goes on if it has some"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that read pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="only write the report of that run again"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run(arguments: argparse.Namespace) -> int:
    """Measure, or go on measuring, and write the report.

    Returns:
        *int*: 0 if all pictures are measured, 1 if some could not be (0 where several processes
        share the work), 130 if interrupted.

    Raises:
        ValueError: if the command cannot run as it was given.
    """
    from captum_unioncam.benchmark.benchmark_run import load_run
    from captum_unioncam.benchmark.distributed import joined
    from captum_unioncam.benchmark.gallery import write_gallery
    from captum_unioncam.benchmark.measure_all import measure_all
    from captum_unioncam.benchmark.report import as_text, write_report
    from captum_unioncam.benchmark.rows import read_rows

    if arguments.report is not None:
        print(as_text(write_report(arguments.report), arguments.report))
        return 0
    for name, wanted in (("data", "DATA"), ("model", "--model"), ("out", "--out")):
        if getattr(arguments, name) is None:
            raise ValueError(f"benchmark needs {wanted}; 'unioncam benchmark --help' lists all")
    _check_numbers(arguments)
    methods, metrics = _chosen(arguments)
    with joined() as processes:
        quiet = arguments.quiet or processes.rank > 0
        benchmark = load_run(arguments, methods, metrics)
        _say(f"{len(benchmark.data.items)} pictures chosen: {benchmark.data.kind}", quiet)
        try:
            is_new = measure_all(
                benchmark, arguments.out, processes, arguments.workers, quiet=quiet
            )
        except KeyboardInterrupt:
            command = benchmark.settings.command(arguments.out)
            print(f"unioncam: interrupted; this goes on:\n{command}", file=sys.stderr)
            return 130
    if processes.rank > 0:
        return 0
    table = write_report(arguments.out)
    gallery = arguments.out / "gallery.png"
    if table.images and (is_new or not gallery.exists()):
        write_gallery(benchmark, read_rows(arguments.out), gallery, quiet=quiet)
    print(as_text(table, arguments.out))
    # torchrun takes any status but 0 for a crash, and buries the report under a traceback.
    return 1 if table.errors and processes.size == 1 else 0


def _check_numbers(arguments: argparse.Namespace) -> None:
    if arguments.n is not None:
        check_number("--n", arguments.n, above=0, whole=True)
    check_number("--workers", arguments.workers, above=-1, whole=True)
    check_number("--mosaics", arguments.mosaics, above=1, whole=True)
    check_seed("--seed", arguments.seed)


def _chosen(arguments: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """Return methods by label and metrics, checked before anything is loaded."""
    preset = PRESETS[arguments.preset or DEFAULT_PRESET]
    methods = preset.methods if arguments.methods is None else parts(arguments.methods)
    metrics = list(preset.metrics) if arguments.metrics is None else parts(arguments.metrics)
    if not metrics:
        raise ValueError("--metrics names no metric")
    for metric in metrics:
        metric_of(metric)
    if len(set(metrics)) < len(metrics):
        raise ValueError("--metrics names one twice")
    if any(map(needs_boxes, metrics)) and arguments.target != "truth":
        raise ValueError(
            "metrics that compare maps with boxes explain the classes that have some: add "
            "--target truth"
        )
    return labelled(methods), metrics


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text, file=sys.stderr)
