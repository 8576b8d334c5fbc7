"""Grad-CAM++: positive gradients with weights of their own (Chattopadhay et al., WACV 2018)."""

from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    GradKwargs,
    Inputs,
    LayerOptions,
    LayerState,
    Source,
    TargetType,
    quotient,
    weighted_sum,
)
from captum_unioncam.engine.maps import spatial_dims


def plus_plus_weights(A: Tensor, W: Tensor, *, normalize_alpha: bool = False) -> Tensor:
    r"""Return Grad-CAM++'s weight of every channel, (N, C), without its factor exp(y_c).

    Args:
        A (Tensor): activations, (N, C, *spatial).
        W (Tensor): gradients of the target's raw output with respect to A, same shape.
        normalize_alpha (bool, optional): divide each channel's alpha by its sum. Default: False
    """
    space = spatial_dims(A)
    S = A.sum(space, keepdim=True)
    # The quotient of squares and cubes underflows for gradients that this form still weighs.
    alpha = quotient((W > 0).to(A.dtype), (2 + S * W).relu())
    if normalize_alpha:
        alpha = quotient(alpha, alpha.sum(space, keepdim=True))
    return (alpha * W).sum(space)


class LayerGradCAMPlusPlus(ClassActivationMap):
    r"""Grad-CAM++: a channel's weight is a weighted sum of its positive gradients.

    .. math::
        L = \sum_k w_k A_k, \qquad w_k = \sum_{ij} \alpha_{kij}\, \mathrm{ReLU}(W_{kij}), \qquad
        \alpha_{kij} = \frac{W_{kij}^2}{2 W_{kij}^2 + S_k W_{kij}^3} = \frac{1}{2 + S_k W_{kij}}

    with A the layer's activations, W the gradients of the target's raw output :math:`y_c` there,
    and :math:`S_k = \sum_{ij} A_{kij}`: Eq. 19 of the paper. Its score :math:`\exp(y_c)` scales
    all channels alike; that factor is left out, since it overflows for large outputs.

    Meant for layers after a ReLU, where :math:`0 < \alpha \le 1/2`. Where channels sum to a
    negative value, the weight grows without bound as :math:`2 + S_k W` approaches zero; from zero
    on, where a positive gradient would turn into a negative weight, :math:`\alpha` is zero.

    The authors' code also divides every channel's :math:`\alpha` by its sum over positive
    gradients, which the paper does not: ``normalize_alpha=True``.

    Source: Chattopadhay, Sarkar, Howlader, Balasubramanian: Grad-CAM++: Generalized Gradient-based
    Visual Explanations for Deep Convolutional Networks. WACV, 2018.
    https://arxiv.org/abs/1710.11063

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerGradCAMPlusPlus(net.eval(), net[1]).attribute(x, target=1).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "Grad-CAM++"
    source = Source("Chattopadhay et al., WACV", 2018, "https://arxiv.org/abs/1710.11063", "paper")

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        normalize_alpha: bool = False,
        **options: Unpack[LayerOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            normalize_alpha (bool, optional): divide the weights of a channel's positive gradients
                by their sum, as the authors' code does. Default: False
        """
        return self.explain(locals())

    def cam(self, state: LayerState, normalize_alpha: bool) -> Tensor:
        A, W = state.activations, state.gradients
        return weighted_sum(plus_plus_weights(A, W, normalize_alpha=normalize_alpha), A)
