"""What the user reads when something is wrong, and when they read it."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from captum_unioncam import LayerScoreCAM, LayerUnionCAM, black_baseline, suggest_layer
from tests.networks import NETWORKS, TwoInputs, images, of_rank, seeded

NAN = float("nan")


def explain(inputs=None, target=1, network="vgg_like", layer=None, forward=None, **options):
    net, default, x = NETWORKS[network]()
    method = LayerUnionCAM(forward or net, default if layer is None else layer)
    return method.attribute(x if inputs is None else inputs, target, **options)


x = NETWORKS["vgg_like"]()[2]

BEFORE_ANY_FORWARD = [
    ({"theta": -1}, ValueError, "theta must be from 0 to 100, got -1"),
    ({"theta": 100.5}, ValueError, "theta must be from 0 to 100"),
    ({"theta": NAN}, ValueError, "theta must be from 0 to 100"),
    ({"theta": "10"}, TypeError, "theta must be a number from 0 to 100, got str"),
    ({"theta": True}, TypeError, "theta must be a number"),
    (
        {"alpha": "summ"},
        ValueError,
        "alpha must be one of 'sum', 'count', got 'summ'; closest: 'sum'",
    ),
    ({"alpha": 1}, ValueError, "alpha must be one of"),
    ({"denoise_on": "abs"}, ValueError, "denoise_on must be one of 'all', 'positive'"),
    ({"score": "prob"}, ValueError, "score must be one of.*closest: 'probability'"),
    ({"region_weights": "Softmax"}, ValueError, "closest: 'softmax'"),
    ({"perturbations_per_eval": 0}, ValueError, "perturbations_per_eval must be at least 1, got 0"),
    ({"perturbations_per_eval": 2.0}, TypeError, "perturbations_per_eval must be an int"),
    ({"perturbations_per_eval": True}, TypeError, "perturbations_per_eval must be an int"),
    ({"return_details": 1}, TypeError, "return_details must be True or False"),
    ({"attribute_to_layer_input": x}, TypeError, "attribute_to_layer_input must be True or False"),
    ({"inputs": [x]}, TypeError, "inputs must be a Tensor, got list"),
    ({"inputs": x.numpy()}, TypeError, "inputs must be a Tensor, got ndarray"),
    ({"inputs": (x, 1)}, TypeError, r"inputs\[1\] must be a Tensor, got int"),
    ({"inputs": ()}, ValueError, "empty tuple"),
    ({"inputs": x[:0]}, ValueError, "at least one example"),
    ({"inputs": (x, x[:1])}, ValueError, "agree on the number of examples"),
    ({"inputs": x * NAN}, ValueError, r"inputs hold NaN or infinity: 864 of 864.*\[0, 1\]"),
    ({"target": 1.0}, TypeError, "target must be None, an int"),
    ({"target": True}, TypeError, "target index must be an int, got True"),
    ({"target": "cat"}, TypeError, "target must be None, an int"),
    ({"target": [1, 2, 3]}, ValueError, "3 entries for 2 examples"),
    ({"target": [1, "cat"]}, TypeError, "target index must be an int, got 'cat'"),
    ({"target": [1, (1,)]}, ValueError, "mixes ints and tuples"),
    ({"target": torch.tensor([1, 2, 3])}, ValueError, "3 entries for 2 examples"),
    (
        {"target": torch.tensor([[1], [2]])},
        ValueError,
        r"one class index per example, shape \(2,\)",
    ),
    ({"target": torch.tensor([1.0, 2.0])}, TypeError, "target must hold integers"),
    ({"target": np.array([1, 2])}, TypeError, "target must be None.*got ndarray"),
    ({"baselines": torch.zeros(3, 1, 1)}, ValueError, r"does not fit.*baselines.unsqueeze\(0\)"),
    ({"baselines": torch.zeros(2, 3, 5, 5)}, ValueError, r"shape \(2, 3, 5, 5\) does not fit"),
    ({"baselines": torch.zeros(3, 3, 12, 12)}, ValueError, "does not fit"),
    ({"baselines": (0, 0)}, ValueError, "one entry per input: got 2 for 1"),
    ({"baselines": "black"}, TypeError, "must be a number or a Tensor, got str"),
    ({"baselines": NAN}, ValueError, "baseline holds NaN"),
    ({"baselines": torch.full((1, 3, 1, 1), NAN)}, ValueError, "baseline holds NaN"),
    ({"layer": "features.29"}, TypeError, "got the name 'features.29'"),
    (
        {"layer": "4", "forward": NETWORKS["vgg_like"]()[0]},
        TypeError,
        r"model.get_submodule\('4'\)",
    ),
    ({"grad_kwargs": [1]}, TypeError, "grad_kwargs must be a dict or None, got list"),
    ({"layer": [nn.ReLU()]}, TypeError, "one torch.nn.Module, got list"),
]


@pytest.mark.parametrize(
    ("options", "error", "match"), BEFORE_ANY_FORWARD, ids=lambda v: str(v)[:60]
)
def test_said_before_any_forward(options, error, match):
    calls = []
    net, layer, _ = NETWORKS["vgg_like"]()
    options = dict(options)
    forward = options.pop("forward", None)
    net.register_forward_hook(lambda *a: calls.append(1))
    with pytest.raises(error, match=match):
        explain(layer=options.pop("layer", layer), forward=forward or net, **options)
    assert not calls


AFTER_THE_CLEAN_FORWARD = [
    ({"target": None}, ValueError, r"target is missing: forward_func returned shape \(2, 5\)"),
    (
        {"target": 5},
        ValueError,
        r"index 5 is out of range.*\(2, 5\): valid are 0 to 4 \(or -5 to -1\)",
    ),
    ({"target": -6}, ValueError, "index -6 is out of range"),
    ({"target": [0, 7]}, ValueError, "index 7 is out of range"),
    ({"target": (1, 2)}, ValueError, "selects 2 dimension.*give one int per example"),
    ({"target": 1, "network": "convolutional"}, ValueError, "give a tuple of 3 ints"),
    ({"layer": nn.Conv2d(3, 3, 3)}, ValueError, "layer Conv2d was never called by forward_func"),
]


@pytest.mark.parametrize(
    ("options", "error", "match"), AFTER_THE_CLEAN_FORWARD, ids=lambda v: str(v)[:60]
)
def test_said_after_the_clean_forward(options, error, match):
    calls = []
    net, layer, inputs = NETWORKS[options.get("network", "vgg_like")]()
    net.register_forward_hook(lambda *a: calls.append(1))
    with pytest.raises(error, match=match):
        LayerUnionCAM(net, options.get("layer", layer)).attribute(inputs, options.get("target", 1))
    assert len(calls) == 1
    assert not any(module._forward_hooks for module in net.children())


def test_layer_without_spatial_dimensions():
    net, _, inputs = NETWORKS["vgg_like"]()
    with pytest.raises(
        ValueError, match=r"layer '7' \(Linear\) gives shape \(2, 5\).*suggest_layer"
    ):
        LayerUnionCAM(net, net[7]).attribute(inputs, 1)


def test_a_layer_that_also_returns_integers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, return_indices=True)

        def forward(self, i):
            return self.pool(self.conv(i))[0].mean((2, 3))

    net = seeded(Net())
    with pytest.raises(TypeError, match="layer 'pool'.*returns torch.float64, torch.int64; a map"):
        LayerUnionCAM(net, net.pool).attribute(x, 1)


def test_an_assertion_of_the_users_own_is_theirs():
    net, layer, inputs = NETWORKS["vgg_like"]()

    def forward(i):
        assert i.shape[-1] == 32, "wrong image size"
        return net(i)

    with pytest.raises(AssertionError, match="wrong image size"):
        LayerUnionCAM(forward, layer).attribute(inputs, 1)


@pytest.mark.filterwarnings("ignore:UnionCAM is blank")
def test_layer_that_does_not_reach_the_output():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, _, _ = NETWORKS["vgg_like"]()
            self.aside = nn.Conv2d(3, 2, 3).double()

        def forward(self, x):
            self.aside(x)
            return self.net(x)

    net = Beside().eval()
    with pytest.raises(ValueError, match=r"does not depend on layer 'aside'.*materialize_grads"):
        LayerUnionCAM(net, net.aside).attribute(x, 1)
    # With gradients taken as zero, D is flat and the region map remains.
    with pytest.raises(ValueError, match="does not depend on layer 'aside'"):
        LayerUnionCAM(net, net.aside).attribute(x, 1, grad_kwargs={"allow_unused": True})
    attr, details = LayerUnionCAM(net, net.aside).attribute(
        x, 1, grad_kwargs={"materialize_grads": True}, return_details=True
    )
    assert not details.denoised.any()
    assert not details.selected_union.any()
    assert torch.equal(attr, details.region)


def test_layer_that_runs_without_gradients():
    net, layer, inputs = NETWORKS["vgg_like"]()

    def forward(i):
        with torch.no_grad():
            return net(i)

    for grad_kwargs in (None, {"materialize_grads": True}):
        with pytest.raises(ValueError, match="no gradients flow from the output to layer ReLU"):
            LayerUnionCAM(forward, layer).attribute(inputs, 1, grad_kwargs=grad_kwargs)


def test_outputs_that_are_not_one_row_per_example():
    net, layer, inputs = NETWORKS["vgg_like"]()
    cases = [
        (lambda i: {"classes": net(i)}, TypeError, "must return one Tensor, got dict"),
        (lambda i: (1, net(i)), TypeError, "must return one Tensor, got tuple"),
        (lambda i: net(i).sum(), ValueError, r"one row per example: got shape \(\) for 2"),
        (lambda i: net(i).argmax(1), TypeError, "floating point scores, got torch.int64"),
        (lambda i: net(i)[:1], ValueError, r"got shape \(1, 5\) for 2 rows"),
    ]
    for forward, error, match in cases:
        with pytest.raises(error, match=match):
            LayerUnionCAM(forward, layer).attribute(inputs, 1)
    with pytest.raises(TypeError, match="forward_func must be callable, got int"):
        LayerUnionCAM(3, layer).attribute(inputs, 1)


def test_layers_that_return_no_tensor():
    class Odd(nn.Module):
        def forward(self, x):
            return {"maps": x}

    odd = Odd()
    net, _, inputs = NETWORKS["vgg_like"]()
    with pytest.raises(TypeError, match="layer Odd returns dict"):
        LayerUnionCAM(lambda i: net(odd(i)["maps"]), odd.eval()).attribute(inputs, 1)


def test_no_input_of_the_layers_rank():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.conv = nn.Embedding(10, 4), nn.Conv1d(4, 3, 3)

        def forward(self, tokens):
            return self.conv(self.embed(tokens).mT).mean(-1)

    net = Net().eval()
    tokens = torch.zeros(2, 7, dtype=torch.long)
    with pytest.raises(
        ValueError, match=r"no input can be masked.*\(2, 3, 5\).*\(2, 7\) torch.int64"
    ):
        LayerUnionCAM(net, net.conv).attribute(tokens, 1)


def test_a_scalar_baseline_for_two_inputs():
    net = seeded(TwoInputs())
    inputs = images(2, 2, 6, 6), images(2, 3)
    with pytest.raises(ValueError, match="got 1 for 2 inputs"):
        LayerUnionCAM(net, net.conv).attribute(inputs, 1, (images(2),), baselines=0.0)


@pytest.mark.parametrize("bad", ["activations", "gradients"])
def test_values_of_the_layer_that_are_not_finite(bad):
    net, layer, inputs = NETWORKS["vgg_like"]()
    with torch.no_grad():
        (net[3] if bad == "activations" else net[7]).weight[1] = torch.inf
    with pytest.raises(ValueError, match=rf"{bad} (of|at) layer '4' \(ReLU\) hold NaN or infinity"):
        LayerUnionCAM(net, layer).attribute(inputs, 1)


def test_scores_of_masked_inputs_that_are_not_finite():
    net, layer, inputs = NETWORKS["vgg_like"]()
    calls = []

    def forward(i):
        calls.append(1)
        return net(i) * (torch.inf if len(calls) == 4 else 1)

    with pytest.raises(ValueError, match="scores of masked inputs hold NaN or infinity"):
        LayerUnionCAM(forward, layer).attribute(inputs, 1, perturbations_per_eval=1)


def test_a_callable_score_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"one score per row \(2,\), got \(\)"):
        explain(score=lambda out: out.sum())
    with pytest.raises(ValueError, match="got str"):
        explain(score=lambda out: "high")


def test_blank_maps_are_said():
    net, _, inputs = of_rank(2)
    with torch.no_grad():
        net[0].bias.fill_(-100.0)
    with pytest.warns(
        UserWarning, match=r"UnionCAM is blank for example\(s\) \[0, 1, 2\]"
    ) as caught:
        attr = LayerUnionCAM(net, net[1]).attribute(inputs, 1)
    assert caught[0].filename == __file__
    assert not attr.any()


def test_black_baseline():
    with pytest.raises(ValueError, match=r"got 2 and 3 for inputs of shape \(2, 3, 12, 12\)"):
        black_baseline([0, 0], [1, 1, 1], x)
    with pytest.raises(ValueError, match="std must be positive"):
        black_baseline([0, 0, 0], [1, 0, 1], x)

    with pytest.raises(TypeError, match="like must be a floating point Tensor.*got list"):
        black_baseline([0, 0, 0], [1, 0, 1], [1])
    with pytest.raises(TypeError, match="got torch.uint8"):
        black_baseline([0, 0, 0], [1, 0, 1], x.byte())


def test_suggest_layer():
    with pytest.raises(TypeError, match="inputs must be a Tensor, got list"):
        suggest_layer(nn.Linear(3, 3), [x])
    with pytest.raises(TypeError, match="got function"):
        suggest_layer(lambda x: x)
    with pytest.raises(ValueError, match=r"no 2-D convolution.*pass an example"):
        suggest_layer(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"does not run on noise of shape \(1, 3, 224, 224\)"):
        suggest_layer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3, 3)))
    with pytest.raises(ValueError, match="no layer gives maps"):
        suggest_layer(nn.Linear(3, 3), torch.zeros(2, 3))


@pytest.mark.parametrize("scorer", [lambda out: out[:, :2], lambda out: out[:, 0]])
def test_a_scorer_of_another_shape(scorer):
    net, layer, inputs = NETWORKS["vgg_like"]()
    with pytest.raises(ValueError, match=r"scorer returned shape .* the clean ones gave \(rows, 5"):
        LayerUnionCAM(net, layer).attribute(inputs, 1, scorer=lambda i: scorer(net(i)))


def test_a_layer_that_is_none():
    net, _, inputs = NETWORKS["vgg_like"]()
    with pytest.raises(TypeError, match="layer must be one torch.nn.Module, got NoneType"):
        LayerUnionCAM(net, None).attribute(inputs, 1)


def test_numbers_of_numpy_are_numbers():
    assert torch.equal(explain(baselines=np.float32(0.5)), explain(baselines=0.5))


def test_an_empty_target_of_a_flat_output():
    net, layer, inputs = NETWORKS["vgg_like"]()
    attr = LayerUnionCAM(lambda i: net(i)[:, 1], layer).attribute(inputs, ())
    assert torch.equal(attr, explain(target=1, score="logit"))


def test_maps_that_explain_nothing_are_said():
    net, layer, inputs = NETWORKS["vgg_like"]()

    # Whatever is shown scores as much as the baseline.
    same = lambda i: i.new_ones(len(i), 5)  # noqa: E731
    with pytest.warns(UserWarning, match="UnionCAM explains nothing where beta_denoised and"):
        LayerUnionCAM(net, layer).attribute(inputs, 1, score="logit", scorer=same)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for batch in (inputs[:1], inputs[1:], inputs):
            LayerUnionCAM(net, layer).attribute(batch, 1, score="logit", scorer=same)
    assert len(caught) == 1, "once a call site, not once a batch"


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.cut, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.mlp, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, i):
        return self.head(self.mlp(self.norm(self.cut(i).flatten(2).mT)).tanh().mean(1))


@pytest.mark.parametrize("name", ["mlp", "norm"])
def test_a_dynamically_quantised_layer(name):
    torch.manual_seed(0)
    net = torch.ao.quantization.quantize_dynamic(Tokens().eval(), {nn.Linear})
    layer, inputs = net.get_submodule(name), torch.rand(2, 3, 16, 16)
    with pytest.raises(
        ValueError, match=f"layer '{name}'.*dynamically quantised layer.*LayerScoreCAM"
    ):
        LayerUnionCAM(net, layer).attribute(inputs, 1)
    # The way out that the message names.
    assert LayerScoreCAM(net, layer).attribute(inputs, 1).any()


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant):
        super().__init__()
        self.use_reentrant, self.conv = use_reentrant, nn.Conv2d(3, 8, 3)
        self.block, self.head = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()), nn.Linear(8, 4)

    def forward(self, i):
        maps = checkpoint(self.block, self.conv(i), use_reentrant=self.use_reentrant)
        return self.head(maps.mean((2, 3)))


@pytest.mark.parametrize("name", ["block.1", "conv"])
def test_a_layer_inside_a_reentrant_checkpoint_or_before_it(name):
    net, inputs = seeded(Checkpointed(use_reentrant=True)), images(2, 3, 12, 12)
    layer = net.get_submodule(name)
    with pytest.raises(ValueError, match=f"layer '{name}'.*pass use_reentrant=False there"):
        LayerUnionCAM(net, layer).attribute(inputs, 1)
    with pytest.raises(ValueError, match="no layer can be suggested.*use_reentrant=False"):
        suggest_layer(net, inputs)
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert LayerScoreCAM(net, layer).attribute(inputs, 1).any()
    # Nothing before the checkpoint has gradients then, and its node is not in the graph.
    net.requires_grad_(False)
    with pytest.raises(ValueError, match=f"layer '{name}'.*pass use_reentrant=False there"):
        LayerUnionCAM(net, layer).attribute(inputs, 1)
    net.use_reentrant = False
    attr = LayerUnionCAM(net, layer).attribute(inputs, 1)
    alone = nn.Sequential(
        net.conv, net.block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.head
    ).eval()
    torch.testing.assert_close(attr, LayerUnionCAM(alone, layer).attribute(inputs, 1))


def test_meta_tensors():
    net, layer, inputs = NETWORKS["vgg_like"]()
    for call in (LayerUnionCAM(net, layer).attribute, lambda i, _: suggest_layer(net, i)):
        with pytest.raises(ValueError, match=r"inputs must hold values, got a meta tensor"):
            call(inputs.to("meta"), 1)
    net.to("meta")
    for call in (LayerUnionCAM(net, layer).attribute, lambda i, _: suggest_layer(net, i)):
        with pytest.raises(ValueError, match="weight '0.weight' is a meta tensor.*assign=True"):
            call(inputs, 1)


def test_waveforms_without_channels():
    class Wave(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut, self.head = nn.Conv1d(1, 8, 4, 4), nn.Linear(8, 4)

        def forward(self, i):
            return self.head(self.cut(i[:, None]).tanh().mean(2))

    class OneChannel(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, i):
            return self.model(i[:, 0])

    net, waves = seeded(Wave()), images(2, 40)
    with pytest.raises(ValueError, match=r"no dimension of channels.*takes \(N, 1, T\).*x\[:, 0\]"):
        LayerUnionCAM(net, net.cut).attribute(waves, 1)
    wrapped = OneChannel(net).eval()
    assert LayerUnionCAM(wrapped, net.cut).attribute(waves[:, None], 1).shape == (2, 1, 10)
