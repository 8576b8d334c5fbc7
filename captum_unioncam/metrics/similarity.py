"""How similar two maps are, whatever their scale."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_unioncam.engine.maps import extrema, unit_range

Similarity = Literal["spearman", "pearson", "ssim"]

# Constants of SSIM (Wang, Bovik, Sheikh, Simoncelli, 2004) for values in [0, 1].
WINDOW = 7
C1, C2 = 0.01**2, 0.03**2


def similarities(a: Tensor, b: Tensor, similarity: Similarity = "spearman") -> Tensor:
    """Compare maps (N, 1, *spatial) pair by pair.

    Args:
        a (Tensor): maps, (N, 1, *spatial), in float64.
        b (Tensor): maps of the same shape.
        similarity (str, optional): "spearman", "pearson" or "ssim". Default: "spearman"

    Returns:
        *Tensor* in [-1, 1], (N,), in float32; 0 where a map is constant.

    Raises:
        ValueError: if shapes differ, or maps are too small for SSIM.

    Examples::

        >>> a = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
        >>> similarities(a, a.exp()), similarities(a, -a, "pearson")
        (tensor([1.]), tensor([-1.]))
    """
    if a.shape != b.shape:
        raise ValueError(f"maps must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if similarity == "ssim":
        values = _ssim(unit_range(a), unit_range(b)).where(_varies(a) & _varies(b), 0)
    elif similarity == "pearson":
        values = correlation(a, b).nan_to_num(0)
    else:
        values = correlation(*(mean_ranks(maps.flatten(1)) for maps in (a, b))).nan_to_num(0)
    return values.float()


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of each pair of maps, over their values.

    Args:
        a (Tensor): maps, (N, *any size).
        b (Tensor): maps of as many values.

    Returns:
        *Tensor* in [-1, 1], (N,), in float64; NaN where a map is constant, which correlates with
        nothing.

    Examples::

        >>> maps = torch.tensor([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0]])
        >>> correlation(maps, 3 - 2 * maps)
        tensor([-1., nan], dtype=torch.float64)
    """
    # Constant by their extrema, since rounding lets values differ from their mean; scaled first,
    # so that the squares of tiny maps do not vanish.
    a, b = (maps.flatten(1).double()[:, None] for maps in (a, b))
    vary = _varies(a) & _varies(b)
    a, b = (unit_range(maps)[:, 0] for maps in (a, b))
    a, b = (maps - maps.mean(1, keepdim=True) for maps in (a, b))
    scale = ((a * a).sum(1) * (b * b).sum(1)).sqrt().where(vary, torch.nan)
    return ((a * b).sum(1) / scale).clamp(-1, 1)


def _varies(maps: Tensor) -> Tensor:
    low, high = extrema(maps)
    return (high > low).flatten()


def mean_ranks(values: Tensor) -> Tensor:
    """Return the rank of every value within its row, from 0; equal values share their mean rank.

    Examples::

        >>> mean_ranks(torch.tensor([[0.3, 0.1, 0.3, 0.9]]))
        tensor([[1.5000, 0.0000, 1.5000, 3.0000]], dtype=torch.float64)
    """
    ranks = []
    for row in values:
        _, inverse, counts = torch.unique(row, return_inverse=True, return_counts=True)
        last = counts.cumsum(0)
        ranks.append((last - (counts + 1) / 2.0).double()[inverse])
    return torch.stack(ranks)


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean SSIM over all windows that lie within maps in [0, 1], (N,)."""
    if a.dim() != 4 or min(a.shape[2:]) < WINDOW:
        raise ValueError(
            f"SSIM compares maps of at least {WINDOW} x {WINDOW}, got {tuple(a.shape[2:])}; "
            'take similarity="spearman" or another layer'
        )

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, WINDOW, stride=1)

    mean_a, mean_b = mean(a), mean(b)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variances = unbiased * (mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2)
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return (luminance * (2 * covariance + C2) / (variances + C2)).mean((1, 2, 3))
