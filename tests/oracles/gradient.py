"""Gradient methods, loop by loop from their papers."""

import math

import torch
from torch import nn

from captum_unioncam.methods.augmented_grad_cam import LayerAugmentedGradCAM
from captum_unioncam.methods.grad_cam_plus_plus import LayerGradCAMPlusPlus
from captum_unioncam.methods.hires_cam import LayerHiResCAM
from captum_unioncam.methods.integrated_grad_cam import LayerIntegratedGradCAM
from captum_unioncam.methods.layer_cam import LayerCAM
from captum_unioncam.methods.original_cam import LayerOriginalCAM
from captum_unioncam.methods.smooth_grad_cam_plus_plus import LayerSmoothGradCAMPlusPlus
from captum_unioncam.methods.xgrad_cam import LayerXGradCAM
from tests.oracles.common import Oracle, activations, activations_and_gradients, is_zero, upsample


def cam(net, layer, x, target):
    A = activations(net, layer, x)
    linear = next(m for m in net.modules() if isinstance(m, nn.Linear))
    L = torch.zeros_like(A[0])
    for k, a in enumerate(A):
        L += linear.weight[target[0], k].item() * a
    return L


def xgrad_cam(net, layer, x, target):
    A, W = activations_and_gradients(net, layer, x, target)
    L = torch.zeros_like(A[0])
    for a, w in zip(A, W, strict=True):
        if not is_zero(a.sum(), a.abs().sum()):
            L += (w * a).sum() / a.sum() * a
    return L


def plus_plus_weight(a, d1, d2, d3, normalize_alpha=False):
    """One channel's weight from Eq. 19, written with squares and cubes as in the paper."""
    S, alphas, gradients = a.sum().item(), [], []
    for g1, g2, g3 in zip(d1.flatten(), d2.flatten(), d3.flatten(), strict=True):
        denominator = 2 * g2.item() + S * g3.item()
        if g1 > 0:
            alphas.append(g2.item() / denominator if denominator > 0 else 0.0)
            gradients.append(g1.item())
    total = sum(alphas) if normalize_alpha and sum(alphas) != 0 else 1.0
    return sum(alpha / total * g for alpha, g in zip(alphas, gradients, strict=True))


def grad_cam_plus_plus(net, layer, x, target, normalize_alpha=False):
    A, W = activations_and_gradients(net, layer, x, target)
    L = torch.zeros_like(A[0])
    for a, w in zip(A, W, strict=True):
        L += plus_plus_weight(a, w, w**2, w**3, normalize_alpha) * a
    return L


def smooth_grad_cam_plus_plus(net, layer, x, target, n_samples=4, stdev=0.3, seed=0):
    A = activations(net, layer, x)
    generator = torch.Generator().manual_seed(seed)
    noisy = []
    for _ in range(n_samples):
        noise = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
        noisy.append(activations_and_gradients(net, layer, x + stdev * noise, target)[1])
    L = torch.zeros_like(A[0])
    for k, a in enumerate(A):
        d1, d2, d3 = (sum(W[k] ** power for W in noisy) / n_samples for power in (1, 2, 3))
        L += plus_plus_weight(a, d1, d2, d3) * a
    return L


def grad_cam(A, W, B=None):
    L = torch.zeros_like(A[0])
    for k, (a, w) in enumerate(zip(A, W, strict=True)):
        mean = 0 if is_zero(w.mean(), w.abs().mean()) else w.mean()
        L += mean * (a if B is None else a - B[k])
    return L


def integrated_grad_cam(net, layer, x, target, variant="official", n_steps=50, baselines=0.0):
    start = torch.zeros_like(x) + baselines
    first = 0 if variant == "official" else 1
    B = activations(net, layer, start)
    L = torch.zeros_like(B[0])
    for t in range(first, first + n_steps):
        point = start * (1 - t / n_steps) + x * (t / n_steps)
        A, W = activations_and_gradients(net, layer, point, target)
        L += grad_cam(A, W).relu() if variant == "official" else grad_cam(A, W, B) / n_steps
    return L


def layer_cam(net, layer, x, target):
    A, W = activations_and_gradients(net, layer, x, target)
    L = torch.zeros_like(A[0])
    for a, w in zip(A, W, strict=True):
        L += a * torch.maximum(w, torch.zeros_like(w))
    return L


def hires_cam(net, layer, x, target):
    A, W = activations_and_gradients(net, layer, x, target)
    L = torch.zeros_like(A[0])
    for a, w in zip(A, W, strict=True):
        L += a * w
    return L


def rotate_and_shift(point, center, angle, shift):
    """Where an augmented image finds its point (row, column), in pixels."""
    down, right = point[0] - center[0], point[1] - center[1]
    return (
        center[0] + math.sin(angle) * right + math.cos(angle) * down + shift[0],
        center[1] + math.cos(angle) * right - math.sin(angle) * down + shift[1],
    )


def bilinear(size, point):
    """Weights of the pixels around a point; those beyond the border are zero and left out."""
    row, column = math.floor(point[0]), math.floor(point[1])
    for i in (row, row + 1):
        for j in (column, column + 1):
            if 0 <= i < size[0] and 0 <= j < size[1]:
                yield (i, j), (1 - abs(point[0] - i)) * (1 - abs(point[1] - j))


