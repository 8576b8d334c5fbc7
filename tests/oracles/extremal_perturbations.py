"""Extremal Perturbations, mask by mask and pixel by pixel."""

import itertools
import math

import torch
import torch.nn.functional as F

from tests.oracles.masks import blurred


def extremal_perturbations(
    net, x, target, areas=(0.05, 0.1, 0.2, 0.4), steps=100, rate=0.08, cells=32, sigma=3.0,
    area_weight=300.0, smooth=0.09, mirror=False, least_score=None, baselines=None, score="logit",
):  # fmt: skip
    """Gradients are those of the whole energy."""
    size = x.shape[2:]
    cell = [math.ceil(n / cells) for n in size]
    grid = [math.ceil(n / c) for n, c in zip(size, cell, strict=True)]
    reach = min(math.ceil(sigma) + 1, max(grid))
    stdevs = [20 * (1 - level / 7) for level in range(7)]
    levels = [*(blurred(x, math.ceil(4 * stdev), stdev) for stdev in stdevs), x]
    if baselines is not None:
        levels = [torch.zeros_like(x) + baselines, x]
    pixels = list(itertools.product(*map(range, size)))
    kernels = []
    for u in pixels:
        own = [at // c for at, c in zip(u, cell, strict=True)]
        k = torch.zeros([2 * reach + 1] * len(size), dtype=x.dtype)
        for offset in itertools.product(range(2 * reach + 1), repeat=len(size)):
            squared = 0.0
            for at, c, i, o in zip(u, cell, own, offset, strict=True):
                # From the middle of the pixel to the middle of the cell, in cells.
                squared += ((at + 0.5) / c - (i + o - reach + 0.5)) ** 2
            k[offset] = math.exp(-2 * max(0, math.sqrt(squared) / sigma - 0.5) ** 2)
        kernels.append((own, k))

    def mask(p):
        around = F.pad(p, [reach] * 2 * p.dim())
        values = []
        for own, k in kernels:
            v = k * around[tuple(slice(i, i + 2 * reach + 1) for i in own)]
            values.append((v * (20 * v).exp()).sum() / (20 * v).exp().sum())
        return torch.stack(values).reshape(tuple(size))

    def f(m, mirrored=False):
        place = m * (len(levels) - 1)
        shown = torch.zeros_like(x)
        for level in range(len(levels) - 1):
            blend = levels[level] + (place - level) * (levels[level + 1] - levels[level])
            here = (place >= level) & ((place < level + 1) | (level == len(levels) - 2))
            shown = shown + here * blend
        out = net(shown.flip(-1) if mirrored else shown)
        return (out.softmax(1) if score == "probability" else out)[(0, *target)]

    found = []
    for a in sorted(areas):
        count = round(a * len(pixels))
        p, momentum = torch.ones(grid, dtype=x.dtype), None
        for step in range(steps):
            p.requires_grad_()
            m = mask(p)
            flat = m.flatten()
            # Ones for the largest values, which nearly equal ones share.
            rounded = [round(4096 * value) for value in flat.tolist()]
            r = []
            for value in rounded:
                equal, above = rounded.count(value), sum(other > value for other in rounded)
                r.append(min(max(count - above, 0), equal) / equal)
            weight = area_weight * 1.0035 ** (800 * step / steps)
            area = ((flat - torch.tensor(r, dtype=x.dtype)) ** 2).mean()
            energy = f(m, mirror and step % 2 == 0) - weight * area
            (g,) = torch.autograd.grad(-energy, p)
            momentum = g if momentum is None else 0.9 * momentum + 0.1 * g
            p = (p.detach() - rate * p.numel() / 1024 * momentum).clamp(0, 1)
        found.append(mask(p))
    L = torch.stack(found).mean(0)
    if least_score is not None:
        enough = [m for m in found if f(m).item() >= least_score]
        L = enough[0] if enough else found[-1]
    stdev = smooth * min(size)
    return blurred(L[None, None], math.ceil(4 * stdev), stdev)[0, 0] if smooth else L
