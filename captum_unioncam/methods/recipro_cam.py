"""Recipro-CAM: positions scored by the features they hold alone (CVPRW 2024)."""

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
)


def windows(size: tuple[int, ...], positions: Tensor, gaussian: bool, like: Tensor) -> Tensor:
    """Return the window around each position u as weights of all positions, (R, 1, *size).

    Args:
        size (tuple[int, ...]): how many positions each axis has.
        positions (Tensor): numbers of R positions, counted as in memory.
        gaussian (bool): the 3 x 3 pattern 1/4, 1/8, 1/16 cut off at borders, in other dimensions
            the same product of (1/4, 1/2, 1/4) over the axes; or one at the position alone.
        like (Tensor): tensor whose dtype and device to use.
    """
    weights = like.new_ones(len(positions), 1, *[1] * len(size))
    for axis, centre in enumerate(torch.unravel_index(positions, size)):
        shape = [1] * (2 + len(size))
        shape[2 + axis] = size[axis]
        steps = torch.arange(size[axis], device=like.device).reshape(shape)
        away = (steps - centre.reshape(-1, *[1] * (1 + len(size)))).abs()
        beside = 0.25 * (away == 1) + 0.5 * (away == 0) if gaussian else away == 0
        weights = weights * beside.to(like)
    return weights


class LayerReciproCAM(ClassActivationMap):
    r"""Recipro-CAM: every position is scored by the network that sees its features alone.

    .. math::
        L_u = f_c(F^u), \qquad F^u_{kv} = \mathbb{1}[v = u] \, A_{ku}

    with A the layer's activations, :math:`F^u` what takes their place on the way through the rest
    of the network, and f_c the softmax probability. With ``gaussian=True`` the features of u
    spread over its neighbours, :math:`F^u_{kv} = g_{v-u} A_{ku}` with g the 3 x 3 pattern 1/4,
    1/8, 1/16 cut off at borders; in 1-D and 3-D g is the same product of (1/4, 1/2, 1/4) over the
    axes. Cost: one forward per position, of the part of the network after the layer.

    The map holds the scores themselves; the authors min-max scale it to [0, 1], which changes no
    order. For transformers see :class:`captum_unioncam.methods.vit_recipro_cam.LayerViTReciproCAM`.

    Source: Byun, Lee: Recipro-CAM: Fast Gradient-free Visual Explanations for Convolutional
    Neural Networks. CVPR Workshops, 2024. https://arxiv.org/abs/2209.14074

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerReciproCAM(net.eval(), net[1]).attribute(x, target=1, gaussian=True).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "Recipro-CAM"
    source = Source(
        "Byun and Lee, CVPR Workshops", 2024, "https://arxiv.org/abs/2209.14074", "authors' code"
    )
    forwards = Forwards("P suffixes + 9", 9, per_position=1)
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
        gaussian: bool = False,
        **options: Unpack[FeatureOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            gaussian (bool, optional): spread the features of a position over its neighbours.
                Default: False
        """
        return self.explain(locals())

    def cam(self, state: LayerState, gaussian: bool) -> Tensor:
        A = state.activations
        size = tuple(A.shape[2:])

        def alone(example: int, positions: Tensor) -> Tensor:
            vectors = A[example].flatten(1)[:, positions].mT
            vectors = vectors.reshape(*vectors.shape, *[1] * len(size))
            return vectors * windows(size, positions, gaussian, A)

        scores = state.features.score(A[0, 0].numel(), alone).scores
        return scores.reshape(len(A), 1, *size)
