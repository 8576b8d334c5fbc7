"""What memory one call takes and keeps, measured in a process of its own."""

import gc
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.contestants import Request, contestants_of
from benchmarks.speed.settings import SpeedSettings
from benchmarks.speed.speed_run import Batch, arithmetic, batches_of, load_run
from captum_unioncam.comparison.result import Comparison
from captum_unioncam.engine.cost import measured_cost

# glibc returns what is freed to the system at once only where it was mapped for itself; else
# the resident memory of a process says little of what is in use.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Footprint:
    """Memory of one call.

    Attributes:
        peak_bytes (int, optional): most in use above what was before; None if it is not known.
        kept_bytes (int, optional): still held by tensors when the result is dropped.
        error (str): why nothing is known; empty if it is.
    """

    peak_bytes: int | None = None
    kept_bytes: int | None = None
    error: str = ""


def footprint_alone(settings: SpeedSettings, dtype: str, batch: int, label: str) -> Footprint:
    """Return the footprint of a contestant's first call in a fresh process."""
    ran = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps([asdict(settings), dtype, batch, label]),
        capture_output=True,
        text=True,
        env={**os.environ, **MALLOC},
    )
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"]
        return Footprint(error=lines[-1])
    # A network's own module may print something first.
    return Footprint(**json.loads(ran.stdout.splitlines()[-1]))


def footprint(call: Request, batch: Batch, device: torch.device) -> Footprint:
    """Return the footprint of a call in this process."""
    before = held_bytes(device)
    with measured_cost([], device) as cost:
        result: Any = call(batch)
    peak = cost.peak_bytes
    if isinstance(result, Comparison):
        # It measures each of its methods, which begins the count of the peak anew.
        peaks = [row["peak_bytes"] for row in result.rows]
        peak = None if peak is None else max(peak, *peaks)
    del result
    return Footprint(peak, max(0, held_bytes(device) - before))


def held_bytes(device: torch.device) -> int:
    """Return what tensors hold: by CUDA's allocator, or of all that Python knows on a CPU."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    storages = {}
    for one in gc.get_objects():
        if issubclass(type(one), Tensor) and one.layout is torch.strided:
            storage = one.untyped_storage()
            # The tensors that a compiler traces with hold nothing and have no address.
            with suppress(RuntimeError):
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def main() -> None:
    """Read what is asked for, and print the footprint."""
    values, dtype, size, label = json.load(sys.stdin)
    settings = SpeedSettings(**values)
    with arithmetic(dtype):
        run = load_run(settings, dtype)
        batch = batches_of(run, size)[0]
        contestants = {c.label: c for c in contestants_of(settings, run)}
        # Libraries set up what every first forward and backward sets up.
        x = batch.x[:1].clone().requires_grad_()
        torch.autograd.grad(run.network.model(x).sum(), x)
        with contestants[label].opened() as call:
            found = footprint(call, batch, run.device)
    sys.stdout.write(f"\n{json.dumps(asdict(found))}\n")


if __name__ == "__main__":
    main()
