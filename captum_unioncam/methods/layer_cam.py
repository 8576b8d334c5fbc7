"""LayerCAM: maps from any depth of the network, and their fusion (Jiang et al., TIP 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_unioncam.engine import (
    ClassActivationMap,
    LayerState,
    Source,
    check_number,
    quotient,
    resize,
    weighted_sum,
)


def fuse_layer_cams(maps: Sequence[Tensor], size: Sequence[int], gamma: float = 2.0) -> Tensor:
    r"""Fuse LayerCAM maps of several layers into one.

    .. math::
        M = \max_l \tanh\Big(\gamma \, \frac{M_l}{\max M_l}\Big), \qquad
        M_l = \mathrm{Up}(\mathrm{ReLU}(L_l))

    with :math:`L_l` the map of layer l, Up linear resizing to `size`, and the outer maximum taken
    position by position. A map without a positive value adds nothing. Known from secondary
    sources: the authors scale the maps of shallow stages only, and which these are is open; here
    all maps are scaled.

    Args:
        maps (Sequence[Tensor]): one map per layer, (N, 1, *spatial) each.
        size (Sequence[int]): spatial size of the result, usually the input's.
        gamma (float, optional): how strongly values below a map's maximum are lifted.
            Default: 2.0

    Returns:
        *Tensor* of shape (N, 1, *size), from 0 to tanh(gamma).

    Raises:
        TypeError: if `gamma` is not a number.
        ValueError: if there is no map, maps disagree on examples or rank, or `gamma` is not
            positive.

    Examples::

        >>> shallow, deep = torch.tensor([[[0.0, 0.0, 4.0, 2.0]]]), torch.tensor([[[3.0, -1.0]]])
        >>> fuse_layer_cams([shallow, deep], size=(4,))
        tensor([[[0.9640, 0.9051, 0.9640, 0.7616]]])
    """
    check_number("gamma", gamma, above=0)
    if len({(len(m), m.dim()) for m in maps}) != 1 or maps[0].dim() != len(size) + 2:
        shapes = ", ".join(str(tuple(m.shape)) for m in maps) or "none"
        raise ValueError(
            f"maps must have shape (N, 1, *spatial) with the same N and the {len(size)} spatial "
            f"dimensions of size {tuple(size)}, got {shapes}"
        )
    scaled = []
    for cam in maps:
        resized = resize(cam.relu(), size)
        peak = resized.amax(tuple(range(1, resized.dim())), keepdim=True)
        scaled.append(torch.tanh(gamma * quotient(resized, peak)))
    return torch.stack(scaled).amax(0)


class LayerCAM(ClassActivationMap):
    r"""LayerCAM: every position has its own weight, its positive gradient.

    .. math::
        L = \sum_k \mathrm{ReLU}(W_k) \odot A_k

    with A the layer's activations and W the gradients of the target's raw output there. Since
    nothing is averaged over space, shallow layers give useful fine maps too;
    :func:`fuse_layer_cams` unites those of several layers. The authors advise against layers that
    stride or max-pooling follows at once: their gradients form a grid.

    As in the authors' code there is no outer ReLU, which the paper's formula has: it matters for
    layers with negative activations only, and ``relu_attributions=True`` applies it.

    Source: Jiang, Zhang, Hou, Cheng, Wei: LayerCAM: Exploring Hierarchical Class Activation Maps
    for Localization. IEEE Transactions on Image Processing, 2021.
    https://doi.org/10.1109/TIP.2021.3089943

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerCAM(net.eval(), net[1]).attribute(x, target=1).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "LayerCAM"
    source = Source(
        "Jiang et al., IEEE TIP", 2021, "https://doi.org/10.1109/TIP.2021.3089943", "authors' code"
    )

    def cam(self, state: LayerState) -> Tensor:
        return weighted_sum(state.gradients.relu(), state.activations)
