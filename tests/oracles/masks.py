"""Methods that mask the input, loop by loop from their papers."""

import numpy as np
import torch

from captum_unioncam.methods.score_cam import LayerScoreCAM
from tests.oracles.common import Oracle, activations, logit, min_max, probability, upsample


def score_cam(net, layer, x, target, weights="score", baselines=0.0):
    A = activations(net, layer, x)
    w = {}
    for k, a in enumerate(A):
        if a.max() > a.min():
            masked = baselines + min_max(upsample(a, x.shape[2:])) * (x - baselines)
            f = logit if weights == "softmax" else probability
            w[k] = f(net, masked, target)
    if weights == "softmax":
        total = sum(np.exp(v) for v in w.values())
        w = {k: np.exp(v) / total for k, v in w.items()}
    L = torch.zeros_like(A[0])
    for k, v in w.items():
        L += v * A[k]
    return L


ORACLES = {
    "scorecam": Oracle(
        LayerScoreCAM, score_cam, [{}, {"weights": "softmax"}, {"baselines": -0.5}]
    )
}
