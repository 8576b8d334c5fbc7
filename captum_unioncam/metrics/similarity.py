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
    vary = [(high > low).flatten() for low, high in (extrema(a), extrema(b))]
    if similarity == "ssim":
        values = _ssim(unit_range(a), unit_range(b))
    elif similarity == "pearson":
        values = _pearson(a.flatten(1), b.flatten(1))
    else:
        values = _pearson(mean_ranks(a.flatten(1)), mean_ranks(b.flatten(1)))
    return values.where(vary[0] & vary[1], 0).float()


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


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Return the correlation of each pair of rows; any number for constant ones."""
    # Scaled first, so that the squares of tiny maps do not vanish.
    a, b = (unit_range(x[:, None])[:, 0] for x in (a, b))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    scale = ((a * a).sum(1) * (b * b).sum(1)).sqrt()
    return (a * b).sum(1) / scale.where(scale > 0, 1)


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
