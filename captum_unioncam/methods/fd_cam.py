"""FD-CAM: gradients weighted by what groups of similar channels score (ICPR 2022)."""

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    FeatureOptions,
    Forwards,
    GradKwargs,
    Inputs,
    LayerState,
    Share,
    Source,
    TargetType,
    percentile,
    quotient,
    spatial_mean,
    unit_range,
    weighted_sum,
)
from captum_unioncam.engine.ties import rounding


def directions(A: Tensor) -> Tensor:
    """Return every channel as a vector of length one, (N, C, P); zero for a channel of zeros."""
    vectors = A.flatten(2)
    # Divided by the largest value first, squares of tiny values do not vanish.
    vectors = quotient(vectors, vectors.abs().amax(2, keepdim=True))
    return quotient(vectors, vectors.norm(dim=2, keepdim=True))


class LayerFDCAM(ClassActivationMap):
    r"""FD-CAM: Grad-CAM's weights, scaled by what each channel's group of similar channels does.

    .. math::
        L = \sum_k w_k A_k, \qquad
        w_k = e^{\mathrm{minmax}_k(S_k)} \, \mathrm{minmax}_k(\alpha_k) - \tfrac{1}{2}, \qquad
        S_k = y(A \text{ only } N_k) + y - y(A \text{ without } N_k)

    with A the layer's activations, :math:`\alpha_k` the spatial mean of the gradients of y, the
    target's raw output, and :math:`N_k` the channels whose cosine similarity with channel k is
    above the q-quantile of channel k's similarities. Channels outside (or inside)
    :math:`N_k` are zero on their way through the rest of the network. Min-max scaling is over
    channels; equal values give zero, and values within rounding are equal, as are similarities
    within rounding of the quantile (:data:`captum_unioncam.engine.ties.TIE` units in the last
    place of what they were computed from). A channel of zeros is similar to none. Cost: one
    forward with gradients and two per channel of the part of the network after the layer.

    Deviation from the authors' code: any number of channels.

    Source: Li, Li, Ma, Wu: FD-CAM: Improving Faithfulness and Discriminability of Visual
    Explanation for CNNs. ICPR, 2022. https://arxiv.org/abs/2206.08792

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerFDCAM(net.eval(), net[1]).attribute(x, target=1, q=0.5).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "FD-CAM"
    source = Source("Li et al., ICPR", 2022, "https://arxiv.org/abs/2206.08792", "authors' code")
    forwards = Forwards("2C suffixes + 9", 9, per_channel=2)
    default_score = "logit"

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        q: Share = 0.95,
        **options: Unpack[FeatureOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            q (float, optional): quantile of a channel's similarities, from 0 to 1, that channels
                of its group exceed. Default: 0.95
        """
        return self.explain(locals())

    def cam(self, state: LayerState, q: Share) -> Tensor:
        A, W = state.activations, state.gradients
        channels = A.shape[1]
        # In double precision few similarities are equal that are not so by themselves.
        D = directions(A.cpu().double())
        similarity = D @ D.mT
        of_one = rounding(similarity.new_ones(()))
        group = (similarity > percentile(similarity, 100 * q) + of_one).to(A.device)

        def features(example: int, ids: Tensor) -> Tensor:
            # The second half of the numbers leaves the groups out.
            kept = group[example, ids % channels] ^ (ids >= channels)[:, None]
            return A[example] * kept.reshape(*kept.shape, *[1] * (A.dim() - 2))

        only, without = state.features.score(2 * channels, features).scores.chunk(2, dim=1)
        S = only + state.scores[:, None] - without
        alpha = spatial_mean(W).flatten(1)
        # S rounds with what it is summed of, and may be equal for all groups, as where none is.
        sizes = torch.cat([only, without, state.scores[:, None]], dim=1), spatial_mean(W.abs())
        scale = torch.stack([size.abs().flatten(1).amax(1) for size in sizes], dim=1)
        both = unit_range(torch.stack([S, alpha], dim=1), scale[:, :, None])
        scaled_S, scaled_alpha = both.unbind(1)
        return weighted_sum(scaled_S.exp() * scaled_alpha - 0.5, A)
