"""FIMF Score-CAM: Score-CAM whose templates mask the features (IET Image Processing 2023)."""

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
    unit_range,
    weighted_sum,
)


class LayerFIMFScoreCAM(ClassActivationMap):
    r"""FIMF Score-CAM: every channel masks all channels, and what they score is its weight.

    .. math::
        L = \sum_k \alpha_k \, \mathrm{relu}(A_k), \qquad
        \alpha = \mathrm{softmax}_k \big( y(T_k \odot A) \big), \qquad
        T_k = \mathrm{minmax}(\mathrm{relu}(A_k))

    with A the layer's activations, and y the target's raw output for features that take their
    place on the way through the rest of the network. Flat templates have weight zero and are left
    out of the softmax. Cost: one forward per other channel, of the part of the network after the
    layer.

    A reading: the paper's abstract and a re-implementation by others are the source, the paper's
    own integration of neighbouring features could not be consulted. What is here is Score-CAM in
    feature space.

    Source: Li, Zhang, Meng, Li, Luo: FIMF Score-CAM: Fast Score-CAM Based on Local Multi-Feature
    Integration for Visual Interpretation of CNNs. IET Image Processing 17(3), 761-772, 2023.
    https://ietresearch.onlinelibrary.wiley.com/journal/17519667

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerFIMFScoreCAM(net.eval(), net[1]).attribute(x, target=1).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "FIMF Score-CAM"
    source = Source(
        "Li et al., IET Image Processing",
        2023,
        "https://ietresearch.onlinelibrary.wiley.com/journal/17519667",
        "our reading",
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
        T = unit_range(A.relu())
        live = T.flatten(2).any(2)

        def masked(example: int, channels: Tensor) -> Tensor:
            return A[example] * T[example, channels, None]

        y = state.features.score(A.shape[1], masked, live).scores
        # An example without a live template has no maximum to subtract.
        some = live.any(1, keepdim=True)
        alpha = y.where(live | ~some, -torch.inf).softmax(1).where(live, 0)
        return weighted_sum(alpha, A.relu())
