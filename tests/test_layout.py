"""How a layer's tensor lies on the input: found where it is certain, said where it is not."""

import warnings

import pytest
import torch
from torch import nn

from captum_unioncam import LayerAblationCAM, LayerHiResCAM, LayerScoreCAM, LayerXGradCAM
from captum_unioncam.engine.layer_state import measure_layer
from captum_unioncam.engine.layout import Layout, OwnLayout, parse_layout
from captum_unioncam.engine.layout_finding import ShapesSeen, find_layout
from captum_unioncam.engine.request import checked_request
from tests.networks import images, seeded


class LastChannels(nn.Module):
    """Works on (N, H, W, C)."""

    def __init__(self, channels):
        super().__init__()
        self.blocks, self.head = nn.Linear(3, channels), nn.Linear(channels, 4)

    def forward(self, x):
        return self.head(self.blocks(x.permute(0, 2, 3, 1)).relu().mean((1, 2)))


class FirstChannels(LastChannels):
    """The same with its layer's channels first."""

    def __init__(self, channels):
        super().__init__(channels)
        self.maps = nn.Identity()

    def forward(self, x):
        features = self.maps(self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return self.head(features.relu().mean((2, 3)))


@pytest.mark.parametrize("method", [LayerXGradCAM, LayerScoreCAM, LayerAblationCAM, LayerHiResCAM])
@pytest.mark.parametrize(("size", "channels"), [((12, 12), 40), ((8, 12), 40), ((8, 12), 18)])
def test_channels_last_is_the_map_of_channels_first(method, size, channels):
    last, first = seeded(LastChannels(channels)), seeded(FirstChannels(channels))
    x = images(2, 3, *size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attr = method(last, last.blocks).attribute(x, 1)
    torch.testing.assert_close(attr, method(first, first.maps).attribute(x, 1))


class Encoder(nn.Module):
    """A sequence (N, C, L) as (N, T, D), with a class token in front or none."""

    def __init__(self, width=8, tokens=0, stride=2):
        super().__init__()
        self.cut = nn.Conv1d(3, width, stride, stride)
        self.token = nn.Parameter(torch.zeros(1, tokens, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True, dropout=0)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.cut(x).mT
        x = self.block(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        return self.head(x.mean(1))


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("method", [LayerXGradCAM, LayerScoreCAM, LayerAblationCAM])
def test_sequences_have_positions_in_time(method, tokens):
    net = seeded(Encoder(tokens=tokens))
    x = images(2, 3, 20)
    attr = method(net, net.block.norm2).attribute(x, 1)
    assert attr.shape == (2, 1, 10)
    assert attr.std() > 0


def layout_of(net, layer, x, **options):
    with measure_layer(checked_request(net, layer, x, 0, **options)) as states:
        return states[0].layout


def test_maps_of_one_dimension_stay_maps():
    net = nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 10, 2)).eval()
    x = torch.rand(1, 3, 12)
    for layer in net[:2]:
        assert layout_of(net, layer, x) == Layout((10,), channels="first")


@pytest.mark.parametrize(
    ("shape", "module", "layout"),
    [
        ((2, 7, 7, 7), nn.Linear(9, 7), Layout((7, 7))),
        ((2, 7, 7, 7), nn.Conv2d(9, 7, 1), Layout((7, 7), channels="first")),
        ((2, 7, 7, 7), nn.LayerNorm(7), Layout((7, 7))),
        ((2, 6, 7, 7), nn.ModuleList([nn.Conv2d(6, 6, 3), nn.Linear(7, 1)]),
         Layout((7, 7), 0, "first")),
        ((2, 7, 7, 5), nn.Identity(), Layout((7, 7))),
        ((2, 5, 7, 7), nn.Identity(), Layout((7, 7), channels="first")),
        ((2, 5, 2, 9), nn.Identity(), Layout((2, 9), channels="first")),
        ((2, 9, 49), nn.Conv1d(9, 9, 1), Layout((7, 7), channels="first")),
        ((2, 50, 16), nn.LayerNorm(16), Layout((7, 7), leading_tokens=1)),
    ],
)  # fmt: skip
def test_modules_tell_where_channels_are(shape, module, layout):
    assert find_layout(torch.zeros(shape), (torch.zeros(2, 3, 28, 28),), module) == layout


@pytest.mark.parametrize("shape", [(2, 7, 7, 7), (2, 12, 12)])
def test_two_readings_are_refused(shape):
    x = torch.zeros(2, 3, 28, 28) if len(shape) == 4 else torch.zeros(2, 3, 12)
    with pytest.raises(ValueError, match=r'"channels_first" or layout="channels_last"'):
        find_layout(torch.zeros(shape), (x,), nn.Identity())


def test_two_grids_are_refused():
    with pytest.raises(ValueError, match=r"Layout\(\(2, 2\).*=5\) or Layout\(\(3, 3\).*=0\)"):
        find_layout(torch.zeros(1, 9, 4), (torch.zeros(1, 3, 32, 32),), nn.LayerNorm(4))


@pytest.mark.parametrize(
    ("maps", "tokens", "layout"),
    [
        # Patches need not be square, nor divide the input, where a convolution cut them.
        ({(8, 12, 101)}, 1214, Layout((12, 101), leading_tokens=2)),
        ({(8, 4, 7, 7)}, 197, Layout((4, 7, 7), leading_tokens=1)),
        ({(8, 56, 56), (9, 14, 14)}, 16, Layout((4, 4))),
        ({(8, 3, 9)}, 36, Layout((3, 9), leading_tokens=9)),
    ],
)
def test_convolutions_tell_the_grid(maps, tokens, layout):
    inputs = (torch.zeros(1, 1, 128, 1024),)
    seen = ShapesSeen(maps=maps)
    assert find_layout(torch.zeros(1, tokens, 5), inputs, nn.LayerNorm(5), seen) == layout


def test_frames_cut_one_by_one_are_refused():
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)

        def forward(self, x):
            frames = self.cut(x.transpose(1, 2).flatten(0, 1)).flatten(2).unflatten(0, (len(x), -1))
            return self.norm(frames.permute(0, 3, 1, 2).flatten(1, 2)).mean(1)

    net, x = seeded(Frames()), images(1, 3, 4, 8, 8)
    with pytest.raises(ValueError, match=r"16 tokens.*a video of 4 x 8 x 8.*layout=Layout"):
        LayerXGradCAM(net, net.norm).attribute(x, 1)


def test_an_unrolled_order_is_refused():
    class Unroll(nn.Module):
        def forward(self, x):
            return x.flip(1)

    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), Transposed(), Unroll(), nn.LayerNorm(8)),
        *(nn.Flatten(), nn.Linear(32, 2)),
    )
    net, x = seeded(net), images(1, 3, 8, 8)
    with pytest.raises(ValueError, match="out of the input's order"):
        LayerXGradCAM(net, net[4]).attribute(x, 1)


