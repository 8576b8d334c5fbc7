"""What the papers' formulas are written in: one image, one map, nothing batched or shared.

Nothing here is imported from the package.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

# Values closer than so many units in the last place of double precision are equal: the tolerance
# that the documentation states.
TIE = 64 * 2.0**-52


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
        return softmaxed_output(net(x))[(0, *target)].item()


def softmaxed_output(out):
    """Probabilities over dimension 1, where the output is none yet, nor one value per example."""
    is_distribution = bool((out >= 0).all()) and bool(((out.sum(1) - 1).abs() < 1e-6).all())
    if is_distribution or out.shape[1] == 1:
        return out
    out = torch.exp(out)
    return out / out.sum(1, keepdim=True)


def upsample(low, size):
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[low.dim()]
    # Along a dimension of one position there is nothing to interpolate, nor to round.
    own = [n if m > 1 else 1 for m, n in zip(low.shape, size, strict=True)]
    return F.interpolate(low[None, None], own, mode=mode)[0, 0].expand(tuple(size))


def is_zero(difference, *sizes):
    """Whether a difference of values of these sizes is zero but for rounding."""
    return abs(float(difference)) <= TIE * max(abs(float(size)) for size in sizes)


def is_flat(m, *sizes):
    """Whether the values of a map, made of others of these sizes, are equal but for rounding."""
    return is_zero(m.max() - m.min(), m.max(), m.min(), *sizes)


def min_max(m, *sizes):
    return torch.zeros_like(m) if is_flat(m, *sizes) else (m - m.min()) / (m.max() - m.min())
