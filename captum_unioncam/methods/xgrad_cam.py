"""XGrad-CAM: the axiom-based Grad-CAM (Fu et al., BMVC 2020)."""

from torch import Tensor

from captum_unioncam.engine import ClassActivationMap, LayerState, Source, quotient, weighted_sum
from captum_unioncam.engine.ties import settled


class LayerXGradCAM(ClassActivationMap):
    r"""XGrad-CAM: weights that satisfy sensitivity and conservation as closely as possible.

    .. math::
        L = \sum_k w_k A_k, \qquad
        w_k = \frac{\sum_{ij} W_{kij} A_{kij}}{\sum_{ij} A_{kij}}

    with A the layer's activations and W the gradients of the target's raw output there. A
    channel whose activations sum to zero, but for rounding (as after instance norm;
    :data:`captum_unioncam.engine.ties.TIE`), has weight zero. Meant for layers after a ReLU:
    where activations of both signs nearly cancel, the weight grows without bound.

    On a head of global average pooling and one linear layer it equals Grad-CAM.

    Deviation from the authors' code: no epsilon in the denominator (theirs is 1e-6).

    Source: Fu, Hu, Dong, Guo, Gao, Li: Axiom-based Grad-CAM: Towards Accurate Visualization and
    Explanation of CNNs. BMVC, 2020. https://arxiv.org/abs/2008.02312

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerXGradCAM(net.eval(), net[1]).attribute(x, target=1).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "XGrad-CAM"
    source = Source("Fu et al., BMVC", 2020, "https://arxiv.org/abs/2008.02312", "authors' code")

    def cam(self, state: LayerState) -> Tensor:
        A, W = state.activations, state.gradients
        sums = settled(A.flatten(2).sum(2), A.abs().flatten(2).sum(2))
        return weighted_sum(quotient((W * A).flatten(2).sum(2), sums), A)
