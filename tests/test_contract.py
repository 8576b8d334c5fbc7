"""What every method owes a Captum user, generated over targets, ranks, dtypes and chunks."""

import copy
import inspect
import itertools
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import GradientAttribution, LayerAttribution, LayerGradCam
from torch import nn

from benchmarks.speed.footprint import held_bytes
from captum_unioncam import LayerUnionCAM
from tests.methods import everywhere, matrix, on_networks
from tests.networks import NETWORKS, TARGETS, TwoInputs, images, of_rank, seeded

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is blank for example"),
    pytest.mark.filterwarnings("ignore:An output with one or more elements"),
]
networks = pytest.mark.parametrize("network", NETWORKS)


SAME_TARGETS = [
    *(1, -4, (1,), [1, 1, 1], [(1,), (1,), (1,)], torch.tensor(1), torch.tensor([1])),
    *(torch.tensor([1, 1, 1]), torch.tensor([1, -4, 1], dtype=torch.int32), np.int64(1)),
]


@matrix(
    ["target"],
    [(target,) for target in SAME_TARGETS],
    lambda made, target: made.is_defined_on(),
)
def test_kinds_of_target_agree(cls, target):
    net, layer, x = of_rank(2)
    expected = cls(net, layer).attribute(x, 1)
    assert torch.equal(cls(net, layer).attribute(x, target), expected)


@everywhere
def test_a_target_per_example(cls):
    cls.accepts()
    net, layer, x = of_rank(2)
    method = cls(net, layer)
    attr = method.attribute(x, [4, 0, 2])
    for i, target in enumerate([4, 0, 2]):
        torch.testing.assert_close(attr[i : i + 1], method.attribute(x[i : i + 1], target))


@everywhere
def test_targets_of_a_segmentation_output(cls):
    cls.accepts("convolutional")
    net, layer, x = NETWORKS["convolutional"]()
    method = cls(net, layer)
    attr = method.attribute(x, [(2, 3, 4), (0, 1, 1)])
    torch.testing.assert_close(attr[:1], method.attribute(x[:1], (2, 3, 4)))
    torch.testing.assert_close(attr[1:], method.attribute(x[1:], (0, 1, 1)))


@everywhere
def test_nothing_is_kept_after_the_call(cls):
    cls.accepts()
    net, layer, x = of_rank(2)
    method = cls(net, layer)
    method.attribute(x, 1)
    before = held_bytes(x.device)
    attr = method.attribute(x, 1)
    assert held_bytes(x.device) == before + attr.untyped_storage().nbytes()
    del attr
    with pytest.raises(ValueError, match="target"):
        method.attribute(x, 1000)
    assert held_bytes(x.device) == before


@matrix(["keep_dim"], [(True,), (False,)], lambda made, keep_dim: made.is_defined_on())
def test_one_value_per_example_needs_no_target(cls, keep_dim):
    net, layer, x = of_rank(2)

    def forward(inputs):
        return net(inputs)[:, 1:2] if keep_dim else net(inputs)[:, 1]

    logit = {"score": "logit"} if "score" in cls.method.options else {}
    attr = cls(forward, layer).attribute(x)
    torch.testing.assert_close(attr, cls(net, layer).attribute(x, 1, **logit))


@matrix(
    ["rank", "chunk"],
    list(itertools.product([1, 2, 3], [1, 7, 64])),
    lambda made, rank, chunk: (
        made.is_defined_on(rank=rank) and "perturbations_per_eval" in made.method.options
    ),
)
def test_chunks_do_not_change_the_map(cls, rank, chunk):
    net, layer, x = of_rank(rank)
    method = cls(net, layer)
    attr = method.attribute(x, 2)
    shape = net[:3](x).shape if cls.gives_layer_maps else x.shape
    assert attr.shape == (3, 1, *shape[2:])
    chunked = method.attribute(x, 2, perturbations_per_eval=chunk)
    torch.testing.assert_close(chunked, attr, atol=1e-12, rtol=0)


