"""Arithmetic on stacks of maps of shape (rows, channels, *spatial)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_unioncam.engine.ties import rounding, settled

RESIZE_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


def spatial_dims(maps: Tensor) -> tuple[int, ...]:
    """Return the dimensions that follow rows and channels."""
    return tuple(range(2, maps.dim()))


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize linearly, bilinearly or trilinearly by rank, as Captum's `interpolate` would.

    Along a dimension of one position the result is exactly constant.
    """
    # Interpolated, equal values would differ by rounding, which orders and ranks would follow.
    single = [n if m > 1 else 1 for m, n in zip(maps.shape[2:], size, strict=True)]
    resized = F.interpolate(maps, single, mode=RESIZE_MODES[maps.dim()], align_corners=False)
    whole = (*maps.shape[:2], *size)
    return resized if resized.shape == whole else resized.expand(whole).contiguous()


def min_max(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map `low` to 0 and `high` to 1; where the two are equal the result is exactly zero."""
    span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), 0)


def extrema(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return each map's smallest and largest value, ready to broadcast against it.

    The two are equal for a map that rounding alone makes uneven (`TIE`), which is flat.
    """
    dims = spatial_dims(maps)
    return levelled(maps.amin(dims, keepdim=True), maps.amax(dims, keepdim=True))


def levelled(low: Tensor, high: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return extrema that are equal where rounding alone tells them apart.

    Args:
        low (Tensor): smallest values.
        high (Tensor): largest values.
        scale (Tensor, optional): how large what they were made of was. Default: the larger of them

    Examples::

        >>> levelled(torch.tensor([1.0, 1.0]), torch.tensor([1.0 + 1e-6, 2.0]))
        (tensor([1., 1.]), tensor([1., 2.]))
    """
    scale = torch.maximum(low.abs(), high.abs()) if scale is None else scale
    return low, high.where(high - low > rounding(scale), low)


def unit_range(maps: Tensor, scale: Tensor | None = None) -> Tensor:
    """Min-max scale every map to [0, 1] at its own resolution; flat maps become zero.

    Args:
        maps (Tensor): maps of shape (rows, channels, *spatial).
        scale (Tensor, optional): how large the values are that went into a map, where they
            are larger than its own, since its rounding is theirs; broadcasts to its extrema.
            Default: None
    """
    low, high = extrema(maps)
    if scale is not None:
        low, high = levelled(low, high, scale)
    return min_max(maps, low, high)


def resized_extrema(resized: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the extrema over all the sizes that one map was resized to."""
    ends = [extrema(maps) for maps in resized]
    low, high = ends[0]
    for next_low, next_high in ends[1:]:
        low, high = torch.minimum(low, next_low), torch.maximum(high, next_high)
    return levelled(low, high)


def scale_for_resize(maps: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
    """Scale maps so that they span [0, 1] once resized to `sizes`; flat maps become zero.

    Resizing is linear with weights that sum to one, so it commutes with this scaling: the
    result resized is the mask that the resized map min-max scales to.
    """
    unit = unit_range(maps)
    return min_max(unit, *resized_extrema([resize(unit, size) for size in sizes]))


def spatial_mean(values: Tensor) -> Tensor:
    """Return the mean over space, (N, C, 1, ...); zero where values cancel but for rounding."""
    dims = spatial_dims(values)
    return settled(values.mean(dims, keepdim=True), values.abs().mean(dims, keepdim=True))


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Return sum_k w_k A_k, (N, 1, *spatial), for weights (N, C) or of A's rank."""
    if weights.dim() == 2:
        weights = weights.reshape(*weights.shape, *[1] * (activations.dim() - 2))
    return (weights.to(activations.dtype) * activations).sum(1, keepdim=True)


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with exactly zero where the denominator is zero."""
    return torch.where(denominator != 0, numerator / denominator.where(denominator != 0, 1), 0)


def percentile(values: Tensor, theta: float, *, of_positive: bool = False) -> Tensor:
    """Return the theta-percentile of each map, interpolated linearly between order statistics.

    Args:
        values (Tensor): maps of shape (rows, channels, *spatial).
        theta (float): percentile in [0, 100].
        of_positive (bool, optional): count only the values above zero. A map without any
            gives its largest value. Default: False

    Returns:
        *Tensor* of shape (rows, channels, 1, ...), ready to broadcast against `values`.

    Examples::

        >>> import torch
        >>> percentile(torch.tensor([[[4.0, 1.0, 3.0, 2.0]]]), 50).item()
        2.5
    """
    # Sorting has no limit on size or dtype, which torch.quantile has.
    ordered = values.flatten(2).sort(dim=2).values
    total = ordered.shape[2]
    counted = (ordered > 0).sum(2, keepdim=True) if of_positive else ordered.new_tensor(total)
    # theta * (n - 1) / 100 is exact where theta / 100 * (n - 1) can miss an order statistic.
    rank = (total - counted) + theta * (counted - 1).clamp(min=0).double() / 100
    rank = rank.clamp(max=total - 1).expand(*ordered.shape[:2], 1)
    below, above = ordered.gather(2, rank.floor().long()), ordered.gather(2, rank.ceil().long())
    value = torch.lerp(below, above, rank.frac().to(below.dtype))
    return value.reshape(*values.shape[:2], *[1] * (values.dim() - 2))


class DistinctMaps(NamedTuple):
    """The maps worth a forward, and where each map of the stack finds its score.

    Attributes:
        rows (Tensor): the row that each distinct map belongs to, (M,).
        maps (Tensor): distinct maps that are not flat, (M, 1, *spatial).
        channels (Tensor): which channels of the stack are not flat, (N, K) bool.
        inverse (Tensor): the distinct map of each of those channels, (channels.sum(),).
    """

    rows: Tensor
    maps: Tensor
    channels: Tensor
    inverse: Tensor


def distinct(unit_maps: Tensor) -> DistinctMaps:
    """Drop flat maps and merge equal ones, row by row.

    On ReLU networks a third or more of a layer's channels are flat and many of the others
    have a single active cell, which min-max scaling makes equal.
    """
    flat = unit_maps.flatten(2)
    channels = flat.ne(0).any(2)
    rows = torch.arange(len(flat), device=flat.device)[:, None].expand_as(channels)[channels]
    # The row number as first column keeps equal maps of different rows apart.
    keyed = torch.cat([rows[:, None].to(flat.dtype), flat[channels]], dim=1)
    table, inverse = torch.unique(keyed, dim=0, return_inverse=True)
    maps = table[:, 1:].reshape(-1, 1, *unit_maps.shape[2:])
    return DistinctMaps(table[:, 0].long(), maps, channels, inverse)
