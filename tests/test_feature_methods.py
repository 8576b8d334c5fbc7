"""Methods that perturb a layer's features: the engine under them, tokens, and what must hold."""

from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torchvision import models

from captum_unioncam import LayerUnionCAM
from captum_unioncam.engine import feature_scoring
from captum_unioncam.engine.layout import Layout
from captum_unioncam.engine.layout_finding import find_layout
from captum_unioncam.methods.ablation_cam import LayerAblationCAM
from captum_unioncam.methods.ablation_cam_plus_plus import LayerAblationCAMPlusPlus
from captum_unioncam.methods.fd_cam import LayerFDCAM, directions
from captum_unioncam.methods.fimf_score_cam import LayerFIMFScoreCAM
from captum_unioncam.methods.recipro_cam import LayerReciproCAM
from captum_unioncam.methods.score_cam import LayerScoreCAM
from captum_unioncam.methods.vit_recipro_cam import LayerViTReciproCAM
from captum_unioncam.methods.xgrad_cam import LayerXGradCAM
from tests.networks import (
    NETWORKS,
    TARGETS,
    TwoInputs,
    gap_head,
    images,
    of_rank,
    seeded,
    signed,
    vgg_like,
)
from tests.oracles.features import ablation_cam, logit_with, probability_with, recipro_cam

METHODS = [
    LayerAblationCAM,
    LayerAblationCAMPlusPlus,
    LayerReciproCAM,
    LayerFDCAM,
    LayerFIMFScoreCAM,
]
every_method = pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def hooks(net):
    return [
        hook
        for m in net.modules()
        for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    ]


@contextmanager
def rows_at(*modules):
    """The rows of every call of these modules, one list each."""
    seen = [[] for _ in modules]
    handles = [
        m.register_forward_hook(lambda m, i, o, rows=rows: rows.append(len(o)))
        for m, rows in zip(modules, seen, strict=True)
    ]
    yield seen
    for handle in handles:
        handle.remove()


# Networks whose part after the layer looks at more than the layer.


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.layer = nn.Conv2d(4, 5, 3, padding=1)
        self.head = nn.Linear(5 * 36, 3)


class Plain(Net):
    def forward(self, x):
        return self.head(self.layer(self.stem(x).relu()).relu().flatten(1))


class ViewsAsInput(Net):
    def forward(self, x):
        return self.head(self.layer(self.stem(x).relu()).relu().view(x.shape[0], -1))


class MixesRowsOfOne(Net):
    """With one row of input it goes on without an error, on rows mixed with each other."""

    def __init__(self):
        super().__init__()
        self.mean_head = nn.Linear(5, 3)

    def forward(self, x):
        maps = self.layer(self.stem(x).relu())
        mixed = maps.reshape(len(x), -1, 5, 36).mean((1, 3))
        return self.head(maps.flatten(1)) + self.mean_head(mixed).tanh()


class TakesTheFirstRow(Net):
    def forward(self, x):
        maps = self.layer(self.stem(x).relu())
        return self.head((maps * maps[: len(x)].sigmoid()).flatten(1))


class Concatenates(Net):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear((5 + 4 + 2) * 36, 3)

    def forward(self, x):
        stem = self.stem(x).relu()
        return self.last(torch.cat([self.layer(stem), stem, x], 1).flatten(1))


class Skips(Net):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x):
        stem = self.stem(x).relu()
        return self.head((self.layer(stem) + stem).relu().flatten(1))


class AddsInPlace(Skips):
    def forward(self, x):
        stem = self.stem(x).relu()
        added = stem * 2
        added += self.layer(stem)
        return self.head(added.flatten(1))


class OverwritesInPlace(Net):
    def forward(self, x):
        maps = self.layer(self.stem(x).relu())
        return self.head(maps.mul_(2).relu_().flatten(1))


class OverwritesTheInput(Net):
    def forward(self, x):
        return self.head(self.layer(self.stem(x.mul_(2)).relu()).view(len(x), -1))


class CallsTwice(Skips):
    def forward(self, x):
        return self.head(self.layer(self.layer(self.stem(x).relu()).relu()).relu().flatten(1))


