"""The command ``unioncam demo``: four photographs explained with a real network, offline."""

import argparse
import sys
import time
from pathlib import Path

import torch

from captum_unioncam.commands.arguments import add_output, add_scorer
from captum_unioncam.commands.explain import explained
from captum_unioncam.commands.outputs import check_output
from captum_unioncam.commands.session import Methods, Session, load_session
from captum_unioncam.comparison.text import scorers_told

# Of 1280, which keeps the demo short where the machine is busy; the maps hardly differ.
MASKS = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Explain four photographs that scikit-image ships with EfficientNet-Lite0 and its ImageNet "
        "weights; write one figure and print its scores."
    )
    add_scorer(parser, default="auto")
    add_output(parser, "unioncam_demo.png")


def run(arguments: argparse.Namespace) -> int:
    """Explain four photographs of scikit-image; write one figure and print its scores."""
    from PIL import Image
    from skimage import data

    from captum_unioncam.comparison.drawing import save, writable_suffixes
    from captum_unioncam.comparison.figure import draw

    output = Path(arguments.output)
    if check_output(arguments.output, writable_suffixes()):
        output /= "unioncam_demo.png"
    photographs = {
        "espresso": data.coffee(),
        # Without the workshop above it.
        "motorcycle": data.stereo_motorcycle()[0][20:, 60:560],
        "cat": data.cat(),
        "tripod": data.camera(),
    }
    shown, rows = [], []
    threads = torch.get_num_threads()
    try:
        # Where other programs run, threads that wait for each other cost most of the time.
        torch.set_num_threads(1)
        methods = explained(f"unioncam:max_masks={MASKS}")
        session = demo_session(methods, arguments.quiet, arguments.scorer)
        expected = _fastest(session, threads) * len(photographs) * (MASKS + 20)
        _say(
            f"{len(photographs)} photographs, {MASKS} masked copies of each: at most about "
            f"{10 * round(expected / 10 + 1)} seconds on this machine as it is now",
            arguments.quiet,
        )
        for number, (name, pixels) in enumerate(photographs.items(), 1):
            _say(f"{name} ({number} of {len(photographs)})", arguments.quiet)
            shown.append(session.compared(Image.fromarray(pixels).convert("RGB"), name))
            rows += session.rows(shown[-1], name)
    finally:
        torch.set_num_threads(threads)
    save(draw(shown, session.class_name, session.heading()), output)
    print(session.table(rows, "probability"))
    if told := scorers_told(rows):
        print(told)
    print(f"picture written to {output}")
    return 0


def demo_session(methods: Methods, quiet: bool, scorer: str = "model") -> Session:
    """Return the demo network with methods to compare on it."""
    network = argparse.Namespace(
        model="demo", weights="DEFAULT", layer="auto", layers=None, device="cpu",
        baseline="black", against=None, region=None, quiet=quiet, scorer=scorer,
    )  # fmt: skip
    return load_session(network, methods, "top1", ["beta"])


def _fastest(session: Session, most: int) -> float:
    """Set one thread or `most`, whichever is faster now; return the seconds of a picture."""
    x = torch.rand(4, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    seconds = {}
    for threads in {1, most}:
        torch.set_num_threads(threads)
        session.network.outputs(x)
        start = time.perf_counter()
        for _ in range(3):
            session.network.outputs(x)
        seconds[threads] = (time.perf_counter() - start) / 3 / len(x)
    torch.set_num_threads(min(seconds, key=lambda threads: seconds[threads]))
    return min(seconds.values())


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text, file=sys.stderr)
