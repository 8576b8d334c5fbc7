"""Scores of the target on masked inputs, streamed through the network in full chunks."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

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

if TYPE_CHECKING:
    from captum_unioncam.engine.call import Call

# Elements of input that one forward carries when the engine chooses: 4 images of 3 x 224 x 224 on
# a CPU, where more rows fall out of its caches, and 64 on an accelerator, which more rows feed.
CPU_CHUNK_ELEMENTS = 4 * 3 * 224 * 224
ACCELERATOR_CHUNK_ELEMENTS = 64 * 3 * 224 * 224
LONGEST_CHUNK = 512


# Makes masks of maps resized to each masked input; all masked inputs share one scale.
Finish = Callable[[list[Tensor]], list[Tensor]]


def min_max_together(resized: list[Tensor]) -> list[Tensor]:
    """Scale each map to [0, 1] over all the inputs it was resized to."""
    low, high = resized_extrema(resized)
    return [min_max(maps, low, high) for maps in resized]


def as_they_are(resized: list[Tensor]) -> list[Tensor]:
    """Use resized maps as masks unchanged."""
    return resized


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


class MaskScorer:
    """Masks inputs with maps and reads the target's score; lives as long as one call.

    Args:
        call (Call): what was asked for: network, inputs, further arguments, rows per forward.
        masked (tuple[bool, ...]): which of the inputs are masked; the others pass.
        baselines (tuple): what replaces each masked-out input, a number or a tensor.
        target (TargetScores): what is read from an output.
    """

    def __init__(
        self,
        call: "Call",
        masked: tuple[bool, ...],
        baselines: tuple[Tensor | int | float, ...],
        target: TargetScores,
    ) -> None:
        self.call, self.masked, self.target = call, masked, target
        example = next(x for x, is_masked in zip(call.inputs, masked, strict=True) if is_masked)
        on_cpu = example.device.type == "cpu"
        # Convolutions on a CPU, and in half precision anywhere, run faster channels-last.
        half = example.dtype in (torch.float16, torch.bfloat16)
        self.channels_last = example.dim() == 4 and (on_cpu or half)
        self.device = example.device
        # What a masked input and its baseline are blended from; None where nothing is masked.
        self._sources = [
            (self._laid_out(widened(x)), self._laid_out(_as_tensor(baseline, widened(x))))
            if is_masked
            else None
            for x, baseline, is_masked in zip(call.inputs, baselines, masked, strict=True)
        ]
        self.sizes = [source[0].shape[2:] for source in self._sources if source is not None]
        budget = CPU_CHUNK_ELEMENTS if on_cpu else ACCELERATOR_CHUNK_ELEMENTS
        row = sum(x[0].numel() for x in call.inputs)
        self._step = call.rows_per_forward or min(LONGEST_CHUNK, max(1, budget // row))

    def span(self, maps: Tensor) -> Tensor:
        """Scale maps (N, K, *spatial) so that, resized to the inputs, they span [0, 1]."""
        return span_resized(maps, self.sizes)

    def score(
        self, maps: Tensor, *, show: bool = False, finish: Finish | None = None
    ) -> MaskScores:
        """Score the inputs masked by each map, resized to them and min-max scaled to [0, 1].

        Flat maps leave the baseline alone and share its score; equal maps share one forward.

        Args:
            maps (Tensor): maps of shape (N, K, *spatial).
            show (bool, optional): show a progress bar if the call asked for one. Default: False
            finish (Callable, optional): makes masks of resized maps, given one tensor
                (R, 1, *size) for each masked input; min-max scaling by default. Default: None

        Returns:
            *MaskScores* for the N x K masked inputs, in float32 or better.

        Raises:
            ValueError: if a masked input has a score that is not finite.
        """
        return self.score_prepared(unit_range(maps), show=show, finish=finish or min_max_together)

    def score_prepared(
        self, maps: Tensor, *, show: bool = False, finish: Finish = as_they_are
    ) -> MaskScores:
        """Score maps like `score`, but without scaling them at their own resolution."""
        base = self.baseline
        rows, low, live, inverse = distinct(maps)
        description = self.call.description if show else None
        bar = progress if description else NullProgress
        with bar(desc=description, total=len(rows), unit="mask") as shown:
            low, rows = low.to(self.device), rows.to(self.device)
            logits, scores = self._stream(low, rows, finish, shown)
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
        rows = torch.arange(self.call.num_examples, device=self.device)
        nothing = torch.zeros(
            self.call.num_examples, 1, *[1] * len(self.sizes[0]), device=self.device
        )
        if self._rows_differ():
            logits, scores = self._stream(nothing, rows, as_they_are, NullProgress())
        else:
            output = self._forward(nothing[:1], rows[:1], as_they_are)
            output = output.expand(self.call.num_examples, *output.shape[1:])
            logits, scores = self.target.read(output, rows.to(output.device))
        logits, scores = logits[:, None], scores[:, None]
        cause = "try other baselines, or look at what a callable score returns for them"
        check_finite("scores of the baselines", scores, cause)
        return MaskScores(logits, scores, torch.zeros_like(scores, dtype=torch.bool))

    def betas(self, maps: Tensor) -> Tensor:
        """Return f_c(map masks input) - f_c(I_b) for maps of shape (N, K, *spatial), (N, K)."""
        return self.score(maps).scores - self.baseline.scores.to(maps.device)

    def _stream(
        self, low: Tensor, rows: Tensor, finish: Finish, bar: Progress
    ) -> tuple[Tensor, Tensor]:
        """Forward maps (M, 1, *spatial) on their examples (M,) in full chunks; logits, scores."""
        read = []
        for start in range(0, len(rows), self._step):
            chunk = slice(start, start + self._step)
            output = self._forward(low[chunk], rows[chunk], finish)
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
            or any(self.call.is_per_example(argument) for argument in self.call.extra)
        )

    def _forward(self, low: Tensor, rows: Tensor, finish: Finish) -> Tensor:
        """Run one chunk of maps (R, 1, *spatial) on the examples they belong to, (R,)."""
        arguments = tuple(self.call.argument(argument, rows) for argument in self.call.extra)
        forward_func = self.call.forward_func
        try:
            output = run_forward(
                forward_func, self._masked_inputs(low, rows, finish), None, arguments
            )
        except RuntimeError as error:
            # A network that flattens with `view` needs rows laid out one after the other.
            if not (self.channels_last and "view size is not compatible" in str(error)):
                raise
            self.channels_last = False
            output = run_forward(
                forward_func, self._masked_inputs(low, rows, finish), None, arguments
            )
        return check_output(output, len(rows))

    def _masked_inputs(self, low: Tensor, rows: Tensor, finish: Finish) -> tuple[Tensor, ...]:
        masks = iter(finish([resize(low, size) for size in self.sizes]))
        masked = []
        for x, source in zip(self.call.inputs, self._sources, strict=True):
            if source is None:
                masked.append(x[rows.to(x.device)])
                continue
            wide, baseline = source
            blended = torch.lerp(_take(baseline, rows), _take(wide, rows), next(masks).to(wide))
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
