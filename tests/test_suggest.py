"""suggest_layer names the layers that the CAM literature uses."""

import pytest
import torch
from torch import nn
from torchvision import models

from captum_unioncam import LayerUnionCAM, suggest_layer
from tests.networks import of_rank
from tests.token_orders import WRONG_ORDERS, Ordered

LITERATURE = {
    "resnet18": "layer4",
    "resnet50": "layer4",
    "resnext50_32x4d": "layer4",
    "vgg11": "features.19",
    "vgg16": "features.29",
    "vgg16_bn": "features.42",
    "vgg19": "features.35",
    "alexnet": "features.11",
    "densenet121": "features",
    "mobilenet_v2": "features",
    "mobilenet_v3_large": "features",
    "efficientnet_b0": "features",
    "efficientnet_v2_s": "features",
    "convnext_tiny": "features",
    "squeezenet1_0": "features",
    "shufflenet_v2_x1_0": "conv5",
    "regnet_y_400mf": "trunk_output",
    "swin_t": "permute",
}
# Built in moments.
SMALL = ("resnet18", "alexnet", "mobilenet_v2", "squeezenet1_0", "shufflenet_v2_x1_0", "swin_t")


@pytest.mark.parametrize(
    "name",
    [
        name if name in SMALL else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in LITERATURE
    ],
)
def test_torchvision(name):
    model = models.get_model(name, weights=None)
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    found = suggest_layer(model)
    assert found.name == LITERATURE[name]
    assert found.layer is model.get_submodule(found.name)
    assert "last spatial output" in found.why
    assert all(m.training for m in model.modules())
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks
    assert all(p.grad is None for p in model.parameters())


def test_a_pooling_container_is_passed_over():
    found = suggest_layer(models.vgg16(weights=None))
    assert found.why.endswith("ReLU giving 512 channels of 14 x 14")


def test_transformers():
    found = suggest_layer(models.vit_b_32(weights=None))
    assert found.name == "encoder.layers.encoder_layer_11.ln_1"
    assert found.why == "first norm of the last block whose tokens of 7 x 7 reach the head"


def test_printed_it_is_one_line():
    found = suggest_layer(models.resnet18(weights=None))
    assert str(found) == f"layer4 (Sequential): {found.why}"
    assert "\n" not in f"{found}{found!r}"
    assert "BasicBlock" not in repr(found)


def test_segmentation_stops_before_the_class_maps():
    model = models.segmentation.fcn_resnet50(weights=None, weights_backbone=None)
    found = suggest_layer(model, torch.zeros(1, 3, 64, 64))
    assert found.name == "classifier.2"


def test_normalised_class_maps_are_passed_over():
    features = [nn.Conv2d(3, 8, 3), nn.ReLU()]
    net = nn.Sequential(*features, nn.Conv2d(8, 2, 3), nn.BatchNorm2d(2), nn.Sigmoid()).eval()
    assert suggest_layer(net, torch.rand(1, 3, 16, 12)).name == "1"


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks_need_an_example(rank):
    net, _, x = of_rank(rank)
    with pytest.raises(ValueError, match="pass an example"):
        suggest_layer(net)
    assert suggest_layer(net, x).name == "1"


def test_a_side_branch_is_not_on_the_way_to_the_head():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.side = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
            self.head = nn.Linear(4, 6)

        def forward(self, x):
            maps = self.trunk(x)
            self.side(maps)
            return self.head(maps.mean((2, 3)))

    net = Net().requires_grad_(False)
    found = suggest_layer(net, torch.zeros(2, 3, 16, 16))
    assert found.name == "trunk"
    attr = LayerUnionCAM(net.eval(), found.layer).attribute(torch.rand(2, 3, 16, 16), 1)
    assert attr.shape == (2, 1, 14, 14)


def test_a_module_called_twice_is_said():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.act, self.head = nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.act(self.second(self.act(self.first(x)))).mean((2, 3)))

    found = suggest_layer(Net(), torch.zeros(1, 3, 16, 16))
    assert found.name == "act"
    assert found.why.endswith("called 2 times, the last call counts)")


def test_a_callers_no_grad():
    net, _, x = of_rank(2)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert suggest_layer(net, x).name == "1"


def test_a_network_that_begins_in_place():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    x = torch.randn(1, 3, 8, 8)
    kept = x.clone()
    assert suggest_layer(net, x).name == "1"
    assert torch.equal(x, kept)


def test_channels_that_come_last_are_maps():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))

    found = suggest_layer(Net(), torch.rand(1, 3, 8, 8))
    assert found.name == "norm"
    assert found.why.endswith("LayerNorm giving 8 channels of 6 x 6")


def test_only_channels_last():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.head = nn.Linear(3, 40), nn.Linear(40, 5)

        def forward(self, x):
            return self.head(self.blocks(x.permute(0, 2, 3, 1)).mean((1, 2)))

    assert suggest_layer(Net(), torch.rand(1, 3, 12, 12)).name == "blocks"


def test_tokens_in_the_inputs_order():
    torch.manual_seed(0)
    found = suggest_layer(Ordered(nn.Identity()), torch.rand(1, 3, 32, 32))
    assert found.name == "blocks.1.norm1"
    assert found.why.endswith("tokens of 8 x 8 reach the head")


@pytest.mark.parametrize("order", WRONG_ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_tokens_in_another_order_are_refused(order, seed):
    torch.manual_seed(seed)
    with pytest.raises(ValueError, match="are not in the input's order"):
        suggest_layer(Ordered(WRONG_ORDERS[order]), torch.rand(1, 3, 32, 32))
