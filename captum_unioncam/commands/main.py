"""The command ``unioncam``: explain photographs from a shell."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captum_unioncam import __version__
from captum_unioncam.commands import benchmark as benchmark_command
from captum_unioncam.commands import compare as compare_command
from captum_unioncam.commands import explain as explain_command

MISSING_EXTRA = "the command line needs the extra 'demo': pip install \"captum-unioncam[demo]\""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        argv (Sequence[str], optional): arguments; those of the process by default.

    Returns:
        *int*: 0 if all went well, 1 if some image could not be explained, 2 if the command
        cannot run as it was given, 130 if it was interrupted.
    """
    arguments = _parser().parse_args(argv)
    # A line of our code says nothing to who types a command.
    as_before, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        return int(arguments.run(arguments))
    except ModuleNotFoundError as error:
        print(f"unioncam: {error}; {MISSING_EXTRA}", file=sys.stderr)
    except (ValueError, TypeError, OSError) as error:
        print(f"unioncam: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("unioncam: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = as_before
    return 2


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"unioncam: {message}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unioncam", description="Show what a vision network looked at, with UnionCAM."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="explain four photographs with a real ImageNet network, offline",
        description="Explain four photographs that scikit-image ships with EfficientNet-Lite0 and "
        "its ImageNet weights; write one picture and print its scores.",
    )
    demo.set_defaults(run=explain_command.run_demo)

    explain = commands.add_parser(
        "explain",
        help="explain your own photographs",
        description="Explain photographs with Grad-CAM and UnionCAM; write one picture and print "
        "its scores.",
    )
    explain_command.add_arguments(explain)
    _add_network(explain)
    explain.set_defaults(run=explain_command.run)

    comparing = commands.add_parser(
        "compare",
        help="several methods and classes of one photograph, side by side",
        description="Explain one photograph with several methods for several classes; write a "
        "grid of pictures, rows classes and columns methods, and print their scores.",
    )
    compare_command.add_arguments(comparing)
    _add_network(comparing)
    comparing.set_defaults(run=_compare)

    benchmark = commands.add_parser(
        "benchmark",
        help="methods measured over a data set, with intervals",
        description="Measure methods over a folder of pictures: a row per picture and method, "
        "written as it is made. A run that was stopped goes on where it was when it is repeated. "
        "Under torchrun the pictures are divided among the processes.",
    )
    benchmark_command.add_arguments(benchmark)
    benchmark.set_defaults(run=benchmark_command.run)

    methods = commands.add_parser("methods", help="list the methods that explain knows")
    methods.add_argument("--markdown", action="store_true", help="as a Markdown table with links")
    methods.set_defaults(run=_methods)

    for command, default, folder in (
        (demo, "unioncam_demo.png", ""),
        (explain, "unioncam.png", "; a folder gets one per image"),
        (comparing, "unioncam_compare.png", ""),
    ):
        command.add_argument(
            "-o",
            "--output",
            type=Path,
            default=Path(default),
            metavar="FILE",
            help=f"the picture to write (default: %(default)s){folder}",
        )
        command.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def _add_network(parser: argparse.ArgumentParser) -> None:
    """Add what says which network to explain, at which layer and where."""
    parser.add_argument(
        "--model",
        required=True,
        help="a torchvision classifier, 'demo', or module:function for your own; the function "
        "returns a model or (model, preprocess, class_names)",
    )
    parser.add_argument(
        "--weights",
        default="DEFAULT",
        help="file with a state dict (.pth, .safetensors), or the name of torchvision weights "
        "(default: %(default)s, downloaded once by torchvision)",
    )
    parser.add_argument(
        "--layer", default="auto", help="dotted name of the layer, or 'auto' (default)"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")


def _compare(arguments: argparse.Namespace) -> int:
    if explain_command.check_output(arguments.output):
        arguments.output /= "unioncam_compare.png"
    written = [arguments.output] if arguments.csv is None else [arguments.output, arguments.csv]
    explain_command.check_not_read([arguments.image], written)
    return compare_command.run(arguments)


def _methods(arguments: argparse.Namespace) -> int:
    from captum_unioncam.methods.registry import methods_table

    print(methods_table(markdown=arguments.markdown))
    return 0