class SharesAcrossTheLayer(Skips):
    """One module runs before the layer and after it, and the head needs all rows."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        maps = self.act(self.layer(self.act(self.stem(x))))
        return self.head(maps.view(len(x), -1))


class ManyTensors(nn.Module):
    class Pair(NamedTuple):
        first: torch.Tensor
        second: torch.Tensor

    def forward(self, x):
        return self.Pair(x * 2, x.flip(1))


class GivesPairs(Net):
    def __init__(self):
        super().__init__()
        self.layer = ManyTensors()
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x):
        first, second = self.layer(self.stem(x).relu())
        return self.head((first * second.sigmoid()).view(len(x), -1))


class LaidOutLast(Net):
    """Flattens in the order that channels-last memory has."""

    def forward(self, x):
        maps = self.layer(self.stem(x).relu()).contiguous(memory_format=torch.channels_last)
        return self.head(self.act(maps).permute(0, 2, 3, 1).view(len(maps), -1))


ONE_ROW, SHARED, REPEATED = "one row", "shared", "repeated"
WAYS = {
    Plain: ONE_ROW,
    ViewsAsInput: SHARED,
    MixesRowsOfOne: SHARED,
    TakesTheFirstRow: SHARED,
    Concatenates: SHARED,
    Skips: ONE_ROW,
    AddsInPlace: SHARED,
    OverwritesInPlace: ONE_ROW,
    OverwritesTheInput: REPEATED,
    CallsTwice: ONE_ROW,
    SharesAcrossTheLayer: SHARED,
}


@pytest.fixture
def ways(monkeypatch):
    """Every way that was chosen and the most rows of its forwards."""
    chosen = []
    forward = feature_scoring.FeatureScorer._forward

    def kept(self, example, features, way):
        chosen.append((way, len(features)))
        return forward(self, example, features, way)

    monkeypatch.setattr(feature_scoring.FeatureScorer, "_forward", kept)
    return chosen


def naive_ablation(net, layer, x, target, calls=1):
    """Ablation by replacing the output of the layer's last call, one perturbation at a time."""
    kept = []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o.detach().clone()))
    with torch.no_grad():
        y = net(x.clone())[0, target].item()
    handle.remove()
    A = kept[-1][0]
    L = torch.zeros_like(A[0])
    for k in range(len(A)):
        ablated = A.clone()
        ablated[k] = 0
        seen = []

        def replaced(module, args, output, seen=seen, ablated=ablated):
            seen.append(1)
            return ablated[None].clone() if len(seen) == calls else None

        handle = layer.register_forward_hook(replaced)
        with torch.no_grad():
            L += (y - net(x.clone())[0, target].item()) / abs(y) * A[k]
        handle.remove()
    return L


@pytest.mark.parametrize("network", WAYS, ids=lambda network: network.__name__)
@pytest.mark.parametrize("per_eval", [None, 1, 2])
def test_whatever_bypasses_the_layer(network, per_eval, ways):
    net, x = seeded(network()), images(3, 2, 6, 6)
    before = x.clone()
    attr = LayerAblationCAM(net, net.layer).attribute(x, 1, perturbations_per_eval=per_eval)
    calls = 2 if network is CallsTwice else 1
    for i in range(3):
        close(attr[i, 0], naive_ablation(net, net.layer, x[i : i + 1], 1, calls))
    assert torch.equal(x, before)
    assert hooks(net) == []
    assert ways[-1][0] == WAYS[network]


@every_method
@pytest.mark.parametrize("network", WAYS, ids=lambda network: network.__name__)
def test_every_method_gives_batches_as_singles(cls, network):
    net, x = seeded(network()), images(3, 2, 6, 6)
    target = [0, 2, 1]
    attr = cls(net, net.layer).attribute(x, target)
    singles = [cls(net, net.layer).attribute(x[i : i + 1], target[i]) for i in range(3)]
    close(attr, torch.cat(singles))