def sampled(image, points):
    """Sample an image (C, H, W) at rows of points."""
    out = torch.zeros(len(image), len(points), len(points[0]), dtype=image.dtype)
    for i, row in enumerate(points):
        for j, point in enumerate(row):
            for (r, c), weight in bilinear(image.shape[1:], point):
                out[:, i, j] += weight * image[:, r, c]
    return out


def augmented_grad_cam(
    net, layer, x, target, aggregation="average",
    n_augmentations=100, max_rotation=0.5, max_translation=30 / 224, seed=0, path=None,
):  # fmt: skip
    """The map; of a super-resolved one, every step of the fit that begins where `path` does."""
    size = H, W = x.shape[2:]
    center = (H - 1) / 2, (W - 1) / 2
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n_augmentations, 3, generator=generator, dtype=torch.float64)
    motions = [(0.0, (0.0, 0.0))]
    for angle, right, down in ((2 * drawn - 1).tolist())[1:]:
        shift = down * max_translation * H, right * max_translation * W
        motions.append((angle * max_rotation, shift))
    pixels = [[(i, j) for j in range(W)] for i in range(H)]

    def there(points, motion):
        return [[rotate_and_shift(p, center, *motion) for p in row] for row in points]

    def back(points, motion):
        angle, (down, right) = motion
        unshifted = [[(i - down, j - right) for i, j in row] for row in points]
        return [[rotate_and_shift(p, center, -angle, (0, 0)) for p in row] for row in unshifted]

    cams = []
    for motion in motions:
        image = sampled(x[0], there(pixels, motion))[None]
        cams.append(grad_cam(*activations_and_gradients(net, layer, image, target)).relu())
    if aggregation != "super_resolution":
        aligned = torch.stack(
            [
                sampled(upsample(g, size)[None], back(pixels, motion))[0]
                for g, motion in zip(cams, motions, strict=True)
            ]
        )
        return aligned.amax(0) if aggregation == "max" else aligned.mean(0)
    return fit_steps(cams, motions, size, there, path)


def fit_steps(cams, motions, size, there, path):
    """Where Adam's step from each point of a path leads, given the points before it.

    Each step starts from a given point because the steps' signs double rounding errors: two fits
    that start together do not end together.
    """
    rows, columns = cams[0].shape
    cells = [
        [
            ((i + 0.5) * size[0] / rows - 0.5, (j + 0.5) * size[1] / columns - 0.5)
            for j in range(columns)
        ]
        for i in range(rows)
    ]
    operator, wanted = [], []
    for g, motion in zip(cams, motions, strict=True):
        if g.max() > 0:
            wanted.append((g / g.max()).flatten())
            for row in there(cells, motion):
                for point in row:
                    line = torch.zeros(size, dtype=g.dtype)
                    for pixel, weight in bilinear(size, point):
                        line[pixel] += weight
                    operator.append(line.flatten())
    if not wanted:
        return None
    kept, D, g = len(wanted), torch.stack(operator), torch.cat(wanted)
    m, v, reached = 0, 0, []
    for step, h in enumerate(path, 1):
        gradient = (2 * D.T @ (D @ h.flatten() - g)).reshape(size)
        signs = torch.zeros_like(h)
        down, right = (h[1:] - h[:-1]).sign(), (h[:, 1:] - h[:, :-1]).sign()
        signs[1:] += down
        signs[:-1] -= down
        signs[:, 1:] += right
        signs[:, :-1] -= right
        gradient += kept * (0.002 * signs + 2 * 0.0001 * h)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        change = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        reached.append(h - 1e-3 * change)
    return torch.stack(reached)


FEW = {"n_augmentations": 4}
ORACLES = {
    "cam": Oracle(LayerOriginalCAM, cam, [{"networks": ["gap_head"]}]),
    "gradcam++": Oracle(LayerGradCAMPlusPlus, grad_cam_plus_plus, [{}, {"normalize_alpha": True}]),
    "smoothgradcam++": Oracle(
        LayerSmoothGradCAMPlusPlus,
        smooth_grad_cam_plus_plus,
        [{}, {"n_samples": 3, "stdev": 0.05, "seed": 7}],
    ),
    "xgradcam": Oracle(LayerXGradCAM, xgrad_cam, [{}]),
    "augmentedgradcam": Oracle(
        LayerAugmentedGradCAM,
        augmented_grad_cam,
        [
            *({**FEW, "aggregation": a} for a in ("average", "max")),
            {**FEW, "aggregation": "average", "max_rotation": 0, "max_translation": 0.4, "seed": 3},
            {**FEW, "aggregation": "average", "max_rotation": 3.0, "max_translation": 0},
        ],
    ),
    "integratedgradcam": Oracle(
        LayerIntegratedGradCAM,
        integrated_grad_cam,
        [{}, {"variant": "paper", "n_steps": 7}, {"n_steps": 3, "baselines": -0.5}],
    ),
    "layercam": Oracle(LayerCAM, layer_cam, [{}]),
    "hirescam": Oracle(LayerHiResCAM, hires_cam, [{}]),
}
