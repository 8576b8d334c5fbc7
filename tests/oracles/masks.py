"""Methods that mask the input, loop by loop from their papers."""

import itertools
import math

import numpy as np
import torch

from captum_unioncam.methods.feature_cam import LayerFeatureCAM
from captum_unioncam.methods.fusion_cam import LayerFusionCAM
from captum_unioncam.methods.grad_plus_plus_score_cam import LayerGradPlusPlusScoreCAM
from captum_unioncam.methods.group_cam import LayerGroupCAM
from captum_unioncam.methods.is_cam import LayerISCAM
from captum_unioncam.methods.score_cam import LayerScoreCAM
from captum_unioncam.methods.ss_cam import LayerSSCAM
from tests.oracles.common import (
    TIE,
    Oracle,
    activations,
    activations_and_gradients,
    is_flat,
    is_zero,
    logit,
    min_max,
    probability,
    upsample,
)
from tests.oracles.union_cam import scaled


def masked(x, mask, baseline=0.0):
    return baseline + mask * (x - baseline)


def mean(w):
    """The mean of gradients, zero where they cancel but for rounding."""
    return 0 if is_zero(w.mean(), w.abs().mean()) else w.mean()


def softmaxed(scores):
    total = sum(np.exp(v) for v in scores.values())
    return {k: np.exp(v) / total for k, v in scores.items()}


def summed(weights, A):
    L = torch.zeros_like(A[0])
    for k, v in weights.items():
        L += v * A[k]
    return L


def live(A):
    return [(k, a) for k, a in enumerate(A) if not is_flat(a)]


def score_cam(net, layer, x, target, weights="score", baselines=0.0):
    A = activations(net, layer, x)
    f = logit if weights == "softmax" else probability
    w = {}
    for k, a in live(A):
        w[k] = f(net, masked(x, min_max(upsample(a, x.shape[2:])), baselines), target)
    return summed(softmaxed(w) if weights == "softmax" else w, A)


def ss_cam(
    net, layer, x, target, noise_on="activations", n_samples=35, stdev=2.0, weights="softmax",
    seed=0, baselines=0.0, score="logit",
):  # fmt: skip
    A, size = activations(net, layer, x), x.shape[2:]
    f = logit if score == "logit" else probability
    generator = torch.Generator().manual_seed(seed)
    w = {k: 0.0 for k, _ in live(A)}
    for _ in range(n_samples):
        shape = x.shape if noise_on == "input" else size
        noise = stdev * torch.randn(shape, generator=generator, dtype=torch.float64)
        for k, a in live(A):
            up = upsample(a, size)
            if noise_on == "activations":
                image = masked(x, min_max(up + noise), baselines)
            elif noise_on == "mask":
                image = masked(x, min_max(up) + noise, baselines)
            else:
                image = masked(x, min_max(up), baselines) + noise
            w[k] += f(net, image, target) / n_samples
    return summed(softmaxed(w) if weights == "softmax" else w, A)


def is_cam(net, layer, x, target, n_steps=10, cumulative=False, weights="softmax", baselines=0.0):
    A = activations(net, layer, x)
    w = {}
    for k, a in live(A):
        H, factor, scores = min_max(upsample(a, x.shape[2:])), 0.0, []
        for i in range(1, n_steps + 1):
            factor = factor + i / n_steps if cumulative else i / n_steps
            scores.append(logit(net, masked(x, factor * H, baselines), target))
        w[k] = np.mean(scores)
    return summed(softmaxed(w) if weights == "softmax" else w, A)


def reflected(i, n):
    while not 0 <= i < n:
        i = -i if i < 0 else 2 * (n - 1) - i
    return i


