"""What the papers' formulas are written in: one image, one map, nothing batched or shared.

Nothing here is imported from the package.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F


class Oracle(NamedTuple):
    """A method of the package, its naive version, and the options to compare them under.

    The naive version is called as ``naive(net, layer, x, target, **options)`` with one example x
    of shape (1, C, *spatial) and the target as a tuple of indices, and returns the signed map at
    layer resolution, (*spatial).
    """

    cls: Any
    naive: Any
    options: list


def activations(net, layer, x):
    kept = []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o.detach().clone()))
    with torch.no_grad():
        net(x)
    handle.remove()
    return kept[-1][0]


def activations_and_gradients(net, layer, x, target):
    kept = []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o) or o.clone())
    logit = net(x.clone().requires_grad_())[(0, *target)]
    handle.remove()
    return kept[-1][0].detach(), torch.autograd.grad(logit, kept[-1])[0][0]


def logit(net, x, target):
    with torch.no_grad():
        return net(x)[(0, *target)].item()


def probability(net, x, target):
    with torch.no_grad():
        out = torch.exp(net(x))
    return (out / out.sum(1, keepdim=True))[(0, *target)].item()


def upsample(low, size):
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[low.dim()]
    return F.interpolate(low[None, None], tuple(size), mode=mode)[0, 0]


def min_max(m):
    return (m - m.min()) / (m.max() - m.min()) if m.max() > m.min() else torch.zeros_like(m)
