"""What ``captum.metrics.sensitivity_max`` needs around a layer attribution."""

from collections.abc import Callable
from typing import Any

from captum.attr import Attribution
from torch import Tensor


def as_explanation_func(attribution: Attribution) -> Callable[..., tuple[Tensor, ...]]:
    """Wrap a layer attribution for `captum.metrics.sensitivity_max`.

    That metric reads the first explanation as a tuple and, given the bare Tensor that every
    layer attribution of Captum returns, iterates over its examples: results come out too large
    or it fails. The wrapper returns a tuple, which it handles correctly.

    Args:
        attribution (Attribution): any attribution object.

    Returns:
        *Callable* that takes what ``attribution.attribute`` takes and returns its maps as a
        tuple.

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> from captum.metrics import sensitivity_max
        >>> from captum_unioncam import LayerUnionCAM
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> explain = as_explanation_func(LayerUnionCAM(net.eval(), net[1]))
        >>> sensitivity_max(explain, torch.rand(2, 3, 8, 8), target=1).shape
        torch.Size([2])
    """

    def explanation_func(inputs: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        maps = attribution.attribute(inputs, **kwargs)
        return maps if isinstance(maps, tuple) else (maps,)

    return explanation_func
