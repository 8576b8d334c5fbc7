"""What every method owes a Captum user, generated over targets, ranks, dtypes and chunks."""

import copy
import pickle

import numpy as np
import pytest
import torch
from captum.attr import GradientAttribution, LayerAttribution, LayerGradCam
from torch import nn

from captum_unioncam import LayerUnionCAM
from tests.networks import NETWORKS, TARGETS, TwoInputs, images, of_rank, seeded

CLASSES = [LayerUnionCAM]
everywhere = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
networks = pytest.mark.parametrize("network", NETWORKS)


@everywhere
@pytest.mark.parametrize(
    "target",
    [
        *(1, -4, (1,), [1, 1, 1], [(1,), (1,), (1,)], torch.tensor(1), torch.tensor([1])),
        *(torch.tensor([1, 1, 1]), torch.tensor([1, -4, 1], dtype=torch.int32)),
        np.int64(1),
    ],
    ids=repr,
)
def test_kinds_of_target_agree(cls, target):
    net, layer, x = of_rank(2)
    expected = cls(net, layer).attribute(x, 1)
    assert torch.equal(cls(net, layer).attribute(x, target), expected)


@everywhere
def test_a_target_per_example(cls):
    net, layer, x = of_rank(2)
    method = cls(net, layer)
    attr = method.attribute(x, [4, 0, 2])
    for i, target in enumerate([4, 0, 2]):
        torch.testing.assert_close(attr[i : i + 1], method.attribute(x[i : i + 1], target))


@everywhere
def test_targets_of_a_segmentation_output(cls):
    net, layer, x = NETWORKS["convolutional"]()
    method = cls(net, layer)
    attr = method.attribute(x, [(2, 3, 4), (0, 1, 1)])
    torch.testing.assert_close(attr[:1], method.attribute(x[:1], (2, 3, 4)))
    torch.testing.assert_close(attr[1:], method.attribute(x[1:], (0, 1, 1)))


@everywhere
@pytest.mark.filterwarnings("ignore:UnionCAM is blank")
@pytest.mark.parametrize("keep_dim", [True, False])
def test_one_value_per_example_needs_no_target(cls, keep_dim):
    net, layer, x = of_rank(2)

    def forward(inputs):
        return net(inputs)[:, 1:2] if keep_dim else net(inputs)[:, 1]

    attr = cls(forward, layer).attribute(x)
    torch.testing.assert_close(attr, cls(net, layer).attribute(x, 1, score="logit"))


@everywhere
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_do_not_change_the_map(cls, rank, chunk):
    net, layer, x = of_rank(rank)
    method = cls(net, layer)
    attr = method.attribute(x, 2)
    assert attr.shape == (3, 1, *net[:3](x).shape[2:])
    chunked = method.attribute(x, 2, perturbations_per_eval=chunk)
    torch.testing.assert_close(chunked, attr, atol=1e-12, rtol=0)


@everywhere
@networks
def test_a_batch_equals_single_calls(cls, network):
    net, layer, x = NETWORKS[network]()
    x = torch.cat([x, x.flip(-1), x * 0.3])
    method = cls(net, layer)
    batch = method.attribute(x, TARGETS[network])
    for i in range(len(x)):
        single = method.attribute(x[i : i + 1], TARGETS[network])
        torch.testing.assert_close(batch[i : i + 1], single, atol=1e-12, rtol=0)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@networks
def test_dtypes(cls, network, dtype):
    net, layer, x = NETWORKS[network]()
    expected = cls(net, layer).attribute(x, TARGETS[network])
    attr = cls(net.to(dtype), layer).attribute(x.to(dtype), TARGETS[network])
    assert attr.dtype == dtype
    if dtype == torch.float32:
        torch.testing.assert_close(attr, expected.float(), atol=1e-4, rtol=0)
    else:
        agreement = torch.stack([attr.double().flatten(), expected.flatten()])
        assert torch.corrcoef(agreement)[0, 1] > 0.9


