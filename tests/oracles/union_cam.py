"""UnionCAM written down from the paper's equations: one image, one mask, one loop at a time.

Nothing here is shared with the package. Float64, no batching, no merging, no shortcuts.
"""

import numpy as np
import torch
import torch.nn.functional as F


def activations_and_gradients(net, layer, x, target, extra=()):
    kept = []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o) or o.clone())
    x = x.clone().requires_grad_()
    logit = net(x, *extra)[(0, *target)]
    handle.remove()
    return kept[-1][0].detach(), torch.autograd.grad(logit, kept[-1])[0][0]


def upsample(low, size):
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[low.dim()]
    return F.interpolate(low[None, None], tuple(size), mode=mode)[0, 0]


def min_max(m):
    return (m - m.min()) / (m.max() - m.min()) if m.max() > m.min() else torch.zeros_like(m)


def scaled(low, size):
    """The layer-size map in the units of its resized version's min-max scaling."""
    up = upsample(low, size)
    if low.max() == low.min() or up.max() == up.min():
        return torch.zeros_like(low)
    return (low - up.min()) / (up.max() - up.min())


def denoised(A, W, theta, denoise_on, alpha):
    L = torch.zeros_like(A[0])
    for a, w in zip(A, W, strict=True):
        values = w.flatten().tolist()
        if denoise_on == "positive":
            values = [v for v in values if v > 0] or [0.0]
        p = np.percentile(values, theta)
        kept = torch.where(w >= p, w, 0).clamp(min=0)
        d = kept.sum() if alpha == "sum" else (kept > 0).sum()
        if d > 0:
            L += kept / d * a
    return L.clamp(min=0)


def union_cam(
    net, layer, x, target, baseline=0.0, theta=10.0, denoise_on="all", alpha="sum",
    score="probability", region_weights="score", extra=(),
):  # fmt: skip
    """Explain one example x of shape (1, C, *spatial); target is a tuple of indices."""
    target = target if isinstance(target, tuple) else (target,)
    size = x.shape[2:]
    A, W = activations_and_gradients(net, layer, x, target, extra)

    def outputs(mask):
        with torch.no_grad():
            return net(baseline + mask * (x - baseline), *extra)

    def logit(mask):
        return outputs(mask)[(0, *target)].item()

    def f(mask):
        out = outputs(mask)
        if callable(score):
            out = score(out)
        elif score == "probability":
            out = torch.exp(out) / torch.exp(out).sum(1, keepdim=True)
        return out[(0, *target)].item()

    D = scaled(denoised(A, W, theta, denoise_on, alpha), size)
    weights = {}
    for k, a in enumerate(A):
        if a.max() > a.min():
            mask = min_max(upsample(a, size))
            weights[k] = logit(mask) if region_weights == "softmax" else f(mask)
    if region_weights == "softmax":
        total = sum(np.exp(v) for v in weights.values())
        weights = {k: np.exp(v) / total for k, v in weights.items()}
    L = torch.zeros_like(A[0])
    for k, w in weights.items():
        L += w * A[k]
    R = scaled(L.clamp(min=0), size)

    black = f(torch.zeros(size, dtype=x.dtype))
    beta_D = f(upsample(D, size)) - black
    beta_R = f(upsample(R, size)) - black
    U = (beta_D * D + beta_R * R).clamp(min=0)
    DR = scaled(U if max(beta_D, beta_R) > 0 else U * 0, size)
    beta_DR = f(upsample(DR, size)) - black
    union = bool(beta_DR > beta_R and D.any() and DR.any())
    return {
        "map": DR if union else R,
        "denoised": D,
        "region": R,
        "union": DR,
        "beta_denoised": beta_D,
        "beta_region": beta_R,
        "beta_union": beta_DR,
        "selected_union": union,
    }
