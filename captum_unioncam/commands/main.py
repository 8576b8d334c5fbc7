"""The command ``unioncam``: explain photographs from a shell."""

import argparse
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captum_unioncam import __version__
from captum_unioncam.commands import app, benchmark, compare, demo, explain, methods
from captum_unioncam.comparison.text import printable

SPEED = "'benchmark speed' is now 'python -m benchmarks.speed', in a checkout of the project"
MISSING_EXTRA = "the command line needs the extra 'demo': pip install \"captum-unioncam[demo]\""

COMMANDS = {
    "demo": (demo, "explain four photographs with a real ImageNet network, offline"),
    "explain": (explain, "explain your own photographs"),
    "compare": (compare, "several methods and classes of photographs, side by side"),
    "app": (app, "the same in the browser, on this machine"),
    "benchmark": (benchmark, "methods measured over a data set, with intervals"),
    "methods": (methods, "list the methods that explain knows"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        argv (Sequence[str], optional): arguments; those of the process by default.

    Returns:
        *int*: 0 if all went well, 1 if some image could not be explained, 2 if the command
        cannot run as it was given, 130 if it was interrupted.
    """
    # Names of files may hold what the terminal's encoding does not.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:2] == ["benchmark", "speed"] and not Path("speed").is_dir():
        print(f"unioncam: {SPEED}", file=sys.stderr)
        return 2
    arguments = _parser().parse_args(words)
    # The user did not write the line that a warning points to.
    as_before, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        return int(arguments.run(arguments))
    except ModuleNotFoundError as error:
        print(f"unioncam: {error}; {MISSING_EXTRA}", file=sys.stderr)
    except (ValueError, TypeError, OSError) as error:
        text = "\n".join(map(printable, str(error).splitlines()))
        print(f"unioncam: {text}", file=sys.stderr)
    except KeyboardInterrupt:
        print("unioncam: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = as_before
    return 2


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"unioncam: {printable(' '.join(str(message).split()))}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unioncam", description="Show what a vision network looked at, with UnionCAM."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, line) in COMMANDS.items():
        command = commands.add_parser(name, help=line)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
