"""The command ``unioncam benchmark``: methods measured over a data set."""

import argparse
import sys
from pathlib import Path

from captum_unioncam.benchmark.presets import PRESETS, labelled, needs_boxes
from captum_unioncam.comparison.method_spec import parts
from captum_unioncam.engine.arguments import check_choice, check_number
from captum_unioncam.engine.randomness import check_seed
from captum_unioncam.metrics import METRICS
from captum_unioncam.metrics.protocols import PROTOCOLS

DEFAULT_PRESET = "table1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="folder of pictures: one folder per class (ImageNet), a VOC devkit, pictures with "
        "labels.csv (columns file, class_index), or pictures alone",
    )
    parser.add_argument(
        "--model",
        help="a torchvision classifier, 'demo', or module:function for your own; the function "
        "returns a model or (model, preprocess, class_names)",
    )
    parser.add_argument(
        "--weights",
        default="DEFAULT",
        help="file with a state dict (.pth, .safetensors), or the name of torchvision weights "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--layer", default="auto", help="dotted name of the layer, or 'auto' (default)"
    )
    parser.add_argument(
        "--methods",
        help="names that 'unioncam methods' lists, separated by commas, with options after "
        "colons: unioncam:theta=30; unioncam.denoised, .region and .union are its modules",
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help=f"methods and metrics by name instead (default: {DEFAULT_PRESET}): "
        + "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items()),
    )
    parser.add_argument("--metrics", help="metrics separated by commas, instead of the preset's")
    parser.add_argument(
        "--protocol",
        default="paper",
        choices=PROTOCOLS,
        help="whose settings the metrics use (%(default)s)",
    )
    parser.add_argument(
        "--preprocess",
        default="own",
        choices=("own", "paper"),
        help="the weights' own preprocessing (default), or the paper's: 224 x 224 in [0, 1]",
    )
    parser.add_argument(
        "--target",
        default="predicted",
        choices=("predicted", "truth"),
        help="explain the most probable class (default), or the classes a picture is labelled with",
    )
    # torchrun takes "--n" for an abbreviation of its own options, wherever it stands.
    parser.add_argument(
        "--n",
        "--pictures",
        type=int,
        metavar="N",
        help="how many pictures, chosen at random (default: all); under torchrun say --pictures",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of that choice, and of methods that draw (%(default)s)"
    )
    parser.add_argument("--year", help="of a VOC devkit that holds several")
    parser.add_argument("--image-set", help="of a VOC devkit (default: test, or else val)")
    parser.add_argument(
        "--alone",
        action="store_true",
        help="run every method on its own, so that rows forwarded and times can be compared; "
        "slower, since methods then share no masked forwards",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for rows and report; goes on if it has some"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that read pictures (default: %(default)s)"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
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
    from captum_unioncam.benchmark.benchmark_run import load_subject
    from captum_unioncam.benchmark.distributed import joined
    from captum_unioncam.benchmark.gallery import write_gallery
    from captum_unioncam.benchmark.report import as_text, write_report
    from captum_unioncam.benchmark.rows import read_rows
    from captum_unioncam.benchmark.run import measure

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
        subject = load_subject(arguments, methods, metrics)
        _say(f"{len(subject.data.items)} pictures chosen: {subject.data.kind}", quiet)
        try:
            is_new = measure(subject, arguments.out, processes, arguments.workers, quiet=quiet)
        except KeyboardInterrupt:
            command = subject.settings.command(arguments.out)
            print(f"unioncam: interrupted; this goes on:\n{command}", file=sys.stderr)
            return 130
    if processes.rank > 0:
        return 0
    table = write_report(arguments.out)
    gallery = arguments.out / "gallery.png"
    if table.images and (is_new or not gallery.exists()):
        write_gallery(subject, read_rows(arguments.out), gallery, quiet=quiet)
    print(as_text(table, arguments.out))
    # torchrun takes any status but 0 for a crash, and buries the report under a traceback.
    return 1 if table.errors and processes.size == 1 else 0


def _check_numbers(arguments: argparse.Namespace) -> None:
    if arguments.n is not None:
        check_number("--n", arguments.n, above=0, whole=True)
    check_number("--workers", arguments.workers, above=-1, whole=True)
    check_seed(arguments.seed)


def _chosen(arguments: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """Return methods by label and metrics, checked before anything is loaded."""
    if arguments.methods is not None and arguments.preset is not None:
        raise ValueError("--preset names methods already: give it or --methods")
    preset = PRESETS[arguments.preset or DEFAULT_PRESET]
    methods = preset.methods if arguments.methods is None else parts(arguments.methods)
    metrics = list(preset.metrics) if arguments.metrics is None else parts(arguments.metrics)
    if not metrics:
        raise ValueError("--metrics names no metric")
    for metric in metrics:
        check_choice("--metrics", metric, tuple(METRICS))
        if "cell" in METRICS[metric].needs:
            raise ValueError(f"--metrics {metric} measures mosaics, which are made in Python only")
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
