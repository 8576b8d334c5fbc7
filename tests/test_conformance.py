"""Agreement with released libraries where they follow the formula, and where they do not.

Both libraries come with the extra ``conformance``.
"""

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from torchvision import models

from captum_unioncam.methods.registry import METHODS

pgc = pytest.importorskip("pytorch_grad_cam")
torchcam = pytest.importorskip("torchcam.methods")

CLASSES = [3, 7]
pytestmark = pytest.mark.filterwarnings("ignore:.*is blank for example")


class Scaled(nn.Module):
    """A network whose logits are large, so that an additive epsilon in a quotient vanishes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * 1e4


def resnet() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    net = models.resnet18(weights=None, num_classes=10).eval()
    return net, net.layer4


def vgg() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    net = models.vgg11(weights=None, num_classes=10).eval()
    return net, net.features[19]


def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1


def of_grad_cam_library(name: str, net: nn.Module, layer: nn.Module) -> torch.Tensor:
    """Return the library's raw map at layer resolution, before its ReLU and scaling."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(c) for c in CLASSES]
    with getattr(pgc, name)(model=net, target_layers=[layer]) as cam:
        cam(input_tensor=pictures(), targets=targets)
        A = cam.activations_and_grads.activations[0].detach().numpy()
        W = cam.activations_and_grads.gradients[0].detach().numpy()
        raw = cam.get_cam_image(pictures(), layer, targets, A, W, False)
        return torch.as_tensor(raw)[:, None]


def of_torchcam(name: str, net: nn.Module, layer: nn.Module) -> torch.Tensor:
    """Return the library's map at layer resolution, with its ReLU but not its scaling."""
    with getattr(torchcam, name)(net, target_layer=layer) as extractor:
        scores = net(pictures().requires_grad_())
        return extractor(CLASSES, scores, normalized=False)[0].detach()[:, None]


def assert_equal_after_scaling(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    peaks = (m.abs().amax((1, 2, 3), keepdim=True) for m in (ours, theirs))
    ours, theirs = (m / p.where(p > 0, 1) for m, p in zip((ours, theirs), peaks, strict=True))
    assert ours.any()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", [resnet, vgg])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("gradcam", "GradCAM"),
        ("xgradcam", "XGradCAM"),
        ("layercam", "LayerCAM"),
        ("hirescam", "HiResCAM"),
    ],
)
def test_grad_cam_library(name, theirs, network):
    net, layer = network()
    ours = METHODS[name].cls(net, layer).attribute(pictures(), CLASSES).detach()
    assert_equal_after_scaling(ours, of_grad_cam_library(theirs, net, layer))


@pytest.mark.parametrize("network", [resnet, vgg])
def test_grad_cam_plus_plus_of_the_grad_cam_library(network):
    net, layer = network()
    net = Scaled(net).eval()
    ours = METHODS["gradcam++"].cls(net, layer).attribute(pictures(), CLASSES)
    assert_equal_after_scaling(ours, of_grad_cam_library("GradCAMPlusPlus", net, layer))


@pytest.mark.parametrize("network", [resnet, vgg])
@pytest.mark.parametrize(("name", "theirs"), [("xgradcam", "XGradCAM"), ("layercam", "LayerCAM")])
def test_torchcam(name, theirs, network):
    net, layer = network()
    ours = METHODS[name].cls(net, layer).attribute(pictures(), CLASSES, relu_attributions=True)
    assert_equal_after_scaling(ours, of_torchcam(theirs, net, layer))


def test_the_original_cam_of_torchcam():
    net, layer = resnet()
    ours = METHODS["cam"].cls(net, layer).attribute(pictures(), CLASSES)
    theirs = of_torchcam("CAM", net, layer)
    assert_equal_after_scaling(ours, theirs)


def test_torchcams_grad_cam_plus_plus_is_not_equation_19():
    # Its division edits a copy, so that each weight is the sum of the gradients' cubes.
    net, layer = vgg()
    theirs = of_torchcam("GradCAMpp", net, layer)
    ours = (
        METHODS["gradcam++"].cls(net, layer).attribute(pictures(), CLASSES, relu_attributions=True)
    )
    with pytest.raises(AssertionError):
        assert_equal_after_scaling(ours, theirs)
    kept = []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o) or o.clone())
    out = net(pictures())
    handle.remove()
    W = torch.autograd.grad(sum(out[i, c] for i, c in enumerate(CLASSES)), kept[0])[0]
    cubes = (W.relu() ** 3).sum((2, 3), keepdim=True)
    assert_equal_after_scaling((cubes * kept[0]).sum(1, keepdim=True).relu().detach(), theirs)


def test_captums_grad_cam_with_relu_is_the_papers():
    net, layer = vgg()
    signed = LayerGradCam(net, layer).attribute(pictures(), CLASSES)
    clipped = LayerGradCam(net, layer).attribute(pictures(), CLASSES, relu_attributions=True)
    assert torch.equal(clipped, signed.relu())
