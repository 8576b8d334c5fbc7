"""The benchmark killed at random moments, and what is on disk each time.

python -m tests.killing --kills 50 --seed 0 kills it with -9, wherever it is: loading, measuring,
writing rows, report or pictures. After every kill the rows of all pictures that were there are
there still, each picture once, and the run goes on; a run that comes to its end has the rows of
one that nothing disturbed.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from captum_unioncam.benchmark.rows import read_rows
from captum_unioncam.commands import main as cli
from tests.test_benchmark_run import arguments, assert_same_tables, picture

PICTURES = 6
WRITTEN = {".lock", "gallery.png", "report.csv", "report.md", "rows-0.jsonl", "settings.json"}


def started(words):
    """Start the command in a process of its own, in which everything is imported already."""
    child = os.fork()
    if child:
        return child
    # What goes wrong in it is seen by its status alone.
    status = 99
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        status = cli.main(words)
    finally:
        os._exit(status)


def wait(child, seconds):
    """Return the status of a process that ends within some seconds, or None after killing it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def images_of(out):
    """Return the pictures whose rows are complete; reading them finds none torn and none twice."""
    return {row["image"] for row in read_rows(out)} if out.is_dir() else set()


def measured(out):
    """Return the lines of a report without what differs from run to run."""
    lines = (out / "report.csv").read_text().splitlines()
    return [line for line in lines if ",seconds," not in line and ",peak_bytes," not in line]


def check_end(out, whole):
    """Compare a run that came to its end with one that nothing disturbed."""
    assert_same_tables(out, whole)
    left = {path.name for path in out.iterdir()}
    assert left == WRITTEN, left
    assert measured(out) == measured(whole)


def kill(kills, seed, folder):
    """Kill runs at random moments; return how many came to their end, and how many kills lost work.

    Raises:
        AssertionError: if something is lost, torn or there twice.
    """
    torch.set_num_threads(1)
    draw = random.Random(seed)
    photos, whole = folder / "photos", folder / "whole"
    for number in range(PICTURES):
        picture(photos / f"class{number % 2}" / f"{number}.png", number)
    (photos / "class1" / "broken.png").write_bytes(b"\x89PNG and no more")
    began = time.monotonic()
    assert wait(started(arguments(photos, whole)), 600) == 1
    span = time.monotonic() - began
    done, ends, amid = 0, 0, 0
    while done < kills:
        out = folder / f"out{ends}"
        before, status = set(), None
        while status is None:
            # Some are left to end, or none would.
            moment = draw.uniform(0, span / 2) if done < kills and draw.random() < 0.9 else 600
            words = arguments(photos, out, "--workers", draw.choice((0, 0, 1)))
            status = wait(started(words), moment)
            assert status in (None, 1), status
            found = images_of(out)
            assert before <= found, before - found
            amid += bool(status is None and found)
            done, before = done + (status is None), found
        check_end(out, whole)
        ends += 1
    return ends, amid


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ends, amid = kill(given.kills, given.seed, Path(folder))
    print(
        f"{given.kills} kills, {amid} with rows on disk already, and {ends} runs that came to an "
        "end: nothing lost, nothing twice"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
