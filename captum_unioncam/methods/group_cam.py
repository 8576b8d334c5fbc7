"""Group-CAM: groups of gradient-weighted channels as masks (Zhang, Rao, Yang, 2021)."""

from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.baselines import blurred, of_each_input
from captum_unioncam.engine import (
    Attributions,
    BaselineType,
    ClassActivationMap,
    Count,
    Forwards,
    GradKwargs,
    Inputs,
    LayerState,
    MaskOptions,
    Percent,
    Source,
    TargetType,
    percentile,
    spatial_mean,
    weighted_sum,
)


class GroupCAMDetails(NamedTuple):
    """The masks of Group-CAM and what they score, per example.

    Attributes:
        masks (Tensor): m, one map for each group; resized linearly to the input they span [0, 1],
            (N, groups, *spatial).
        betas (Tensor): alpha, the masks' scores over the baseline, (N, groups).
    """

    masks: Tensor
    betas: Tensor


class GroupCAMOptions(MaskOptions, total=False):
    """Options of Group-CAM by keyword."""

    groups: Count
    theta: Percent


class LayerGroupCAM(ClassActivationMap):
    r"""Group-CAM: Grad-CAM's channels summed in groups, each a mask of the blurred-out input.

    .. math::
        M_r &= \mathrm{ReLU}\Big(\sum_{k \in r} w_k A_k\Big), \qquad
        w_k = \mathrm{mean}_{ij}\, W_{kij} \\
        m_r &= \mathrm{minmax}\big(\mathrm{Up}(M_r \cdot 1[M_r > p(M_r, \theta)])\big) \\
        L &= \sum_r \alpha_r m_r, \qquad
        \alpha_r = f_c(I_b + m_r \odot (I_0 - I_b)) - f_c(I_b)

    with A the layer's activations, W the gradients of the target's raw output there, r the
    groups of consecutive channels, p the percentile, f_c the softmax probability and
    :math:`I_b` the input blurred by a Gaussian of 51 x 51 pixels and :math:`\sigma = 50`. This
    is the authors' code of the paper's time; theirs of August 2021 drops the percentile. Flat
    groups are skipped.

    Deviations: a channel count that the groups do not divide gives near-equal groups, and there
    are at most as many groups as channels; on inputs smaller than 26 pixels a side the Gaussian
    ends where its reflection would; the map has the layer's resolution (resized to the input it
    is the authors', since resizing is linear). At ``theta=100`` nothing is above the percentile.

    Cost: one forward with backward, then one forward per group and one for :math:`I_b`.

    Source: Zhang, Rao, Yang: Group-CAM: Group Score-Weighted Visual Explanations for Deep
    Convolutional Networks. 2021. https://arxiv.org/abs/2103.13859

    Examples::

        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerGroupCAM(net.eval(), net[1]).attribute(x, target=1, groups=2).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "Group-CAM"
    source = Source("Zhang et al.", 2021, "https://arxiv.org/abs/2103.13859", "authors' code")
    forwards = Forwards("groups + 2", 2, per_channel=1)
    brings_baselines = True

    def default_baselines(self, inputs: Any) -> BaselineType:
        return of_each_input(blurred, inputs)

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
        **options: Unpack[GroupCAMOptions],
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
        **options: Unpack[GroupCAMOptions],
    ) -> tuple[Attributions, GroupCAMDetails | tuple[GroupCAMDetails, ...]]: ...

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
        **options: Unpack[GroupCAMOptions],
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
        groups: Count = 32,
        theta: Percent = 70.0,
        return_details: bool = False,
        **options: Unpack[MaskOptions],
    ) -> Attributions | tuple[Attributions, Any]:
        """Compute the map.

        Args:
            groups (int, optional): groups of consecutive channels. Default: 32
            theta (float, optional): percentile in [0, 100] up to which a group's map is dropped.
                Default: 70.0
            return_details (bool, optional): also return every group's mask and score, as
                :class:`GroupCAMDetails`. Default: False
        """
        maps, details = self.explain_in_detail(locals())
        return (maps, details) if return_details else maps

    def cam(
        self, state: LayerState, groups: Count, theta: Percent
    ) -> tuple[Tensor, GroupCAMDetails]:
        A, masks = state.activations, state.masks
        parts = (spatial_mean(state.gradients) * A).tensor_split(min(groups, A.shape[1]), dim=1)
        M = torch.cat([part.sum(1, keepdim=True) for part in parts], dim=1).relu()
        m = masks.scale_for_resize(M.where(percentile(M, theta) < M, 0))
        alpha = masks.score(m, show=True).scores - masks.baseline.scores.to(m.device)
        return weighted_sum(alpha, m), GroupCAMDetails(m, alpha)