def test_layers_of_several_tensors():
    net, x = seeded(GivesPairs()), images(2, 2, 6, 6)
    attr = LayerAblationCAM(net, net.layer).attribute(x, 1)
    assert isinstance(attr, tuple)
    for position, maps in enumerate(attr):
        for i in range(2):
            kept = []
            handle = net.layer.register_forward_hook(lambda m, a, o, kept=kept: kept.append(o))
            with torch.no_grad():
                y = net(x[i : i + 1])[0, 1].item()
            handle.remove()
            A = kept[0][position][0]
            L = torch.zeros_like(A[0])
            for k in range(len(A)):
                ablated = A.clone()
                ablated[k] = 0
                handle = net.layer.register_forward_hook(
                    lambda m, a, o, ablated=ablated, position=position: o._replace(
                        **{o._fields[position]: ablated[None]}
                    )
                )
                with torch.no_grad():
                    L += (y - net(x[i : i + 1])[0, 1].item()) / abs(y) * A[k]
                handle.remove()
            close(maps[i, 0], L)


@every_method
def test_layer_input(cls):
    net, _, x = vgg_like()
    at_input = cls(net, net[6]).attribute(x, 2, attribute_to_layer_input=True)
    at_output = cls(net, net[5]).attribute(x, 2)
    # The flattening that follows leaves nothing between the two.
    close(at_input, at_output)
    assert hooks(net) == []


@every_method
def test_two_inputs_and_arguments_per_example(cls):
    net = seeded(TwoInputs())
    image, table, scale = images(3, 2, 6, 6), images(3, 3, seed=1), images(3, seed=2) + 0.5
    attr = cls(net, net.conv).attribute((image, table), 1, (scale, 0.25))
    for i in range(3):
        one = slice(i, i + 1)
        single = cls(net, net.conv).attribute((image[one], table[one]), 1, (scale[one], 0.25))
        close(attr[one], single)
    naive = ablation_cam(lambda x: net(x, table[:1], scale[:1], 0.25), net.conv, image[:1], (1,))
    if cls is LayerAblationCAM:
        close(attr[0, 0], naive)


@every_method
def test_functions_of_a_model(cls):
    net = seeded(ViewsAsInput())
    x = images(2, 2, 6, 6)
    expected = cls(net, net.layer).attribute(x, 1)
    close(cls(lambda v: net(v), net.layer).attribute(x, 1), expected)
    close(cls(net.forward, net.layer).attribute(x, 1), expected)


@every_method
@pytest.mark.parametrize("network", NETWORKS)
def test_chunks_do_not_matter(cls, network):
    net, layer, x = NETWORKS[network]()
    target = TARGETS[network]
    expected = cls(net, layer).attribute(x, target)
    for per_eval in (1, 7, 64):
        close(cls(net, layer).attribute(x, target, perturbations_per_eval=per_eval), expected)


@every_method
@pytest.mark.parametrize("network", [Plain, ViewsAsInput, OverwritesTheInput])
@pytest.mark.parametrize("per_eval", [1, 2, 3])
def test_rows_are_bounded(cls, network, per_eval):
    net, x = seeded(network()), images(2, 2, 6, 6)
    with rows_at(net.stem, net.head) as (prefix, suffix):
        cls(net, net.layer).attribute(x, 1, perturbations_per_eval=per_eval)
    assert max(prefix + suffix) <= per_eval * 2


@pytest.mark.parametrize(
    ("network", "probes", "prefixes"),
    [(Plain, [1, 3], 2), (ViewsAsInput, [1, 1, 3], 4)],
)
def test_the_prefix_runs_on_one_row(network, probes, prefixes):
    net, x = seeded(network()), images(3, 2, 6, 6)
    with rows_at(net.stem, net.head) as (prefix, suffix):
        LayerAblationCAM(net, net.layer).attribute(x, 1)
    # The clean pass, the probes, and five channels of each example.
    assert suffix == [3, *probes, 5, 5, 5]
    # Once more for the probe that fails before the head.
    assert prefix == [3, *[1] * prefixes, 1, 1, 1]


