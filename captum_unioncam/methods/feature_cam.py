"""Feature CAM: a class activation map on the edges of the image (Clement, Yang, Cheng, 2024)."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    GradKwargs,
    Inputs,
    LayerOptions,
    LayerState,
    Share,
    Source,
    TargetType,
    check_choice,
    check_finite,
    resize,
    spatial_mean,
    unit_range,
    weighted_sum,
)


def check_detector(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a function or "sobel"."""
    if not callable(value):
        check_choice(name, value, ("sobel",))


Edges = Annotated[Literal["sobel"] | Callable[[Tensor], Tensor], check_detector]


def sobel(images: Tensor) -> Tensor:
    """Return the length of the Sobel gradient over all channels, (N, 1, H, W).

    Examples::

        >>> sobel(torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]]))
        tensor([[[[0., 4., 4., 0.]]]])
    """
    x = F.pad(images, (1, 1, 1, 1), mode="replicate")
    # Smoothed by 1 2 1 in one direction, differenced by -1 0 1 in the other.
    rows = x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]
    columns = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    across = rows[..., 2:] - rows[..., :-2]
    down = columns[..., 2:, :] - columns[..., :-2, :]
    return (across**2 + down**2).sum(1, keepdim=True).sqrt()


class LayerFeatureCAM(ClassActivationMap):
    r"""Feature CAM, a reading: Grad-CAM's map times the edges of the image, at its resolution.

    .. math::
        L = \mathrm{Up}\Big(\sum_k \mathrm{mean}_{ij}(W_k) A_k\Big) \odot
        \big(1 - \lambda + \lambda\, \mathrm{minmax}(E)\big)

    with A the layer's activations, W the gradients of the target's raw output there, Up
    bilinear resizing to the image, E its edges and :math:`\lambda` the `strength`.

    **This is not the authors' definition**, of which only summaries were at hand: they say that
    edge features of the image (from the network HED) are combined with Grad-CAM's map for a
    finer picture, over three variants of the input, not how. The product, the one input and the
    Sobel gradient for HED are our choices. Alternatives are parameters: `edges` takes any edge
    detector, HED among them; `strength` below 1 keeps part of the map where there are no edges,
    and 0 gives Grad-CAM.

    Maps have the size of the image, (N, 1, H, W): the layer and an input must have two spatial
    dimensions. Of several such inputs the first is the image.

    Source: Clement, Yang, Cheng: Feature CAM: Interpretable AI in Image Classification. 2024.
    https://arxiv.org/abs/2403.05658

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerFeatureCAM(net.eval(), net[1]).attribute(x, target=1, strength=0.5).shape
        torch.Size([2, 1, 8, 8])
    """

    name = "Feature CAM"
    source = Source(
        "Clement, Yang and Cheng", 2024, "https://arxiv.org/abs/2403.05658", "our reading"
    )

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        edges: Edges = "sobel",
        strength: Share = 1.0,
        **options: Unpack[LayerOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            edges (str or Callable, optional): edge detector: "sobel", or a function of the
                images (N, C, H, W) that returns their edges, (N, 1, H, W). Default: "sobel"
            strength (float, optional): how much of the map the edges modulate, from 0, which is
                Grad-CAM, to 1, a product. Default: 1.0
        """
        return self.explain(locals())

    def cam(self, state: LayerState, edges: Edges, strength: Share) -> Tensor:
        A = state.activations
        x = _images(state)
        E = edges(x) if callable(edges) else sobel(x)
        _check_edges(E, x)
        G = resize(weighted_sum(spatial_mean(state.gradients), A), x.shape[2:])
        return G * (1 - strength + strength * unit_range(E.to(G)))


def _images(state: LayerState) -> Tensor:
    A = state.activations
    for x in state.request.inputs:
        if x.is_floating_point() and x.dim() == A.dim() == 4:
            return x.to(torch.promote_types(x.dtype, A.dtype))
    kinds = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in state.request.inputs)
    raise ValueError(
        "Feature CAM is defined on images: it needs a layer of shape (N, C, H, W), got "
        f"{tuple(A.shape)}, and a floating point input of such a shape, got {kinds}"
    )


def _check_edges(E: Any, x: Tensor) -> None:
    shape = tuple(E.shape) if isinstance(E, Tensor) else type(E).__name__
    if shape != (len(x), 1, *x.shape[2:]):
        raise ValueError(
            f"edges must return a tensor of shape {(len(x), 1, *x.shape[2:])} for images of "
            f"shape {tuple(x.shape)}, got {shape}"
        )
    check_finite("edges", E, "look at what the edge detector returns")
