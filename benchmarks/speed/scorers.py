"""UnionCAM with other callables as scorer: the network in half precision, compiled, or both."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor, nn
from torch._inductor import config

from benchmarks.speed.contestants import Contestant, Request
from benchmarks.speed.speed_run import SpeedRun
from captum_unioncam.engine.row_stream import own_rows
from captum_unioncam.methods.union_cam import LayerUnionCAM


def scorer_contestants(names: Sequence[str], run: SpeedRun, exact: str) -> list[Contestant]:
    """Return UnionCAM with each scorer; `exact` is the label of UnionCAM without one."""
    return [
        Contestant(f"{exact} scorer={name}", _opener(name, run), exact=exact, has_footprint=False)
        for name in names
    ]


def _opener(name: str, run: SpeedRun) -> Callable[[], AbstractContextManager[Request]]:
    union_cam = LayerUnionCAM(run.network.model, run.layer)
    # Compiled on the first opening, which is not timed, and kept for the later ones.
    scorer = cache(lambda: make_scorer(name, run))

    @contextmanager
    def opened() -> Iterator[Request]:
        scoring = scorer()
        yield lambda batch: union_cam.attribute(
            batch.x, batch.target, baselines=batch.black, scorer=scoring
        )

    return opened


def make_scorer(name: str, run: SpeedRun) -> nn.Module:
    """Return what runs masked inputs: "compiled", "bfloat16" or "compiled-bfloat16"."""
    model = deepcopy(run.network.model)
    if "bfloat16" in name:
        model.to(torch.bfloat16)
    scorer = InFullChunks(model, run) if "compiled" in name else model
    run.copies.append(scorer)
    return scorer


class InFullChunks(nn.Module):
    """A network compiled for full chunks; the few rows beside them run as they are."""

    def __init__(self, model: nn.Module, run: SpeedRun) -> None:
        super().__init__()
        self.model = model
        x = run.photographs[0].x
        self.rows = own_rows(x[0].numel(), run.device)
        dtype = next(model.parameters()).dtype
        is_last = run.device.type == "cpu" or dtype == torch.bfloat16
        layout = torch.channels_last if is_last else torch.contiguous_format
        example = x.repeat(self.rows, 1, 1, 1).to(dtype)
        # Freezing changes the weights of what it compiles.
        self.compiled = torch.compile(deepcopy(model), dynamic=False)
        with config.patch(freezing=True), torch.no_grad():
            self.compiled(example.contiguous(memory_format=layout))

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output."""
        output: Tensor = (self.compiled if len(x) == self.rows else self.model)(x)
        return output
