"""What every metric is: its function, direction and range as data."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Metric(NamedTuple):
    """A metric of class activation maps.

    Attributes:
        title (str): its readable name.
        function (Callable): called as ``function(forward_func, inputs, attributions, ...)``.
        higher_is_better (bool): its direction.
        low (float): the smallest value it can take.
        high (float): the largest.
        unit (str): "%" or empty.
        link (str): address of the paper that defines it.
        needs (tuple[str, ...]): keywords without which it cannot be computed.
    """

    title: str
    function: Callable[..., Tensor]
    higher_is_better: bool
    low: float
    high: float
    unit: str
    link: str
    needs: tuple[str, ...] = ()
