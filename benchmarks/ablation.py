"""Ablation-CAM against grad-cam's, in one run: ``python -m benchmarks.ablation``.

VGG16 with random weights at 224 px, last ReLU, 512 channels; needs the extra ``peers``.
Prints the ratio of the two times, and how far the maps differ.
"""

from typing import Any

import torch
from pytorch_grad_cam import AblationCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchvision import models

from captum_unioncam import LayerAblationCAM
from captum_unioncam.engine.cost import measured_cost


class Unscaled(AblationCAM):
    """Keeps the map as it is before it is clipped and scaled."""

    def get_cam_image(self, *args: Any, **options: Any) -> Any:
        self.kept = super().get_cam_image(*args, **options)
        return self.kept


def main() -> None:
    torch.manual_seed(0)
    net = models.vgg16(weights=None).eval()
    layer = net.features[29]
    x = torch.rand(1, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        target = int(net(x).argmax())  # positive: the libraries differ in sign where it is not
    method = LayerAblationCAM(net, layer)
    method.attribute(x, target)  # warm-up
    with measured_cost([], x.device) as ours:
        own = method.attribute(x, target)[0][0]
    with Unscaled(net, [layer]) as cam, measured_cost([], x.device) as theirs:
        cam(x, [ClassifierOutputTarget(target)])
    scaled = [m / m.abs().max() for m in (own, torch.as_tensor(cam.kept[0]).to(own))]
    print(f"grad-cam's time over ours: {theirs.seconds / ours.seconds:.1f}")
    difference = (scaled[0] - scaled[1]).abs().max()
    print(f"largest difference of the maps, each scaled to 1: {difference:.1e}")


if __name__ == "__main__":
    main()
