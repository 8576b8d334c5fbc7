"""Gradient methods, loop by loop from their papers."""

import torch

from captum_unioncam.methods.xgrad_cam import LayerXGradCAM
from tests.oracles.common import Oracle, activations_and_gradients


def xgrad_cam(net, layer, x, target):
    A, W = activations_and_gradients(net, layer, x, target)
    L = torch.zeros_like(A[0])
    for a, w in zip(A, W, strict=True):
        if a.sum() != 0:
            L += (w * a).sum() / a.sum() * a
    return L


ORACLES = {"xgradcam": Oracle(LayerXGradCAM, xgrad_cam, [{}])}
