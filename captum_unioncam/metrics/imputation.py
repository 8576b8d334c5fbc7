"""Fills removed pixels with the weighted means of their neighbours, solved by multigrid."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_unioncam.engine import min_max

# The error at which iterations end, estimated, as a share of the range of known values.
TOLERANCE = 1e-6
# Jacobi's weight: below 1 it converges on any mask; towards 1 it smooths fastest.
OMEGA = 0.9


def linear_imputation(images: Tensor, known: Tensor) -> Tensor:
    r"""Fill unknown pixels linearly from the known ones, as ROAD does before it adds noise.

    .. math::
        u_i = \frac{\sum_j w_{ij} u_j}{\sum_j w_{ij}}, \qquad
        w_{ij} = \begin{cases} 1/6 & j \text{ beside, above or below } i \\
        1/12 & j \text{ diagonal to } i \end{cases}

    for every unknown pixel i, over those of its eight neighbours j that lie within the image;
    the neighbours can be unknown themselves, so that all equations of an image are coupled.
    Channels do not mix. The result does not depend on the values of the unknown pixels, and stays
    within the range of the known ones.

    The system is symmetric and positive definite as long as one pixel is known. It is solved in
    float64 by conjugate gradients, with one cycle of multigrid as preconditioner, until no
    pixel moves by more than 1e-6 of its channel's range (about a dozen steps at any size).

    Source of the weights: Rong, Leemann, Borisov, Kasneci, Kasneci: A Consistent and Efficient
    Evaluation Strategy for Attribution Methods. ICML, 2022. https://arxiv.org/abs/2202.00449

    Args:
        images (Tensor): images (R, C, H, W), floating point.
        known (Tensor): which pixels are known, (R, 1, H, W) bool, at least one in every image.

    Returns:
        *Tensor* of the images in float64, known pixels unchanged.

    Raises:
        ValueError: if the shapes do not fit, or no pixel of an image is known.

    Examples::

        >>> image = torch.tensor([[[[6.0, 12.0, 6.0], [0.0, 99.0, 0.0], [0.0, 0.0, 0.0]]]])
        >>> known = image < 99
        >>> round(linear_imputation(image, known)[0, 0, 1, 1].item(), 4)  # 12 / 6 + 12 / 12
        3.0
    """
    if images.dim() != 4 or known.shape != (len(images), 1, *images.shape[2:]):
        raise ValueError(
            "linear_imputation takes images (R, C, H, W) and known pixels (R, 1, H, W), got "
            f"{tuple(images.shape)} and {tuple(known.shape)}"
        )
    if not bool(known.flatten(1).any(1).all()):
        raise ValueError("every image needs a known pixel to be filled from")
    x = images.to(torch.float64)
    low = torch.where(known, x, torch.inf).amin((2, 3), keepdim=True)
    high = torch.where(known, x, -torch.inf).amax((2, 3), keepdim=True)
    unit = min_max(x, low, high).where(known, 0)
    solution = _solve(unit, (~known).to(x.dtype))
    return torch.where(known, x, low + (high - low) * solution)


class _Level(NamedTuple):
    """The equations of one grid: diagonal * u - unknown * (weighted sum of u's neighbours)."""

    unknown: Tensor
    diagonal: Tensor
    inverse: Tensor

    def apply(self, u: Tensor) -> Tensor:
        return self.diagonal * u - self.unknown * _neighbours(u)

    def smooth(self, u: Tensor, rhs: Tensor) -> Tensor:
        return u + OMEGA * self.inverse * (rhs - self.apply(u))


def _solve(known_values: Tensor, unknown: Tensor) -> Tensor:
    """Solve for the unknown pixels, given values in [0, 1] that are zero where unknown."""
    levels = _levels(unknown)
    residual = unknown * _neighbours(known_values)
    u = torch.zeros_like(residual)
    direction, previous = u, residual.new_ones(1)
    while True:
        # The cycle nearly solves the equations, so that its answer is nearly the error left.
        error = _cycle(levels, residual)
        active = error.abs().amax((2, 3), keepdim=True) > TOLERANCE
        if not bool(active.any()):
            return u
        # A channel that is done stands still: no result depends on what else is solved with it.
        product = _dot(residual, error)
        direction = error + direction * (product / previous).where(active, 0)
        image = levels[0].apply(direction)
        step = (product / _dot(direction, image)).where(active, 0)
        u, residual = u + step * direction, residual - step * image
        previous = product.where(active, 1)


def _levels(unknown: Tensor) -> list[_Level]:
    """Build the equations of the image's grid and of grids of half the side, down to 2 x 2."""
    to_known = unknown * _neighbours(1 - unknown)
    levels = []
    while True:
        diagonal = unknown * _neighbours(unknown) + to_known
        inverse = torch.where(diagonal > 0, 1 / diagonal.where(diagonal > 0, 1), 0)
        levels.append(_Level(unknown, diagonal, inverse))
        if max(unknown.shape[2:]) <= 2:
            return levels
        to_known = _coarser(to_known)
        unknown = (_coarser(unknown) > 0).to(unknown.dtype)


def _cycle(levels: list[_Level], rhs: Tensor) -> Tensor:
    """Run one V-cycle from zero: smooth, correct by the coarser grids, smooth."""
    level, coarser = levels[0], levels[1:]
    u = OMEGA * level.inverse * rhs
    if not coarser:
        for _ in range(4):
            u = level.smooth(u, rhs)
        return u
    correction = _cycle(coarser, _coarser(rhs - level.apply(u)))
    return level.smooth(u + level.unknown * _finer(correction, rhs.shape), rhs)


def _neighbours(u: Tensor) -> Tensor:
    """Return the weighted sum of every pixel's neighbours; pixels outside count as zero."""
    # The kernel is (1, 2, 1) times its transpose over 12, without the centre.
    padded = F.pad(u, (1, 1, 1, 1))
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:] - 4 * u) / 12


def _finer(u: Tensor, shape: torch.Size) -> Tensor:
    """Interpolate linearly to twice the size, cropped to the finer grid."""
    finer = F.interpolate(u, scale_factor=2, mode="bilinear", align_corners=False)
    return finer[..., : shape[2], : shape[3]]


def _coarser(u: Tensor) -> Tensor:
    """Apply the transpose of `_finer`, which keeps the preconditioner symmetric."""
    even = F.pad(u, (0, u.shape[3] % 2, 0, u.shape[2] % 2))
    p = F.pad(even, (1, 1, 1, 1), mode="replicate")
    rows = p[..., :-2:2, :] + 3 * (p[..., 1:-1:2, :] + p[..., 2::2, :]) + p[..., 3::2, :]
    return (rows[..., :-2:2] + 3 * (rows[..., 1:-1:2] + rows[..., 2::2]) + rows[..., 3::2]) / 16


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of every channel."""
    return (a * b).sum((2, 3), keepdim=True)
