"""Several processes on one benchmark, as torchrun starts them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist

# A process that dies breaks its connections, which the others see at once; this is for one hung.
TIMEOUT = timedelta(hours=3)

Made = TypeVar("Made")


class Processes(NamedTuple):
    """The number of this process among those of the run, and how many there are."""

    rank: int = 0
    size: int = 1


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started; without it there is this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    # Objects and barriers alone go between processes, on any device: gloo serves all.
    dist.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def decided(processes: Processes, decide: Callable[[], Made]) -> Made:
    """Return what `decide` returns on the first process, or raise on all what it raised there.

    Raises:
        ValueError: if the first process cannot decide, for one of its own or the system's reasons.
    """
    if processes.size == 1:
        return decide()
    shared: list[Any] = [None, None]
    if processes.rank == 0:
        try:
            shared[0] = decide()
        except (ValueError, OSError) as error:
            shared[1] = str(error)
    dist.broadcast_object_list(shared, src=0)
    if shared[1] is not None:
        raise ValueError(shared[1])
    made: Made = shared[0]
    return made


def wait_for_all(processes: Processes) -> None:
    """Return once every process has come here.

    Raises:
        ValueError: if one of them failed.
    """
    if processes.size > 1:
        try:
            dist.barrier()
        except RuntimeError as error:
            raise ValueError("another process of the run failed; its message says why") from error
