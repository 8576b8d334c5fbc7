"""Smooth Grad-CAM++: Grad-CAM++ on derivatives averaged over noisy inputs (Omeiza et al., 2019)."""

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    Count,
    Forwards,
    GradKwargs,
    Inputs,
    LayerOptions,
    LayerState,
    NotNegative,
    Seed,
    Source,
    TargetType,
    generator_of,
    quotient,
    weighted_sum,
)
from captum_unioncam.engine.arguments import maskable
from captum_unioncam.engine.maps import spatial_dims


class LayerSmoothGradCAMPlusPlus(ClassActivationMap):
    r"""Smooth Grad-CAM++: gradients are averaged over noisy inputs before Grad-CAM++ weighs them.

    .. math::
        L &= \sum_k w_k A_k, \qquad w_k = \sum_{ij} \alpha_{kij}\, \mathrm{ReLU}(D^1_{kij}), \qquad
        \alpha_{kij} = \frac{D^2_{kij}}{2 D^2_{kij} + S_k D^3_{kij}} \\
        D^p &= \frac{1}{n} \sum_{s=1}^{n} W(x + \sigma \varepsilon_s)^p, \qquad
        \varepsilon_s \sim N(0, 1), \qquad S_k = \sum_{ij} A_{kij}

    with A the layer's activations on the clean input and :math:`W(\cdot)` the gradients of the
    target's raw output at noisy inputs. Where the denominator is zero or less, :math:`\alpha` is
    zero, as in Grad-CAM++. Noise is added to floating point inputs of the maps' rank, is the same
    for every example of a batch, and leaves the global random state as it is.

    This is a reading: no code of the authors is known, and the formula and the defaults of n and
    :math:`\sigma` come from secondary sources. The factor :math:`\exp(y_c)` of Grad-CAM++, which
    differs between samples, is left out.

    Source: Omeiza, Speakman, Cintas, Weldemariam: Smooth Grad-CAM++: An Enhanced Inference Level
    Visualization Technique for Deep Convolutional Neural Network Models. 2019.
    https://arxiv.org/abs/1908.01224

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerSmoothGradCAMPlusPlus(net.eval(), net[1]).attribute(x, target=1).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "Smooth Grad-CAM++"
    source = Source("Omeiza et al.", 2019, "https://arxiv.org/abs/1908.01224", "our reading")
    forwards = Forwards("1 + samples", 5)

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        n_samples: Count = 4,
        stdev: NotNegative = 0.3,
        seed: Seed = 0,
        **options: Unpack[LayerOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            n_samples (int, optional): noisy versions of each input, n. Default: 4
            stdev (float, optional): standard deviation of the noise, in units of the inputs.
                Default: 0.3
        """
        return self.explain(locals())

    def cam(self, state: LayerState, n_samples: Count, stdev: NotNegative, seed: Seed) -> Tensor:
        A, inputs = state.activations, state.request.inputs
        generator = generator_of(seed)

        def with_noise(x: Tensor) -> Tensor:
            # One example's noise for all of them: a batch then equals single calls.
            noise = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
            return x + stdev * noise.to(x.dtype).to(x.device)

        takes_noise = maskable(inputs, A)
        D1, D2, D3 = (torch.zeros_like(A) for _ in range(3))
        for _ in range(n_samples):
            pairs = zip(inputs, takes_noise, strict=True)
            _, W = state.measured_at(tuple(with_noise(x) if takes else x for x, takes in pairs))
            D1, D2, D3 = D1 + W / n_samples, D2 + W**2 / n_samples, D3 + W**3 / n_samples
        space = spatial_dims(A)
        S = A.sum(space, keepdim=True)
        alpha = quotient(D2, (2 * D2 + S * D3).relu())
        return weighted_sum((alpha * D1.relu()).sum(space), A)