def test_dead_channels_are_not_forwarded():
    net, layer, x = vgg_like()
    with torch.no_grad():
        net[3].bias[:3] = -100
    for cls in (LayerAblationCAM, LayerFIMFScoreCAM):
        with rows_at(net[7]) as (rows,):
            attr = cls(net, layer).attribute(x[:1], 1)
        with torch.no_grad():
            live = int(net[:5](x[:1]).flatten(2).any(2).sum())
        assert live <= 4
        assert rows == [1, 1, 3, live]
        assert attr.any()
    with torch.no_grad():
        net[3].bias[:] = -100
    for cls in METHODS:
        with rows_at(net[7]) as (rows,):
            if cls is LayerReciproCAM:
                cls(net, layer).attribute(x, 1)
                continue
            with pytest.warns(UserWarning, match="blank"):
                attr = cls(net, layer).attribute(x, 1)
        assert not attr.any()
        if cls is not LayerFDCAM:
            assert rows == [2]


def test_one_example_with_dead_channels_among_others():
    net, layer, x = vgg_like()
    x = torch.cat([x, torch.zeros_like(x[:1])])
    for cls in METHODS:
        attr = cls(net, layer).attribute(x, 1)
        close(attr[:2], cls(net, layer).attribute(x[:2], 1))
        close(attr[2:], cls(net, layer).attribute(x[2:], 1))


class Fails(Net):
    def __init__(self, error, at):
        super().__init__()
        self.calls, self.error, self.at = 0, error, at

    def forward(self, x):
        maps = self.layer(self.stem(x).relu())
        self.calls += 1
        if self.calls >= self.at:
            raise self.error
        return self.head(maps.flatten(1))


@pytest.mark.parametrize(
    "error", [RuntimeError("mine"), ValueError("mine"), AssertionError("mine")]
)
@pytest.mark.parametrize("at", [2, 3, 4, 5])
def test_errors_of_the_network_surface_and_leave_no_hooks(error, at):
    net = seeded(Fails(error, at))
    x = images(2, 2, 6, 6)
    with pytest.raises(type(error), match="mine") as caught:
        LayerAblationCAM(net, net.layer).attribute(x, 1)
    assert caught.value is error
    assert hooks(net) == []


def test_errors_that_depend_on_the_features_surface():
    class Picky(Net):
        def forward(self, x):
            maps = self.layer(self.stem(x).relu())
            if (maps.flatten(2) == 0).all(2).any():
                raise IndexError("a channel is gone")
            return self.head(maps.flatten(1))

    net = seeded(Picky())
    with pytest.raises(IndexError, match="a channel is gone"):
        LayerAblationCAM(net, net.layer).attribute(images(2, 2, 6, 6), 1)
    assert hooks(net) == []


