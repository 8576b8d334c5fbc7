"""Scores of inputs that keep what a mask shows, and of those that keep all else."""

from typing import NamedTuple

import torch
from torch import Tensor

from captum_unioncam.engine.layer_state import LayerState
from captum_unioncam.engine.maps import distinct, unit_range
from captum_unioncam.engine.ties import first_largest

# Of the noise that `spanning` reckons with, as a share of the masks' mean variance.
NOISE = 1.0


class MaskPairs(NamedTuple):
    """Masks of one example that were scored together with their complements, in float64 on the CPU.

    Attributes:
        masks (Tensor): the masks at the layer's resolution, in [0, 1], (M, P).
        keep (Tensor): scores of what the masks show, (M,).
        drop (Tensor): scores of what they hide, (M,).
    """

    masks: Tensor
    keep: Tensor
    drop: Tensor


def scored_pairs(state: LayerState, count: int) -> list[MaskPairs]:
    """Score up to `count` channels of each example as masks, and their complements.

    They span the other channels. All targets and methods that ask share the forwards.
    """
    A = state.activations
    found = distinct(unit_range(A))
    rows, maps = found.rows.cpu(), found.maps.cpu().double().flatten(1)
    chosen = [spanning(maps[rows == example], count) for example in range(len(A))]
    padded = A.new_zeros(len(A), max(1, *map(len, chosen)), *A.shape[2:])
    for some, masks in zip(padded, chosen, strict=True):
        some[: len(masks)] = masks.reshape(len(masks), *A.shape[2:]).to(A)
    # A negated map, scaled to [0, 1], is the complement; flat ones are not forwarded.
    scores = state.scores_once(("pairs", count), torch.cat([padded, -padded], dim=1)).scores
    keep, drop = scores.cpu().double().chunk(2, dim=1)
    return [
        MaskPairs(masks, keep[n, : len(masks)], drop[n, : len(masks)])
        for n, masks in enumerate(chosen)
    ]


def spanning(masks: Tensor, count: int, noise: float = NOISE) -> Tensor:
    """Return those of masks (M, P) that span the others, (min(count, M), P).

    Greedy pivoted Cholesky of the Gram matrix of the centred masks: next comes the mask that
    those before it tell least about, each measured with some noise; the first of equal ones.

    Args:
        masks (Tensor): masks, (M, P).
        count (int): how many to choose at most.
        noise (float, optional): variance of a measurement as a share of the masks' mean one;
            without any, only as many masks as there are positions would differ from the
            others. Default: 1.0

    Examples::

        >>> masks = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]])
        >>> spanning(masks, 2)
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """
    X = masks - masks.mean(0)
    variance = X.square().sum(1)
    # What differences of variances round with.
    size = variance.norm()
    of_noise = noise * variance.mean()
    factors = X.new_zeros(len(X), min(count, len(X)))
    chosen: list[int] = []
    for n in range(factors.shape[1]):
        pivot = int(first_largest(variance[None], size))
        column = X @ X[pivot] - factors[:, :n] @ factors[pivot, :n]
        factors[:, n] = column / (column[pivot] + of_noise).sqrt()
        variance = variance - factors[:, n].square()
        chosen.append(pivot)
        variance[chosen] = -torch.inf
    return masks[chosen]