@on_networks()
def test_a_batch_equals_single_calls(cls, network):
    net, layer, x = NETWORKS[network]()
    x = torch.cat([x, x.flip(-1), x * 0.3])
    method = cls(net, layer)
    batch = method.attribute(x, TARGETS[network])
    for i in range(len(x)):
        single = method.attribute(x[i : i + 1], TARGETS[network])
        torch.testing.assert_close(batch[i : i + 1], single, atol=1e-12, rtol=0)


@on_networks(
    ["dtype"], [(d,) for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)]
)
def test_dtypes(cls, network, dtype):
    net, layer, x = NETWORKS[network]()
    expected = cls(net, layer).attribute(x, TARGETS[network])
    attr = cls(net.to(dtype), layer).attribute(x.to(dtype), TARGETS[network])
    assert attr.dtype == dtype
    assert attr.isfinite().all()
    scale = float(expected.abs().max())
    if dtype == torch.float32:
        torch.testing.assert_close(attr, expected.float(), atol=1e-4 * max(scale, 1), rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@networks
def test_half_precision_agrees(network, dtype):
    net, layer, x = NETWORKS[network]()
    expected = LayerUnionCAM(net, layer).attribute(x, TARGETS[network])
    attr = LayerUnionCAM(net.to(dtype), layer).attribute(x.to(dtype), TARGETS[network])
    agreement = torch.stack([attr.double().flatten(), expected.flatten()])
    assert torch.corrcoef(agreement)[0, 1] > 0.9


@everywhere
def test_autocast(cls):
    cls.accepts()
    net, layer, x = NETWORKS["vgg_like"]()
    net, x = net.float(), x.float()
    expected = cls(net, layer).attribute(x, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attr = cls(net, layer).attribute(x, 1)
    # A map of the layer has its dtype, which autocast chose; others have the inputs'.
    assert attr.dtype == (torch.bfloat16 if cls.method.needs_layer else torch.float32)
    assert attr.isfinite().all()
    if cls.name == "unioncam":
        torch.testing.assert_close(attr.float(), expected, atol=0.1, rtol=0)


@on_networks()
def test_channels_last(cls, network):
    net, layer, x = NETWORKS[network]()
    expected = cls(net, layer).attribute(x, TARGETS[network])
    net = net.to(memory_format=torch.channels_last)
    attr = cls(net, layer).attribute(x.to(memory_format=torch.channels_last), TARGETS[network])
    torch.testing.assert_close(attr, expected, atol=1e-10, rtol=0)
    assert attr.is_contiguous()


@everywhere
def test_networks_that_flatten_with_view(cls):
    cls.accepts()

    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6 * 36, 3)

        def forward(self, x):
            return self.head(self.conv(x).relu().view(len(x), -1))

    net = seeded(Viewing())
    x = images(2, 3, 8, 8)
    attr = cls(net, net.conv).attribute(x, 0)
    net.forward = lambda x: net.head(net.conv(x).relu().reshape(len(x), -1))
    torch.testing.assert_close(attr, cls(net, net.conv).attribute(x, 0), atol=1e-12, rtol=0)


@everywhere
def test_two_inputs_and_additional_arguments(cls):
    cls.accepts()
    net = seeded(TwoInputs())
    image, table, scale = images(3, 2, 6, 6), images(3, 3, seed=1), images(3, seed=2)
    method = cls(net, net.conv)
    chunk = {"perturbations_per_eval": 2} if "score" in cls.method.options else {}
    attr = method.attribute((image, table), 2, (scale, 0.5), **chunk)
    for i in range(3):
        row = slice(i, i + 1)
        single = method.attribute((image[row], table[row]), 2, (scale[row], 0.5))
        torch.testing.assert_close(attr[row], single, atol=1e-12, rtol=0)

    def image_only(x):
        return net(x, table[:1].expand(len(x), -1), scale[:1].expand(len(x)), 0.5)

    alone = cls(image_only, net.conv).attribute(image[:1], 2)
    torch.testing.assert_close(attr[:1], alone, atol=1e-12, rtol=0)


@everywhere
def test_arguments_without_a_row_per_example_pass_as_they_are(cls):
    cls.accepts()
    net, layer, x = of_rank(2)
    seen = []

    def forward(inputs, weights, flag):
        seen.append((weights.shape, flag))
        return net(inputs) * weights

    attr = cls(forward, layer).attribute(x, 1, (torch.ones(5), "text"))
    assert set(seen) == {(torch.Size([5]), "text")}
    torch.testing.assert_close(attr, cls(net, layer).attribute(x, 1))


@matrix(
    ["scalar"],
    [(0,), (0.25,)],
    lambda made, scalar: made.is_defined_on() and "baselines" in made.method.options,
)
def test_forms_of_baseline_agree(cls, scalar):
    net, layer, x = NETWORKS["vgg_like"]()
    method = cls(net, layer)
    expected = method.attribute(x, 1, baselines=scalar)
    forms = [
        *(scalar, (scalar,), torch.tensor(scalar), torch.full_like(x, scalar)),
        *(torch.full_like(x[:1], scalar), torch.full((1, 3, 1, 1), scalar)),
        (torch.full_like(x, scalar),),
    ]
    for baselines in forms:
        torch.testing.assert_close(method.attribute(x, 1, baselines=baselines), expected)


@everywhere
def test_a_baseline_per_example(cls):
    cls.accepts()
    cls.needs("baselines")
    net, layer, x = NETWORKS["vgg_like"]()
    baselines = images(*x.shape, seed=9)
    attr = cls(net, layer).attribute(x, 1, baselines=baselines)
    for i in range(2):
        row = slice(i, i + 1)
        single = cls(net, layer).attribute(x[row], 1, baselines=baselines[row])
        torch.testing.assert_close(attr[row], single, atol=1e-12, rtol=0)


@everywhere
def test_frozen_parameters_and_a_callers_gradient_modes(cls):
    cls.accepts()
    net, layer, x = NETWORKS["vgg_like"]()
    expected = cls(net, layer).attribute(x, 1)
    for context in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with context():
            attr = cls(net, layer).attribute(x.clone(), 1)
        assert torch.equal(attr, expected)
        assert not attr.requires_grad
    net.requires_grad_(False)
    assert torch.equal(cls(net, layer).attribute(x, 1), expected)


@everywhere
def test_in_place_relu_after_the_layer(cls):
    cls.accepts()
    net, _, x = NETWORKS["vgg_like"]()
    assert net[4].inplace
    attr = cls(net, net[3]).attribute(x, 1)
    net[4].inplace = net[1].inplace = False
    torch.testing.assert_close(attr, cls(net, net[3]).attribute(x, 1))


@everywhere
def test_a_first_layer_that_writes_into_its_input(cls):
    cls.accepts()
    net, layer, x = NETWORKS["vgg_like"]()
    with_relu = nn.Sequential(nn.ReLU(inplace=True), net).eval()
    x = x - 0.5
    before = x.clone()
    attr = cls(with_relu, layer).attribute(x, 1, additional_forward_args=None)
    assert torch.equal(x, before)
    torch.testing.assert_close(attr, cls(lambda i: net(i.relu()), layer).attribute(x, 1))


@everywhere
def test_a_layer_of_several_tensors(cls):
    cls.accepts()

    class Pair(nn.Module):
        def forward(self, x):
            return x, x.flip(-1) * 2

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.layer, _ = NETWORKS["vgg_like"]()
            self.pair = Pair()

        def forward(self, x):
            first, second = self.pair(self.net[:5](x))
            return self.net[5:](first) + self.net[5:](second.abs())

    net = Net().eval()
    x = NETWORKS["vgg_like"]()[2]
    if not cls.method.needs_layer:
        pytest.skip("no layer")
    maps = cls(net, net.pair).attribute(x, 1)
    assert isinstance(maps, tuple)
    expected = cls(net, net.layer).attribute(x, 1)
    assert [m.shape for m in maps] == [expected.shape] * 2
    if "details" in str(cls.method.options):
        _, details = cls(net, net.pair).attribute(x, 1, return_details=True)
        assert len(details) == 2


@matrix(
    ["network"],
    # The input of the signed layer comes from a layer of another resolution.
    [(network,) for network in NETWORKS if network != "signed"],
    lambda made, network: (
        made.gives_layer_maps and made.name != "cam" and made.is_defined_on(network)
    ),
)
def test_attribute_to_layer_input(cls, network):
    net, layer, x = NETWORKS[network]()
    index = list(net).index(layer)
    of_input = cls(net, layer).attribute(x, TARGETS[network], attribute_to_layer_input=True)
    of_output = cls(net, net[index - 1]).attribute(x, TARGETS[network])
    torch.testing.assert_close(of_input, of_output, atol=1e-12, rtol=0)


@everywhere
def test_the_layer_fed_the_users_own_tensor(cls):
    cls.accepts()
    if not cls.method.needs_layer:
        pytest.skip("no layer")
    net, _, x = NETWORKS["vgg_like"]()
    attr = cls(net, net[0]).attribute(x, 1, attribute_to_layer_input=True)
    assert attr.shape == (2, 1, 12, 12)
    assert not x.requires_grad


@everywhere
def test_data_parallel_on_the_cpu(cls):
    cls.accepts()
    net, layer, x = NETWORKS["vgg_like"]()
    expected = cls(net, layer).attribute(x, 1)
    parallel = nn.DataParallel(net)
    assert torch.equal(cls(parallel, layer).attribute(x, 1), expected)
    inside = cls(lambda i: parallel(i), layer, device_ids=[0])
    assert torch.equal(inside.attribute(x, 1), expected)


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="needs a CUDA device")
@on_networks()
def test_cuda(cls, network):
    net, layer, x = NETWORKS[network]()
    expected = cls(net, layer).attribute(x, TARGETS[network])
    parallel = nn.DataParallel(net.cuda())
    for forward in (net, parallel):
        attr = cls(forward, layer).attribute(x.cuda(), TARGETS[network])
        torch.testing.assert_close(attr.cpu(), expected, atol=1e-6, rtol=0)


