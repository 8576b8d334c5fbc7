"""The command ``python -m benchmarks.speed``: how fast, against other libraries and the limit."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from captum_unioncam.comparison.method_spec import parts
from captum_unioncam.vision.networks import find_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "--model",
        default="demo",
        help="a torchvision classifier, 'demo' (default), or module:function for your own",
    )
    parser.add_argument(
        "--weights",
        default="DEFAULT",
        help="file with a state dict, or the name of torchvision weights (default: %(default)s)",
    )
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="a torchvision architecture without its weights, which need a download",
    )
    parser.add_argument(
        "--layer", default="auto", help="dotted name of the layer, or 'auto' (default)"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="FILE",
        help="photographs (default: four that scikit-image ships)",
    )
    parser.add_argument("--n", type=int, help="how many of them (default: all)")
    parser.add_argument(
        "--size", type=int, help="height and width of the inputs (default: the network's own)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="rounds on every photograph (default: %(default)s)"
    )
    parser.add_argument(
        "--methods",
        default="unioncam,scorecam,unioncam:max_masks=128",
        help="names that 'unioncam methods' lists, with options after colons; UnionCAM as it is "
        "belongs to every run (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        action="store_true",
        help="also time Score-CAM's masked pass, one optimisation after the other",
    )
    parser.add_argument(
        "--no-peers", action="store_true", help="leave other libraries out, which take longest"
    )
    parser.add_argument(
        "--scorers",
        default="",
        help="also time UnionCAM with the masked inputs run by copies of the network: compiled "
        "(and frozen), bfloat16, compiled-bfloat16, separated by commas",
    )
    parser.add_argument(
        "--batches",
        help="photographs in a call, one number or several separated by commas (default: 1, on "
        "CUDA 1,8)",
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        help="float32 (default), tf32, bfloat16, or several separated by commas",
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("unioncam_speed"),
        metavar="DIR",
        help="folder for report.md and speed.csv (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 if it cannot run as it was given."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Time UnionCAM, other methods, Score-CAM of grad-cam and torchcam where they "
        "are installed (extra 'peers'), and as many plain forwards as there are masks, in turn in "
        "one process; write the ratios, the rows forwarded and the memory.",
    )
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except (ValueError, TypeError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the report and print its tables.

    Returns:
        *int*: 0.

    Raises:
        ValueError: if the command cannot run as it was given.
    """
    from benchmarks.speed.measure import measured
    from benchmarks.speed.report import as_text, machine, write_report
    from benchmarks.speed.settings import SpeedSettings

    device = str(find_device(arguments.device))
    batches = arguments.batches or ("1,8" if device.startswith("cuda") else "1")
    settings = SpeedSettings(
        model=arguments.model,
        weights=arguments.weights,
        random_weights=arguments.random_weights,
        layer=arguments.layer,
        images=tuple(arguments.images),
        n=arguments.n,
        size=arguments.size,
        repeats=arguments.repeats,
        methods=tuple(parts(arguments.methods)),
        batches=tuple(map(_whole, parts(batches))),
        dtypes=tuple(parts(arguments.dtype)),
        device=device,
        steps=arguments.steps,
        peers=not arguments.no_peers,
        scorers=tuple(parts(arguments.scorers)),
    )
    out, about = arguments.out, machine()
    out.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr)

    measurements = measured(
        settings, say, lambda so_far: write_report(so_far, settings, out, about)
    )
    for measurement in measurements:
        print(as_text(measurement))
    print(f"report written to {out / 'report.md'}")
    return 0


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--batches takes whole numbers, got {text!r}") from None
