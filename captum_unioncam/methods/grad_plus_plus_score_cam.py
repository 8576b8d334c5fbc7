"""Grad++-ScoreCAM: Score-CAM over Grad-CAM++'s channels (Soomro, Niaz, Choi, 2024)."""

from typing import Literal

from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    TOLERANCE,
    Attributions,
    Budget,
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
    unit_range,
    weighted_sum,
)
from captum_unioncam.methods.grad_cam_plus_plus import plus_plus_weights
from captum_unioncam.methods.score_cam import Weights, channel_weights

Combine = Literal["masks", "product", "sum"]


class LayerGradPlusPlusScoreCAM(ClassActivationMap):
    r"""Grad++-ScoreCAM, a reading: Score-CAM applied to the channels as Grad-CAM++ weights them.

    .. math::
        L = \sum_k s_k\, w_k A_k, \qquad
        s_k = f_c(I_b + H_k \odot (I_0 - I_b)), \qquad
        H_k = \mathrm{minmax}(\mathrm{Up}(w_k A_k))

    with A the layer's activations, :math:`w_k` Grad-CAM++'s weights, Up linear resizing to the
    input and f_c the softmax probability. A channel that Grad-CAM++ gives no weight is skipped.

    **This is not the authors' definition**, of which only the abstract was at hand: it says that
    Score-CAM refines Grad-CAM++'s coarse map, not how. Two other readings are options: the
    "product" and the "sum" (halved) of the two methods' maps, each clipped at zero and min-max
    scaled at the layer's resolution.

    Cost: one forward with backward, then one forward per distinct channel that is not flat.

    Source: Soomro, Niaz, Choi: Grad++ScoreCAM: Enhancing Visual Explanations of Deep
    Convolutional Networks Using Incremented Gradient and Score-Weighted Methods. IEEE Access,
    2024. https://doi.org/10.1109/ACCESS.2024.3392853

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> method = LayerGradPlusPlusScoreCAM(net.eval(), net[1])
        >>> method.attribute(x, target=1, combine="product").shape
        torch.Size([2, 1, 6, 6])
    """

    name = "Grad++-ScoreCAM"
    source = Source(
        "Soomro, Niaz and Choi, IEEE Access",
        2024,
        "https://doi.org/10.1109/ACCESS.2024.3392853",
        "our reading",
    )
    forwards = Forwards("C + 2", 2, per_channel=1)

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        combine: Combine = "masks",
        weights: Weights = "score",
        max_masks: MaxMasks = None,
        tolerance: Positive = TOLERANCE,
        **options: Unpack[MaskOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            combine (str, optional): how the two methods meet: Grad-CAM++'s weighted channels are
                Score-CAM's "masks", or their scaled maps' "product" or "sum".
                Default: "masks"
            weights (str, optional): what Score-CAM weights a channel by: the "score" of its
                masked input, or the "softmax" over channels of the target's raw outputs.
                Default: "score"
        """
        return self.explain(locals())

    def cam(
        self,
        state: LayerState,
        combine: Combine,
        weights: Weights,
        max_masks: MaxMasks,
        tolerance: Positive,
    ) -> Tensor:
        budget = None if max_masks is None else Budget(max_masks, tolerance, weights)
        A = state.activations
        w = plus_plus_weights(A, state.gradients)
        B = w.reshape(*A.shape[:2], *[1] * (A.dim() - 2)) * A
        if combine == "masks":
            return weighted_sum(channel_weights(_masks_of(state, w, B, budget), weights), B)
        s = channel_weights(state.channel_scores(max_masks, tolerance, weights), weights)
        coarse = unit_range(B.sum(1, keepdim=True).relu())
        fine = unit_range(weighted_sum(s, A).relu())
        return coarse * fine if combine == "product" else (coarse + fine) / 2


def _masks_of(state: LayerState, w: Tensor, B: Tensor, budget: Budget | None) -> MaskScores:
    """Score the weighted channels B = w A as masks; positive weights leave A's own masks."""
    # A negative weight turns its mask inside out, which is no mask of A's table; and which masks
    # the map needs is told by what it sums.
    if (w < 0).any() or (budget is not None and budget.max_masks == "auto"):
        return state.masks.score(B, show=True, budget=budget)
    own, base = state.scores_once("channels", state.activations, budget), state.masks.baseline
    on = own.live & (w > 0)
    logits, scores = own.logits.where(on, 0), own.scores.where(on, base.scores.to(w.device))
    return own._replace(logits=logits, scores=scores, live=on)