class Transposed(nn.Module):
    def forward(self, x):
        return x.mT


# The option.


def patches(tensor):
    return tensor[:, 3:].mT.unflatten(2, (2, 4))


def tokens_of(maps, own):
    return torch.cat([own[:, :3].expand(len(maps), -1, -1), maps.flatten(2).mT], 1)


class Registers(nn.Module):
    """Three registers before eight patches, which no proportions tell."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Linear(3 * 16, 6)
        self.registers = nn.Parameter(torch.zeros(1, 3, 6))
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x):
        cut = nn.functional.unfold(x, 4, stride=4).mT
        x = torch.cat([self.registers.expand(len(x), -1, -1), self.cut(cut)], 1)
        return self.head(self.norm(x).tanh().mean(1))


def test_registers_are_refused_with_the_remedy():
    net, x = seeded(Registers()), images(2, 3, 8, 16)
    with pytest.raises(ValueError, match=r"11 tokens.*layout=Layout\(size, leading_tokens=...\)"):
        LayerXGradCAM(net, net.norm).attribute(x, 1)


@pytest.mark.parametrize(
    "value", [Layout((2, 4), leading_tokens=3), OwnLayout(patches, tokens_of), (patches, tokens_of)]
)
def test_own_layouts(value):
    net, x = seeded(Registers()), images(2, 3, 8, 16)
    request = checked_request(net, net.norm, x, 1, layout=value)
    with measure_layer(request) as (state,):
        assert state.activations.shape == (2, 6, 2, 4)
        own = state.layer_tensor
        assert torch.equal(state.activations[1, :, 1, 2], own[1, 3 + 6])
        back = state.as_layer_tensor(state.activations[1:].expand(3, -1, -1, -1), 1)
        assert torch.equal(back, own[1:].expand(3, -1, -1))
        scores = state.features.score(2, lambda e, ids: state.activations[[e] * len(ids)])
        torch.testing.assert_close(scores.logits, state.logits[:, None].expand(2, 2))


def test_a_callable_alone_serves_gradients_but_not_features():
    net, x = seeded(Registers()), images(2, 3, 8, 16)
    with measure_layer(checked_request(net, net.norm, x, 1, layout=patches)) as (state,):
        assert state.gradients.shape == (2, 6, 2, 4)
        with pytest.raises(ValueError, match=r"layout=\(there, back\)"):
            state.features.score(1, lambda e, ids: state.activations[:1])


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ("channel_last", ValueError, "closest: 'channels_last'"),
        (3, TypeError, "pair of callables there and back, got int"),
        ((patches, 3), TypeError, "got tuple"),
        ("tokens", ValueError, "11 tokens"),
        (Layout((4, 4)), ValueError, r"16 positions, but the layer gives shape \(2, 11, 6\)"),
        (lambda t: t[:, 3:], ValueError, None),
        (lambda t: t.mean((1, 2)), ValueError, r"must return maps \(N, C, \*size\).*got \(1,\)"),
        ((patches, lambda m, own: m), ValueError, "way back must return shape"),
        ((patches, lambda m, own: 2 * tokens_of(m, own)), ValueError, "does not undo"),
    ],
)  # fmt: skip
def test_wrong_layouts(value, error, match):
    net, x = seeded(Registers()), images(2, 3, 8, 16)
    if match is None:
        # Nothing is wrong with maps of one dimension; masks cannot be laid on an image, though.
        request = checked_request(net, net.norm, x, 1, layout=value)
        with measure_layer(request) as (state,), pytest.raises(error, match="no input can be"):
            state.channel_scores()
        return
    with pytest.raises(error, match=match):  # noqa: SIM117
        with measure_layer(checked_request(net, net.norm, x, 1, layout=value)):
            pass


def test_names():
    assert parse_layout("channels_first") == parse_layout("maps") == "maps"
    tensor, x = torch.zeros(2, 7, 7, 7), (torch.zeros(2, 3, 28, 28),)
    assert find_layout(tensor, x, asked="maps") == Layout((7, 7), channels="first")
    assert find_layout(tensor, x, asked="channels_last") == Layout((7, 7))
    with pytest.raises(ValueError, match=r"gives? \(N, T, D\), got shape \(2, 7, 7, 7\)"):
        find_layout(tensor, x, asked="tokens")


# Inputs that masks would cover in another order.


class Sequences(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.block(self.embed(x)).mean(1))


class FramesFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.cut, self.norm = nn.Conv3d(3, 8, 2, 2), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.cut(x.transpose(1, 2)).flatten(2).mT).tanh().mean(1)


class Waves(nn.Module):
    def __init__(self):
        super().__init__()
        self.cut, self.norm = nn.Conv1d(1, 8, 4, 4), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.cut(x[:, None]).mT).tanh().mean(1)


@pytest.mark.parametrize(
    ("net", "name", "shape", "size", "match"),
    [
        (Sequences, "block.norm2", (2, 9, 5), (9,), r"takes \(N, C, L\).*x.movedim\(1, 2\)"),
        (FramesFirst, "norm", (2, 4, 3, 8, 6), (2, 4, 3), r"\(N, C, T, H, W\).*movedim\(1, 2\)"),
        (Waves, "norm", (2, 20), (5,), r"takes \(N, 1, T\) and returns model\(x\[:, 0\]\)"),
    ],
)  # fmt: skip
def test_masks_need_channels_before_positions(net, name, shape, size, match):
    net, x = seeded(net()), images(*shape)
    layer = net.get_submodule(name)
    assert LayerXGradCAM(net, layer).attribute(x, 1).shape == (2, 1, *size)
    with pytest.raises(ValueError, match=match):
        LayerScoreCAM(net, layer).attribute(x, 1)


def test_the_model_is_left_without_hooks():
    net, x = seeded(Encoder()), images(2, 3, 20)
    for target in (1, 9):
        with (
            pytest.raises(ValueError, match="out of range")
            if target == 9
            else warnings.catch_warnings()
        ):
            LayerXGradCAM(net, net.block).attribute(x, target)
        assert not any(m._forward_hooks for m in net.modules())