def test_features_that_overflow_are_named():
    class Divides(Net):
        def forward(self, x):
            maps = self.layer(self.stem(x).relu())
            scale = 1 / maps[:, 2].abs().sum((1, 2))[:, None]
            return self.head(maps.flatten(1)) * scale

    net = seeded(Divides())
    with pytest.raises(ValueError, match="scores of perturbed features hold NaN or infinity"):
        LayerAblationCAM(net, net.layer).attribute(images(1, 2, 6, 6), 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_method
def test_half_precision(cls, dtype):
    net, layer, x = vgg_like()
    expected = cls(net, layer).attribute(x, 1)
    attr = cls(net.to(dtype), layer).attribute(x.to(dtype), 1)
    assert attr.dtype == dtype
    assert torch.isfinite(attr).all()
    tolerance = 0.02 if dtype == torch.float16 else 0.15
    if cls in (LayerReciproCAM, LayerAblationCAM):
        scale = expected.abs().max()
        close(attr.double() / scale, expected / scale, tolerance)


def test_memory_order_of_the_layer_is_kept():
    net = LaidOutLast()
    net.act = nn.Identity()
    net = seeded(net)
    x = images(2, 2, 6, 6)
    attr = LayerAblationCAM(net, net.act).attribute(x, 1)
    for i in range(2):
        kept = naive_ablation_laid_out(net, x[i : i + 1])
        close(attr[i, 0], kept)


def naive_ablation_laid_out(net, x):
    with torch.no_grad():
        A = net.layer(net.stem(x).relu())
        flat = A.permute(0, 2, 3, 1)
        y = net.head(flat.reshape(1, -1))[0, 1]
        L = torch.zeros_like(A[0, 0])
        for k in range(A.shape[1]):
            ablated = flat.clone()
            ablated[..., k] = 0
            L += (y - net.head(ablated.reshape(1, -1))[0, 1]) / abs(y) * A[0, k]
    return L


def test_long_lists_are_split_by_size(monkeypatch, ways):
    monkeypatch.setattr(feature_scoring, "CHUNK_ELEMENTS", 3 * 7 * 36)
    net, layer, x = vgg_like()
    attr = LayerReciproCAM(net, layer).attribute(x, 1)
    assert max(rows for _, rows in ways) == 3
    monkeypatch.undo()
    close(attr, LayerReciproCAM(net, layer).attribute(x, 1))


def test_progress(capsys):
    net, layer, x = vgg_like()
    LayerAblationCAM(net, layer).attribute(x, 1, show_progress=True)
    assert "Ablation-CAM attribution: 100%" in capsys.readouterr().err


# Invariants.


def test_recipro_on_a_linear_head():
    net, layer, x = gap_head()
    attr = LayerReciproCAM(net, layer).attribute(x, 1)
    with torch.no_grad():
        A = net[:4](x)
    linear = net[6]
    logits = torch.einsum("kc,nchw->nkhw", linear.weight, A) / A[0, 0].numel()
    close(attr[:, 0], (logits + linear.bias[:, None, None]).softmax(1)[:, 1])


def test_ablation_on_a_linear_head():
    net, layer, x = gap_head()
    attr = LayerAblationCAM(net, layer).attribute(x, 1)
    with torch.no_grad():
        A, y = net[:4](x), net(x)[:, 1]
    w = net[6].weight[1] * A.mean((2, 3)) / y.abs()[:, None]
    close(attr[:, 0], torch.einsum("nc,nchw->nhw", w, A))


def test_ablation_without_a_score_to_divide_by():
    net, layer, x = vgg_like()
    # In whole numbers a score is exactly zero, in whatever order its terms are added.
    x = (4 * x).round()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((4 * parameter).round())
        y = net(x)[:, 1]
    plain = LayerAblationCAM(net, layer).attribute(x, 1)
    assert plain[0].any()
    with pytest.warns(UserWarning, match="blank"):
        zero = LayerAblationCAM(net, layer).attribute(x, 1, score=lambda out: out[:, 1] * 0)
    assert not zero.any()

    def shifted(out):
        return out[:, 1] - y[0]

    undivided = LayerAblationCAM(net, layer).attribute(x[:1], 1, score=shifted)
    assert y[0].abs() > 1
    close(undivided, plain[:1] * y[0].abs())


def test_ablation_keeps_its_sign_where_the_score_is_negative():
    net, layer, x = vgg_like()
    plain = LayerAblationCAM(net, layer).attribute(x, 1)
    with torch.no_grad():
        y = net(x)[:, 1]
    low = LayerAblationCAM(net, layer).attribute(
        x, 1, score=lambda out: out[:, 1] - 2 * y.abs().max()
    )
    assert torch.equal(low.sign(), plain.sign())


@pytest.mark.parametrize("clusters", [1, 3, 100])
def test_ablation_plus_plus_without_pruning_is_ablation(clusters):
    for network in (vgg_like, signed):
        net, layer, x = network()
        attr = LayerAblationCAMPlusPlus(net, layer).attribute(x, 1, tau=0, clusters=clusters)
        close(attr, LayerAblationCAM(net, layer).attribute(x, 1))


def test_ablation_plus_plus_prunes():
    net = nn.Sequential(
        *(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(64, 4)),
    )
    net, x = seeded(net), images(1, 3, 10, 10)
    with rows_at(net[4]) as (ablation,):
        LayerAblationCAM(net, net[1]).attribute(x, 1)
    with rows_at(net[4]) as (plus_plus,):
        LayerAblationCAMPlusPlus(net, net[1]).attribute(x, 1, tau=10)
    assert sum(plus_plus) == 1 + 1 + 3 + 8
    assert sum(ablation) > 60
    first = LayerAblationCAMPlusPlus(net, net[1]).attribute(x, 1)
    assert torch.equal(first, LayerAblationCAMPlusPlus(net, net[1]).attribute(x, 1))


def test_equal_channels_are_split_in_halves():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 2))
    net = seeded(net)
    with torch.no_grad():
        net[0].weight[:] = 1
        net[0].bias[:] = 0
    attr = LayerAblationCAMPlusPlus(net, net[1]).attribute(images(1, 1, 3, 3), 0, tau=0, clusters=3)
    close(attr, LayerAblationCAM(net, net[1]).attribute(images(1, 1, 3, 3), 0))


