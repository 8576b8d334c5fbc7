"""Fusion-CAM: Grad-CAM and Score-CAM fused by similarity (Dekdegue et al., 2026)."""

from typing import Any, Literal, NamedTuple, overload

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
    MaxMasks,
    Percent,
    Positive,
    Source,
    TargetType,
    percentile,
    spatial_mean,
    unit_range,
    weighted_sum,
)
from captum_unioncam.engine.maps import extrema
from captum_unioncam.engine.ties import rounding, settled
from captum_unioncam.methods.score_cam import Weights, channel_weights


def shares(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Divide two scores by their sum; where it is not positive the larger one takes all.

    Equal scores share equally.

    Examples::

        >>> shares(torch.tensor([3.0, -1.0, 0.0]), torch.tensor([1.0, -3.0, 0.0]))
        (tensor([0.7500, 1.0000, 0.5000]), tensor([0.2500, 0.0000, 0.5000]))
    """
    size = torch.maximum(first.abs(), second.abs())
    total = settled(first + second, size)
    larger = (1 + settled(first - second, size).sign()) / 2
    share = torch.where(total > 0, first / total.where(total > 0, 1), larger)
    return share, 1 - share


class FusionCAMDetails(NamedTuple):
    """The maps that Fusion-CAM fuses and their scores, per example.

    Maps are at layer resolution, (N, 1, *spatial), and span [0, 1] once resized linearly to the
    input. Scores are f_c(map masks input) minus f_c(baseline), before they are divided by sums.

    Attributes:
        denoised (Tensor): D, the denoised Grad-CAM.
        region (Tensor): R, Score-CAM's map.
        union (Tensor): U, both united.
        beta_denoised (Tensor): score of D over the baseline, (N,).
        beta_region (Tensor): score of R over the baseline, (N,).
        beta_union (Tensor): score of U over the baseline, (N,).
        channel_masks (Tensor): how many masks were forwarded for the channels, (N,).
        deviation (Tensor): estimated deviation of R from the exact one, in units of its variation
            over space, (N,): zero where all masks were forwarded, infinite where those that were
            do not tell.
        scorer_deviation (float, optional): how far the scores of a scorer that follows the model
            were from the model's on a few masked inputs, as a part of the largest; None without.
    """

    denoised: Tensor
    region: Tensor
    union: Tensor
    beta_denoised: Tensor
    beta_region: Tensor
    beta_union: Tensor
    channel_masks: Tensor
    deviation: Tensor
    scorer_deviation: float | None = None


class FusionCAMOptions(MaskOptions, total=False):
    """Options of Fusion-CAM by keyword."""

    theta: Percent
    region_weights: Weights
    max_masks: MaxMasks
    tolerance: Positive
    exact: bool


class LayerFusionCAM(ClassActivationMap):
    r"""Fusion-CAM: a denoised Grad-CAM and a Score-CAM, united and then fused by similarity.

    .. math::
        D &= \mathrm{minmax}(G \cdot 1[G \ge p(G, \theta)]), \qquad
        G = \mathrm{minmax}\Big(\mathrm{ReLU}\Big(\sum_k \mathrm{mean}_{ij}(W_k) A_k\Big)\Big) \\
        R &= \mathrm{minmax}\Big(\mathrm{ReLU}\Big(\sum_k \mathrm{softmax}_k(s_k) A_k\Big)\Big) \\
        U &= \mathrm{minmax}(\beta_D D + \beta_R R), \qquad
        \beta_M = f_c(I_b + M \odot (I_0 - I_b)) - f_c(I_b) \\
        L &= \mathrm{minmax}\Big(s \max(\beta_U U, \beta_R R)
        + (1 - s) \tfrac{1}{2} (\beta_U U + \beta_R R)\Big), \qquad
        s = 1 - |\beta_U U - \beta_R R|

    with A the layer's activations, W the gradients of the target's raw output there, p the
    percentile, :math:`s_k` the raw output of the input masked by channel k, f_c the softmax
    probability. :math:`(\beta_D, \beta_R)`, then :math:`(\beta_U, \beta_R)`, are divided by their
    sum. As in the authors' code the second division meets the :math:`\beta_R` of the first.
    s is clipped to [0, 1]. The map is min-max scaled by definition, so nowhere negative once
    resized.

    Deviations from the authors' code: maps are computed at the layer's resolution and scaled so
    that, resized linearly, they span [0, 1]; theirs are computed at the input's, which shifts
    the percentile and the fusion slightly. No epsilon in the sum of two scores (theirs is 1e-8):
    where it is not positive, which theirs leaves open, the larger score takes all and equal ones
    share equally. Values within rounding (:data:`captum_unioncam.engine.ties.TIE`) are equal: those
    at the percentile stay, and a sum within it is zero.

    Cost: one forward with backward, then one forward per distinct channel that is not flat, and
    four more for :math:`I_b`, D, R and U.

    Source: Dekdegue, Garouani, Mothe, Bernigaud: Fusion-CAM: Integrating Gradient and
    Region-Based Class Activation Maps for Robust Visual Explanations. 2026.
    https://arxiv.org/abs/2603.05386

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerFusionCAM(net.eval(), net[1]).attribute(x, target=1, theta=20).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "Fusion-CAM"
    source = Source("Dekdegue et al.", 2026, "https://arxiv.org/abs/2603.05386", "authors' code")
    forwards = Forwards("C + 5", 5, per_channel=1)
    is_scaled = True
    parts = ("denoised", "region", "union")

    @overload
    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        return_details: Literal[False] = False,
        **options: Unpack[FusionCAMOptions],
    ) -> Attributions: ...

    @overload
    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        return_details: Literal[True],
        **options: Unpack[FusionCAMOptions],
    ) -> tuple[Attributions, FusionCAMDetails | tuple[FusionCAMDetails, ...]]: ...

    @overload
    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        return_details: bool,
        **options: Unpack[FusionCAMOptions],
    ) -> Attributions | tuple[Attributions, Any]: ...

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        theta: Percent = 10.0,
        region_weights: Weights = "softmax",
        max_masks: MaxMasks = None,
        tolerance: Positive = TOLERANCE,
        exact: bool = False,
        return_details: bool = False,
        **options: Unpack[MaskOptions],
    ) -> Attributions | tuple[Attributions, Any]:
        """Compute the map.

        Args:
            theta (float, optional): percentile in [0, 100] below which Grad-CAM's map is
                dropped. Default: 10.0
            region_weights (str, optional): a channel's weight in Score-CAM's map: the "score" of
                its masked input, or the "softmax" of the raw outputs over the channels that are
                not flat. Default: "softmax"
            return_details (bool, optional): also return the maps that were fused, with their
                scores, as :class:`FusionCAMDetails`. Default: False
        """
        maps, details = self.explain_in_detail(locals())
        return (maps, details) if return_details else maps

    def cam(
        self,
        state: LayerState,
        theta: Percent,
        region_weights: Weights,
        max_masks: MaxMasks,
        tolerance: Positive,
        exact: bool,
    ) -> tuple[Tensor, FusionCAMDetails]:
        A, W, masks = state.activations, state.gradients, state.masks
        scored = state.model_masks if exact else masks
        G = unit_range(weighted_sum(spatial_mean(W), A).relu())
        D = masks.scale_for_resize(G.where(percentile(G, theta) - rounding(extrema(G)[1]) <= G, 0))
        masked = state.channel_scores(max_masks, tolerance, region_weights)
        w = channel_weights(masked, region_weights)
        R = masks.scale_for_resize(weighted_sum(w, A).relu())
        over_D, over_R = scored.score_over_baseline(torch.cat([D, R], dim=1)).unbind(1)
        beta_D, beta_R = shares(over_D, over_R)
        U = masks.scale_for_resize(_times(beta_D, D) + _times(beta_R, R))
        over_U = scored.score_over_baseline(U)[:, 0]
        beta_U, beta_R = shares(over_U, beta_R)
        first, second = _times(beta_U, U), _times(beta_R, R)
        s = (1 - (first - second).abs()).clamp(0, 1)
        L = masks.scale_for_resize(
            s * torch.maximum(first, second) + (1 - s) * (first + second) / 2
        )
        D, R, U = (M.to(state.layer_tensor.dtype) for M in (D, R, U))
        spent = (*masked.spent, state.scorer_deviation)
        return L, FusionCAMDetails(D, R, U, over_D, over_R, over_U, *spent)


def _times(beta: Tensor, M: Tensor) -> Tensor:
    return weighted_sum(beta[:, None], M)
