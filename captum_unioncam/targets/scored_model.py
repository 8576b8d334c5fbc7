"""Targets for attributions that take none."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.engine.callable_targets import values_of
from captum_unioncam.engine.captum_compat import ScoreOfOutput


class ScoredModel(nn.Module):
    """A model that returns what a target makes of its output, (N,): targets for any attribution.

    Captum's own methods take no callable as target; around this module they need none.

    Args:
        forward_func (Callable or torch.nn.Module): the model, or any function of it.
        target (Callable): takes what it returns, gives one score per row.

    Examples::

        >>> from captum.attr import LayerGradCam
        >>> from captum_unioncam.targets import ClassContrast
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> scored = ScoredModel(net.eval(), ClassContrast(0, [1, 2]))
        >>> LayerGradCam(scored, net[1]).attribute(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 1, 6, 6])
    """

    def __init__(self, forward_func: Callable[..., Any], target: ScoreOfOutput) -> None:
        super().__init__()
        for name, value in (("forward_func", forward_func), ("target", target)):
            if not callable(value):
                raise TypeError(f"{name} must be callable, got {type(value).__name__}")
        self.forward_func, self.target = forward_func, target
        model = forward_func if isinstance(forward_func, nn.Module) else None
        self.training = model.training if model is not None else False

    def forward(self, *inputs: Any) -> Tensor:
        """Return the target's scores of these inputs, (N,)."""
        output = self.forward_func(*inputs)
        rows = next(len(x) for x in inputs if isinstance(x, Tensor) and x.dim())
        return values_of(self.target, output, torch.arange(rows))
