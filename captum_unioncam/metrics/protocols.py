"""Named protocols: what others masked, hid and inserted, so that numbers compare with theirs."""

import math
from typing import Any, Literal, NamedTuple

from torch import Tensor

from captum_unioncam.engine import check_choice
from captum_unioncam.metrics.curves import RISE_STEPS


class Protocol(NamedTuple):
    """How a source measured; scores are softmax probabilities in all of them.

    Attributes:
        title (str): its readable name.
        reproduces (str): whose numbers it makes comparable, and what the source leaves open.
        link (str): address of the source.
        baseline (str): what masked-out and deleted pixels show: "black" pixels, or "zero" in the
            model's input space, which is the mean colour of normalised inputs.
        keep (float, optional): share of the pixels that average drop, increase and gain show; None
            masks softly.
        steps (int): steps of insertion and deletion.
        insertion_start (str): what pixels show before they are inserted: the "blurred" input or
            "zero".
        blur_size (int): pixels of that blur along each dimension.
        blur_stdev (float): its standard deviation in pixels.
    """

    title: str
    reproduces: str
    link: str
    baseline: Literal["black", "zero"]
    keep: float | None
    steps: int
    insertion_start: Literal["blurred", "zero"]
    blur_size: int
    blur_stdev: float


PROTOCOLS: dict[str, Protocol] = {
    "paper": Protocol(
        "UnionCAM's paper",
        "Hu et al., Frontiers in Neurorobotics, 2024: the picture times the map, in pixels, so "
        "that what is masked out turns black. Its text does not give the steps and the blur of "
        "insertion and deletion: these are RISE's, 8 x 224 of 224 x 224 pixels a step.",
        "https://doi.org/10.3389/fnbot.2024.1490198",
        "black", None, RISE_STEPS, "blurred", 11, 5.0,
    ),
    "xplain": Protocol(
        "Xplain-CAM",
        "The tables that Fusion-CAM's authors publish with their code: the normalised input times "
        "the map; insertion and deletion by 2 x 224 of 224 x 224 pixels a step.",
        "https://arxiv.org/abs/2603.05386",
        "zero", None, 112, "blurred", 51, 50.0,
    ),
    "scorecam": Protocol(
        "Score-CAM",
        "Wang et al., CVPR Workshops, 2020: half of the pixels muted; insertion and deletion by "
        "1 % of the pixels a step. Its text says that pixels are set to zero or one; that "
        "insertion starts from zeros is our reading.",
        "https://arxiv.org/abs/1910.01279",
        "zero", 0.5, 100, "zero", 11, 5.0,
    ),
}  # fmt: skip


class ProtocolArguments(NamedTuple):
    """Keyword arguments with which metrics follow a protocol.

    Attributes:
        drop (dict): of ``average_drop``, ``average_increase`` and ``average_gain``.
        insertion (dict): of ``insertion``.
        deletion (dict): of ``deletion``.
    """

    drop: dict[str, Any]
    insertion: dict[str, Any]
    deletion: dict[str, Any]


def protocol_arguments(name: str, black: Tensor) -> ProtocolArguments:
    r"""Return the keyword arguments with which metrics follow a protocol.

    Args:
        name (str): one of :data:`PROTOCOLS`: "paper", "xplain" or "scorecam".
        black (Tensor): the black image as the model sees it, (1 or N, C, *spatial of the
            inputs), such as ``black_baseline`` returns. A step of insertion and deletion is the
            source's share of its pixels, rounded up.

    Returns:
        *ProtocolArguments* of **drop**, **insertion** and **deletion**.

    Raises:
        TypeError: if `black` is not a floating point tensor.
        ValueError: if there is no such protocol, naming the closest one, or `black` is not of the
            inputs' size.

    Examples::

        >>> import torch
        >>> from captum_unioncam.metrics.faithfulness import average_drop
        >>> chosen = protocol_arguments("scorecam", torch.zeros(1, 3, 224, 224))
        >>> chosen.drop
        {'baselines': 0, 'keep': 0.5}
        >>> chosen.deletion, chosen.insertion["step"]
        ({'baselines': 0, 'step': 502}, 502)
        >>> forward = lambda x: x.mean((2, 3))
        >>> x = torch.rand(2, 3, 224, 224)
        >>> average_drop(forward, x, x, target=1, **chosen.drop).shape
        torch.Size([2])
    """
    check_choice("protocol", name, tuple(PROTOCOLS))
    if not isinstance(black, Tensor) or not black.is_floating_point():
        kind = black.dtype if isinstance(black, Tensor) else type(black).__name__
        raise TypeError(f"black must be a floating point Tensor, the black image; got {kind}")
    # One pixel that broadcasts would make every step of insertion and deletion one pixel.
    if not 3 <= black.dim() <= 5 or 0 in black.shape or black[0, 0].numel() == 1:
        raise ValueError(
            "black must have the inputs' own size, (1, C, L) to (1, C, D, H, W), got shape "
            f"{tuple(black.shape)}"
        )
    chosen = PROTOCOLS[name]
    baseline: Tensor | int = black if chosen.baseline == "black" else 0
    step = math.ceil(black[0, 0].numel() / chosen.steps)
    insertion = {
        "step": step,
        "blur_size": chosen.blur_size,
        "blur_stdev": chosen.blur_stdev,
        "start": 0 if chosen.insertion_start == "zero" else None,
    }
    return ProtocolArguments(
        {"baselines": baseline, "keep": chosen.keep},
        insertion,
        {"baselines": baseline, "step": step},
    )