def test_fd_cam_with_all_channels_similar_to_none():
    net, layer, x = vgg_like()
    attr = LayerFDCAM(net, layer).attribute(x, 1, q=1)
    with torch.no_grad():
        A = net[:5](x)
    A.requires_grad_()
    W = torch.autograd.grad(net[5:](A)[:, 1].sum(), A)[0].mean((2, 3))
    low, high = W.amin(1, keepdim=True), W.amax(1, keepdim=True)
    # Groups are empty, so that every S is the same and scales to zero.
    close(attr[:, 0], torch.einsum("nc,nchw->nhw", (W - low) / (high - low) - 0.5, A.detach()))


def test_directions_of_tiny_and_huge_activations():
    for scale in (1e-30, 1e30):
        A = images(2, 7, 6, 6) * scale
        close(directions(A.float()).norm(dim=2), torch.ones(2, 7), 1e-5)
    assert not directions(torch.zeros(1, 2, 3, 3)).any()


def test_score_options():
    net, layer, x = vgg_like()
    for cls in METHODS:
        default = cls(net, layer).attribute(x, 1)
        kind = "probability" if cls is LayerReciproCAM else "logit"
        other = "logit" if cls is LayerReciproCAM else "probability"
        assert torch.equal(cls(net, layer).attribute(x, 1, score=kind), default)
        assert not torch.allclose(cls(net, layer).attribute(x, 1, score=other), default)
        own = cls(net, layer).attribute(
            x,
            1,
            score=lambda out: out.softmax(1) if cls is LayerReciproCAM else out,  # noqa: B023
        )
        close(own, default)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("gaussian", [False, True])
def test_recipro_in_other_dimensions(rank, gaussian):
    net, layer, x = of_rank(rank)
    attr = LayerReciproCAM(net, layer).attribute(x, 2, gaussian=gaussian)
    with torch.no_grad():
        A = net[:3](x)
    assert attr.shape == (3, 1, *A.shape[2:])
    size = A.shape[2:]
    for n in range(3):
        for u in torch.cartesian_prod(*map(torch.arange, size)).reshape(-1, rank).tolist():
            features = torch.zeros_like(A[n])
            for v in torch.cartesian_prod(*map(torch.arange, size)).reshape(-1, rank).tolist():
                g = 1.0
                for a, b in zip(u, v, strict=True):
                    g *= {0: 0.5, 1: 0.25}.get(abs(a - b), 0) if gaussian else a == b
                features[(slice(None), *v)] = g * A[(n, slice(None), *u)]
            expected = probability_with(net, layer, x[n : n + 1], (2,), features)
            close(attr[(n, 0, *u)].item(), expected)


@every_method
@pytest.mark.parametrize("rank", [1, 3])
def test_other_dimensions(cls, rank):
    net, layer, x = of_rank(rank)
    attr = cls(net, layer).attribute(x, 2)
    assert attr.shape == (3, 1, *net[:3](x).shape[2:])
    close(attr[:1], cls(net, layer).attribute(x[:1], 2))


@pytest.mark.parametrize(
    ("cls", "options", "error"),
    [
        (LayerReciproCAM, {"gaussian": 1}, TypeError),
        (LayerFDCAM, {"q": 1.5}, ValueError),
        (LayerFDCAM, {"q": "high"}, TypeError),
        (LayerAblationCAMPlusPlus, {"tau": -1}, ValueError),
        (LayerAblationCAMPlusPlus, {"tau": None}, TypeError),
        (LayerAblationCAMPlusPlus, {"clusters": 0}, ValueError),
        (LayerAblationCAMPlusPlus, {"clusters": 2.5}, TypeError),
        (LayerAblationCAM, {"baselines": 0}, TypeError),
        (LayerAblationCAM, {"score": "rank"}, ValueError),
    ],
)
def test_wrong_options(cls, options, error):
    net, layer, x = vgg_like()
    with pytest.raises(error, match=next(iter(options))):
        cls(net, layer).attribute(x, 1, **options)


