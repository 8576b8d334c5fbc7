"""Run random cases for some minutes, or one case: `python -m tests.fuzz --minutes 3 --seed 1`.

A failure prints the command that repeats its case alone.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

import torch

from captum_unioncam.methods.registry import METHODS
from tests.fuzz.checks import Outcome, run_case

# The cases of one run's seed: as many as a run may ever reach.
CASES = 1_000_000
# Where rounding of the inputs decides, a difference is no finding; but that must stay rare.
MOST_UNDECIDED = 0.005


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long to draw new cases")
    parser.add_argument("--seed", type=int, default=0, help="which cases: those of seed N differ")
    parser.add_argument("--case", type=int, action="append", help="run this case alone, in detail")
    parser.add_argument("--method", choices=list(METHODS), help="one method alone")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.case:
        return max(_one(seed, given.method) for seed in given.case)
    return _many(given.seed, given.minutes, given.method)


def _one(seed: int, method: str | None) -> int:
    case, outcome = run_case(seed, method)
    print(f"case {seed}: {case}", file=sys.stderr)
    for text in outcome.undecided:
        print(f"  rounding decides: {text}", file=sys.stderr)
    for text in outcome.findings:
        print(f"  {text}", file=sys.stderr)
    print(f"case {seed}: {len(outcome.findings)} findings, {_summed(outcome.counts)}")
    return 1 if outcome.findings else 0


def _many(seed: int, minutes: float, method: str | None) -> int:
    start, counts = time.monotonic(), Counter[str]()
    methods: set[str] = set()
    failed: list[int] = []
    undecided = 0
    shown = start
    number = 0
    while number == 0 or time.monotonic() - start < 60 * minutes:
        one = seed * CASES + number
        number += 1
        case, outcome = _guarded(one, method)
        methods.add(case)
        counts += outcome.counts
        undecided += len(outcome.undecided)
        for text in outcome.undecided:
            print(f"rounding decides in case {one} ({case}): {text}", file=sys.stderr)
        if outcome.findings:
            failed.append(one)
            repeat = f"--case {one}" + f" --method {case}" * (case in METHODS)
            print(f"FAILED: python -m tests.fuzz {repeat}", file=sys.stderr)
            for text in outcome.findings:
                print(f"  {text}", file=sys.stderr)
        if time.monotonic() - shown > 15:
            shown = time.monotonic()
            print(f"{number} cases, {len(failed)} failed", file=sys.stderr, flush=True)
    too_many = undecided > max(1, MOST_UNDECIDED * counts["comparisons"])
    print(
        f"fuzz --seed {seed}: {number} cases of {len(methods)} methods, {_summed(counts)}; "
        f"{undecided} differences where rounding decides"
        + (", too many" if too_many else "")
        + f"; {len(failed)} cases failed"
        + (f": {' '.join(f'--case {one}' for one in failed)}" if failed else "")
    )
    return 1 if failed or too_many else 0


def _guarded(seed: int, method: str | None) -> tuple[str, Outcome]:
    """Run a case; an error of the fuzz's own is a finding too."""
    try:
        case, outcome = run_case(seed, method)
    except Exception as error:
        return "no method", Outcome([f"the fuzz itself: {type(error).__name__}: {error}"])
    return case.name, outcome


def _summed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
