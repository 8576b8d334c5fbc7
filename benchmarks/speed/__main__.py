"""The command ``python -m benchmarks.speed``: how fast, against other libraries and the limit."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.measure import measured
from benchmarks.speed.report import as_text, machine, write_report
from benchmarks.speed.settings import SpeedSettings
from captum_unioncam.benchmark.options import add_options, given
from captum_unioncam.commands.arguments import add_network
from captum_unioncam.vision.networks import find_device


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Time UnionCAM, other methods, Score-CAM of grad-cam and torchcam where they "
        "are installed (extra 'peers'), and as many plain forwards as there are masks, in turn in "
        "one process; write the ratios, the rows forwarded and the memory.",
    )
    add_network(parser, model="demo")
    add_options(parser, SpeedSettings)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("unioncam_speed"),
        metavar="DIR",
        help="folder for report.md and speed.csv (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the report and print its tables; 2 if it cannot run as it was given."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        device = str(find_device(arguments.device))
        batches = arguments.batches or ([1, 8] if device.startswith("cuda") else [1])
        settings = SpeedSettings(
            **given(arguments, SpeedSettings) | {"device": device, "batches": batches}
        )
        out, about = arguments.out, machine()
        out.mkdir(parents=True, exist_ok=True)
        for measurement in measured(
            settings,
            lambda text: None if arguments.quiet else print(text, file=sys.stderr),
            lambda so_far: write_report(so_far, settings, out, about),
        ):
            print(as_text(measurement))
    except (ValueError, TypeError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"report written to {out / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
