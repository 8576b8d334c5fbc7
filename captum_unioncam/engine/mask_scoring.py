"""Scores of the target on masked inputs, streamed through the network in full chunks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_finite
from captum_unioncam.engine.captum_compat import NullProgress, Progress, progress, run_forward
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
        example = next(x for x, masked in zip(self.inputs, self.masked, strict=True) if masked)
        on_cpu = example.device.type == "cpu"
        # Convolutions on a CPU, and in half precision anywhere, run faster channels-last.
        half = example.dtype in (torch.float16, torch.bfloat16)
        self.channels_last = example.dim() == 4 and (on_cpu or half)
        self.device = example.device
        self.sizes = [
            x.shape[2:] for x, masked in zip(self.inputs, self.masked, strict=True) if masked
        ]
        # What a masked input and its baseline are blended from; None where nothing is masked.
        self._sources = [
            (self._laid_out(widened(x)), self._laid_out(_as_tensor(baseline, widened(x))))
            if masked
            else None
            for x, baseline, masked in zip(self.inputs, self.baselines, self.masked, strict=True)
        ]
        budget = CPU_CHUNK_ELEMENTS if on_cpu else ACCELERATOR_CHUNK_ELEMENTS
        row = sum(x[0].numel() for x in self.inputs)
        fitting = min(LONGEST_CHUNK, max(1, budget // row))
        self._step = self.chunk_rows or fitting

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
        show = progress if description else NullProgress
        with show(desc=description, total=len(rows), unit="mask") as bar:
            logits, scores = self._stream(low.to(self.device), rows.to(self.device), bar)
        live, inverse = live.to(base.scores.device), inverse.to(base.scores.device)
        table = MaskScores(
            torch.zeros_like(base.logits).repeat(1, live.shape[1]),
            base.scores.repeat(1, live.shape[1]),
            live,
        )
        if len(rows):
            table.logits[live] = logits[inverse]
            table.scores[live] = scores[inverse]
        cause = "the network overflows on them, or a callable score returns such values"
        check_finite("scores of masked inputs", table.scores, cause)
        return MaskScores(*(values.to(maps.device) for values in table))

    @cached_property
    def baseline(self) -> MaskScores:
        """Scores of the baselines alone, f_c(I_b), as a table of one column."""
        rows = torch.arange(self.num_examples, device=self.device)
        nothing = torch.zeros(self.num_examples, 1, *[1] * len(self.sizes[0]), device=self.device)
        if self._rows_differ():
            logits, scores = self._stream(nothing, rows, NullProgress())
        else:
            output = self._forward(nothing[:1], rows[:1])
            output = output.expand(self.num_examples, *output.shape[1:])
            logits, scores = self.target.read(output, rows.to(output.device))
        logits, scores = logits[:, None], scores[:, None]
        cause = "try other baselines, or look at what a callable score returns for them"
        check_finite("scores of the baselines", scores, cause)
        return MaskScores(logits, scores, torch.zeros_like(scores, dtype=torch.bool))

    def betas(self, maps: Tensor) -> Tensor:
        """Return f_c(map masks input) - f_c(I_b) for maps of shape (N, K, *spatial), (N, K)."""
        return self.score(maps).scores - self.baseline.scores.to(maps.device)

    def _stream(self, low: Tensor, rows: Tensor, bar: Progress) -> tuple[Tensor, Tensor]:
        """Forward maps (M, 1, *spatial) on their examples (M,) in full chunks; logits, scores."""
        read = []
        for start in range(0, len(rows), self._step):
            chunk = slice(start, start + self._step)
            output = self._forward(low[chunk], rows[chunk])
            read.append(self.target.read(output, rows[chunk].to(output.device)))
            bar.update(len(output))
        if not read:
            return low.new_zeros(0), low.new_zeros(0)
        logits, scores = zip(*read, strict=True)
        return torch.cat(logits), torch.cat(scores)

    def _rows_differ(self) -> bool:
        """Say whether the examples differ in anything but what is masked."""
        return (
            not all(self.masked)
            or any(source is not None and len(source[1]) > 1 for source in self._sources)
            or any(self._is_per_example(argument) for argument in self.arguments)
        )

    def _is_per_example(self, argument: Any) -> bool:
        is_rows = isinstance(argument, Tensor) and argument.dim() > 0
        return is_rows and len(argument) == self.num_examples

    def _argument(self, argument: Any, rows: Tensor) -> Any:
        if self._is_per_example(argument):
            return argument[rows.to(argument.device)]
        # A copy for each forward: some networks write into what they are given.
        return argument.clone() if isinstance(argument, Tensor) else argument

    def _forward(self, low: Tensor, rows: Tensor) -> Tensor:
        """Run one chunk of maps (R, 1, *spatial) on the examples they belong to, (R,)."""
        arguments = tuple(self._argument(argument, rows) for argument in self.arguments)
        masked = self._masked_inputs(low, rows)
        try:
            output = run_forward(self.forward_func, masked, None, arguments)
        except RuntimeError as error:
            # A network that flattens with `view` needs rows laid out one after the other.
            if not (self.channels_last and "view size is not compatible" in str(error)):
                raise
            self.channels_last = False
            output = run_forward(self.forward_func, self._masked_inputs(low, rows), None, arguments)
        return check_output(output, len(rows))

    def _masked_inputs(self, low: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        resized = [resize(low, size) for size in self.sizes]
        low_end, high_end = resized_extrema(resized)
        masks = iter(resized)
        masked = []
        for x, source in zip(self.inputs, self._sources, strict=True):
            if source is None:
                masked.append(x[rows.to(x.device)])
                continue
            wide, baseline = source
            mask = min_max(next(masks), low_end, high_end).to(wide)
            blended = torch.lerp(_take(baseline, rows), _take(wide, rows), mask)
            masked.append(self._laid_out(blended.to(x.dtype)))
        return tuple(masked)

    def _laid_out(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            return x
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return x.contiguous(memory_format=layout)


def _as_tensor(baseline: Tensor | int | float, x: Tensor) -> Tensor:
    """Return a baseline of the input's dtype, device and rank."""
    value = baseline.to(x) if isinstance(baseline, Tensor) else x.new_tensor(baseline)
    return value if value.dim() else value.reshape([1] * x.dim())


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """Return the rows of a batch; one row serves all without a copy."""
    return values if len(values) == 1 else values[rows.to(values.device)]