def blurred(x, reach=25, stdev=50.0):
    """A Gaussian, of 51 pixels by default, position by position along each dimension."""
    for dim in range(2, x.dim()):
        n = x.shape[dim]
        half = min(reach, n - 1)
        kernel = [math.exp(-(j**2) / (2 * stdev**2)) for j in range(-half, half + 1)]
        rows = []
        for i in range(n):
            near = [x.select(dim, reflected(i + j, n)) for j in range(-half, half + 1)]
            rows.append(sum(k * v for k, v in zip(kernel, near, strict=True)) / sum(kernel))
        x = torch.stack(rows, dim)
    return x


def group_cam(net, layer, x, target, groups=32, theta=70.0, baselines=None):
    A, W = activations_and_gradients(net, layer, x, target)
    size, channels = x.shape[2:], len(A)
    baseline = blurred(x) if baselines is None else torch.full_like(x, baselines)
    groups = min(groups, channels)
    # The first groups take one channel more where the division leaves a rest.
    lengths = [channels // groups + (r < channels % groups) for r in range(groups)]
    L, k = torch.zeros_like(A[0]), 0
    for length in lengths:
        M = torch.zeros_like(A[0])
        for a, w in zip(A[k : k + length], W[k : k + length], strict=True):
            M += mean(w) * a
        k += length
        M = M.clamp(min=0)
        M = torch.where(np.percentile(M, theta) < M, M, 0)
        if is_flat(M):
            continue
        image = masked(x, min_max(upsample(M, size)), baseline)
        alpha = probability(net, image, target) - probability(net, baseline, target)
        L += alpha * scaled(M, size)
    return L


def fusion_cam(net, layer, x, target, theta=10.0, region_weights="softmax", baselines=0.0):
    A, W = activations_and_gradients(net, layer, x, target)
    size = x.shape[2:]
    black = probability(net, torch.full_like(x, baselines), target)

    def beta(M):
        shown = probability(net, masked(x, upsample(M, size), baselines), target)
        return 0.0 if is_zero(shown - black, shown, black) else shown - black

    def share(one, other):
        if one + other > 0 and not is_zero(one + other, one, other):
            return one / (one + other), other / (one + other)
        if is_zero(one - other, one, other):
            return 0.5, 0.5
        return float(one > other), float(one < other)

    G = torch.zeros_like(A[0])
    for a, w in zip(A, W, strict=True):
        G += mean(w) * a
    G = min_max(G.clamp(min=0))
    D = scaled(torch.where(np.percentile(G, theta) - TIE * G.max() <= G, G, 0), size)
    R = score_cam(net, layer, x, target, weights=region_weights, baselines=baselines)
    R = scaled(R.clamp(min=0), size)
    beta_D, beta_R = share(beta(D), beta(R))
    U = scaled(beta_D * D + beta_R * R, size)
    beta_U, beta_R = share(beta(U), beta_R)
    L = torch.zeros_like(U)
    for i in itertools.product(*map(range, U.shape)):
        u, r = (beta_U * U[i]).item(), (beta_R * R[i]).item()
        s = min(max(1 - abs(u - r), 0), 1)
        L[i] = s * max(u, r) + (1 - s) * (u + r) / 2
    return scaled(L, size)


def sobel(x):
    """The length of the Sobel gradient of an image (C, H, W), pixel by pixel."""
    channels, rows, columns = x.shape
    E = torch.zeros(rows, columns, dtype=x.dtype)
    smooth = {-1: 1, 0: 2, 1: 1}
    for i, j in itertools.product(range(rows), range(columns)):
        for c in range(channels):
            across = down = 0.0
            for di, dj in itertools.product(smooth, smooth):
                row, column = min(max(i + di, 0), rows - 1), min(max(j + dj, 0), columns - 1)
                across += dj * smooth[di] * x[c, row, column]
                down += di * smooth[dj] * x[c, row, column]
            E[i, j] += across**2 + down**2
    return E.sqrt()


def spread(x):
    """Another edge detector: the spread over channels."""
    return x.amax(1, keepdim=True) - x.amin(1, keepdim=True)


def feature_cam(net, layer, x, target, edges="sobel", strength=1.0):
    A, W = activations_and_gradients(net, layer, x, target)
    G = torch.zeros_like(A[0])
    for a, w in zip(A, W, strict=True):
        G += mean(w) * a
    E = min_max(sobel(x[0]) if edges == "sobel" else spread(x)[0, 0])
    return upsample(G, x.shape[2:]) * (1 - strength + strength * E)


def grad_plus_plus_score_cam(
    net, layer, x, target, combine="masks", weights="score", baselines=0.0
):
    A, W = activations_and_gradients(net, layer, x, target)
    B = torch.zeros_like(A)
    for k, (a, g) in enumerate(zip(A, W, strict=True)):
        w = 0.0
        for v in g.flatten().tolist():
            below = 2 * v**2 + a.sum().item() * v**3
            w += v**2 / below * v if v > 0 and below > 0 else 0
        B[k] = w * a
    if combine != "masks":
        fine = score_cam(net, layer, x, target, weights=weights, baselines=baselines)
        fine, coarse = min_max(fine.clamp(min=0)), min_max(B.sum(0).clamp(min=0))
        return coarse * fine if combine == "product" else (coarse + fine) / 2
    f = logit if weights == "softmax" else probability
    s = {}
    for k, b in live(B):
        s[k] = f(net, masked(x, min_max(upsample(b, x.shape[2:])), baselines), target)
    return summed(softmaxed(s) if weights == "softmax" else s, B)


def rise(net, x, target, n_masks, cells, keep, seed=0, baseline=0.0):
    """RISE mask by mask; every random number is drawn first, grids before offsets."""
    size = x.shape[2:]
    generator = torch.Generator().manual_seed(seed)
    shape = (n_masks, 1, *[cells] * len(size))
    grids = torch.rand(shape, generator=generator, dtype=torch.float64) < keep
    offsets = torch.rand((n_masks, len(size)), generator=generator, dtype=torch.float64)
    cell = [math.ceil(n / cells) for n in size]
    S = torch.zeros(size, dtype=torch.float64)
    for grid, offset in zip(grids, offsets, strict=True):
        full = upsample(grid[0].double(), [(cells + 1) * c for c in cell])
        for dim, (c, u, n) in enumerate(zip(cell, offset.tolist(), size, strict=True)):
            full = full.narrow(dim, int(u * c), n)
        S += probability(net, masked(x, full, baseline), target) * full
    return S / (n_masks * keep)


ORACLES = {
    "scorecam": Oracle(LayerScoreCAM, score_cam, [{}, {"weights": "softmax"}, {"baselines": -0.5}]),
    "sscam": Oracle(
        LayerSSCAM,
        ss_cam,
        [
            {"n_samples": 3},
            {"n_samples": 3, "noise_on": "mask", "stdev": 0.5, "seed": 5},
            {"n_samples": 3, "noise_on": "input", "stdev": 0.3, "baselines": -0.5},
            {"n_samples": 2, "weights": "score", "score": "probability", "baselines": 0.25},
        ],
    ),
    "iscam": Oracle(
        LayerISCAM,
        is_cam,
        [
            {},
            {"cumulative": True, "n_steps": 4},
            {"n_steps": 3, "weights": "score", "baselines": -0.5},
        ],
    ),
    "groupcam": Oracle(
        LayerGroupCAM,
        group_cam,
        [{}, {"groups": 3}, {"groups": 2, "theta": 10}, {"groups": 1, "baselines": 0.0}],
    ),
    "fusioncam": Oracle(
        LayerFusionCAM,
        fusion_cam,
        [{}, {"theta": 40}, {"region_weights": "score", "baselines": -0.5}],
    ),
    "featurecam": Oracle(LayerFeatureCAM, feature_cam, [{}, {"strength": 0.4}, {"edges": spread}]),
    "grad++scorecam": Oracle(
        LayerGradPlusPlusScoreCAM,
        grad_plus_plus_score_cam,
        [
            {},
            {"weights": "softmax"},
            {"combine": "product", "baselines": -0.5},
            {"combine": "sum"},
        ],
    ),
}
