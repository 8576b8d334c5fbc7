"""LeGrad against a version that follows the authors' definition token by token and head by head."""

import math

import pytest
import torch
from torch import nn

from captum_unioncam import LayerLeGrad, suggest_layer
from captum_unioncam.targets import ClassContrast
from tests.networks import images, seeded, vgg_like

models = pytest.importorskip("torchvision.models")
SIZE = (24, 16)
DEPTH = 3


def torchvisions():
    net = models.VisionTransformer(24, 8, DEPTH, 2, 12, 20, num_classes=5)
    # Square by its constructor; the position embedding is all that fixes the size.
    net.encoder.pos_embedding = nn.Parameter(torch.zeros(1, 7, 12))
    net._process_input = lambda x: net.conv_proj(x).flatten(2).mT
    return seeded(net), list(net.encoder.layers), lambda z: net.heads(net.encoder.ln(z))


def timms(name="vit_tiny_patch16_224", **options):
    timm = pytest.importorskip("timm")
    options = {"img_size": SIZE, "patch_size": 8, "embed_dim": 12, "depth": DEPTH, "num_heads": 2,
               "num_classes": 5, **options}  # fmt: skip
    net = seeded(timm.create_model(name, **options))

    def end(z):
        z = net.norm(z)
        if hasattr(net, "head_dist"):
            return (net.head(z) + net.head_dist(z)) / 2
        return net.head(net.fc_norm(z))

    return net, list(net.blocks), end


def deits():
    return timms("deit_tiny_distilled_patch16_224")


def pooled():
    return timms(global_pool="avg", class_token=False)


def hugging_faces():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=DEPTH, num_attention_heads=2, intermediate_size=20,
        image_size=SIZE, patch_size=8, num_labels=5,
    )  # fmt: skip
    net = seeded(transformers.ViTForImageClassification(config))
    return net, list(net.vit.layers), lambda z: net.classifier(net.vit.layernorm(z))


NETWORKS = {
    "torchvision": (torchvisions, 1), "timm": (timms, 1), "deit": (deits, 2), "pooled": (pooled, 0),
    "transformers": (hugging_faces, 1),
}  # fmt: skip


def parts(block):
    """Return a block's projections and the way on from its attention, whosever it is."""
    if hasattr(block, "self_attention"):
        own = block.self_attention
        q, k, v = zip(own.in_proj_weight.chunk(3), own.in_proj_bias.chunk(3), strict=True)
        return block.ln_1, (q, k, v), own.out_proj, lambda x: block.mlp(block.ln_2(x))
    if hasattr(block, "norm1"):
        qkv = block.attn.qkv
        q, k, v = zip(qkv.weight.chunk(3), qkv.bias.chunk(3), strict=True)
        return block.norm1, (q, k, v), block.attn.proj, lambda x: block.mlp(block.norm2(x))
    own = block.attention
    qkv = [(p.weight, p.bias) for p in (own.q_proj, own.k_proj, own.v_proj)]
    return (
        block.layernorm_before, qkv, own.o_proj, lambda x: block.mlp(block.layernorm_after(x))
    )  # fmt: skip


def naive(blocks, end, tokens, target, leading, heads=2):
    """LeGrad of one picture, given the tokens that enter the first block, (T, D)."""
    total = torch.zeros(len(tokens) - leading, dtype=tokens.dtype)
    for block in blocks:
        norm, projections, out, rest = parts(block)
        x = norm(tokens)
        q, k, v = (x @ weight.T + bias for weight, bias in projections)
        width = q.shape[1] // heads
        maps, attended = [], []
        for h in range(heads):
            on = slice(h * width, (h + 1) * width)
            a = (q[:, on] @ k[:, on].T / math.sqrt(width)).softmax(1).detach().requires_grad_()
            maps.append(a)
            attended.append(a @ v[:, on])
        after = tokens + out(torch.cat(attended, dim=1))
        z = after + rest(after)
        score = end(z.mean(0))[target]
        gradients = torch.autograd.grad(score, maps)
        for j in range(leading, len(tokens)):
            for g in gradients:
                for i in range(len(tokens)):
                    total[j - leading] += max(g[i, j].item(), 0) / (heads * len(tokens))
        tokens = z.detach()
    return total / len(blocks)


