"""Scores of the target on inputs masked by maps."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_finite
from captum_unioncam.engine.captum_compat import NullProgress, Progress, progress
from captum_unioncam.engine.locks import cached_property
from captum_unioncam.engine.maps import (
    distinct,
    min_max,
    resized_extrema,
    scale_for_resize,
    unit_range,
)
from captum_unioncam.engine.measured_masks import Budget, MaskScores, MeasuredMasks, Spent
from captum_unioncam.engine.measured_masks import Finish as Finish
from captum_unioncam.engine.row_stream import RowStream
from captum_unioncam.engine.target_scores import (
    TargetScores,
    at_least_float32,
    output_as_read,
)
from captum_unioncam.engine.ties import settled

if TYPE_CHECKING:
    from captum_unioncam.engine.request import Request


def min_max_together(resized: list[Tensor]) -> list[Tensor]:
    """Scale each map to [0, 1] over all the inputs it was resized to."""
    low, high = resized_extrema(resized)
    return [min_max(maps, low, high) for maps in resized]


def as_they_are(resized: list[Tensor]) -> list[Tensor]:
    """Use resized maps as masks unchanged."""
    return resized


class MaskScorer:
    """Masks inputs with maps and reads the target's score; lives as long as one call.

    Args:
        request (Request): what was asked for: network, inputs, further arguments, rows per forward.
        masked (tuple[bool, ...]): which of the inputs are masked; the others pass.
        baselines (tuple): what replaces each masked-out input, a number or a tensor.
        target (TargetScores): what is read from an output.
        stream (RowStream, optional): that of another scorer of the same inputs. Default: None
    """

    def __init__(
        self,
        request: "Request",
        masked: tuple[bool, ...],
        baselines: tuple[Tensor | int | float, ...],
        target: TargetScores,
        stream: RowStream | None = None,
    ) -> None:
        self.request, self.masked, self.target = request, masked, target
        example = next(x for x, is_masked in zip(request.inputs, masked, strict=True) if is_masked)
        self.device = example.device
        self.stream = stream or RowStream(request, example)
        # What a masked input and its baseline are blended from; None where nothing is masked.
        self._sources = [
            (
                self._laid_out(at_least_float32(x)),
                self._laid_out(_as_tensor(baseline, at_least_float32(x))),
            )
            if is_masked
            else None
            for x, baseline, is_masked in zip(request.inputs, baselines, masked, strict=True)
        ]
        self.sizes = [source[0].shape[2:] for source in self._sources if source is not None]

    def for_target(self, target: TargetScores) -> "MaskScorer":
        """Return a scorer of another target that shares the stream and what is known of I_b."""
        _ = self._baseline_outputs
        other = copy(self)
        other.target = target
        other.__dict__.pop("baseline", None)
        return other

    def scale_for_resize(self, maps: Tensor) -> Tensor:
        """Scale maps (N, K, *spatial) so that, resized to the inputs, they span [0, 1]."""
        return scale_for_resize(maps, self.sizes)

    def score(
        self,
        maps: Tensor,
        *,
        show: bool = False,
        finish: Finish = min_max_together,
        budget: Budget | None = None,
    ) -> MaskScores:
        """Score the inputs masked by each map, resized to them and min-max scaled to [0, 1].

        Flat maps leave the baseline alone and share its score; equal maps share one forward.

        Args:
            maps (Tensor): maps of shape (N, K, *spatial).
            show (bool, optional): show a progress bar if the call asked for one. Default: False
            finish (Callable, optional): makes masks of resized maps, given one tensor
                (R, 1, *size) for each masked input. Default: min-max scaling
            budget (Budget, optional): how many distinct maps of an example are forwarded, where
                the scores of the others are predicted. Default: None

        Returns:
            *MaskScores* for the N x K masked inputs, in float32 or better.

        Raises:
            ValueError: if a masked input has a score that is not finite.
        """
        return self.measuring([self.target], maps, finish).tables(budget, show=show)[0]

    def measuring(
        self, targets: Sequence[TargetScores], maps: Tensor, finish: Finish = min_max_together
    ) -> MeasuredMasks:
        """Return what scores maps like `score`, for several targets and budgets together."""
        return MeasuredMasks(self, targets, maps, distinct(unit_range(maps)), finish)

    def score_prepared(
        self, maps: Tensor, *, show: bool = False, finish: Finish = as_they_are
    ) -> MaskScores:
        """Score maps like `score`, but without scaling them at their own resolution."""
        measured = MeasuredMasks(self, [self.target], maps, distinct(maps), finish)
        return measured.tables(show=show)[0]

    def score_rows(
        self,
        rows: Tensor,
        masks: Callable[[slice], list[Tensor]],
        *,
        targets: Sequence[TargetScores] | None = None,
        show: bool = False,
        bar: Progress | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Mask examples with masks made chunk by chunk, and read the outputs.

        Args:
            rows (Tensor): the example that each mask belongs to, (R,).
            masks (Callable): takes a slice of the rows, returns their masks, one tensor
                (r, 1, *size) for each masked input.
            targets (Sequence[TargetScores], optional): what to read; the call's own target by
                default. Default: None
            show (bool, optional): show a progress bar if the call asked for one. Default: False
            bar (Progress, optional): a bar that is shown already. Default: None

        Returns:
            *list* of (raw outputs, scores) for each target, both (R,).
        """
        rows = rows.to(self.device)
        with nullcontext(bar) if bar is not None else self.bar(len(rows), show) as shown:
            return self.stream.score_rows(
                rows,
                lambda chunk: self.masked_inputs(masks(chunk), rows[chunk]),
                [self.target] if targets is None else targets,
                shown,
            )

    def bar(self, total: int, show: bool) -> AbstractContextManager[Progress]:
        """Return a progress bar of so many masks, a silent one unless the call asked for one."""
        description = self.request.description if show else None
        kind: Any = progress if description else NullProgress
        bar: AbstractContextManager[Progress] = kind(desc=description, total=total, unit="mask")
        return bar

    @cached_property
    def baseline(self) -> MaskScores:
        """Scores of the baselines alone, f_c(I_b), as a table of one column."""
        return self.baseline_for(self.target)

    def baseline_for(self, target: TargetScores) -> MaskScores:
        """Return `baseline` as another target reads it."""
        count, outputs = self.request.num_examples, self._baseline_outputs
        for rows, output in outputs:
            self.stream.check_outputs(output_as_read(target.functions, output, len(rows)), target)
        if self._rows_differ():
            reads = [target.read(output, rows) for rows, output in outputs]
        else:
            reads = [target.read_one_for(output, count) for _, output in outputs]
        logits, scores = (torch.cat(values)[:, None] for values in zip(*reads, strict=True))
        cause = "try other baselines, or look at what a callable score returns for them"
        check_finite("scores of the baselines", scores, cause)
        live, zero = torch.zeros_like(scores, dtype=torch.bool), torch.zeros_like(scores)
        return MaskScores(logits, scores, live, zero, zero, Spent(*[zero[:, 0]] * 2))

    @cached_property
    def _baseline_outputs(self) -> list[tuple[Tensor, Any]]:
        """What the network gives for the baselines, with the examples of its rows, by chunks.

        One row serves examples that share theirs.
        """
        needed = self.request.num_examples if self._rows_differ() else 1
        rows = torch.arange(needed, device=self.device)

        def nothing(chunk: slice) -> tuple[Tensor, ...]:
            some = rows[chunk]
            blank = [some.new_zeros(len(some), 1, *[1] * len(size)) for size in self.sizes]
            return self.masked_inputs(blank, some)

        step = self.stream.step
        chunks = [slice(start, start + step) for start in range(0, needed, step)]
        return [(rows[c], self.stream.forward(rows[c], c, nothing)) for c in chunks]

    def score_over_baseline(self, maps: Tensor) -> Tensor:
        """Return f_c(map masks input) - f_c(I_b) for maps of shape (N, K, *spatial), (N, K).

        It is exactly zero where rounding alone tells the two scores apart.
        """
        scores, base = self.score(maps).scores, self.baseline.scores.to(maps.device)
        return settled(scores - base, torch.maximum(scores.abs(), base.abs()))

    def _rows_differ(self) -> bool:
        """Say whether the examples differ in anything but what is masked."""
        return (
            not all(self.masked)
            or any(source is not None and len(source[1]) > 1 for source in self._sources)
            or any(self.request.is_per_example(argument) for argument in self.request.extra)
        )

    def masked_inputs(self, masks: list[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """Return the network's inputs: examples `rows`, each masked by its mask."""
        ready = iter(masks)
        masked = []
        for x, source in zip(self.request.inputs, self._sources, strict=True):
            if source is None:
                masked.append(x[rows.to(x.device)])
                continue
            wide, baseline = source
            blended = torch.lerp(_take(baseline, rows), _take(wide, rows), next(ready).to(wide))
            masked.append(blended.to(x.dtype))
        return tuple(masked)

    def _laid_out(self, x: Tensor) -> Tensor:
        # What a caller's inference mode has made cannot be part of a graph.
        x = x.clone() if x.is_inference() else x
        is_last = self.stream.channels_last and x.dim() == 4
        return x.contiguous(memory_format=torch.channels_last) if is_last else x


def _as_tensor(baseline: Tensor | int | float, x: Tensor) -> Tensor:
    """Return a baseline of the input's dtype, device and rank."""
    value = baseline.to(x) if isinstance(baseline, Tensor) else x.new_tensor(baseline)
    return value if value.dim() else value.reshape([1] * x.dim())


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """Return the rows of a batch; one row serves all without a copy."""
    return values if len(values) == 1 else values[rows.to(values.device)]
