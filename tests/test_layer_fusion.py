"""Maps of several layers: each as its method makes it alone, fused as the formula says."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam, Saliency
from torch import nn

from captum_unioncam import (
    LayerAblationCAM,
    LayerGradCAMPlusPlus,
    LayerGroupCAM,
    LayerHiResCAM,
    LayerLeGrad,
    LayerScoreCAM,
    LayerUnionCAM,
    compare,
)
from captum_unioncam.layer_fusion import FUSES, MultiLayer, fuse_maps
from captum_unioncam.targets import ClassContrast
from tests.networks import images, of_rank, vgg_like

LAYERS = (1, 2, 4)


def naive(maps, fuse):
    """Fuse the maps of one example, position by position."""
    finest = max((m.shape for m in maps), key=lambda shape: shape.numel())
    scaled = []
    for m in maps:
        if m.min() == m.max():
            continue
        m = F.interpolate(m[None, None], finest, mode="bilinear")[0, 0]
        scaled.append((m - m.min()) / (m.max() - m.min()))
    fused = torch.zeros(finest, dtype=maps[0].dtype)
    for i in range(finest[0]):
        for j in range(finest[1]):
            values = [float(m[i, j]) for m in scaled]
            if not values:
                continue
            product = 1.0
            for value in values:
                product *= value
            fused[i, j] = {
                "mean": sum(values) / len(values),
                "max": max(values),
                "product": product,
            }[fuse]
    return fused


@pytest.mark.parametrize("fuse", FUSES)
def test_fusing(fuse):
    maps = [
        images(3, 1, 4, 6, seed=1) - 0.5,
        images(3, 1, 8, 12, seed=2),
        images(3, 1, 2, 3, seed=3),
    ]
    maps[1][1] = 0.25
    for m in maps:
        m[2] = -1.0
    fused = fuse_maps(maps, fuse)
    assert fused.shape == (3, 1, 8, 12)
    for n in range(3):
        torch.testing.assert_close(fused[n, 0], naive([m[n, 0] for m in maps], fuse))
    assert not fused[2].any()
    assert torch.equal(fuse_maps(maps[::-1], fuse).round(decimals=12), fused.round(decimals=12))


def test_wrong_maps():
    with pytest.raises(ValueError, match="got none"):
        fuse_maps([])
    with pytest.raises(ValueError, match=r"got \(2, 1, 4, 4\), \(1, 1, 4, 4\)"):
        fuse_maps([images(2, 1, 4, 4), images(1, 1, 4, 4)])
    with pytest.raises(ValueError, match="same number of spatial"):
        fuse_maps([images(2, 1, 4, 4), images(2, 1, 4)])
    with pytest.raises(ValueError, match=r"shape \(N, 1"):
        fuse_maps([images(2, 3, 4, 4)])
    with pytest.raises(ValueError, match="closest: 'mean'"):
        fuse_maps([images(2, 1, 4, 4)], "meen")


METHODS = {
    LayerScoreCAM: {"weights": "softmax"},
    LayerGradCAMPlusPlus: {},
    LayerUnionCAM: {},
    LayerAblationCAM: {},
    LayerGroupCAM: {"groups": 3},
    LayerGradCam: {},
}


@pytest.mark.filterwarnings("ignore:.*is blank for example")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_each_layers_map_is_the_methods_own(method, relu):
    net, _, x = vgg_like()
    layers, options = [net[n] for n in LAYERS], METHODS[method]
    maps = [
        method(net, layer).attribute(x, 2, relu_attributions=relu, **options) for layer in layers
    ]
    fused = MultiLayer(method, net, layers, "mean", **options).attribute(
        x, 2, relu_attributions=relu
    )
    torch.testing.assert_close(fused, fuse_maps([m.detach() for m in maps], "mean"))
    assert fused.shape == (2, 1, 12, 12)
    again = MultiLayer(method, net, layers).attribute(x, 2, relu_attributions=relu, **options)
    assert torch.equal(again, fused)


@pytest.mark.filterwarnings("ignore:.*is blank for example")
def test_what_layers_share():
    net, _, x = vgg_like()
    layers = [net[n] for n in LAYERS]
    rows = []
    net.register_forward_pre_hook(lambda m, args: rows.append(len(args[0])))

    def count(explain):
        rows.clear()
        explain()
        return sum(rows)

    fused = count(lambda: MultiLayer(LayerGradCAMPlusPlus, net, layers).attribute(x, 2))
    assert fused == len(x)
    alone = sum(count(lambda at=at: LayerScoreCAM(net, at).attribute(x, 2)) for at in layers)
    # The clean pass of N rows and the baseline of one run once instead of three times.
    assert count(lambda: MultiLayer(LayerScoreCAM, net, layers).attribute(x, 2)) == alone - 2 * (
        len(x) + 1
    )
    backwards = []
    net[7].register_full_backward_hook(lambda *args: backwards.append(1))
    MultiLayer(LayerHiResCAM, net, layers).attribute(x, 2)
    assert len(backwards) == 1


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank):
    net, layer, x = of_rank(rank)
    cam = MultiLayer(LayerScoreCAM, net, [net[1], layer], "product").attribute(x, 1)
    assert cam.shape == (3, 1, *x.shape[2:])
    expected = [LayerScoreCAM(net, at).attribute(x, 1) for at in (net[1], layer)]
    torch.testing.assert_close(cam, fuse_maps(expected, "product"))


@pytest.mark.filterwarnings("ignore:.*is blank")
def test_in_compare():
    net, _, x = vgg_like()
    layers = [net[n] for n in LAYERS]
    several = MultiLayer(LayerScoreCAM, net, layers, "max")
    result = compare(
        {"several": several, "one": LayerScoreCAM(net, net[4]), "captum": Saliency(net),
         "grad": MultiLayer(LayerGradCam, net, layers)},
        x, [1, 2], baselines=0.25, metrics=["average_drop", "coherency"],
    )  # fmt: skip
    expected = several.attribute(x, [1, 2], relu_attributions=True, baselines=0.25)
    torch.testing.assert_close(result.maps["several"], expected)
    grad = MultiLayer(LayerGradCam, net, layers).attribute(x, [1, 2], relu_attributions=True)
    torch.testing.assert_close(result.maps["grad"], grad)
    assert {row["method"] for row in result.rows} == {"several", "one", "captum", "grad"}
    unnamed = compare([several], x, 1, metrics=[])
    assert list(unnamed.maps) == ["Score-CAM, max of 3 layers"]


@pytest.mark.filterwarnings("ignore:.*is blank")
@pytest.mark.parametrize("method", [LayerGradCam, LayerScoreCAM, LayerHiResCAM])
def test_callable_targets(method):
    net, _, x = vgg_like()
    layers = [net[n] for n in LAYERS]
    fused = MultiLayer(method, net, layers).attribute(x, lambda y: y[:, 2])
    options = {} if method is not LayerScoreCAM else {"score": "logit"}
    torch.testing.assert_close(fused, MultiLayer(method, net, layers, **options).attribute(x, 2))
    each = [ClassContrast(0, 1), ClassContrast(2, 3)]
    together = MultiLayer(method, net, layers).attribute(x, each)
    alone = MultiLayer(method, net, layers).attribute(x[1:], each[1])
    torch.testing.assert_close(together[1:], alone)


@pytest.mark.filterwarnings("ignore:HiResCAM is blank")
def test_blank_layers_are_told():
    net, _, x = vgg_like()
    with torch.no_grad():
        net[6 + 1].weight.zero_()
    with pytest.warns(UserWarning, match=r"mean of 2 layers is blank for example\(s\) \[0, 1\]"):
        cam = MultiLayer(LayerHiResCAM, net, [net[1], net[4]]).attribute(x, 2)
    assert not cam.any()


def test_wrong_arguments():
    net, layer, x = vgg_like()
    for method in (Saliency, "scorecam", LayerScoreCAM(net, layer)):
        with pytest.raises(TypeError, match="a class of layer attributions"):
            MultiLayer(method, net, [layer])
    with pytest.raises(TypeError, match="take LayerScoreCAM itself"):
        MultiLayer(LayerScoreCAM, net, layer)
    with pytest.raises(ValueError, match="at least one, got 0"):
        MultiLayer(LayerScoreCAM, net, [])
    with pytest.raises(ValueError, match="got 2, of which 1 differ"):
        MultiLayer(LayerScoreCAM, net, [layer, layer])
    with pytest.raises(TypeError, match=r"pass model.get_submodule\('1'\)"):
        MultiLayer(LayerScoreCAM, net, ["1"])
    with pytest.raises(TypeError, match="no option 'weight'; closest: 'weights'"):
        MultiLayer(LayerScoreCAM, net, [layer], weight="score")
    with pytest.raises(TypeError, match="no parameter 'weight'; closest: 'weights'"):
        MultiLayer(LayerScoreCAM, net, [layer]).attribute(x, 2, weight="score")
    with pytest.raises(ValueError, match="layer ReLU was never called"):
        MultiLayer(LayerScoreCAM, net, [layer, nn.ReLU()]).attribute(x, 2)
    with pytest.raises(ValueError, match=r"layer '7' \(Linear\) gives shape"):
        MultiLayer(LayerScoreCAM, net, [layer, net[7]]).attribute(x, 2)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_blocks_of_a_transformer_are_layers():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    vit = models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(vit.heads.head.weight)
    norms = [block.ln_1 for block in vit.encoder.layers]
    x = torch.rand(2, 3, 32, 32)
    for method in (LayerHiResCAM, LayerLeGrad):
        cam = MultiLayer(method, vit, norms[1:], "max").attribute(x, 1)
        expected = [method(vit, at).attribute(x, 1) for at in norms[1:]]
        torch.testing.assert_close(cam, fuse_maps(expected, "max"))
