"""Targets and outputs of any kind for attributions that take none."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.engine.callable_targets import Functions, is_callable_target, values_of
from captum_unioncam.engine.target_scores import check_output


class ScoredModel(nn.Module):
    """A model that returns what a target makes of its output, (N,): targets for any attribution.

    Captum's own methods take no callable as target; around this module they need none. They take
    no output but a tensor either: without a target this module returns the scores in the output,
    such as the logits of a ModelOutput.

    Args:
        forward_func (Callable or torch.nn.Module): the model, or any function of it.
        target (Callable or list, optional): takes what it returns, gives one score per row; or a
            list of one for each example, for attributions that forward every example once; None
            returns the scores as they are. Default: None

    Raises:
        TypeError: if an argument is not callable.
        ValueError: when called, if there is a target per example, but not one per row.

    Examples::

        >>> from captum.attr import LayerGradCam
        >>> from captum_unioncam.targets import ClassContrast
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> scored = ScoredModel(net.eval(), ClassContrast(0, [1, 2]))
        >>> LayerGradCam(scored, net[1]).attribute(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 1, 6, 6])
    """

    def __init__(self, forward_func: Callable[..., Any], target: Functions | None = None) -> None:
        super().__init__()
        if not callable(forward_func):
            raise TypeError(f"forward_func must be callable, got {type(forward_func).__name__}")
        if target is not None and not is_callable_target(target):
            raise TypeError(
                f"target must be callable, or a list of callables, got {type(target).__name__}"
            )
        self.forward_func, self.target = forward_func, target
        model = forward_func if isinstance(forward_func, nn.Module) else None
        self.training = model.training if model is not None else False

    def forward(self, *inputs: Any) -> Tensor:
        """Return the target's scores of these inputs, (N,), or all scores without a target."""
        output = self.forward_func(*inputs)
        rows = next(len(x) for x in inputs if isinstance(x, Tensor) and x.dim())
        if self.target is None:
            return check_output(output, rows)
        if isinstance(self.target, list) and len(self.target) != rows:
            raise ValueError(
                f"target has {len(self.target)} entries, one per example, but the model is given "
                f"{rows} rows: this attribution repeats examples, so explain them one by one"
            )
        return values_of(self.target, output, torch.arange(rows))
