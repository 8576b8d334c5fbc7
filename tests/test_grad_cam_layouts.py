"""Grad-CAM by name on layers that give no plain maps, which Captum's takes for maps."""

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from captum_unioncam import compare
from captum_unioncam.methods.grad_cam import LaidOutGradCAM


class Net(nn.Module):
    """A convolution whose output goes on in another layout, and a head that undoes it."""

    def __init__(self, layout):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.layer, self.norm = nn.Conv2d(3, 5, 4, stride=4), nn.Identity(), None
        self.head, self.layout = nn.Linear(5 * 4 * 6, 3), layout
        if layout != "maps":
            self.layer = nn.LayerNorm(5)

    def forward(self, x):
        maps = self.conv(x).tanh()
        if self.layout == "maps":
            return self.head(self.layer(maps).flatten(1))
        last = maps.movedim(1, -1)
        given = self.layer(last if self.layout == "channels last" else last.flatten(1, 2))
        return self.head(given.flatten(1))


def naive(net, x, target):
    """Return mean gradients times activations, position by position, clipped at zero."""
    kept = []
    hook = net.layer.register_forward_hook(lambda *a: kept.append(a[2]))
    output = net(x)
    hook.remove()
    (gradient,) = torch.autograd.grad(output[:, target].sum(), kept[0])
    A, W = kept[0].detach(), gradient
    if net.layout == "maps":
        A, W = A.flatten(2).transpose(1, 2), W.flatten(2).transpose(1, 2)
    A, W = A.reshape(len(x), 24, 5), W.reshape(len(x), 24, 5)
    cam = torch.zeros(len(x), 24)
    for n in range(len(x)):
        for p in range(24):
            cam[n, p] = sum(W[n, :, k].mean() * A[n, p, k] for k in range(5))
    return cam.reshape(len(x), 1, 4, 6).relu()


@pytest.mark.parametrize("layout", ["maps", "channels last", "tokens"])
def test_grad_cam_by_name_is_over_positions(layout):
    net, x = Net(layout).eval(), torch.rand(2, 3, 16, 24)
    result = compare(["gradcam"], x, 1, forward_func=net, layer=net.layer, metrics=[])
    torch.testing.assert_close(result.maps["Grad-CAM"], naive(net, x, 1))
    assert not any(module._forward_hooks for module in net.modules())


def test_on_maps_it_is_captums(monkeypatch):
    net, x = Net("maps").eval(), torch.rand(2, 3, 16, 24)
    ours = LaidOutGradCAM(net, net.layer).attribute(x, 1, relu_attributions=True)
    captums = LayerGradCam(net, net.layer).attribute(x, 1, relu_attributions=True).detach()
    torch.testing.assert_close(ours, captums)
    monkeypatch.setattr(LaidOutGradCAM, "cam", lambda *_: pytest.fail("not Captum's"))
    compare(["gradcam"], x, 1, forward_func=net, layer=net.layer, metrics=[])


def test_scores_in_a_model_output_are_taken_for_captums_methods_too():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net("maps")

        def forward(self, x):
            return {"logits": self.net(x), "loss": None}

    wrapped, x = Wrapped().eval(), torch.rand(2, 3, 16, 24)
    given = {"metrics": ["average_drop"], "layer": wrapped.net.layer}
    found = compare(["gradcam"], x, "top2", forward_func=wrapped, **given)
    expected = compare(["gradcam"], x, "top2", forward_func=wrapped.net, **given)
    assert torch.equal(found.maps["Grad-CAM"], expected.maps["Grad-CAM"])
    assert [row["average_drop"] for row in found.rows] == [
        row["average_drop"] for row in expected.rows
    ]
