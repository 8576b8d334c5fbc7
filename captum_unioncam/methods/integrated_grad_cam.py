"""Integrated Grad-CAM: Grad-CAM along a path to the input (Sattarzadeh et al., ICASSP 2021)."""

from typing import Literal

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
    LayerState,
    PathOptions,
    Source,
    TargetType,
    spatial_mean,
    weighted_sum,
)
from captum_unioncam.engine.arguments import maskable

Variant = Literal["official", "paper"]


class LayerIntegratedGradCAM(ClassActivationMap):
    r"""Integrated Grad-CAM: Grad-CAM maps summed along the straight path from a baseline.

    .. math::
        L_{official} &= \sum_{t=0}^{m-1} \mathrm{ReLU}\Big(\sum_k w_k(x_t)\, A_k(x_t)\Big) \\
        L_{paper} &= \frac{1}{m} \sum_{t=1}^{m} \sum_k w_k(x_t) \big(A_k(x_t) - A_k(b)\big) \\
        w_k(x_t) &= \mathrm{mean}_{ij}\, W_{kij}(x_t), \qquad x_t = b + \tfrac{t}{m} (x - b)

    with A the layer's activations and W the gradients of the target's raw output there. The
    first is what the authors' notebook computes, so that its map is never negative; the second is
    this library's reading of the formula, known from memory and the abstract alone. Floating
    point inputs of the maps' rank move along the path, the others stay.

    Source: Sattarzadeh, Sudhakar, Plataniotis, Jang, Jeong, Kim: Integrated Grad-CAM:
    Sensitivity-Aware Visual Explanation of Deep Convolutional Networks via Integrated
    Gradient-Based Scoring. ICASSP, 2021. https://arxiv.org/abs/2102.07805

    Examples::

        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerIntegratedGradCAM(net.eval(), net[1]).attribute(x, target=1, n_steps=10).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "Integrated Grad-CAM"
    source = Source(
        "Sattarzadeh et al., ICASSP", 2021, "https://arxiv.org/abs/2102.07805", "authors' code"
    )
    forwards = Forwards("1 + steps", 51)

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        variant: Variant = "official",
        n_steps: Count = 50,
        **options: Unpack[PathOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            variant (str, optional): the "official" sum of the authors' notebook, or the "paper"'s
                integral as far as it is known. Default: "official"
            n_steps (int, optional): points on the path, m. Default: 50
            baselines (scalar, Tensor or tuple, optional): where the path starts, one entry per
                input: a number, or a tensor that broadcasts to the input. For a black image under
                mean and standard deviation use ``black_baseline``. Default: 0
        """
        return self.explain(locals())

    def cam(self, state: LayerState, variant: Variant, n_steps: Count) -> Tensor:
        inputs = state.request.inputs
        starts = [
            torch.as_tensor(b, dtype=x.dtype, device=x.device) if moves else x
            for b, x, moves in zip(
                state.request.baselines,
                inputs,
                maskable(inputs, state.activations),
                strict=True,
            )
        ]

        def measured(t: int) -> tuple[Tensor, Tensor]:
            path = zip(inputs, starts, strict=True)
            # An input that stays is passed as it is: it need not be floating point.
            return state.measured_at(
                tuple(x if b is x else b + t / n_steps * (x - b) for x, b in path)
            )

        cam = torch.zeros_like(state.activations[:, :1])
        if variant == "official":
            for t in range(n_steps):
                A, W = measured(t)
                cam = cam + weighted_sum(spatial_mean(W), A).relu()
            return cam
        A_b, _ = measured(0)
        for t in range(1, n_steps + 1):
            A, W = measured(t)
            cam = cam + weighted_sum(spatial_mean(W), A - A_b) / n_steps
        return cam
