"""Smooth masks made of values on a grid, and what draws them to an area."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the smooth maximum.
COLDNESS = 20.0
# Mask values that differ by less rank as equals: rounding alone would tell them apart.
RANKED = 4096


class SmoothMasks:
    """Makes masks of values on a grid, and takes gradients at the masks back to them.

    Every pixel has the smooth maximum of the values near it, each weaker the farther it is: a
    mask cannot be finer than the kernel.

    Args:
        size (Sequence[int]): of the masks.
        cells (int): cells along each dimension, at most one a pixel.
        sigma (float): reach of a grid point, in cells.
        like (Tensor): gives device and dtype.
    """

    def __init__(self, size: Sequence[int], cells: int, sigma: float, like: Tensor) -> None:
        cell = [math.ceil(n / cells) for n in size]
        self.size = tuple(size)
        self.grid = [math.ceil(n / c) for n, c in zip(size, cell, strict=True)]
        self.reach = min(1 + math.ceil(sigma), max(self.grid))
        offsets = torch.arange(-self.reach, self.reach + 1).to(like)
        squares = like.new_zeros(())
        # Over the pixels of a cell and the grid points around it, dimension by dimension.
        for dim, c in enumerate(cell):
            places = (2 * torch.arange(c).to(like) + 1 - c) / (2 * c)
            shape = [1] * 2 * len(cell)
            shape[dim], shape[len(cell) + dim] = c, len(offsets)
            squares = squares + (places[:, None] - offsets).square().reshape(shape)
        beyond = (squares.sqrt() / sigma - 0.5).clamp(min=0)
        self.kernel = (-2 * beyond.square()).exp().flatten(len(cell))

    def masks(self, p: Tensor) -> Tensor:
        """Return the masks of values p (R, 1, *grid), (R, 1, *size)."""
        # One at a time: every pixel weighs all grid points around its cell.
        return torch.cat([self._mask(one) for one in torch.split(p, 1)])

    def gradients(self, p: Tensor, at_masks: Tensor) -> Tensor:
        """Return the gradients at p of what has these gradients at its masks."""
        found: list[Tensor] = []
        for one, gradient in zip(torch.split(p, 1), torch.split(at_masks, 1), strict=True):
            with torch.enable_grad():
                leaf = one.detach().requires_grad_()
                found += torch.autograd.grad(self._mask(leaf), leaf, gradient)
        return torch.cat(found)

    def _mask(self, p: Tensor) -> Tensor:
        dims = len(self.size)
        near = F.pad(p, [self.reach] * 2 * dims)
        for dim in range(2, 2 + dims):
            near = near.unfold(dim, 2 * self.reach + 1, 1)
        near = near.flatten(2 + dims)
        v = near.reshape(*near.shape[:-1], *[1] * dims, -1) * self.kernel
        smax = (v * (COLDNESS * v).softmax(-1)).sum(-1)
        # Cells beside their own pixels, dimension by dimension.
        beside = chain(*((2 + dim, 2 + dims + dim) for dim in range(dims)))
        whole = smax.permute(0, 1, *beside)
        lengths = [g * c for g, c in zip(self.grid, self.kernel.shape[:-1], strict=True)]
        crop: tuple[Any, ...] = (..., *(slice(n) for n in self.size))
        return whole.reshape(1, 1, *lengths)[crop]


def area_gradients(masks: Tensor, counts: Tensor) -> Tensor:
    """Return the gradients of the mean square between ranked masks and their templates.

    Args:
        masks (Tensor): (R, 1, *spatial).
        counts (Tensor): how many of its pixels each mask should show, (R,).

    Examples::

        >>> area_gradients(torch.tensor([[[0.25, 0.5, 0.0, 0.75]]]), torch.tensor([1]))
        tensor([[[ 0.1250,  0.2500,  0.0000, -0.1250]]])
    """
    values = (RANKED * masks.flatten(1)).round()
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    equal = torch.searchsorted(ordered, values, right=True) - below
    above = values.shape[1] - below - equal
    # Equal values share the ones that are left to them.
    template = (counts[:, None] - above).clamp(min=0).minimum(equal) / equal
    return 2 * (masks - template.to(masks).reshape(masks.shape)) / values.shape[1]