# Tokens.


def vit(**options):
    settings = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    net = models.VisionTransformer(32, 8, **settings, num_classes=5, **options)
    return seeded(net), net.encoder.layers[-1].ln_1, images(2, 3, 32, 32)


class TinyViT(nn.Module):
    """A transformer in timm's way: other prefixes than a class token, any image size."""

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))

        def forward(self, x):
            B, T, C = x.shape
            q, k, v = self.qkv(self.norm1(x)).reshape(B, T, 3, 2, C // 2).permute(2, 0, 3, 1, 4)
            attention = (q @ k.mT / C**0.5).softmax(-1) @ v
            x = x + self.proj(attention.transpose(1, 2).reshape(B, T, C))
            return x + self.mlp(self.norm2(x))

    def __init__(self, prefix=1, patch=8, patches=24, width=12):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.prefix = nn.Parameter(torch.zeros(1, prefix, width))
        self.pos = nn.Parameter(torch.zeros(1, prefix + patches, width))
        self.blocks = nn.Sequential(self.Block(width), self.Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).mT
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], 1) + self.pos
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0] if self.prefix.shape[1] else x.mean(1))


TOKEN_METHODS = [LayerXGradCAM, LayerScoreCAM, LayerUnionCAM, LayerViTReciproCAM, *METHODS]


@pytest.mark.filterwarnings("ignore:UnionCAM is blank")
@pytest.mark.parametrize("cls", TOKEN_METHODS, ids=lambda cls: cls.__name__)
def test_vit_of_torchvision(cls):
    net, layer, x = vit()
    attr = cls(net, layer).attribute(x, [1, 3])
    assert attr.shape == (2, 1, 4, 4)
    assert attr.any()
    close(attr[1:], cls(net, layer).attribute(x[1:], 3))


@pytest.mark.parametrize("cls", TOKEN_METHODS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_vit_in_another_style(cls, prefix):
    net = seeded(TinyViT(prefix))
    x = images(2, 3, 32, 48)
    attr = cls(net, net.blocks[-1].norm1).attribute(x, 2)
    assert attr.shape == (2, 1, 4, 6)
    close(attr[:1], cls(net, net.blocks[-1].norm1).attribute(x[:1], 2))


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_vit_recipro_oracle(gaussian, keep):
    net = seeded(TinyViT())
    layer, x = net.blocks[-1].norm1, images(2, 3, 32, 48)
    attr = LayerViTReciproCAM(net, layer).attribute(x, 2, gaussian=gaussian, keep_class_token=keep)
    kept = []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o.detach().clone()))
    net(x)
    handle.remove()
    pattern = [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    for n in range(2):
        Z = kept[0][n]
        for i in range(4):
            for j in range(6):
                tokens = torch.zeros_like(Z)
                if keep:
                    tokens[0] = Z[0]
                for di in (-1, 0, 1):
                    for dj in (-1, 0, 1):
                        if gaussian and 0 <= i + di < 4 and 0 <= j + dj < 6:
                            t = 1 + (i + di) * 6 + j + dj
                            tokens[t] = pattern[di + 1][dj + 1] / 16 * Z[t]
                if not gaussian:
                    tokens[1 + i * 6 + j] = Z[1 + i * 6 + j]
                expected = probability_with(net, layer, x[n : n + 1], (2,), tokens)
                close(attr[n, 0, i, j].item(), expected)


def test_ablation_of_tokens_keeps_the_class_token():
    net = seeded(TinyViT())
    layer, x = net.blocks[-1].norm1, images(1, 3, 32, 48)
    attr = LayerAblationCAM(net, layer).attribute(x, 2)
    kept = []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o.detach().clone()))
    y = net(x)[0, 2].item()
    handle.remove()
    Z = kept[0][0]
    L = torch.zeros(4, 6, dtype=Z.dtype)
    for k in range(Z.shape[1]):
        tokens = Z.clone()
        tokens[1:, k] = 0
        drop = (y - logit_with(net, layer, x, (2,), tokens)) / abs(y)
        L += drop * Z[1:, k].reshape(4, 6)
    close(attr[0, 0], L)


