"""Score-CAM: channels weighted by what the images they mask score (Wang et al., CVPRW 2020)."""

from typing import Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    TOLERANCE,
    Attributions,
    ClassActivationMap,
    Forwards,
    GradKwargs,
    Inputs,
    LayerState,
    MaskOptions,
    MaskScores,
    MaxMasks,
    Positive,
    Source,
    TargetType,
    weighted_sum,
)

Weights = Literal["score", "softmax"]


def channel_weights(masked: MaskScores, weights: Weights = "score") -> Tensor:
    """Return Score-CAM's weight of every channel, (N, C); flat channels have weight zero.

    Args:
        masked (MaskScores): scores of the inputs masked by each channel, (N, C).
        weights (str, optional): the "score" f_c itself, or the "softmax" of the target's raw
            outputs over the channels that are not flat. Default: "score"

    """
    if weights == "score":
        return masked.scores.where(masked.live, 0)
    some = masked.live.any(1, keepdim=True)
    # An example without a live channel has no maximum to subtract.
    w = masked.logits.where(masked.live | ~some, -torch.inf).softmax(1)
    return w.where(masked.live, 0)


class LayerScoreCAM(ClassActivationMap):
    r"""Score-CAM: every channel masks the input, and the masked input's score is its weight.

    .. math::
        L = \sum_k w_k A_k, \qquad H_k = \mathrm{minmax}(\mathrm{Up}(A_k)), \qquad
        w_k = f_c(I_b + H_k \odot (I_0 - I_b))

    with A the layer's activations, Up linear resizing to the input, and f_c the softmax
    probability: the authors' code. ``weights="softmax"`` is the paper's Algorithm 1, the softmax
    over channels of the target's raw output. (The paper's subtraction of :math:`f_c(I_b)` changes
    nothing under softmax and is absent from the code.) Flat channels are skipped. Cost: one
    forward per distinct channel that is not flat.

    Source: Wang, Wang, Du, Yang, Zhang, Ding, Mardziel, Hu: Score-CAM: Score-Weighted Visual
    Explanations for Convolutional Neural Networks. CVPR Workshops, 2020.
    https://arxiv.org/abs/1910.01279

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerScoreCAM(net.eval(), net[1]).attribute(x, target=1, weights="softmax").shape
        torch.Size([2, 1, 6, 6])
    """

    name = "Score-CAM"
    source = Source(
        "Wang et al., CVPR Workshops", 2020, "https://arxiv.org/abs/1910.01279", "authors' code"
    )
    forwards = Forwards("C + 2", 2, per_channel=1)
    needs_gradients = False

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        weights: Weights = "score",
        max_masks: MaxMasks = None,
        tolerance: Positive = TOLERANCE,
        **options: Unpack[MaskOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            weights (str, optional): a channel's weight: the "score" of its masked input, or the
                "softmax" over channels of the target's raw outputs. Default: "score"
        """
        return self.explain(locals())

    def cam(
        self, state: LayerState, weights: Weights, max_masks: MaxMasks, tolerance: Positive
    ) -> Tensor:
        masked = state.channel_scores(max_masks, tolerance, weights)
        return weighted_sum(channel_weights(masked, weights), state.activations)
