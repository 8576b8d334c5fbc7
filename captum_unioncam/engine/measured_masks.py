"""Masks of one layer's tensor, forwarded as far as budgets ask, and tables of their scores."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_finite
from captum_unioncam.engine.captum_compat import Progress
from captum_unioncam.engine.locks import cached_property
from captum_unioncam.engine.maps import DistinctMaps, resize
from captum_unioncam.engine.surrogate import Weights, budgeted, completed, predicted_deviation
from captum_unioncam.engine.target_scores import Score, TargetScores

if TYPE_CHECKING:
    from captum_unioncam.engine.mask_scoring import MaskScorer

# Makes masks of maps resized to each masked input; all masked inputs share one scale.
Finish = Callable[[list[Tensor]], list[Tensor]]

# With max_masks="auto": the first budget, and by how much it grows, more the larger it is.
FIRST_BUDGET = 32
ROUND = 16

# Keeps the correlation with the exact map at 0.995 on 95 of 100 photographs, with some to spare; a
# map that is off by 0.1 has that correlation.
TOLERANCE = 0.08


class Budget(NamedTuple):
    """How many masks of an example are forwarded, where not all are.

    Attributes:
        max_masks (int or str): at most so many, or with "auto" as many as the tolerance needs.
        tolerance (float): the largest deviation of a map, estimated by `predicted_deviation`.
        weights (str): what weighs channels in that map, their "score" or the "softmax" of their
            raw outputs.
    """

    max_masks: int | Literal["auto"]
    tolerance: float = TOLERANCE
    weights: Weights = "score"


class Spent(NamedTuple):
    """What scores of masks rest on.

    Attributes:
        masks (Tensor): how many masks of each example were forwarded for them, (N,).
        deviation (Tensor): estimated deviation of the map that they weigh from the exact one, (N,):
            zero where every mask was forwarded, infinite where nothing is known of it.
    """

    masks: Tensor
    deviation: Tensor


class MaskScores(NamedTuple):
    """Scores of masked inputs.

    Attributes:
        logits (Tensor): the target's raw output, (N, K), zero for maps that are not `live`.
        scores (Tensor): the target's score f_c, (N, K); maps that are not live have f_c(I_b).
        live (Tensor): False for flat maps, which mask everything, (N, K) bool.
        logit_std (Tensor): standard deviation of raw outputs that were predicted, zero for those
            that were measured, (N, K).
        score_std (Tensor): the same of scores, (N, K).
        spent (Spent): what they rest on.
    """

    logits: Tensor
    scores: Tensor
    live: Tensor
    logit_std: Tensor
    score_std: Tensor
    spent: Spent


class MeasuredMasks:
    """Distinct masks of all examples; each is forwarded once, when a budget first asks for it.

    Args:
        scorer (MaskScorer): masks inputs and forwards them.
        targets (Sequence[TargetScores]): what is read from the outputs.
        maps (Tensor): what the masks are made of, (N, K, *spatial).
        masks (DistinctMaps): the distinct ones among them, scaled.
        finish (Callable): makes masks of resized maps, one tensor (R, 1, *size) per masked input.

    Attributes:
        known (Tensor): which of the M masks were forwarded, (M,) bool.
        values (list[Tensor]): their raw outputs and scores, (M, T); zero for the others.
    """

    def __init__(
        self,
        scorer: "MaskScorer",
        targets: Sequence[TargetScores],
        maps: Tensor,
        masks: DistinctMaps,
        finish: Finish,
    ) -> None:
        self.scorer, self.targets, self.maps, self.masks = scorer, targets, maps, masks
        self.finish = finish
        # Choosing takes many small steps, for which a CPU is faster than an accelerator.
        self._rows = masks.rows.cpu()
        self._own = [(self._rows == n).nonzero()[:, 0] for n in range(len(maps))]
        self.known = torch.zeros_like(self._rows, dtype=torch.bool)
        self.values = [torch.zeros(len(self._rows), len(targets)) for _ in range(2)]

    def tables(self, budget: Budget | None = None, *, show: bool = False) -> list[MaskScores]:
        """Return the scores of all maps, one table for each target.

        Args:
            budget (Budget, optional): how many masks are forwarded, where the scores of the
                others are predicted. None forwards all. Default: None
            show (bool, optional): show a progress bar if the call asked for one. Default: False

        Raises:
            ValueError: if a masked input has a score that is not finite.
        """
        limit = budget.max_masks if budget is not None else "auto"
        most = sum(min(limit, len(n)) if isinstance(limit, int) else len(n) for n in self._own)
        with self.scorer.bar(most - int(self.known.sum()), show) as bar:
            used, deviation = self._used(budget, bar)
        columns = [*self.values, *map(torch.zeros_like, self.values)]
        if not bool(used.all()):
            columns = self._completed(used)
        counts = torch.stack([used[own].sum(0) for own in self._own])
        spent = [v.to(self.maps.device).unbind(1) for v in (counts, deviation)]
        return [
            self._table(target, [column[:, number] for column in columns], Spent(*own))
            for number, (target, *own) in enumerate(zip(self.targets, *spent, strict=True))
        ]

    def _used(self, budget: Budget | None, bar: Progress) -> tuple[Tensor, Tensor]:
        """Forward what a budget needs; return what each target rests on, and its deviation.

        Targets stop each for itself, so that none depends on the company it is explained in, and
        so do examples.

        Returns:
            *tuple* of (M, T) bool and (N, T).
        """
        everything = torch.ones_like(self.known)
        used = everything[:, None].repeat(1, len(self.targets))
        deviation = torch.zeros(len(self._own), len(self.targets))
        if budget is None:
            self._forward(everything, bar)
            return used, deviation
        chosen, going = torch.zeros_like(everything), torch.ones_like(deviation, dtype=torch.bool)
        fixed = isinstance(budget.max_masks, int)
        most = budget.max_masks if isinstance(budget.max_masks, int) else FIRST_BUDGET
        while bool(going.any()):
            on = going.any(1)[self._rows]
            chosen[on] = budgeted(self._rows[on], self._low[on], self._gains[on], most, chosen[on])
            self._forward(chosen, bar)
            for example in going.any(1).nonzero()[:, 0].tolist():
                own = self._own[example]
                if bool(chosen[own].all()):
                    going[example] = False
                    continue
                d = self._deviation(own, chosen[own], budget.weights)
                done = going[example] & (fixed | (d <= budget.tolerance))
                used[own] = torch.where(done, chosen[own][:, None], used[own])
                deviation[example] = torch.where(done, d, deviation[example])
                going[example] &= ~done
            most += ROUND * (1 + most // (8 * ROUND))
        return used, deviation

    def _forward(self, chosen: Tensor, bar: Progress) -> None:
        """Forward those of the chosen masks, (M,) bool, that were not yet."""
        new = chosen & ~self.known
        if not bool(new.any()):
            return
        on = slice(None) if bool(new.all()) else new.to(self.masks.rows.device)
        shown = self.masks.maps[on].to(self.scorer.device)

        def masks(chunk: slice) -> list[Tensor]:
            return self.finish([resize(shown[chunk], size) for size in self.scorer.sizes])

        reads = self.scorer.score_rows(self.masks.rows[on], masks, targets=self.targets, bar=bar)
        found = [torch.stack(values, dim=1) for values in zip(*reads, strict=True)]
        if not bool(self.known.any()):
            self.values = [v.new_zeros(len(new), v.shape[1]) for v in found]
        for values, new_values in zip(self.values, found, strict=True):
            values[new.to(values.device)] = new_values
        self.known |= new

    def _deviation(self, own: Tensor, forwarded: Tensor, weights: Weights) -> Tensor:
        """Return the estimated deviation of an example's map for every target, (T,)."""
        known = own[forwarded]
        logits, scores = (values[known.to(values.device)].cpu() for values in self.values)
        d = torch.zeros(len(self.targets))
        for kind, on in self._kinds().items():
            d[on] = predicted_deviation(
                self._low[own], forwarded.nonzero()[:, 0], logits[:, on], scores[:, on],
                self._sums[own], weights, kind,
            ).float()  # fmt: skip
        return d

    def _completed(self, used: Tensor) -> list[Tensor]:
        """Return logits, scores and their deviations of all masks, predicted where not `used`."""
        logits, scores = (values.cpu() for values in self.values)
        found = [v.new_zeros(used.shape) for v in (logits, scores) * 2]
        for kind, on in self._kinds().items():
            # Targets that rest on the same masks share what makes predictions of them.
            for first in dict.fromkeys(used[:, t].numpy().tobytes() for t in on):
                same = [t for t in on if used[:, t].numpy().tobytes() == first]
                chosen = used[:, same[0]]
                known, earned = (values[chosen][:, same] for values in (logits, scores))
                some = completed(self._rows, self._low, chosen, known, earned, kind)
                for column, values in zip(found, some, strict=True):
                    column[:, same] = values
        return found

    def _kinds(self) -> dict[Score, list[int]]:
        """Return the targets' numbers by what their scores are."""
        kinds: dict[Score, list[int]] = {}
        for number, target in enumerate(self.targets):
            kinds.setdefault(target.score, []).append(number)
        return kinds

    def _table(self, target: TargetScores, columns: Sequence[Tensor], spent: Spent) -> MaskScores:
        """Spread what distinct masks earned over the maps that they stand for."""
        live, base = self.masks.channels, self.scorer.baseline_for(target)
        zero = torch.zeros_like(base.scores)
        table = []
        for start, values in zip((zero, base.scores, zero, zero), columns, strict=True):
            column = start.to(live.device).repeat(1, live.shape[1])
            column[live] = values.to(column)[self.masks.inverse]
            table.append(column)
        cause = "the network overflows on them, or a callable score returns such values"
        check_finite("scores of masked inputs", table[1], cause)
        return MaskScores(table[0], table[1], live, table[2], table[3], spent)

    @cached_property
    def _low(self) -> Tensor:
        return self.masks.maps[:, 0].cpu()

    @cached_property
    def _gains(self) -> Tensor:
        """What the channels of every mask can add to a map, (M,)."""
        # In float64 neither large values nor the order in which channels merge matter.
        gains = self.maps.double().flatten(2).std(2, correction=0)
        return self._merged(gains)

    @cached_property
    def _sums(self) -> Tensor:
        """The sum of the channels of every mask, (M, positions)."""
        return self._merged(self.maps.double().flatten(2))

    def _merged(self, values: Tensor) -> Tensor:
        total = values.new_zeros(len(self.masks.rows), *values.shape[2:])
        return total.index_add(0, self.masks.inverse, values[self.masks.channels]).cpu()