def test_transformers_run_on_one_row_before_the_layer(ways):
    net, layer, x = vit()
    for keep in (True, False):
        LayerViTReciproCAM(net, layer).attribute(x, 1, keep_class_token=keep)
        assert ways[-1] == ("one row", 16)


def test_vit_recipro_refuses_maps():
    net, layer, x = vgg_like()
    with pytest.raises(ValueError, match=r"use Recipro-CAM"):
        LayerViTReciproCAM(net, layer).attribute(x, 1)
    net, layer, x = of_rank(1)
    with pytest.raises(ValueError, match=r"layer '2' \(MaxPool1d\) gives shape \(3, 4, 4\)"):
        LayerViTReciproCAM(net, layer).attribute(x, 1)


@pytest.mark.parametrize(
    ("tokens", "height", "width", "layout"),
    [
        (16, 32, 32, Layout((4, 4), 0)),
        (17, 32, 32, Layout((4, 4), 1)),
        (18, 32, 32, Layout((4, 4), 2)),
        (21, 32, 32, Layout((4, 4), 5)),
        (24, 32, 48, Layout((4, 6), 0)),
        (25, 32, 48, Layout((4, 6), 1)),
        (19, 30, 50, Layout((3, 6), 1)),
        (18, 30, 50, Layout((3, 6), 0)),
        (1370, 518, 518, Layout((37, 37), 1)),
        (1 + 37 * 50, 518, 700, Layout((37, 50), 1)),
        (2, 32, 32, Layout((1, 1), 1)),
        (49, 100, 134, Layout((6, 8), 1)),
    ],
)
def test_grids(tokens, height, width, layout):
    found = find_layout(torch.zeros(2, tokens, 3), (torch.zeros(2, 3, height, width),))
    assert found == layout


def test_tokens_without_a_grid():
    image = torch.zeros(1, 3, 32, 32)
    for count in (8, 12, 15, 20, 23):
        with pytest.raises(ValueError, match=rf"{count} tokens, .* form no grid .* 32 x 32"):
            find_layout(torch.zeros(1, count, 3), (image,))
    # Sequences and maps are not tokens of an image.
    conv = nn.Conv1d(3, 16, 3)
    sequence = find_layout(torch.zeros(1, 16, 3), (torch.zeros(1, 3, 16),), conv)
    assert sequence == Layout((3,), channels="first")
    assert find_layout(torch.zeros(1, 16, 4, 4), (image,)) == Layout((4, 4), channels="first")

    class Drops(TinyViT):
        def forward(self, x):
            x = self.patch_embed(x).flatten(2).mT[:, :23]
            return self.head(self.norm(self.blocks(x)).mean(1))

    net = seeded(Drops())
    with pytest.raises(ValueError, match="23 tokens"):
        LayerReciproCAM(net, net.blocks[-1].norm1).attribute(images(1, 3, 32, 48), 1)


def test_maps_of_tokens_and_back():
    tokens = images(2, 25, 3)
    layout = Layout((4, 6), 1)
    maps = layout.to_maps(tokens)
    assert maps.shape == (2, 3, 4, 6)
    assert torch.equal(maps[1, 2, 3, 5], tokens[1, 24, 2])
    assert torch.equal(layout.to_layer(maps[:1], tokens[:1]), tokens[:1])


def test_recipro_is_the_map_of_its_oracle_on_batches_of_targets():
    net, layer, x = vgg_like()
    attr = LayerReciproCAM(net, layer).attribute(x, [0, 4])
    close(attr[0, 0], recipro_cam(net, layer, x[:1], (0,)))
    close(attr[1, 0], recipro_cam(net, layer, x[1:], (4,)))
