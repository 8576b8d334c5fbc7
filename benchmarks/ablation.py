"""Ablation-CAM against grad-cam's, in one run: ``python -m benchmarks.ablation``.

VGG16 with random weights at 224 px, last ReLU, 512 channels; needs the extra ``peers``.
Prints the ratio of the two times, and how far the channel weights differ.
"""

import time
from typing import Any, cast

import torch
from pytorch_grad_cam import AblationCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchvision import models

from captum_unioncam import LayerAblationCAM


def main() -> None:
    torch.manual_seed(0)
    net = models.vgg16(weights=None).eval()
    layer = net.features[29]
    x = torch.rand(1, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        target = int(net(x).argmax())  # positive: the libraries differ in sign where it is not
    method = LayerAblationCAM(net, layer)
    method.attribute(x, target)  # warm-up
    start = time.perf_counter()
    ours = cast(torch.Tensor, method.attribute(x, target))[0, 0]
    ours_seconds = time.perf_counter() - start

    cam = AblationCAM(model=net, target_layers=[layer])
    weights = []
    compute = cam.get_cam_weights

    def kept(*args: Any) -> Any:
        weights.append(compute(*args))
        return weights[-1]

    cam.get_cam_weights = kept
    start = time.perf_counter()
    cam(input_tensor=x, targets=[ClassifierOutputTarget(target)])
    theirs_seconds = time.perf_counter() - start
    A = cam.activations_and_grads.activations[0].detach()
    cam.__exit__(None, None, None)
    theirs = torch.as_tensor(weights[0])[0, :, None, None].mul(A[0]).sum(0)
    scaled = [m / m.abs().max() for m in (ours, theirs.to(ours))]
    difference = (scaled[0] - scaled[1]).abs().max()
    print(f"grad-cam's time over ours: {theirs_seconds / ours_seconds:.1f}")
    print(f"largest difference of the maps, each scaled to 1: {difference:.1e}")


if __name__ == "__main__":
    main()