@everywhere
def test_relu_attributions(cls):
    cls.accepts()
    if not cls.method.needs_layer:
        pytest.skip("its maps are not negative")
    net, layer, x = NETWORKS["vgg_like"]()
    attr = cls(net, layer).attribute(x, 1)
    clipped = cls(net, layer).attribute(x, 1, relu_attributions=True)
    assert torch.equal(clipped, attr.relu())


@everywhere
def test_positional_arguments_are_those_of_layer_grad_cam(cls):
    cls.accepts()
    if not cls.method.needs_layer:
        pytest.skip("no layer")
    net, layer, x = NETWORKS["vgg_like"]()
    expected = cls(net, layer).attribute(x, 1, relu_attributions=True)
    assert torch.equal(cls(net, layer).attribute(x, 1, None, False, True, None), expected)
    ours = list(inspect.signature(cls.method.cls.attribute).parameters)[:7]
    captums = inspect.signature(LayerGradCam.attribute).parameters
    assert ours == [name for name in captums if name != "attr_dim_summation"]


def state_of(net):
    modes = [module.training for module in net.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    parameters = [
        (p.detach().clone(), p.requires_grad, None if p.grad is None else p.grad.clone())
        for p in net.parameters()
    ]
    buffers = [b.clone() for b in net.buffers()]
    return modes, hooks, parameters, buffers


def assert_same_state(before, after):
    assert before[:2] == after[:2]
    for old, new in zip(before[2], after[2], strict=True):
        assert torch.equal(old[0], new[0])
        assert old[1] == new[1]
        assert (old[2] is None) == (new[2] is None)
        assert old[2] is None or torch.equal(old[2], new[2])
    assert all(torch.equal(o, n) for o, n in zip(before[3], after[3], strict=True))


class Failing(Exception):
    pass


@matrix(
    ["fails_at", "training"],
    list(itertools.product([None, 1, 2, 3, 5, math.inf], [False, True])),
    lambda made, fails_at, training: made.is_defined_on("signed"),
)
@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_nothing_of_the_users_changes(cls, fails_at, training):
    net, layer, x = NETWORKS["signed"]()
    net.train(training)
    net.block[1].eval()
    next(net.parameters()).requires_grad_(False)
    (net(x).sum() * 0.1).backward()
    chunk = {"perturbations_per_eval": 1} if "score" in cls.method.options else {}
    total = []
    handle = net.register_forward_pre_hook(lambda *a: total.append(1))
    cls(net, layer).attribute(x, 0, **chunk)
    handle.remove()
    if fails_at is not None:
        fails_at = min(fails_at, len(total))
    state, given, rng = state_of(net), x.clone(), torch.get_rng_state()
    calls = []

    def count(*args):
        calls.append(1)
        if len(calls) == fails_at:
            raise Failing

    method = cls(net, layer)
    attributes = dict(vars(method.method))
    handle = net.register_forward_pre_hook(count)
    if fails_at is None:
        method.attribute(x, 0, **chunk)
    else:
        with pytest.raises(Failing):
            method.attribute(x, 0, **chunk)
    handle.remove()
    assert_same_state(state, state_of(net))
    assert torch.equal(x, given)
    assert not x.requires_grad
    assert torch.equal(rng, torch.get_rng_state())
    assert vars(method.method) == attributes


@everywhere
def test_training_mode_is_said_and_gives_the_evaluation_map(cls):
    cls.accepts("signed")
    net, layer, x = NETWORKS["signed"]()
    expected = cls(net, layer).attribute(x, 0)
    net.train()
    with pytest.warns(UserWarning, match="explained in evaluation mode") as caught:
        attr = cls(net, layer).attribute(x, 0)
    assert Path(caught[0].filename).parent == Path(__file__).parent
    assert torch.equal(attr, expected)
    assert net.training
    if not cls.method.needs_layer:
        return  # without a layer there is nothing to see the mode by
    with pytest.warns(UserWarning, match="call model.eval"):
        cls(lambda i: net(i), layer).attribute(x, 0)


@everywhere
def test_no_forward_exceeds_perturbations_per_eval(cls):
    cls.accepts()
    cls.needs("perturbations_per_eval")
    net, layer, x = of_rank(2)
    for bound in (1, 2, 5):
        rows = []
        cls(lambda i, rows=rows: rows.append(len(i)) or net(i), layer).attribute(
            x, 1, perturbations_per_eval=bound
        )
        assert max(rows) <= bound * len(x)


@everywhere
def test_it_is_a_captum_object(cls):
    cls.accepts()
    net, layer, x = NETWORKS["vgg_like"]()
    quick, method = cls(net, layer).options, cls(net, layer).method
    if cls.method.needs_layer:
        assert isinstance(method, LayerAttribution)
        assert isinstance(method, GradientAttribution)
        assert not method.multiplies_by_inputs
    assert not method.has_convergence_delta()
    expected = method.attribute(x, 1, **quick)
    assert torch.equal(method.attribute.__wrapped__(method, x, 1, **quick), expected)
    with pytest.raises(NotImplementedError, match=re.escape(method.get_name())):
        method.attribute_future()
    for twin in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        if cls.method.needs_layer:
            assert twin.layer is twin.forward_func[4]
        assert torch.equal(twin.attribute(x, 1, **quick), expected)


@everywhere
def test_unknown_options_are_refused(cls):
    cls.accepts()
    net, layer, x = NETWORKS["vgg_like"]()
    with pytest.raises(TypeError, match=r"theta_|parameter|argument"):
        cls(net, layer).attribute(x, 1, theta_=3)


@everywhere
def test_every_option_is_documented(cls):
    text = cls.method.cls.attribute.__doc__
    for option in cls.method.options:
        assert f"{option} (" in text, option


@everywhere
def test_seeds_and_generators(cls):
    cls.accepts()
    cls.needs("seed")
    net, layer, x = NETWORKS["vgg_like"]()
    method = cls(net, layer)
    expected = method.attribute(x, 1, seed=7)
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(method.attribute(x, 1, seed=generator), expected)
    assert not torch.equal(generator.get_state(), torch.Generator().manual_seed(7).get_state())
    assert torch.equal(method.attribute(x, 1, seed=7), expected)
    with pytest.raises(TypeError, match="seed must be an int or a torch.Generator, got float"):
        method.attribute(x, 1, seed=1.5)
    with pytest.raises(ValueError, match="seed must be from"):
        method.attribute(x, 1, seed=2**70)


@everywhere
def test_name(cls):
    assert cls.method.cls.get_name() == cls.method.title
