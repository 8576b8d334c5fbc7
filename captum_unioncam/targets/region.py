"""A class over a region of a segmentation network's output."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_choice, check_finite, check_flag
from captum_unioncam.targets.common import check_index, in_range, scores_in


@dataclass(frozen=True, eq=False)
class ClassOverRegion:
    r"""A class over a region of the output of a segmentation network.

    .. math::
        f_c = \frac{\sum_i m_i \, y_{ci}}{\sum_i m_i}

    with :math:`y_{ci}` the raw output of class c at position i and m the region's mask;
    ``reduce="sum"`` leaves out the denominator. With ``probability=True`` the softmax over classes
    takes the place of y.

    Source: Vinogradova, Dibrov, Myers: Towards Interpretable Semantic Segmentation via
    Gradient-weighted Class Activation Mapping. AAAI, 2020 (the sum over a set of pixels).
    https://arxiv.org/abs/2002.11434

    Args:
        index (int): the class.
        region (Tensor or tuple[slice, ...], optional): a mask of the output's size, bool or
            weights of at least 0; or one slice for each of its dimensions; None takes every
            position. Default: None
        reduce (str, optional): "mean" or "sum" over the region. Default: "mean"
        probability (bool, optional): the class's softmax probability instead of its raw output.
            Default: False

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the region is empty; when called, if it is not of the output's size.

    Examples::

        >>> target = ClassOverRegion(1, torch.tensor([[True, False], [True, False]]))
        >>> output = torch.arange(8.0).reshape(1, 2, 2, 2)
        >>> target(output), target({"out": output})
        (tensor([5.]), tensor([5.]))
        >>> ClassOverRegion(1, (slice(0, 1), slice(0, 2)), "sum")(output)
        tensor([9.])
    """

    index: int
    region: Tensor | tuple[slice, ...] | None = field(default=None, repr=False)
    reduce: Literal["mean", "sum"] = "mean"
    probability: bool = False

    def __post_init__(self) -> None:
        check_index("index", self.index)
        check_choice("reduce", self.reduce, ("mean", "sum"))
        check_flag("probability", self.probability)
        if isinstance(self.region, Tensor):
            mask = self.region
            if mask.is_complex() or bool((mask.double() < 0).any()):
                raise ValueError("region must be a mask, or weights of at least 0")
            check_finite("region", mask.double().reshape(1, -1), "give 0 to what does not count")
            if not bool(mask.any()):
                raise ValueError("region is empty: its mask has no position that is not zero")
        elif self.region is not None and not (
            isinstance(self.region, tuple) and all(isinstance(s, slice) for s in self.region)
        ):
            raise TypeError(
                "region must be a Tensor of the output's size, a tuple of slices or None, got "
                f"{type(self.region).__name__}"
            )

    def __call__(self, output: Any) -> Tensor:
        """Return f of every row of what the model returned, (R,)."""
        scores = scores_in(output)
        if scores.dim() < 3:
            raise ValueError(
                "a class over a region needs outputs of shape (N, classes, *size), got "
                f"{tuple(scores.shape)}; for one score per class the target is its index"
            )
        at = in_range(self.index, scores.shape[1])
        shown = (scores.softmax(1) if self.probability else scores)[:, at]
        mask = self._mask(shown[0]).to(shown)
        summed = (shown * mask).flatten(1).sum(1)
        return summed / mask.sum() if self.reduce == "mean" else summed

    def _mask(self, like: Tensor) -> Tensor:
        size = tuple(like.shape)
        if self.region is None:
            return torch.ones_like(like)
        if isinstance(self.region, Tensor):
            if tuple(self.region.shape) != size:
                raise ValueError(
                    f"region has size {tuple(self.region.shape)}, but the model's output has "
                    f"{size}; resize the mask with torch.nn.functional.interpolate(..., {size}, "
                    "mode='nearest')"
                )
            return self.region
        if len(self.region) != len(size):
            raise ValueError(
                f"region has {len(self.region)} slices, but the model's output has {len(size)} "
                f"dimensions of positions, {size}"
            )
        mask = torch.zeros_like(like)
        mask[self.region] = 1
        if not bool(mask.any()):
            raise ValueError(f"region {self.region} lies beyond the model's output of size {size}")
        return mask