@everywhere
def test_autocast(cls):
    net, layer, x = NETWORKS["vgg_like"]()
    net, x = net.float(), x.float()
    expected = cls(net, layer).attribute(x, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attr = cls(net, layer).attribute(x, 1)
    assert attr.dtype == torch.bfloat16
    torch.testing.assert_close(attr.float(), expected, atol=0.1, rtol=0)


@everywhere
@networks
def test_channels_last(cls, network):
    net, layer, x = NETWORKS[network]()
    expected = cls(net, layer).attribute(x, TARGETS[network])
    net = net.to(memory_format=torch.channels_last)
    attr = cls(net, layer).attribute(x.to(memory_format=torch.channels_last), TARGETS[network])
    torch.testing.assert_close(attr, expected, atol=1e-10, rtol=0)
    assert attr.is_contiguous()


@everywhere
def test_networks_that_flatten_with_view(cls):
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
    net = seeded(TwoInputs())
    image, table, scale = images(3, 2, 6, 6), images(3, 3, seed=1), images(3, seed=2)
    method = cls(net, net.conv)
    attr = method.attribute((image, table), 2, (scale, 0.5), perturbations_per_eval=2)
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
    net, layer, x = of_rank(2)
    seen = []

    def forward(inputs, weights, flag):
        seen.append((weights.shape, flag))
        return net(inputs) * weights

    attr = cls(forward, layer).attribute(x, 1, (torch.ones(5), "text"))
    assert set(seen) == {(torch.Size([5]), "text")}
    torch.testing.assert_close(attr, cls(net, layer).attribute(x, 1))


@everywhere
@pytest.mark.parametrize("scalar", [0, 0.25])
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
    net, layer, x = NETWORKS["vgg_like"]()
    baselines = images(*x.shape, seed=9)
    attr = cls(net, layer).attribute(x, 1, baselines=baselines)
    for i in range(2):
        row = slice(i, i + 1)
        single = cls(net, layer).attribute(x[row], 1, baselines=baselines[row])
        torch.testing.assert_close(attr[row], single, atol=1e-12, rtol=0)


@everywhere
def test_frozen_parameters_and_a_callers_gradient_modes(cls):
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
    net, _, x = NETWORKS["vgg_like"]()
    assert net[4].inplace
    attr = cls(net, net[3]).attribute(x, 1)
    net[4].inplace = net[1].inplace = False
    torch.testing.assert_close(attr, cls(net, net[3]).attribute(x, 1))


@everywhere
def test_a_first_layer_that_writes_into_its_input(cls):
    net, layer, x = NETWORKS["vgg_like"]()
    with_relu = nn.Sequential(nn.ReLU(inplace=True), net).eval()
    x = x - 0.5
    before = x.clone()
    attr = cls(with_relu, layer).attribute(x, 1, additional_forward_args=None)
    assert torch.equal(x, before)
    torch.testing.assert_close(attr, cls(lambda i: net(i.relu()), layer).attribute(x, 1))


@everywhere
def test_a_layer_of_several_tensors(cls):
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
    maps, details = cls(net, net.pair).attribute(x, 1, return_details=True)
    assert isinstance(maps, tuple)
    assert len(maps) == len(details) == 2
    expected = cls(net, net.layer).attribute(x, 1)
    assert maps[0].shape == expected.shape
    assert not torch.allclose(maps[0], maps[1])


@everywhere
@networks
def test_attribute_to_layer_input(cls, network):
    net, layer, x = NETWORKS[network]()
    if network == "signed":
        return  # its layer's input comes from a layer of another resolution
    index = list(net).index(layer)
    of_input = cls(net, layer).attribute(x, TARGETS[network], attribute_to_layer_input=True)
    of_output = cls(net, net[index - 1]).attribute(x, TARGETS[network])
    torch.testing.assert_close(of_input, of_output, atol=1e-12, rtol=0)


@everywhere
def test_the_layer_fed_the_users_own_tensor(cls):
    net, _, x = NETWORKS["vgg_like"]()
    attr = cls(net, net[0]).attribute(x, 1, attribute_to_layer_input=True)
    assert attr.shape == (2, 1, 12, 12)
    assert not x.requires_grad


@everywhere
def test_data_parallel_on_the_cpu(cls):
    net, layer, x = NETWORKS["vgg_like"]()
    expected = cls(net, layer).attribute(x, 1)
    parallel = nn.DataParallel(net)
    assert torch.equal(cls(parallel, layer).attribute(x, 1), expected)
    inside = cls(lambda i: parallel(i), layer, device_ids=[0])
    assert torch.equal(inside.attribute(x, 1), expected)


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="needs a CUDA device")
@everywhere
@networks
def test_cuda(cls, network):
    net, layer, x = NETWORKS[network]()
    expected = cls(net, layer).attribute(x, TARGETS[network])
    parallel = nn.DataParallel(net.cuda())
    for forward in (net, parallel):
        attr = cls(forward, layer).attribute(x.cuda(), TARGETS[network])
        torch.testing.assert_close(attr.cpu(), expected, atol=1e-6, rtol=0)


