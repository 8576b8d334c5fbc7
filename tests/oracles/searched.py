"""Maps that are regressed or searched for, written down from their formulas, mask by mask."""

import math

import numpy as np
import torch

from captum_unioncam import (
    LayerOptiCAM,
    LayerRefinedCAM,
    LayerRegressionCAM,
    LayerSelectedCAM,
)
from tests.oracles.common import (
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
from tests.oracles.gradient import grad_cam, layer_cam
from tests.oracles.masks import blurred, masked, score_cam
from tests.oracles.union_cam import denoised, scaled, union_cam


def z(values):
    centred = values - values.mean()
    return centred * 0 if is_flat(values) else centred / centred.pow(2).mean().sqrt()


def first_best(candidates, scores, sizes):
    """The first of the candidates whose score equals the largest, but for rounding."""
    return next(
        M for M, s in zip(candidates, scores, strict=True) if s >= max(scores) or
        (s > -math.inf and is_zero(max(scores) - s, *sizes))
    )  # fmt: skip


def log_odds(p):
    """The log-odds of a probability that is known as well as single precision tells it."""
    single = torch.finfo(torch.float32)
    return math.log(max(p, single.tiny)) - math.log(max(1 - p, single.eps))


def ranks(m):
    """1 for the largest value, 0 for the smallest; equal ones in one random order."""
    values = m.flatten().tolist()
    mixed = torch.randperm(len(values), generator=torch.Generator().manual_seed(0)).tolist()
    order = sorted(range(len(values)), key=lambda i: (-values[i], mixed.index(i)))
    ranked = torch.zeros(len(values), dtype=m.dtype)
    for place, i in enumerate(order):
        ranked[i] = 1 - place / (len(values) - 1)
    return ranked.reshape(m.shape)


def spanning(masks, count):
    """Masks whose score is least certain, given noisy scores of those before, one by one."""
    if not masks:
        return []
    B = torch.stack([m.flatten() for m in masks])
    B = B - B.mean(0)
    G, chosen = B @ B.T, []
    noisy = G + G.diagonal().mean() * torch.eye(len(B), dtype=B.dtype)

    def variance(k):
        if not chosen:
            return G[k, k]
        known = torch.linalg.inv(noisy[chosen][:, chosen])
        return G[k, k] - G[k, chosen] @ known @ G[chosen, k]

    while len(chosen) < min(count, len(B)):
        left = {k: variance(k) for k in range(len(B)) if k not in chosen}
        most = max(left.values())
        chosen.append(next(k for k, v in left.items() if is_zero(most - v, G.diagonal().norm())))
    return [masks[k] for k in chosen]


def regression_cam(
    net, layer, x, target, pairs=128, prior="denoised", penalties=(8.0, 3.0, 24.0), select=True,
    baselines=0.0, score="probability",
):  # fmt: skip
    A, W = activations_and_gradients(net, layer, x, target)
    size = x.shape[2:]
    f = logit if score == "logit" else probability
    D = torch.zeros_like(A[0]) if prior is None else denoised(A, W, 10.0, "all", "sum")
    masks = []
    for a in A:
        m = min_max(a)
        if not is_flat(a) and not any(torch.equal(m, other) for other in masks):
            masks.append(m)
    # Of masks that tell equally much the first counts, value by value.
    masks = spanning(sorted(masks, key=lambda m: m.flatten().tolist()), pairs)
    rows, p = [], []
    for m in masks:
        shown = min_max(upsample(m, size))
        for values, visible in ((m, shown), (1 - m, 1 - shown)):
            rows.append(values.flatten())
            p.append(f(net, masked(x, visible, baselines), target))
    candidates = [] if prior is None else [scaled(D, size)]
    if not rows:
        candidates += [D * 0 for _ in penalties]
        return candidates[0] if select else candidates[-1]
    X = torch.stack(rows)
    X = X - X.mean(0)
    p = torch.tensor(p, dtype=x.dtype)
    odds = (
        p
        if score == "logit"
        else torch.tensor([log_odds(one) for one in p.tolist()], dtype=x.dtype)
    )
    y = z(odds) + z(p)
    d = z(D.flatten())
    K = torch.eye(len(d), dtype=x.dtype) + 3 * torch.outer(d, d)
    variance = (X @ X.T).diagonal().mean()
    for penalty in penalties:
        inverse = torch.linalg.inv(X @ K @ X.T / variance + penalty * torch.eye(len(X)).to(X))
        candidates.append((K @ X.T @ inverse @ y / variance).reshape(D.shape))
    if not select:
        return candidates[-len(penalties)]
    blur = blurred(x)

    sizes = [f(net, x, target)]

    def S(M):
        v, r, total = min_max(upsample(M, size)), ranks(upsample(M, size)), 0.0
        if is_flat(M):
            return 0.0
        for shown, behind in ((v, baselines), (r, baselines), (r, blur)):
            keep, drop = (f(net, masked(x, m, behind), target) for m in (shown, 1 - shown))
            total += keep - drop
            sizes.extend([keep, drop])
        return total

    return first_best(candidates, [S(M) for M in candidates], sizes)


def opti_cam(net, layer, x, target, steps=100, rate=0.1, baselines=0.0, score="logit"):
    A = activations(net, layer, x).clamp(min=0)
    u = [0.0 for _ in A]
    m1, m2 = [0.0 for _ in A], [0.0 for _ in A]
    for t in range(1, steps + 1):
        leaves = [torch.tensor(w, dtype=x.dtype, requires_grad=True) for w in u]
        total = sum(w.exp() for w in leaves)
        up = upsample(sum(w.exp() / total * a for w, a in zip(leaves, A, strict=True)), x.shape[2:])
        if is_flat(up.detach()):
            break
        out = net(masked(x, (up - up.min()) / (up.max() - up.min()), baselines))
        out = out.softmax(1) if score == "probability" else out
        for k, g in enumerate(torch.autograd.grad(-out[(0, *target)], leaves)):
            m1[k] = 0.9 * m1[k] + 0.1 * g.item()
            m2[k] = 0.999 * m2[k] + 0.001 * g.item() ** 2
            step = m1[k] / (1 - 0.9**t) / ((m2[k] / (1 - 0.999**t)) ** 0.5 + 1e-8)
            u[k] -= rate * step
    total = sum(math.exp(w) for w in u)
    return scaled(sum(math.exp(w) / total * a for w, a in zip(u, A, strict=True)), x.shape[2:])


def noise(x, cells=14):
    """Coarse noise in the mean and spread of each channel, clipped to what it holds."""
    size = [min(cells, n) for n in x.shape[2:]]
    drawn = torch.randn(
        (1, x.shape[1], *size), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    behind = torch.zeros_like(x)
    for channel in range(x.shape[1]):
        values = x[0, channel]
        spread = (values - values.mean()).pow(2).mean().sqrt()
        made = values.mean() + spread * upsample(drawn[0, channel], x.shape[2:])
        behind[0, channel] = made.clamp(values.min(), values.max())
    return behind


def mean_of(x):
    return x.mean(tuple(range(2, x.dim())), keepdim=True).expand_as(x)


def refined_cam(
    net, layer, x, target, start="regression", pairs=128, grid=28, steps=10,
    backgrounds=("black", "blur", "noise", "mean"), seed=0, baselines=0.0, score="probability",
):  # fmt: skip
    A, W = activations_and_gradients(net, layer, x, target)
    hidden = {"black": baselines, "blur": blurred(x), "noise": noise(x), "mean": mean_of(x)}
    if start == "denoised":
        first = denoised(A, W, 10.0, "all", "sum")
    else:
        first = regression_cam(
            net, layer, x, target, pairs=pairs, penalties=(8.0,), select=False,
            baselines=baselines, score=score,
        )  # fmt: skip
    size = [max(a, min(grid, n)) for a, n in zip(A.shape[1:], x.shape[2:], strict=True)]
    first = z(upsample(first, size))
    u, m1, m2 = first.clone(), torch.zeros_like(first), torch.zeros_like(first)
    generator = torch.Generator().manual_seed(seed)
    areas = 0.03 + 0.57 * torch.rand((steps, 3), generator=generator, dtype=torch.float64)

    def s(mask, behind):
        image = masked(x, mask, behind)
        out = net(image)[(0, slice(None), *target[1:])]
        if score == "logit":
            return out[target[0]]
        p = out.softmax(0)[target[0]]
        return (
            p.clamp(min=torch.finfo(torch.float32).tiny).log()
            - (1 - p).clamp(min=torch.finfo(torch.float32).eps).log()
        )

    def gained(mask, behind):
        keep, drop = s(mask, behind), s(1 - mask, behind)
        return keep - drop if score == "logit" else keep.clamp(max=6) - drop.clamp(min=-8)

    for step in range(steps):
        u.requires_grad_()
        up = upsample(u, x.shape[2:])
        low, high = up.min().item(), up.max().item()
        shown = up * 0 if is_flat(up.detach()) else (up - low) / (high - low)
        total = gained(shown, hidden[backgrounds[0]]) / 4
        for n, a in enumerate(areas[step].tolist()):
            q = np.percentile(up.detach(), 100 * (1 - a))
            behind = hidden[backgrounds[(3 * step + n) % len(backgrounds)]]
            total = total + gained(torch.sigmoid((up - q) / 0.25), behind) / 4
        for dim in range(u.dim()):
            count = u.shape[dim] - 1
            if not count:
                continue
            step_up = u.narrow(dim, 1, count) - u.narrow(dim, 0, count)
            total = total - 3 * (step_up**2).mean()
        (g,) = torch.autograd.grad(-total, u)
        m1, m2 = 0.8 * m1 + 0.2 * g, 0.99 * m2 + 0.01 * g**2
        t = step + 1
        u = (u - 0.25 * (m1 / (1 - 0.8**t)) / ((m2 / (1 - 0.99**t)).sqrt() + 1e-8)).detach()
    return scaled(scaled(first + z(u), x.shape[2:]) ** 2, x.shape[2:])


def selected_cam(
    net, layer, x, target, pool=("gradcam", "layercam", "regressioncam:select=False"),
    unions=True, criterion="keep_less_drop_at_area", areas=(0.1, 0.3, 0.5),
    backgrounds=("black", "blur"), baselines=0.0, score="probability",
):  # fmt: skip
    size = x.shape[2:]
    f = logit if score == "logit" else probability
    of_union = union_cam(net, layer, x, target, baseline=baselines, score=score)
    known = {
        "gradcam": lambda: grad_cam(*activations_and_gradients(net, layer, x, target)),
        "layercam": lambda: layer_cam(net, layer, x, target),
        "scorecam": lambda: score_cam(net, layer, x, target, baselines=baselines),
        "regressioncam:select=False": lambda: regression_cam(
            net, layer, x, target, select=False, baselines=baselines, score=score
        ),
        "unioncam": lambda: of_union["map"],
        "unioncam.region": lambda: of_union["region"],
        "unioncam.denoised": lambda: of_union["denoised"],
    }
    names = pool.split("/") if isinstance(pool, str) else pool
    maps = [known[name]() for name in names]
    signed = [not name.startswith("unioncam") for name in names]
    maps = [m.clamp(min=0) if clip else m for m, clip in zip(maps, signed, strict=True)]
    maps = [scaled(m, size) for m in maps]

    base = f(net, masked(x, torch.zeros(size, dtype=x.dtype), baselines), target)
    sizes = [f(net, x, target), base]

    def beta(m):
        shown = f(net, masked(x, min_max(upsample(m, size)), baselines), target)
        sizes.append(shown)
        return 0.0 if is_zero(shown - base, shown, base) else shown - base

    candidates = list(maps)
    for i in range(len(maps) * unions):
        for j in range(i + 1, len(maps)):
            b, c = beta(maps[i]), beta(maps[j])
            united = scaled((b * maps[i] + c * maps[j]).clamp(min=0), size)
            adds = max(b, c) > 0 and maps[i].any() and maps[j].any()
            candidates.append(united if adds else united * 0)
    hidden = {"black": baselines, "blur": blurred(x), "noise": noise(x)}

    def S(m):
        if not m.any():
            return -math.inf
        if criterion == "beta":
            return beta(m)
        order, total = ranks(upsample(m, size)), 0.0
        for a in areas:
            count = round(a * order.numel())
            shown = (order > 1 - (count - 0.5) / (order.numel() - 1)).to(x.dtype)
            for name in backgrounds:
                keep, drop = (
                    f(net, masked(x, m, hidden[name]), target) for m in (shown, 1 - shown)
                )
                total += keep * (criterion != "drop_at_area") - drop * (criterion != "keep_at_area")
                sizes.extend([keep, drop])
        return total

    return first_best(candidates, [S(m) for m in candidates], sizes)


ORACLES = {
    "opticam": Oracle(
        LayerOptiCAM,
        opti_cam,
        [
            {"steps": 20},
            {"steps": 6, "rate": 0.5, "baselines": -0.5},
            {"steps": 5, "score": "probability", "baselines": 0.25},
        ],
    ),
    "regressioncam": Oracle(
        LayerRegressionCAM,
        regression_cam,
        [
            {},
            {"select": False, "pairs": 3},
            {"prior": None, "pairs": 5, "penalties": (2.0, 50.0)},
            {"score": "logit", "baselines": -0.5, "select": False},
        ],
    ),
    "refinedcam": Oracle(
        LayerRefinedCAM,
        refined_cam,
        [
            {},
            {"grid": 1, "steps": 2, "pairs": 3, "seed": 7, "baselines": 0.25},
            {"start": "denoised", "backgrounds": ("blur", "noise", "black"), "grid": 5},
            {"score": "logit", "backgrounds": ("noise",), "steps": 3},
        ],
    ),
    "selectedcam": Oracle(
        LayerSelectedCAM,
        selected_cam,
        [
            {},
            {"pool": ("gradcam", "unioncam"), "criterion": "keep_at_area", "areas": (0.25,)},
            {"pool": "unioncam/layercam", "unions": False},
            {"pool": "layercam/unioncam.region/scorecam", "criterion": "drop_at_area"},
            {"pool": ("unioncam.region", "unioncam.denoised"), "criterion": "beta"},
            {"score": "logit", "baselines": -0.5, "backgrounds": ("noise",)},
        ],
    ),
}
