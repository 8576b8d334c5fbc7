"""The masked pass of Score-CAM, one optimisation after the other, to time what each is worth."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from captum.attr import LayerActivation
from torch import Tensor

from benchmarks.speed.contestants import Contestant
from benchmarks.speed.speed_run import Batch, SpeedRun
from captum_unioncam.engine.maps import distinct, extrema, min_max, resize, unit_range
from captum_unioncam.engine.row_stream import own_rows
from captum_unioncam.engine.target_scores import at_least_float32


class Step(NamedTuple):
    """What a masked pass leaves out or does better than the formula written down.

    Attributes:
        about (str): the step in words.
        distinct (bool): forward no flat mask, and equal ones once.
        own_rows (bool): as many rows in a forward as the engine chooses.
        channels_last (bool): lay the inputs out channels-last.
        fused (bool): blend input and baseline in one operation.
        reused (bool): blend into the same memory every time.
    """

    about: str
    distinct: bool = False
    own_rows: bool = False
    channels_last: bool = False
    fused: bool = False
    reused: bool = False


# Masked images in a forward before the engine chooses: what other libraries take.
ROWS = 16
STEPS = (
    Step("every channel"),
    Step("+ distinct masks only", True),
    Step("+ rows of the engine", True, True),
    Step("+ channels-last", True, True, True),
    Step("+ blend in one operation", True, True, True, True),
    Step("+ into the same memory", True, True, True, True, True),
)


def step_contestants(run: SpeedRun) -> list[Contestant]:
    """Return a contestant for every step; each gives the scores of all channels, (N, C)."""
    return [_contestant(run, f"step {n}: {step.about}", step) for n, step in enumerate(STEPS)]


def _contestant(run: SpeedRun, label: str, step: Step) -> Contestant:
    call = partial(channel_scores, run, step)
    return Contestant(label, lambda: nullcontext(call), has_footprint=False)


@torch.no_grad()
def channel_scores(run: SpeedRun, step: Step, batch: Batch) -> Tensor:
    """Return the probability of the target under each channel of the layer as a mask, (N, C)."""
    model = run.network.model
    maps = unit_range(at_least_float32(LayerActivation(model, run.layer).attribute(batch.x)))
    target = torch.tensor(batch.target, device=run.device)
    count = maps.shape[:2].numel()
    if step.distinct:
        found = distinct(maps)
        shown, examples = found.maps, found.rows
    else:
        shown = maps.reshape(count, 1, *maps.shape[2:])
        examples = torch.arange(len(maps), device=maps.device).repeat_interleave(maps.shape[1])
    layout = torch.channels_last if step.channels_last else torch.contiguous_format
    x, black = (v.contiguous(memory_format=layout) for v in (batch.x, batch.black))
    rows = own_rows(batch.x[0].numel(), batch.x.device) if step.own_rows else ROWS
    buffer = x[:1].repeat(rows, 1, 1, 1).contiguous(memory_format=layout)
    scores = torch.cat(
        [
            model(masked).softmax(1).gather(1, target[which, None])[:, 0]
            for which, masked in _masked(step, x, black, shown, examples, buffer)
        ]
    )
    if not step.distinct:
        return scores.view(maps.shape[:2])
    nothing: Tensor = model(black).softmax(1).gather(1, target[:, None])
    table = nothing.repeat(1, maps.shape[1])
    table[found.channels] = scores[found.inverse]
    return table


def _masked(
    step: Step, x: Tensor, black: Tensor, maps: Tensor, examples: Tensor, buffer: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the examples of a chunk of maps and the inputs that these mask."""
    for start in range(0, len(maps), len(buffer)):
        which = examples[start : start + len(buffer)]
        masks = resize(maps[start : start + len(buffer)], x.shape[2:])
        masks = min_max(masks, *extrema(masks)).to(x.dtype)
        shown, hidden = x[which], black[which]
        if step.fused:
            into = buffer[: len(which)] if step.reused else None
            yield which, torch.lerp(hidden, shown, masks, out=into)
        else:
            yield which, shown * masks + hidden * (1 - masks)
