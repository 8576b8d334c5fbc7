"""What moves a number up, or down."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_choice
from captum_unioncam.engine.target_scores import target_index
from captum_unioncam.targets.common import check_index, scores_in


@dataclass(frozen=True, eq=False)
class Regression:
    r"""What moves a number up, or down: :math:`f = y` or :math:`f = -y`.

    Raw maps of gradients turn their sign with it; clipped maps show what raises, or lowers, y.

    Source: by definition.

    Args:
        index (int or tuple[int, ...], optional): which number, where the model returns several per
            row. Default: None
        direction (str, optional): "up" or "down". Default: "up"

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if it is out of range, or there are several numbers and no index.

    Examples::

        >>> Regression(direction="down")(torch.tensor([[2.0], [-3.0]]))
        tensor([-2.,  3.])
        >>> Regression(1)(torch.tensor([[2.0, 5.0]]))
        tensor([5.])
    """

    index: int | tuple[int, ...] | None = None
    direction: Literal["up", "down"] = "up"

    def __post_init__(self) -> None:
        if self.index is not None:
            for one in self.index if isinstance(self.index, tuple) else (self.index,):
                check_index("index", one)
        check_choice("direction", self.direction, ("up", "down"))

    def __call__(self, output: Any) -> Tensor:
        """Return f of every row of what the model returned, (R,)."""
        y = scores_in(output)
        index = target_index(self.index, y)
        where: tuple[Any, ...] = (torch.arange(len(y), device=y.device), *index.unbind(1))
        values = y[where]
        return values if self.direction == "up" else -values
