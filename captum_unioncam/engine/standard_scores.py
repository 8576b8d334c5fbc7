"""Scores and maps on scales that can be compared and added."""

import torch
from torch import Tensor

from captum_unioncam.engine.maps import levelled, quotient

# Probabilities in single precision are known this well next to 0 and to 1.
LEAST, ROUNDING = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).eps


def z_score(values: Tensor) -> Tensor:
    """Return values less their mean, in standard deviations, over the last dimension.

    Where all are equal, but for rounding, the result is exactly zero.

    Examples::

        >>> z_score(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
        tensor([[-1.,  1.],
                [ 0.,  0.]])
    """
    low, high = levelled(values.amin(-1, keepdim=True), values.amax(-1, keepdim=True))
    centred = (values - values.mean(-1, keepdim=True)).where(high > low, 0)
    return quotient(centred, centred.square().mean(-1, keepdim=True).sqrt())


def log_odds_of(p: Tensor) -> Tensor:
    """Return log p - log(1 - p), as far as single precision tells p from 0 and 1.

    Examples::

        >>> log_odds_of(torch.tensor([0.5, 1.0]))
        tensor([ 0.0000, 15.9424])
    """
    return p.clamp(min=LEAST).log() - (1 - p).clamp(min=ROUNDING).log()
