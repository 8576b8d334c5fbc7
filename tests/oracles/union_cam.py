"""UnionCAM written down from the paper's equations: one image, one mask, one loop at a time.

Nothing here is shared with the package. Float64, no batching, no merging, no shortcuts. Values
that rounding alone tells apart are equal, as everywhere in the oracles.
"""

import numpy as np
import torch

from tests.oracles.common import TIE, is_flat, is_zero, min_max, softmaxed_output, upsample


def activations_and_gradients(net, layer, x, target, extra=()):
    kept = []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o) or o.clone())
    x = x.clone().requires_grad_()
    logit = net(x, *extra)[(0, *target)]
    handle.remove()
    return kept[-1][0].detach(), torch.autograd.grad(logit, kept[-1])[0][0]


def scaled(low, size):
    """The layer-size map in the units of its resized version's min-max scaling."""
    unit = min_max(low)
    up = upsample(unit, size)
    if is_flat(up):
        return torch.zeros_like(low)
    return (unit - up.min()) / (up.max() - up.min())


def denoised(A, W, theta, denoise_on, alpha):
    L = torch.zeros_like(A[0])
    for a, w in zip(A, W, strict=True):
        largest = w.abs().max().item()
        w = torch.where(w.abs() <= TIE * largest, 0, w)
        values = w.flatten().tolist()
        if denoise_on == "positive":
            values = [v for v in values if v > 0] or [0.0]
        p = np.percentile(values, theta)
        kept = torch.where(w >= p - TIE * largest, w, 0).clamp(min=0)
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
            out = softmaxed_output(out)
        return out[(0, *target)].item()

    D = scaled(denoised(A, W, theta, denoise_on, alpha), size)
    weights = {}
    for k, a in enumerate(A):
        if not is_flat(a):
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

    def beta(M):
        shown = f(upsample(M, size))
        return 0.0 if is_zero(shown - black, shown, black) else shown - black

    beta_D, beta_R = beta(D), beta(R)
    U = (beta_D * D + beta_R * R).clamp(min=0)
    DR = scaled(U if max(beta_D, beta_R) > 0 else U * 0, size)
    beta_DR = beta(DR)
    is_tie = is_zero(beta_DR - beta_R, beta_DR + black, beta_R + black)
    union = bool(beta_DR > beta_R and not is_tie and D.any() and DR.any())
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
