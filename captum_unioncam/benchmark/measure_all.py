"""All pictures of a run that are left, shared among processes, each row on disk once made."""

import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from captum_unioncam.benchmark.benchmark_run import BenchmarkRun
from captum_unioncam.benchmark.distributed import Processes, decided, wait_for_all
from captum_unioncam.benchmark.loading import Pictures, Prepared, prepared
from captum_unioncam.benchmark.measure_picture import measure_picture
from captum_unioncam.benchmark.presets import needs_boxes, needs_photograph
from captum_unioncam.benchmark.rows import Row, appending, read_rows
from captum_unioncam.benchmark.settings import Settings, differences, keep
from captum_unioncam.engine.captum_compat import NullProgress, progress
from captum_unioncam.vision.pictures import PictureError

if sys.platform != "win32":
    import fcntl

# What no other picture will survive either.
FATAL = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
FATAL_TEXTS = ("CUDA error", "cuDNN error", "CUBLAS", "can't allocate memory")
# So many pictures that fail before any is measured mean that the fault is not theirs.
MOST_FAILURES = 3


class Plan(NamedTuple):
    """What the first process decides: pictures without rows, and whether any was measured."""

    settings: Settings
    remaining: list[int]
    works: bool


def measure_all(
    run: BenchmarkRun, out: Path, processes: Processes, workers: int = 2, *, quiet: bool = True
) -> bool:
    """Measure every picture that has no rows in `out` yet; return whether there were any.

    Args:
        run (BenchmarkRun): the network and the pictures.
        out (Path): folder of the run.
        processes (Processes): this process and how many share the work.
        workers (int, optional): processes that prepare pictures, 0 for none. Default: 2
        quiet (bool, optional): show no progress on stderr. Default: True

    Raises:
        ValueError: if the folder was begun with other settings, another run is writing there,
            the first pictures all fail, or boxes cannot follow the preprocessing.
    """
    metrics = run.settings.metrics
    boxes, others = any(map(needs_boxes, metrics)), any(map(needs_photograph, metrics))
    pictures = Pictures(run.data, run.network, boxes=boxes, others=others)
    with ExitStack() as stack:

        def begin() -> Plan:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(out))
            keep(run.settings, out)
            rows = read_rows(out)
            done = {row["image"] for row in rows}
            items = enumerate(run.data.items)
            remaining = [i for i, item in items if item.image not in done]
            return Plan(run.settings, remaining, any("error" not in row for row in rows))

        plan = decided(processes, begin)
        changed = differences(asdict(plan.settings), asdict(run.settings))
        if changed:
            raise ValueError(
                f"process {processes.rank} is not set up as process 0: {'; '.join(changed)}"
            )
        own = plan.remaining[processes.rank :: processes.size]
        append = stack.enter_context(appending(out / f"rows-{processes.rank}.jsonl"))
        bar, words, before = NullProgress if quiet else progress, "benchmark", 0
        if processes.size > 1:
            words = f"benchmark, process {processes.rank} of {processes.size}"
        else:
            before = len(run.data.items) - len(own)
        with bar(desc=words, total=before + len(own), initial=before, unit="image") as shown:
            for rows in _measured(run, prepared(pictures, own, workers), plan.works):
                append(rows)
                shown.update()
        wait_for_all(processes)
    return bool(plan.remaining)


def _measured(run: BenchmarkRun, pictures: Iterable[Prepared], works: bool) -> Iterator[list[Row]]:
    """Yield the rows of one picture after the other; one that fails has a row that says why.

    Raises:
        ValueError: if the first to be measured all fail and none `works` already.
    """
    shared = {**run.settings.for_rows(), "device_name": device_name(run.device)}
    failed: list[list[Row]] = []
    for picture in pictures:
        try:
            if picture.error:
                raise PictureError(picture.error)
            rows = measure_picture(run, picture)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, FATAL) or any(text in str(error) for text in FATAL_TEXTS):
                raise
            reason = " ".join(str(error).split())
            lost = [{"image": picture.item.image, "error": reason, **shared}]
            if works or isinstance(error, PictureError):
                yield lost
                continue
            failed.append(lost)
            if len(failed) == MOST_FAILURES:
                raise ValueError(
                    f"none of the first {MOST_FAILURES} pictures could be measured, so no row is "
                    f"kept; {picture.item.image}: {reason}"
                ) from error
            continue
        works = True
        yield from failed
        failed = []
        yield [{**row, **shared} for row in rows]
    yield from failed


def device_name(device: torch.device) -> str:
    """Return which device it is, for the times in the rows."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases whatever ends the process.

    Raises:
        ValueError: if another run holds it.
    """
    with (folder / ".lock").open("w") as file:
        if sys.platform != "win32":
            try:
                # Not inherited: workers forked from a killed process outlive it by seconds.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise ValueError(f"another run is writing in {folder}; wait for it") from error
        yield
