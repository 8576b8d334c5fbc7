"""Scores of the target on masked inputs, streamed through the network in full chunks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_finite
from captum_unioncam.engine.captum_compat import NullProgress, progress, run_forward
from captum_unioncam.engine.maps import (
    distinct,
    min_max,
    resize,
    resized_extrema,
    span_resized,
    unit_range,
)
from captum_unioncam.engine.target_scores import TargetScores, check_output, widened

# Elements of input that one forward carries when the engine chooses: 4 images of 3 x 224 x 224 on
# a CPU, where more rows fall out of its caches, and 64 on an accelerator, which more rows feed.
CPU_CHUNK_ELEMENTS = 4 * 3 * 224 * 224
ACCELERATOR_CHUNK_ELEMENTS = 64 * 3 * 224 * 224
LONGEST_CHUNK = 512


class MaskScores(NamedTuple):
    """What masked inputs earned.

    Attributes:
        logits (Tensor): the target's raw output, (N, K), zero for maps that are not `live`.
        scores (Tensor): the target's score f_c, (N, K); maps that are not live have f_c(I_b).
        live (Tensor): False for flat maps, which mask everything, (N, K) bool.

    """

    logits: Tensor
    scores: Tensor
    live: Tensor


@dataclass
class MaskScorer:
    """Masks inputs with maps and reads the target's score; lives as long as one call.

    Attributes:
        forward_func (Callable): the network, or any function of it.
        inputs (tuple[Tensor, ...]): the user's inputs, detached.
        masked (tuple[bool, ...]): which of the inputs are masked; the others pass.
        baselines (tuple): what replaces each masked-out input, a number or a tensor.
        arguments (tuple): additional forward arguments; tensors with one row per example
            follow their example, everything else is passed as it is.
        target (TargetScores): what is read from an output.
        chunk_rows (int, optional): the most rows of one forward; None lets the device decide.

    """

    forward_func: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    masked: tuple[bool, ...]
    baselines: tuple[Tensor | int | float, ...]
    arguments: tuple[Any, ...]
    target: TargetScores
    chunk_rows: int | None = None

    def __post_init__(self) -> None:
        self.num_examples = len(self.inputs[0])
        pairs = list(zip(self.inputs, self.baselines, self.masked, strict=True))
        fastest = next(x for x, _, masked in pairs if masked)
        # Convolutions on a CPU, and in half precision anywhere, run faster channels-last.
        self.channels_last = fastest.dim() == 4 and (
            fastest.device.type == "cpu" or fastest.dtype in (torch.float16, torch.bfloat16)
        )
        self.sizes: list[Sequence[int]] = [x.shape[2:] for x, _, masked in pairs if masked]
        self._pairs = [(self._wide(x), self._full(b, x)) for x, b, masked in pairs if masked]
        if self.chunk_rows is None:
            on_cpu = fastest.device.type == "cpu"
            budget = CPU_CHUNK_ELEMENTS if on_cpu else ACCELERATOR_CHUNK_ELEMENTS
            self.chunk_rows = min(LONGEST_CHUNK, max(1, budget // fastest[0].numel()))

    def span(self, maps: Tensor) -> Tensor:
        """Scale maps (N, K, *spatial) so that, resized to the inputs, they span [0, 1]."""
        return span_resized(maps, self.sizes)

    def score(self, maps: Tensor, description: str | None = None) -> MaskScores:
        """Score the inputs masked by each map, resized to them and min-max scaled to [0, 1].

        Flat maps leave the baseline alone and share its score; equal maps share one forward.

        Args:
            maps (Tensor): maps of shape (N, K, *spatial).
            description (str, optional): shows a progress bar under this name. Default: None

        Returns:
            *MaskScores* for the N x K masked inputs, in float32 or better.

        Raises:
            ValueError: if a masked input has a score that is not finite.

        """
        base = self.baseline
        rows, low, live, inverse = distinct(unit_range(maps))
        low, rows = low.to(self.inputs[0].device), rows.to(self.inputs[0].device)
        logits, scores = [base.logits[:0, 0]], [base.scores[:0, 0]]
        bar = (
            progress(desc=description, total=len(rows), unit="mask")
            if description
            else NullProgress()
        )
        with bar:
            # A list of slices needs no look at the device between forwards.
            for start in range(0, len(rows), self.chunk_rows or 1):
                chunk = slice(start, start + (self.chunk_rows or 1))
                logit, score = self._read(low[chunk], rows[chunk])
                logits.append(logit)
                scores.append(score)
                bar.update(len(logit))
        live, inverse = live.to(base.scores.device), inverse.to(base.scores.device)
        table = MaskScores(
            torch.zeros_like(base.logits).repeat(1, live.shape[1]),
            base.scores.repeat(1, live.shape[1]),
            live,
        )
        table.logits[live] = torch.cat(logits)[inverse]
        table.scores[live] = torch.cat(scores)[inverse]
        for values in table[:2]:
            check_finite("scores of masked inputs", values, "the network overflows on them")
        return MaskScores(*(values.to(maps.device) for values in table))

    @cached_property
    def baseline(self) -> MaskScores:
        """Scores of the baselines alone, f_c(I_b), as a table of one column."""
        rows = torch.arange(self.num_examples, device=self.inputs[0].device)
        nothing = next(x for x, masked in zip(self.inputs, self.masked, strict=True) if masked)
        zeros = nothing.new_zeros(self.num_examples, 1, *[1] * (nothing.dim() - 2))
        parts = zip(*(self._read(zeros[r], rows[r]) for r in self._row_chunks()), strict=True)
        logits, scores = (torch.cat(part)[:, None] for part in parts)
        check_finite("scores of the baselines", scores, "try other baselines")
        return MaskScores(logits, scores, torch.zeros_like(scores, dtype=torch.bool))

    def betas(self, maps: Tensor) -> Tensor:
        """Return f_c(map masks input) - f_c(I_b) for maps of shape (N, K, *spatial), (N, K)."""
        return self.score(maps).scores - self.baseline.scores.to(maps.device)

    def _row_chunks(self) -> list[slice]:
        step = self.chunk_rows or 1
        return [slice(start, start + step) for start in range(0, self.num_examples, step)]

    def _read(self, low: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Run one chunk of maps (R, 1, *spatial) on the examples they belong to, (R,)."""
        arguments = tuple(
            a[rows.to(a.device)]
            if isinstance(a, Tensor) and a.dim() and len(a) == self.num_examples
            else a
            for a in self.arguments
        )
        masked = self._masked_inputs(low, rows)
        try:
            output = run_forward(self.forward_func, masked, None, arguments)
        except RuntimeError as error:
            # A network that flattens with `view` needs rows laid out one after the other.
            if not (self.channels_last and "view size is not compatible" in str(error)):
                raise
            self.channels_last = False
            output = run_forward(self.forward_func, self._masked_inputs(low, rows), None, arguments)
        output = check_output(output, len(rows))
        return self.target.read(output, rows.to(output.device))

    def _masked_inputs(self, low: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        resized = [resize(low, size) for size in self.sizes]
        ends = resized_extrema(resized)
        pairs = iter(zip(self._pairs, resized, strict=True))
        masked = []
        for x, is_masked in zip(self.inputs, self.masked, strict=True):
            if not is_masked:
                masked.append(x[rows.to(x.device)])
                continue
            (wide, baseline), mask = next(pairs)
            mask = min_max(mask, *ends).to(wide)
            blended = torch.lerp(_take(baseline, rows), _take(wide, rows), mask).to(x.dtype)
            masked.append(self._laid_out(blended))
        return tuple(masked)

    def _laid_out(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            return x
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return x.contiguous(memory_format=layout)

    def _wide(self, x: Tensor) -> Tensor:
        # Blending in half precision would round the mask as well as the picture.
        return self._laid_out(widened(x))

    def _full(self, baseline: Tensor | int | float, x: Tensor) -> Tensor:
        value = baseline.to(x) if isinstance(baseline, Tensor) else x.new_tensor(baseline)
        value = self._wide(value)
        return value if value.dim() else value.reshape([1] * x.dim())


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """Return the rows of a batch; one row serves all without a copy."""
    return values if len(values) == 1 else values[rows.to(values.device)]