def first_tokens(net, blocks, x):
    seen = []
    handle = blocks[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    with torch.no_grad():
        net(x)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_authors_definition(name):
    made, leading = NETWORKS[name]
    net, blocks, end = made()
    x = images(2, 3, *SIZE)
    tokens = first_tokens(net, blocks, x)
    expected = [naive(blocks, end, one, 1, leading) for one in tokens]
    cam = LayerLeGrad(net, blocks[-1]).attribute(x, 1)
    torch.testing.assert_close(cam, torch.stack(expected).reshape(2, 1, 3, 2))
    assert cam.any()
    two = LayerLeGrad(net, blocks[1]).attribute(x, 1)
    expected = [naive(blocks[:2], end, one, 1, leading) for one in tokens]
    torch.testing.assert_close(two, torch.stack(expected).reshape(2, 1, 3, 2))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_is_as_before(name):
    net, blocks, _ = NETWORKS[name][0]()
    x = images(2, 3, *SIZE)
    net.train()
    net.requires_grad_(requires_grad=False)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    attributes = [dict(vars(module)) for module in net.modules()]
    with pytest.warns(UserWarning, match="training mode"):
        LayerLeGrad(net, blocks[-1]).attribute(x, 1)
    for module, before in zip(net.modules(), attributes, strict=True):
        assert module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert vars(module).keys() == before.keys()
        for key, value in before.items():
            if isinstance(value, bool | int | float | str):
                assert vars(module)[key] == value
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    # Fused attention is the library's own again.
    assert torch.nn.functional.scaled_dot_product_attention.__module__ == "torch._C._nn"


@pytest.mark.parametrize("name", ["torchvision", "timm", "transformers"])
def test_any_layer_that_tells_the_blocks(name):
    net, blocks, _ = NETWORKS[name][0]()
    x = images(2, 3, *SIZE)
    expected = LayerLeGrad(net, blocks[-1]).attribute(x, 1)
    named = suggest_layer(net, x).layer
    torch.testing.assert_close(LayerLeGrad(net, named).attribute(x, 1), expected)
    if name == "torchvision":
        assert torch.equal(LayerLeGrad(net, net.encoder).attribute(x, 1), expected)
    last = LayerLeGrad(net, blocks[-1]).attribute(x, 1, blocks=1)
    first = LayerLeGrad(net, blocks[-2]).attribute(x, 1)
    torch.testing.assert_close(expected, (2 * first + last) / 3)
    assert torch.equal(LayerLeGrad(net, blocks[-1]).attribute(x, 1, blocks=9), expected)


def test_own_pooling_is_the_gradient_of_the_model_itself():
    net, blocks, _ = timms()
    x = images(1, 3, *SIZE)
    cam = LayerLeGrad(net, blocks[-1]).attribute(x, 1, blocks=1, pooling="own")
    attention = blocks[-1].attn
    attention.fused_attn = False
    seen = []
    attention.attn_drop.register_forward_hook(lambda m, args, out: seen.append(out))
    (gradient,) = torch.autograd.grad(net(x)[0, 1], seen)
    expected = gradient.relu().mean((1, 2))[:, 1:].reshape(1, 1, 3, 2)
    torch.testing.assert_close(cam, expected)
    # The class token alone is read, so only what it attends to counts.
    torch.testing.assert_close(gradient[0, :, 1:], torch.zeros_like(gradient[0, :, 1:]))


def test_attention_that_the_model_computes_itself():
    net, blocks, _ = timms()
    x = images(2, 3, *SIZE)
    expected = LayerLeGrad(net, blocks[-1]).attribute(x, 1)
    for block in blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(LayerLeGrad(net, blocks[-1]).attribute(x, 1), expected)


def test_eager_attention_of_transformers():
    net, blocks, _ = hugging_faces()
    x = images(2, 3, *SIZE)
    expected = LayerLeGrad(net, blocks[-1]).attribute(x, 1)
    net.set_attn_implementation("eager")
    # Their eager softmax is in float32.
    torch.testing.assert_close(
        LayerLeGrad(net, blocks[-1]).attribute(x, 1), expected, atol=1e-5, rtol=1e-4
    )


def test_callable_targets():
    net, blocks, _ = timms()
    x = images(2, 3, *SIZE)
    cam = LayerLeGrad(net, blocks[-1])
    contrast = cam.attribute(x, [ClassContrast(1, 2), ClassContrast(2, 3)])
    torch.testing.assert_close(contrast[1:], cam.attribute(x[1:], ClassContrast(2, 3)))
    torch.testing.assert_close(cam.attribute(x, lambda y: y[:, 1]), cam.attribute(x, 1))


class MixesRows(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        y = self.net(x)
        return y - y.mean(0)


def test_other_models_are_refused():
    net, layer, x = vgg_like()
    with pytest.raises(ValueError, match="LeGrad needs a vision transformer"):
        LayerLeGrad(net, layer).attribute(x, 1)
    vit, blocks, _ = timms()
    x = images(2, 3, *SIZE)
    with pytest.raises(ValueError, match="forward_func hides the model"):
        LayerLeGrad(lambda x: vit(x), blocks[-1]).attribute(x, 1)
    with pytest.raises(ValueError, match="depends on more than each row's tokens"):
        LayerLeGrad(MixesRows(vit).eval(), blocks[-1]).attribute(x, 1)
    with pytest.raises(ValueError, match="is in no such block"):
        LayerLeGrad(vit, vit.norm).attribute(x, 1)
    with pytest.raises(ValueError, match="pooling must be one of"):
        LayerLeGrad(vit, blocks[-1]).attribute(x, 1, pooling="cls")
    with pytest.raises(ValueError, match="blocks must be"):
        LayerLeGrad(vit, blocks[-1]).attribute(x, 1, blocks=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.modules())


@pytest.mark.parametrize("name", ["swin_t", "maxvit_t"])
def test_windows_are_refused(name):
    torch.manual_seed(0)
    net = getattr(models, name)(weights=None).eval()
    size = 224 if name == "maxvit_t" else 64
    layer = suggest_layer(net).layer
    with pytest.raises(ValueError, match="LeGrad needs a vision transformer"):
        LayerLeGrad(net, layer).attribute(torch.rand(1, 3, size, size), 1)


def test_pooling_by_attention_is_refused():
    net, blocks, _ = timms(global_pool="map", class_token=False)
    with pytest.raises(ValueError, match="LeGrad needs a vision transformer"):
        LayerLeGrad(net, blocks[-1]).attribute(images(2, 3, *SIZE), 1)
