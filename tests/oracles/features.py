"""Methods that perturb the layer's features, loop by loop from their papers."""

import math

import numpy as np
import torch

from captum_unioncam.methods.ablation_cam import LayerAblationCAM
from captum_unioncam.methods.ablation_cam_plus_plus import LayerAblationCAMPlusPlus
from captum_unioncam.methods.fd_cam import LayerFDCAM
from captum_unioncam.methods.fimf_score_cam import LayerFIMFScoreCAM
from captum_unioncam.methods.recipro_cam import LayerReciproCAM
from tests.oracles.common import (
    TIE,
    Oracle,
    activations,
    activations_and_gradients,
    is_zero,
    min_max,
    softmaxed_output,
)


def output_with(net, layer, x, features):
    """The whole network on one example, its layer giving `features`."""
    handle = layer.register_forward_hook(lambda m, i, o: features[None].clone())
    with torch.no_grad():
        out = net(x)
    handle.remove()
    return out


def logit_with(net, layer, x, target, features):
    return output_with(net, layer, x, features)[(0, *target)].item()


def probability_with(net, layer, x, target, features):
    return softmaxed_output(output_with(net, layer, x, features))[(0, *target)].item()


def ablation_cam(net, layer, x, target):
    A = activations(net, layer, x)
    y = logit_with(net, layer, x, target, A)
    L = torch.zeros_like(A[0])
    for k in range(len(A)):
        ablated = A.clone()
        ablated[k] = 0
        L += (y - logit_with(net, layer, x, target, ablated)) / abs(y) * A[k]
    return L


def cosine(a, b):
    norms = math.sqrt(float((a * a).sum())) * math.sqrt(float((b * b).sum()))
    return float((a * b).sum()) / norms if norms > 0 else 0.0


def two_means(units, group):
    """Split a list of channels, given the channels as unit vectors."""
    centre = sum(units[k] for k in group)
    first = units[min(group, key=lambda k: float((units[k] * centre).sum()))]
    second = units[min(group, key=lambda k: float((units[k] * first).sum()))]
    sides = None
    for _ in range(10):
        nearer = [float((units[k] * first).sum() - (units[k] * second).sum()) for k in group]
        before, sides = sides, [d >= 0 for d in nearer]
        if all(sides):
            sides = [i < len(group) // 2 for i in range(len(group))]
            break
        if sides == before:
            break
        first, second = (
            sum(units[k] for k, s in zip(group, sides, strict=True) if s == side)
            for side in (True, False)
        )
        first, second = first / first.norm(), second / second.norm()
    return [[k for k, s in zip(group, sides, strict=True) if s == side] for side in (True, False)]


def ablation_cam_plus_plus(net, layer, x, target, tau=0.02, clusters=8):
    A = activations(net, layer, x)
    y = logit_with(net, layer, x, target, A)
    units = {k: (a / a.norm()).flatten() for k, a in enumerate(A) if a.any()}
    groups = [list(units)] if units else []
    while groups and len(groups) < min(clusters, len(units)):
        groups.sort(key=lambda g: (-len(g), g[0]))
        groups = two_means(units, groups[0]) + groups[1:]
    w = torch.zeros(len(A), dtype=A.dtype)

    def visit(group):
        ablated = A.clone()
        for k in group:
            ablated[k] = 0
        drop = (y - logit_with(net, layer, x, target, ablated)) / abs(y)
        if len(group) > 1 and abs(drop) > tau:
            for part in two_means(units, group):
                visit(part)
        else:
            for k in group:
                w[k] = drop / len(group)

    for group in groups:
        visit(group)
    L = torch.zeros_like(A[0])
    for k, a in enumerate(A):
        L += w[k] * a
    return L


def recipro_cam(net, layer, x, target, gaussian=False):
    A = activations(net, layer, x)
    L = torch.zeros_like(A[0])
    rows, columns = L.shape
    pattern = [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    for i in range(rows):
        for j in range(columns):
            features = torch.zeros_like(A)
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    inside = 0 <= i + di < rows and 0 <= j + dj < columns
                    if gaussian and inside:
                        weight = pattern[di + 1][dj + 1] / 16
                        features[:, i + di, j + dj] = weight * A[:, i, j]
            if not gaussian:
                features[:, i, j] = A[:, i, j]
            L[i, j] = probability_with(net, layer, x, target, features)
    return L


def fd_cam(net, layer, x, target, q=0.95):
    A, W = activations_and_gradients(net, layer, x, target)
    y = logit_with(net, layer, x, target, A)
    S, alpha = torch.zeros(2, len(A), dtype=A.dtype)
    sizes = [abs(y)]
    for k in range(len(A)):
        similarity = [cosine(A[k], A[j]) for j in range(len(A))]
        threshold = np.quantile(similarity, q)
        on, off = torch.zeros_like(A), A.clone()
        for j, c in enumerate(similarity):
            if c > threshold + TIE:
                on[j] = A[j]
                off[j] = 0
        only, without = (logit_with(net, layer, x, target, kept) for kept in (on, off))
        S[k] = only + y - without
        sizes += [only, without]
        alpha[k] = 0 if is_zero(W[k].mean(), W[k].abs().mean()) else W[k].mean()
    of_alpha = max(w.abs().mean() for w in W)
    w = torch.exp(min_max(S, *sizes)) * min_max(alpha, of_alpha) - 0.5
    L = torch.zeros_like(A[0])
    for k, a in enumerate(A):
        L += w[k] * a
    return L


def fimf_score_cam(net, layer, x, target):
    A = activations(net, layer, x)
    s = {}
    for k, a in enumerate(A):
        template = min_max(a.clamp(min=0))
        if template.any():
            s[k] = logit_with(net, layer, x, target, template * A)
    total = sum(math.exp(v) for v in s.values())
    L = torch.zeros_like(A[0])
    for k, v in s.items():
        L += math.exp(v) / total * A[k].clamp(min=0)
    return L


ORACLES = {
    "ablationcam": Oracle(LayerAblationCAM, ablation_cam, [{}]),
    "ablationcam++": Oracle(
        LayerAblationCAMPlusPlus,
        ablation_cam_plus_plus,
        [{}, {"tau": 0.3, "clusters": 1}, {"tau": 0, "clusters": 2}],
    ),
    "reciprocam": Oracle(LayerReciproCAM, recipro_cam, [{}, {"gaussian": True}]),
    "fdcam": Oracle(LayerFDCAM, fd_cam, [{}, {"q": 0.4}]),
    "fimfscorecam": Oracle(LayerFIMFScoreCAM, fimf_score_cam, [{}]),
}
