"""UnionCAM: denoise, unite, select (Hu, Wang, Lin, Yu, Frontiers in Neurorobotics 2024)."""

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
    MaskScores,
    MaxMasks,
    Percent,
    Positive,
    Source,
    TargetType,
    percentile,
    quotient,
    weighted_sum,
)
from captum_unioncam.engine.ties import rounding, settled
from captum_unioncam.engine.warn import warn
from captum_unioncam.methods.score_cam import channel_weights

DenoiseOn = Literal["all", "positive"]
Alpha = Literal["sum", "count"]
RegionWeights = Literal["score", "softmax"]


class UnionCAMDetails(NamedTuple):
    """What the three modules of UnionCAM found, per example.

    Maps are at layer resolution, (N, 1, *spatial), and scaled like the returned one: resized
    linearly to the input they span [0, 1]; a flat map is zero. Scores are f_c(map masks input)
    minus f_c(baseline), signed.

    Attributes:
        denoised (Tensor): D, the map of the denoised gradients (AMD).
        region (Tensor): R, the region map.
        union (Tensor): DR, both united (AMU).
        beta_denoised (Tensor): score of D, (N,).
        beta_region (Tensor): score of R, (N,).
        beta_union (Tensor): score of DR, (N,).
        selected_union (Tensor): whether AMS kept DR rather than R, (N,) bool.
        channel_std (Tensor): standard deviation of the channels' scores that ``max_masks`` left
            to prediction, or of their raw outputs with ``region_weights="softmax"``; zero for
            channels that were forwarded, (N, C).
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
    selected_union: Tensor
    channel_std: Tensor
    channel_masks: Tensor
    deviation: Tensor
    scorer_deviation: float | None = None


def denoise(
    A: Tensor, W: Tensor, theta: float = 10.0, denoise_on: DenoiseOn = "all", alpha: Alpha = "sum"
) -> Tensor:
    r"""Activation map denoising (AMD), Eqs. 1 to 3 of the paper.

    .. math::
        W_k &\leftarrow W_k \cdot 1[W_k \ge p(W_k, \theta)] \\
        L_D &= \mathrm{ReLU}\Big(\sum_k \alpha_k\, \mathrm{ReLU}(W_k) \odot A_k\Big), \qquad
        \alpha_k = 1 / \sum_{ij} \mathrm{ReLU}(W_k)_{ij}

    Gradients within rounding of the percentile are equal to it and stay; those within rounding of
    zero are zero. Rounding is :data:`captum_unioncam.engine.ties.TIE` units in the last place of
    the channel's largest gradient.

    Args:
        A (Tensor): activations, (N, C, *spatial).
        W (Tensor): gradients of the target's raw output with respect to A, same shape.
        theta (float, optional): percentile of each channel below which its gradients are
            dropped. Default: 10.0
        denoise_on (str, optional): take the percentile over "all" positions or over the
            "positive" ones. Default: "all"
        alpha (str, optional): divide by the "sum" of a channel's positive denoised gradients
            or by their "count". Default: "sum"

    Returns:
        *Tensor* L_D of shape (N, 1, *spatial), not negative.

    Examples::

        >>> A = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
        >>> W = torch.tensor([[[-1.0, 1.0, 1.0, 2.0]]])
        >>> denoise(A, W)
        tensor([[[0.0000, 0.5000, 0.7500, 2.0000]]])
    """
    spatial = tuple(range(2, W.dim()))
    largest = W.abs().amax(spatial, keepdim=True)
    W = settled(W, largest)
    threshold = percentile(W, theta, of_positive=denoise_on == "positive") - rounding(largest)
    W = W.where(threshold <= W, 0).relu()
    divisor = (W if alpha == "sum" else W.gt(0)).sum(spatial, keepdim=True)
    return weighted_sum(quotient(W, divisor), A).relu()


def region(A: Tensor, masked: MaskScores, region_weights: RegionWeights = "score") -> Tensor:
    r"""Region map of AMU (section 3.2 of the paper, in prose): Score-CAM's weighted sum.

    .. math::
        L_R = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big), \qquad w_k = f_c(\mathrm{mask}_k(I_0))

    Args:
        A (Tensor): activations, (N, C, *spatial).
        masked (MaskScores): scores of the inputs masked by each channel, (N, C).
        region_weights (str, optional): w_k is the "score" f_c, or the "softmax" of the target's
            raw outputs over the live channels, as in Score-CAM's Algorithm 1. Default: "score"

    Returns:
        *Tensor* L_R of shape (N, 1, *spatial), not negative. Flat channels have weight zero.
    """
    return weighted_sum(channel_weights(masked, region_weights), A).relu()


def unite(D: Tensor, R: Tensor, beta_D: Tensor, beta_R: Tensor) -> Tensor:
    r"""Activation map union (AMU), Eq. 6: :math:`L_{DR} = ReLU(\beta_D D + \beta_R R)`.

    Args:
        D (Tensor): scaled denoised map, (N, 1, *spatial).
        R (Tensor): scaled region map, same shape.
        beta_D (Tensor): score of D over the baseline (Eq. 4), (N,).
        beta_R (Tensor): score of R over the baseline (Eq. 5), (N,).

    Returns:
        *Tensor* L_DR of the maps' shape; zero where neither map beats the baseline.
    """
    beta_D, beta_R = (b.to(D.dtype).reshape(-1, *[1] * (D.dim() - 1)) for b in (beta_D, beta_R))
    # Scaled maps dip below 0 between the input's pixels: two negative weights must not lift that.
    helps = (beta_D > 0) | (beta_R > 0)
    return (beta_D * D + beta_R * R).relu().where(helps, 0)


def select(
    D: Tensor,
    R: Tensor,
    DR: Tensor,
    beta_R: Tensor,
    beta_DR: Tensor,
    base: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor]:
    r"""Activation map selection (AMS), Eq. 8: L_DR if :math:`\beta_{DR} > \beta_R`, else L_R.

    A flat union is never selected, nor is one that a flat D leaves equal to R, nor one whose score
    is equal to R's: rounding alone would decide. Scores within
    :data:`captum_unioncam.engine.ties.TIE` units in the last place are equal.

    Args:
        D (Tensor): scaled denoised map, (N, 1, *spatial).
        R (Tensor): scaled region map, same shape.
        DR (Tensor): scaled union, same shape.
        beta_R (Tensor): score of R over the baseline (Eq. 5), (N,).
        beta_DR (Tensor): score of DR over the baseline (Eq. 7), (N,).
        base (Tensor, optional): score of the baseline, (N,), which both are over and round with.
            Default: 0

    Returns:
        *tuple* of the selected map, (N, 1, *spatial), and whether it is the union, (N,) bool.
    """
    adds_something = (D != 0).flatten(1).any(1) & (DR != 0).flatten(1).any(1)
    scale = torch.maximum((beta_DR + base).abs(), (beta_R + base).abs())
    selected = (settled(beta_DR - beta_R, scale) > 0) & adds_something
    return DR.where(selected.reshape(-1, *[1] * (DR.dim() - 1)), R), selected


class UnionCAMOptions(MaskOptions, total=False):
    """Options of UnionCAM by keyword."""

    theta: Percent
    denoise_on: DenoiseOn
    alpha: Alpha
    region_weights: RegionWeights
    max_masks: MaxMasks
    tolerance: Positive
    exact: bool


class LayerUnionCAM(ClassActivationMap):
    r"""UnionCAM: a class activation map from denoised gradients united with a region map.

    Three modules, in the paper's order (:math:`I_0` the input, :math:`I_b` the baseline,
    :math:`f_c` the target's score, A the layer's activations, W their gradients):

    1. AMD drops each channel's gradients below their percentile :math:`\theta` and sums
       :math:`D = \mathrm{ReLU}(\sum_k \alpha_k \mathrm{ReLU}(W_k) \odot A_k)`.
    2. AMU adds the region map :math:`R = \mathrm{ReLU}(\sum_k f_c(A_k \circ I_0) A_k)`, one
       masked forward per channel, and unites
       :math:`DR = \mathrm{ReLU}(\beta_D D + \beta_R R)` with
       :math:`\beta_M = f_c(M \circ I_0) - f_c(I_b)`.
    3. AMS returns DR if :math:`\beta_{DR} > \beta_R`, else R.

    Each map is min-max scaled so that, resized linearly to the input, it spans [0, 1]. The
    returned map resized so is exactly the mask whose score was measured.

    The score is the softmax probability of the target, over dimension 1 of the output. An
    example whose outputs are not negative and sum to one holds probabilities already and is taken
    as it is; so is an output of one value per example, whatever it is. For a model that ends in a
    sigmoid use ``score="logit"``, the raw output; for classes in the last dimension, a callable
    ``lambda output: output.softmax(-1)``. Gradients are those of the raw output.

    Deviations from the paper's text, which leaves these points open: maps are min-max scaled
    before they mask; masking is :math:`I_b + M (I_0 - I_b)`, the paper's product when the baseline
    is the black image (see :func:`captum_unioncam.black_baseline`); a flat union is never selected.
    Values that rounding alone tells apart are equal, within
    :data:`captum_unioncam.engine.ties.TIE` units in the last place: gradients at the percentile
    stay, and of equal betas R's wins.

    Cost: one forward with backward, then one masked forward per distinct live channel, and four
    more for :math:`I_b`, D, R and DR.

    Source: Hu, Wang, Lin, Yu: UnionCAM: enhancing CNN interpretability through denoising,
    weighted fusion, and selective high-quality class activation mapping. Frontiers in
    Neurorobotics, 2024. https://doi.org/10.3389/fnbot.2024.1490198

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> from captum.attr import LayerAttribution
        >>> from captum_unioncam import LayerUnionCAM
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4),
        ...     nn.Flatten(), nn.Linear(8 * 8 * 8, 10),
        ... ).eval()
        >>> union_cam = LayerUnionCAM(net, net[2])
        >>> images = torch.rand(2, 3, 32, 32)
        >>> # The layer's output is 2x8x8x8, so the maps are 2x1x8x8.
        >>> attr, details = union_cam.attribute(images, target=3, return_details=True)
        >>> attr.shape, details.selected_union.shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2]))
        >>> upsampled = LayerAttribution.interpolate(attr, (32, 32), "bilinear")
        >>> upsampled.shape
        torch.Size([2, 1, 32, 32])
    """

    name = "UnionCAM"
    source = Source(
        "Hu et al., Frontiers in Neurorobotics",
        2024,
        "https://doi.org/10.3389/fnbot.2024.1490198",
        "paper",
    )
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
        **options: Unpack[UnionCAMOptions],
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
        **options: Unpack[UnionCAMOptions],
    ) -> tuple[Attributions, UnionCAMDetails | tuple[UnionCAMDetails, ...]]: ...

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
        **options: Unpack[UnionCAMOptions],
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
        denoise_on: DenoiseOn = "all",
        alpha: Alpha = "sum",
        region_weights: RegionWeights = "score",
        max_masks: MaxMasks = None,
        tolerance: Positive = TOLERANCE,
        exact: bool = False,
        return_details: bool = False,
        **options: Unpack[MaskOptions],
    ) -> Attributions | tuple[Attributions, Any]:
        """Compute the map.

        Args:
            relu_attributions (bool, optional): clip the returned map at zero. It is nowhere
                negative after resizing, but at the layer's own resolution it can leave [0, 1]:
                resizing rarely samples a cell's exact centre.
                Default: False
            theta (float, optional): percentile in [0, 100] below which AMD drops gradients;
                without effect where the layer is averaged globally, since each channel's
                gradients are then equal. Default: 10.0
            denoise_on (str, optional): percentile over "all" positions of a channel, or over
                its "positive" gradients, where it removes something at any theta. Default: "all"
            alpha (str, optional): AMD divides a channel by the "sum" of its positive denoised
                gradients, or by their "count". Default: "sum"
            region_weights (str, optional): a channel's weight in the region map: the "score" of
                its masked input, or the "softmax" of the raw outputs over the live channels.
                Default: "score"
            return_details (bool, optional): also return what each module found.
                Default: False

        Returns:
            *Tensor* or *tuple[Tensor, ...]* of **attributions**, or a tuple
            (**attributions**, **details**) with ``return_details=True``:

            - **attributions** (*Tensor* or *tuple[Tensor, ...]*):
                maps of shape (N, 1, *spatial of the layer), in the layer's dtype, detached; a
                tuple only if the layer gives several tensors.
            - **details** (*UnionCAMDetails* or *tuple[UnionCAMDetails, ...]*):
                maps and scores of the three modules.

        Raises:
            TypeError: if an argument is of the wrong kind.
            ValueError: if an argument is out of range or of the wrong shape, the layer is not
                reached, has no spatial dimensions or no input of its rank, or if inputs,
                activations, gradients or scores are not finite.
        """
        maps, details = self.explain_in_detail(locals())
        return (maps, details) if return_details else maps

    def cam(
        self,
        state: LayerState,
        theta: Percent,
        denoise_on: DenoiseOn,
        alpha: Alpha,
        region_weights: RegionWeights,
        max_masks: MaxMasks,
        tolerance: Positive,
        exact: bool,
    ) -> tuple[Tensor, UnionCAMDetails]:
        A, W, masks = state.activations, state.gradients, state.masks
        scored = state.model_masks if exact else masks
        D = masks.scale_for_resize(denoise(A, W, theta, denoise_on, alpha))
        masked = state.channel_scores(max_masks, tolerance, region_weights)
        R = masks.scale_for_resize(region(A, masked, region_weights))
        beta_D, beta_R = scored.score_over_baseline(torch.cat([D, R], dim=1)).unbind(1)
        DR = masks.scale_for_resize(unite(D, R, beta_D, beta_R))
        beta_DR = scored.score_over_baseline(DR)[:, 0]
        std = masked.score_std if region_weights == "score" else masked.logit_std
        # `finish` warns of blank maps.
        worthless = (beta_D <= 0) & (beta_R <= 0) & R.flatten(1).any(1)
        if worthless.any():
            warn(
                "UnionCAM explains nothing where beta_denoised and beta_region are not positive: "
                "what the maps keep scores no more than the baseline alone. The region map is "
                "returned; return_details=True tells for which examples"
            )
        base = scored.baseline.scores[:, 0].to(beta_R)
        L, selected = select(D, R, DR, beta_R, beta_DR, base)
        D, R, DR = (M.to(state.layer_tensor.dtype) for M in (D, R, DR))
        spent = (*masked.spent, state.scorer_deviation)
        return L, UnionCAMDetails(D, R, DR, beta_D, beta_R, beta_DR, selected, std, *spent)
