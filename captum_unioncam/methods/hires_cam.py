"""HiResCAM: gradients times activations, position by position (Draelos and Carin, 2020)."""

from torch import Tensor

from captum_unioncam.engine import ClassActivationMap, LayerState, Source, weighted_sum


class LayerHiResCAM(ClassActivationMap):
    r"""HiResCAM: gradients weigh activations where they are, without being averaged over space.

    .. math::
        L = \sum_k W_k \odot A_k

    with A the layer's activations and W the gradients of the target's raw output there. The
    map's sum is the layer's gradient times activation. Where the gradients are constant over
    space, as before global average pooling and one linear layer, it equals Grad-CAM.

    Taken from secondary sources: the paper's text and code were not at hand.

    Source: Draelos, Carin: Use HiResCAM instead of Grad-CAM for faithful explanations of
    convolutional neural networks. 2020. https://arxiv.org/abs/2011.08891

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerHiResCAM(net.eval(), net[1]).attribute(x, target=1).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "HiResCAM"
    source = Source(
        "Draelos and Carin", 2020, "https://arxiv.org/abs/2011.08891", "secondary sources"
    )

    def cam(self, state: LayerState) -> Tensor:
        return weighted_sum(state.gradients, state.activations)
