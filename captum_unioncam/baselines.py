"""Small pieces that a Captum pipeline needs around a class activation map."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor


def black_baseline(mean: Sequence[float], std: Sequence[float], like: Tensor) -> Tensor:
    r"""Return the black image as a model sees it that normalises with `mean` and `std`.

    A black pixel is :math:`(0 - mean) / std` per channel. With it as baseline, masking in the
    model's input space equals masking the picture itself and normalising afterwards.

    Args:
        mean (Sequence[float]): one mean per channel, for pictures in [0, 1].
        std (Sequence[float]): one standard deviation per channel, positive.
        like (Tensor): inputs of shape (N, channels, *spatial); gives shape, dtype and device.

    Returns:
        *Tensor* of shape (1, channels, *spatial), a baseline for any Captum method.

    Raises:
        TypeError: if `like` is not a floating point tensor.
        ValueError: if `mean`, `std` and the channels of `like` differ in number, or a standard
            deviation is not positive.

    Examples::

        >>> images = torch.zeros(4, 3, 8, 8)
        >>> baseline = black_baseline([0.5, 0.5, 0.5], [0.25, 0.25, 0.5], images)
        >>> baseline.shape, baseline[0, :, 0, 0]
        (torch.Size([1, 3, 8, 8]), tensor([-2., -2., -1.]))
    """
    if not isinstance(like, Tensor) or not like.is_floating_point():
        kind = like.dtype if isinstance(like, Tensor) else type(like).__name__
        raise TypeError(f"like must be a floating point Tensor, the model's inputs; got {kind}")
    means, stds = (torch.as_tensor(values).to(like).flatten() for values in (mean, std))
    channels = like.shape[1] if like.dim() > 1 else 0
    if not len(means) == len(stds) == channels:
        raise ValueError(
            f"mean and std need one value per channel: got {len(means)} and {len(stds)} for "
            f"inputs of shape {tuple(like.shape)}"
        )
    if not bool((stds > 0).all()):
        raise ValueError(f"std must be positive, got {stds.tolist()}")
    black = (-means / stds).reshape(1, -1, *[1] * (like.dim() - 2))
    return black.expand(1, *like.shape[1:]).contiguous()


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

        >>> from captum.metrics import sensitivity_max
        >>> from captum_unioncam import LayerUnionCAM
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(144, 2),
        ... ).eval()
        >>> explain = as_explanation_func(LayerUnionCAM(net, net[1]))
        >>> sensitivity_max(explain, torch.rand(2, 3, 8, 8), target=1).shape
        torch.Size([2])
    """

    def explanation_func(inputs: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        maps = attribution.attribute(inputs, **kwargs)
        return maps if isinstance(maps, tuple) else (maps,)

    return explanation_func
