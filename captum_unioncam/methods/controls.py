"""Maps that know nothing of the network: what a method must beat to say anything."""

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    GradKwargs,
    Inputs,
    LayerOptions,
    LayerState,
    Positive,
    Seed,
    TargetType,
    generator_of,
)


class LayerOnesCAM(ClassActivationMap):
    r"""All ones: the map that points everywhere, :math:`L_{ij} = 1`.

    A control for benchmarks: masking by it changes nothing, so its average drop is zero.

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> LayerOnesCAM(net.eval(), net[1]).attribute(torch.rand(2, 3, 8, 8), target=1).unique()
        tensor([1.])
    """

    name = "All ones"
    needs_gradients = False

    def cam(self, state: LayerState) -> Tensor:
        return torch.ones_like(state.activations[:, :1])


class LayerRandomCAM(ClassActivationMap):
    r"""Random map: independent uniform values, :math:`L_{ij} \sim \mathcal{U}(0, 1)`.

    A control for benchmarks. All examples of all calls with one seed share the map, so that a
    batch gives what single examples give.

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerRandomCAM(net.eval(), net[1]).attribute(x, target=1, seed=3).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "Random map"
    needs_gradients = False

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        seed: Seed = 0,
        **options: Unpack[LayerOptions],
    ) -> Attributions:
        """Compute the map."""
        return self.explain(locals())

    def cam(self, state: LayerState, seed: Seed) -> Tensor:
        A = state.activations
        generator = generator_of(seed)
        L = torch.rand((1, 1, *A.shape[2:]), generator=generator, dtype=torch.float64)
        return L.to(A).expand(len(A), -1, *A.shape[2:])


class LayerCenterCAM(ClassActivationMap):
    r"""Centre Gaussian: the map of a photographer's habit.

    .. math::
        L_{u} = \exp\big(-\lVert u \rVert^2 / (2 \sigma^2)\big)

    with u the position of a cell's centre, from -1 to 1 along each dimension. A control for
    benchmarks: objects tend to be in the middle.

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> L = LayerCenterCAM(net.eval(), net[1]).attribute(torch.rand(1, 3, 8, 8), target=1)
        >>> L[0, 0, 2, 2] == L.max()
        tensor(True)
    """

    name = "Centre Gaussian"
    needs_gradients = False

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        stdev: Positive = 0.5,
        **options: Unpack[LayerOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            stdev (float, optional): standard deviation, in half sides of the map. Default: 0.5
        """
        return self.explain(locals())

    def cam(self, state: LayerState, stdev: Positive) -> Tensor:
        A = state.activations
        L = A.new_ones(len(A), 1, *A.shape[2:])
        for dim in range(2, A.dim()):
            length = A.shape[dim]
            u = (2 * torch.arange(length, device=A.device, dtype=A.dtype) + 1 - length) / length
            along = [-1 if d == dim else 1 for d in range(A.dim())]
            L = L * (-0.5 * (u / stdev) ** 2).exp().reshape(along)
        return L
