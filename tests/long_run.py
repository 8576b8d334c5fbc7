"""Every method, thousands of calls in one process: what grows?

python -m tests.long_run --calls 5000 prints resident memory, open files, threads and Python's
objects as they go, and fails where memory has grown by more than 1 % since the methods were warm,
or anything else at all.
"""

import argparse
import gc
import os
import sys
import threading
import warnings
from pathlib import Path
from statistics import median

import torch

from captum_unioncam.methods.registry import METHODS
from tests.methods import ONLY, QUICK
from tests.networks import gap_head, seeded

# The part of the calls that fill pools and caches.
WARM = 0.25
SAMPLES = 40
COUNTED = ("files", "threads", "objects")


def calls():
    """Return a call of every method on a small network that it is defined on."""
    net, layer, x = gap_head()
    made = []
    for name, method in METHODS.items():
        options = {**QUICK.get(name, {}), **({"seed": 0} if "seed" in method.options else {})}
        if ONLY.get(name) == set():
            made.append(_on_tokens(method, options))
            continue
        one = method.cls(net, layer) if method.needs_layer else method.cls(net)
        made.append(lambda one=one, options=options: one.attribute(x, 1, **options))
    return made


def _on_tokens(method, options):
    from torchvision.models import VisionTransformer

    net = seeded(VisionTransformer(16, 8, 2, 2, 12, 20, num_classes=5))
    layer = net.encoder.layers[-1].ln_1
    one, x = method.cls(net, layer), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    return lambda: one.attribute(x, 1, **options)


def taken():
    """Return what this process holds now: bytes, files, threads, Python's objects."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    status = Path("/proc/self/status").read_text()
    threads = int(status.partition("\nThreads:")[2].split()[0])
    files = len(os.listdir("/proc/self/fd"))
    return pages * os.sysconf("SC_PAGE_SIZE"), files, threads, len(gc.get_objects())


def run(count, tell=print):
    """Make so many calls, and return samples of what was held once all methods were warm."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    made, samples = calls(), []
    before = threading.active_count()
    for number in range(1, count + 1):
        made[number % len(made)]()
        if number % max(len(made), count // SAMPLES) == 0:
            samples.append((number, *taken()))
            _, memory, *counts = samples[-1]
            told = "  ".join(f"{n} {word}" for n, word in zip(counts, COUNTED, strict=True))
            tell(f"{number:6}  {memory / 2**20:8.2f} MiB  {told}", flush=True)
    assert threading.active_count() == before
    return [sample for sample in samples if sample[0] >= max(WARM * count, 2 * len(made))]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--within", type=float, default=1.0, help="per cent (%(default)s)")
    given = parser.parse_args()
    samples = run(given.calls)
    part = max(1, len(samples) // 5)
    first, last = (
        [median(column) for column in zip(*side, strict=True)][1:]
        for side in (samples[:part], samples[-part:])
    )
    grown = 100 * (last[0] - first[0]) / first[0]
    more = [int(b - a) for a, b in zip(first[1:], last[1:], strict=True)]
    told = ", ".join(f"{word} {n:+}" for n, word in zip(more, COUNTED, strict=True))
    print(f"{given.calls} calls of {len(METHODS)} methods: memory {grown:+.2f} %, {told}")
    return int(grown > given.within or any(more))


if __name__ == "__main__":
    sys.exit(main())
