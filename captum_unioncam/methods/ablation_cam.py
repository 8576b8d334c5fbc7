"""Ablation-CAM: channels weighted by what the score loses without them (WACV 2020)."""

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
    Source,
    TargetType,
    weighted_sum,
)


def relative_drop(score: Tensor, ablated: Tensor) -> Tensor:
    """Return (y - y^(k)) / |y| for scores y (N,) and y^(k) (N, K); undivided where y is zero."""
    y = score[:, None]
    return (y - ablated) / y.abs().where(y != 0, 1)


class LayerAblationCAM(ClassActivationMap):
    r"""Ablation-CAM: the weight of a channel is the part of the score that falls without it.

    .. math::
        L = \sum_k w_k A_k, \qquad w_k = \frac{y - y^{(k)}}{|y|}

    with A the layer's activations, y the target's raw output, and :math:`y^{(k)}` the same with
    channel k set to zero on its way through the rest of the network. Channels that are zero
    everywhere lose nothing and are skipped. Cost: one forward per other channel, of the part of
    the network after the layer. Tokens in front of an image's patches stay as they are.

    Deviations: the divisor is :math:`|y|`, common to all channels, where the paper divides by y,
    which turns the map over where y is negative; where y is exactly zero nothing is divided.
    Defined from the paper's formula as later authors quote it; no code of its authors is known.

    Source: Desai, Ramaswamy: Ablation-CAM: Visual Explanations for Deep Convolutional Network via
    Gradient-free Localization. WACV, 2020. https://doi.org/10.1109/WACV45572.2020.9093360

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerAblationCAM(net.eval(), net[1]).attribute(x, target=1).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "Ablation-CAM"
    source = Source(
        "Desai and Ramaswamy, WACV",
        2020,
        "https://doi.org/10.1109/WACV45572.2020.9093360",
        "secondary sources",
    )
    forwards = Forwards("C suffixes + 9", 9, per_channel=1)
    needs_gradients = False
    default_score = "logit"

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        **options: Unpack[FeatureOptions],
    ) -> Attributions:
        """Compute the map."""
        return self.explain(locals())

    def cam(self, state: LayerState) -> Tensor:
        A = state.activations
        live = A.flatten(2).ne(0).any(2)

        def without(example: int, channels: Tensor) -> Tensor:
            features = A[example].repeat(len(channels), *[1] * (A.dim() - 1))
            features[torch.arange(len(channels), device=A.device), channels] = 0
            return features

        ablated = state.features.score(A.shape[1], without, live).scores
        return weighted_sum(relative_drop(state.scores, ablated).where(live, 0), A)
