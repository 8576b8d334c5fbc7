"""LayerUnionCAM inside Captum's own tools."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop, GuidedGradCam, LayerAttribution, NoiseTunnel
from captum.attr import visualization as viz
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from torch import nn

from captum_unioncam import LayerUnionCAM, as_explanation_func, black_baseline
from tests.networks import images, vgg_like

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


@pytest.fixture
def setting():
    net, layer, x = vgg_like()
    return net.float(), layer, x.float()


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("baselines", [None, "black", "per example"])
def test_noise_tunnel(setting, nt_type, baselines):
    net, layer, x = setting
    baselines = {
        None: None,
        "black": black_baseline(MEAN, STD, x),
        "per example": torch.zeros_like(x) + 0.1,
    }[baselines]
    tunnel = NoiseTunnel(LayerUnionCAM(net, layer))
    options = {"nt_type": nt_type, "stdevs": 0.05, "baselines": baselines}
    torch.manual_seed(0)
    attr = tunnel.attribute(x, target=[1, 2], nt_samples=3, nt_samples_batch_size=2, **options)
    assert attr.shape == (2, 1, 6, 6)
    assert torch.isfinite(attr).all()
    assert attr.abs().max() > 0


def test_noise_tunnel_averages_the_maps_of_its_noisy_inputs(setting):
    net, layer, x = setting
    method = LayerUnionCAM(net, layer)
    torch.manual_seed(0)
    attr = NoiseTunnel(method).attribute(x, target=1, nt_samples=4, stdevs=0.1)
    torch.manual_seed(0)
    noisy = torch.normal(x.repeat_interleave(4, 0), 0.1)
    expected = method.attribute(noisy, 1).reshape(2, 4, 1, 6, 6).mean(1)
    torch.testing.assert_close(attr, expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:Input Tensor 0", "ignore:Setting backward hooks")
def test_guided_grad_cam_composition(setting):
    net, layer, x = setting
    for module in net:
        if isinstance(module, nn.ReLU):
            module.inplace = False
    guided = GuidedGradCam(net, layer)
    guided.grad_cam = LayerUnionCAM(net, layer)
    attr = guided.attribute(x, 1, interpolate_mode="bilinear")
    maps = LayerUnionCAM(net, layer).attribute(x, 1, relu_attributions=True)
    upsampled = LayerAttribution.interpolate(maps, (12, 12), "bilinear")
    expected = upsampled * GuidedBackprop(net).attribute(x.clone(), 1)
    torch.testing.assert_close(attr, expected)
    assert attr.abs().max() > 0


def test_infidelity(setting):
    net, layer, x = setting
    attr = LayerUnionCAM(net, layer).attribute(x, 1)
    upsampled = LayerAttribution.interpolate(attr, x.shape[2:], "bilinear").expand_as(x)

    @infidelity_perturb_func_decorator(False)
    def perturb(inputs):
        return inputs - torch.randn_like(inputs) * 0.1

    value = infidelity(net, perturb, x, upsampled, target=1, normalize=True)
    assert value.shape == (2,)
    assert torch.isfinite(value).all()


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("count", [1, 2])
def test_sensitivity_max(setting, samples, count):
    net, layer, x = setting
    method = LayerUnionCAM(net, layer)
    x = x[:count]

    def shift(inputs):
        return inputs + 0.03

    value = sensitivity_max(
        as_explanation_func(method), x, shift, n_perturb_samples=samples, target=1,
        baselines=torch.zeros_like(x), perturbations_per_eval=4,
    )  # fmt: skip
    clean, moved = method.attribute(x, 1), method.attribute(x + 0.03, 1)
    expected = (moved - clean).flatten(1).norm(dim=1) / clean.flatten(1).norm(dim=1)
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "method", ["heat_map", "blended_heat_map", "masked_image", "alpha_scaling"]
)
def test_visualize_image_attr(setting, method):
    net, layer, x = setting
    attr = LayerUnionCAM(net, layer).attribute(x, 1)
    upsampled = LayerAttribution.interpolate(attr, x.shape[2:], "bilinear")
    shown = np.transpose(upsampled[0].numpy(), (1, 2, 0))
    picture = np.transpose(x[0].numpy(), (1, 2, 0))
    figure, _ = viz.visualize_image_attr(
        shown, picture, method=method, sign="positive", use_pyplot=False
    )
    assert figure.axes


def test_visualize_image_attr_multiple(setting):
    net, layer, x = setting
    attr = LayerUnionCAM(net, layer).attribute(x, 1)
    upsampled = LayerAttribution.interpolate(attr, x.shape[2:], "bilinear")
    _, axes = viz.visualize_image_attr_multiple(
        np.transpose(upsampled[0].numpy(), (1, 2, 0)),
        np.transpose(x[0].numpy(), (1, 2, 0)),
        ["original_image", "heat_map"],
        ["all", "positive"],
        use_pyplot=False,
    )
    assert len(axes) == 2


def test_black_baseline_masks_the_picture_itself():
    pictures = images(2, 3, 5, 6)
    mean, std = (torch.tensor(v).double().reshape(1, 3, 1, 1) for v in (MEAN, STD))
    x, mask = (pictures - mean) / std, images(2, 1, 5, 6, seed=1)
    black = black_baseline(MEAN, STD, x)
    assert black.shape == (1, 3, 5, 6)
    torch.testing.assert_close(black + mask * (x - black), (pictures * mask - mean) / std)


def test_explanation_func_keeps_tuples():
    class Pair(LayerUnionCAM):
        def attribute(self, inputs):
            return inputs, inputs

    net, layer, x = vgg_like()
    assert len(as_explanation_func(Pair(net, layer))(x)) == 2
