"""Scores of the inputs with equal areas of maps kept or dropped, equal masks forwarded once."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from captum_unioncam.engine.areas import masks_at_area
from captum_unioncam.engine.arguments import check_finite
from captum_unioncam.engine.maps import resize
from captum_unioncam.engine.mask_scoring import MaskScorer


class AreaMasks(NamedTuple):
    """The distinct masks of the largest values of maps.

    Attributes:
        rows (Tensor): the example that each belongs to, (R,).
        masks (list[Tensor]): True where the input is kept, one (R, 1, *size) per masked input.
        places (Tensor): which of them every map has at every area, (N, K, areas); -1 for none.
    """

    rows: Tensor
    masks: list[Tensor]
    places: Tensor


def area_masks(
    maps: Tensor, live: Tensor, areas: Sequence[float], sizes: Sequence[Sequence[int]]
) -> AreaMasks:
    """Return the masks of maps resized to each of the masked inputs.

    Equal masks of an example are one, so that maps of the same order have exactly equal scores.

    Args:
        maps (Tensor): (N, K, *spatial).
        live (Tensor): which of them are masks at all, (N, K) bool.
        areas (Sequence[float]): shares of the pixels, between 0 and 1.
        sizes (Sequence[Sequence[int]]): sizes of the masked inputs.

    Raises:
        ValueError: if an area holds no pixel or all of them.

    Examples::

        >>> maps = torch.tensor([[[0.2, 0.9, 0.5], [2.0, 9.0, 5.0], [1.0, 1.0, 1.0]]])
        >>> live = torch.tensor([[True, True, False]])
        >>> area_masks(maps, live, [0.34], [[3]])[1:]
        ([tensor([[[False,  True, False]]])], tensor([[[ 0], [ 0], [-1]]]))
    """
    rows: list[int] = []
    chosen: list[list[Tensor]] = [[] for _ in sizes]
    known: dict[tuple[int, tuple[bytes, ...]], int] = {}
    places = torch.full((*maps.shape[:2], len(areas)), -1)
    for n, of_example in enumerate(maps):
        # One example at a time: the order of pixels takes eight bytes for each.
        kept = [masks_at_area(resize(of_example[None], size), areas)[0].bool() for size in sizes]
        told = [masks.cpu().numpy() for masks in kept]
        for k, a in product(live[n].cpu().nonzero()[:, 0].tolist(), range(len(areas))):
            key = (n, tuple(masks[k, a].tobytes() for masks in told))
            if key not in known:
                known[key] = len(rows)
                rows.append(n)
                for masks, of_size in zip(chosen, kept, strict=True):
                    masks.append(of_size[k, a])
            places[n, k, a] = known[key]
    empty = [torch.zeros(0, 1, *size, dtype=torch.bool, device=maps.device) for size in sizes]
    return AreaMasks(
        torch.tensor(rows, dtype=torch.long),
        [torch.stack(m)[:, None] if m else none for m, none in zip(chosen, empty, strict=True)],
        places,
    )


def area_scores(scorers: Sequence[MaskScorer], found: AreaMasks, *, keep: bool) -> Tensor:
    """Return what maps score with areas kept, or dropped, on the CPU.

    Args:
        scorers (Sequence[MaskScorer]): one for each background.
        found (AreaMasks): what is kept.
        keep (bool): keep the areas; drop them otherwise.

    Returns:
        *Tensor* of means over areas and backgrounds, (N, K), in float64; zero for maps without a
        mask.
    """
    total = torch.zeros(found.places.shape, dtype=torch.float64)
    if not len(found.rows):
        return total.mean(2)

    def shown(chunk: slice) -> list[Tensor]:
        return [(m[chunk] if keep else ~m[chunk]).float() for m in found.masks]

    for scorer in scorers:
        ((_, scores),) = scorer.score_rows(found.rows, shown)
        cause = "the network overflows on them, or a callable score returns such values"
        check_finite("scores of masked inputs", scores, cause)
        total += scores.cpu().double()[found.places]
    return (total / len(scorers)).where(found.places >= 0, 0).mean(2)
