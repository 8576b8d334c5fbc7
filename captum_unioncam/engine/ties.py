"""Ties: values that rounding alone tells apart are equal, whichever way the last bit fell.

Thresholds, largest values and flat maps decide between whole maps. Sums taken in another order,
by chunks of other sizes, other threads or another processor, move values by a few units in the
last place; a decision must not follow them. So everything in the package that decides compares
within `TIE`, and treats what is closer as equal.
"""

import torch
from torch import Tensor

# In units in the last place of the largest value that went into a number: 1.4e-14 of it in
# double, 7.6e-6 in single precision. Sums of thousands of terms round to less.
TIE = 64


def rounding(scale: Tensor) -> Tensor:
    """Return how far apart numbers made of values as large as `scale` may be, and be equal.

    Values of half precision count as exact in single precision, in which they are computed with.

    Examples::

        >>> rounding(torch.tensor([-1.0, 2.0]))
        tensor([7.6294e-06, 1.5259e-05])
    """
    eps = torch.finfo(torch.promote_types(scale.dtype, torch.float32)).eps
    return TIE * eps * scale.abs()


def settled(differences: Tensor, scale: Tensor) -> Tensor:
    """Return differences or sums, exactly zero where they are zero but for rounding.

    Args:
        differences (Tensor): what is left of larger values.
        scale (Tensor): how large these were; broadcasts.

    Examples::

        >>> settled(torch.tensor([0.3, 1e-9, -1e-9]), torch.tensor(1.0))
        tensor([0.3000, 0.0000, 0.0000])
    """
    return differences.where(differences.abs() > rounding(scale), 0)


def first_largest(values: Tensor, scale: Tensor) -> Tensor:
    """Return where the largest value of each row is; of those equal to it the first.

    Args:
        values (Tensor): (N, K).
        scale (Tensor): how large what they were made of was; broadcasts to them.

    Examples::

        >>> first_largest(torch.tensor([[0.5, 1.0, 1.0 + 1e-7]]), torch.tensor(1.0))
        tensor([1])
    """
    is_largest = values >= values.amax(1, keepdim=True) - rounding(scale)
    return is_largest.int().argmax(1)
