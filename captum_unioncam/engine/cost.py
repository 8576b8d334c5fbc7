"""What a piece of work costs: rows forwarded, seconds, peak memory."""

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.scorers.scorer import rows_told

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """What was spent inside `measured_cost`.

    Attributes:
        forwards (int, optional): rows that went through the watched models, or scorers of them;
            None if none was watched.
        seconds (float): time by the wall clock, the device's queue being empty at both ends.
        peak_bytes (int, optional): largest increase in memory during the block: allocated by
            torch on a CUDA device, resident for a process on a CPU (Linux; None elsewhere).
    """

    forwards: int | None = 0
    seconds: float = 0.0
    peak_bytes: int | None = None


@contextmanager
def measured_cost(models: Iterable[nn.Module], device: torch.device) -> Iterator[Cost]:
    """Measure what the block costs; the cost is complete when the block ends."""
    cost, rows, models = Cost(), 0, list(models)

    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal rows
        # A copy made within the block has this hook as well.
        if not any(module is one for one in models):
            return
        x = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        rows += 0 if x is None or not x.dim() else len(x)

    def count_scored(model: nn.Module, scored: int) -> None:
        nonlocal rows
        rows += scored if any(model is one for one in models) else 0

    with ExitStack() as stack:
        stack.enter_context(rows_told(count_scored))
        for model in models:
            handle = model.register_forward_pre_hook(count, with_kwargs=True)
            stack.callback(handle.remove)
        before = _start_peak(device)
        start = time.perf_counter()
        yield cost
        peak = _peak(device)
        cost.forwards = rows if models else None
        cost.seconds = time.perf_counter() - start
        if before is not None and peak is not None:
            cost.peak_bytes = max(0, peak - before)


def _start_peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        # 5 sets the peak of the resident memory back to what is resident now.
        CLEAR.write_text("5")
    except OSError:
        return None
    return _resident("VmRSS")


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _resident("VmHWM")


def _resident(field: str) -> int | None:
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