@everywhere
def test_relu_attributions(cls):
    net, layer, x = NETWORKS["vgg_like"]()
    attr = cls(net, layer).attribute(x, 1)
    clipped = cls(net, layer).attribute(x, 1, relu_attributions=True)
    assert torch.equal(clipped, attr.relu())


@everywhere
def test_positional_arguments_are_those_of_layer_grad_cam(cls):
    net, layer, x = NETWORKS["vgg_like"]()
    for method in (LayerGradCam(net, layer), cls(net, layer)):
        assert method.attribute(x, 1, None, False, True).shape == (2, 1, 6, 6)


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


@everywhere
@pytest.mark.parametrize("fails_at", [None, 1, 2, 3, 5, "last"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_nothing_of_the_users_changes(cls, fails_at, training):
    net, layer, x = NETWORKS["signed"]()
    net.train(training)
    net.block[1].eval()
    next(net.parameters()).requires_grad_(False)
    (net(x).sum() * 0.1).backward()
    if fails_at == "last":
        calls = []
        handle = net.register_forward_hook(lambda *a: calls.append(1))
        cls(net, layer).attribute(x, 0, perturbations_per_eval=1)
        handle.remove()
        fails_at = len(calls)
    state, given, rng = state_of(net), x.clone(), torch.get_rng_state()
    calls = []

    def count(*args):
        calls.append(1)
        if len(calls) == fails_at:
            raise Failing

    method = cls(net, layer)
    attributes = dict(vars(method))
    handle = net.register_forward_pre_hook(count)
    if fails_at is None:
        method.attribute(x, 0, perturbations_per_eval=1)
    else:
        with pytest.raises(Failing):
            method.attribute(x, 0, perturbations_per_eval=1)
    handle.remove()
    assert_same_state(state, state_of(net))
    assert torch.equal(x, given)
    assert not x.requires_grad
    assert torch.equal(rng, torch.get_rng_state())
    assert vars(method) == attributes


@everywhere
def test_training_mode_is_said_and_gives_the_evaluation_map(cls):
    net, layer, x = NETWORKS["signed"]()
    expected = cls(net, layer).attribute(x, 0)
    net.train()
    with pytest.warns(UserWarning, match="explained in evaluation mode") as caught:
        attr = cls(net, layer).attribute(x, 0)
    assert caught[0].filename == __file__
    assert torch.equal(attr, expected)
    assert net.training
    with pytest.warns(UserWarning, match="call model.eval"):
        cls(lambda i: net(i), layer).attribute(x, 0)


@everywhere
def test_no_forward_exceeds_perturbations_per_eval(cls):
    net, layer, x = of_rank(2)
    for bound in (1, 2, 5):
        rows = []
        cls(lambda i, rows=rows: rows.append(len(i)) or net(i), layer).attribute(
            x, 1, perturbations_per_eval=bound
        )
        assert max(rows) <= bound * len(x)


@everywhere
def test_it_is_a_captum_object(cls):
    net, layer, x = NETWORKS["vgg_like"]()
    method = cls(net, layer)
    assert isinstance(method, LayerAttribution)
    assert isinstance(method, GradientAttribution)
    assert not method.multiplies_by_inputs
    assert not method.has_convergence_delta()
    assert method.attribute.__wrapped__(method, x, 1).shape == (2, 1, 6, 6)
    with pytest.raises(NotImplementedError, match=method.get_name()):
        method.attribute_future()
    expected = method.attribute(x, 1)
    for twin in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert twin.layer is twin.forward_func[4]
        assert torch.equal(twin.attribute(x, 1), expected)


def test_name():
    assert LayerUnionCAM.get_name() == "UnionCAM"
