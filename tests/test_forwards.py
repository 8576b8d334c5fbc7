"""How many rows are forwarded, and what is shared."""

import pytest
import torch
from torch import nn

from captum_unioncam import LayerUnionCAM
from captum_unioncam.engine.maps import distinct, unit_range
from captum_unioncam.engine.target_scores import TargetScores
from tests.networks import NETWORKS, TARGETS, images, seeded


def counting(net, rows):
    return lambda *inputs: rows.append(len(inputs[0])) or net(*inputs)


def test_live_distinct_masks_and_five():
    # The clean inputs, the baseline, D, R and DR; a flat map costs nothing.
    extra = {network: _forwards_beside_the_masks(network) for network in NETWORKS}
    assert all(beside == 2 + shown for beside, shown in extra.values())
    assert max(beside for beside, _ in extra.values()) == 5


def _forwards_beside_the_masks(network):
    net, layer, x = NETWORKS[network]()
    x = x[:1]
    rows, kept = [], []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o))
    net(x)
    handle.remove()
    method = LayerUnionCAM(counting(net, rows), layer)
    _, details = method.attribute(x, TARGETS[network], return_details=True)
    masks = len(distinct(unit_range(kept[0])).rows)
    return sum(rows) - masks, sum(bool(m.any()) for m in details[:3])


def test_dead_and_equal_channels_are_never_forwarded():
    net = seeded(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)))
    with torch.no_grad():
        net[0].weight[:3], net[0].bias[:3] = 0, -1  # dead
        net[0].weight[4], net[0].bias[4] = 4 * net[0].weight[3], 4 * net[0].bias[3]
        net[0].bias[3:].abs_()
    rows = []
    attr = LayerUnionCAM(counting(net, rows), net[1]).attribute(images(1, 3, 8, 8), 1)
    assert sum(rows) <= 4 + 5
    assert attr.any()


def test_probabilities_are_not_softmaxed_twice():
    net, layer, x = NETWORKS["vgg_like"]()
    ends_in_softmax = nn.Sequential(*net, nn.Softmax(1)).eval()
    _, logits = LayerUnionCAM(net, layer).attribute(x, 1, return_details=True)
    _, given = LayerUnionCAM(ends_in_softmax, layer).attribute(x, 1, return_details=True)
    torch.testing.assert_close(given.beta_region, logits.beta_region, atol=1e-12, rtol=0)
    net.bfloat16()
    half = [
        LayerUnionCAM(forward, layer).attribute(x.bfloat16(), 1, return_details=True)[1]
        for forward in (net, ends_in_softmax, lambda i: ends_in_softmax(i).float())
    ]
    torch.testing.assert_close(half[1].beta_region, half[2].beta_region, atol=1e-6, rtol=0)
    torch.testing.assert_close(half[0].beta_region, half[1].beta_region, atol=0.02, rtol=0)


def test_callable_scores():
    net, layer, x = NETWORKS["vgg_like"]()
    method = LayerUnionCAM(net, layer)
    of_shape = method.attribute(x, 1, score=torch.sigmoid)
    of_rows = method.attribute(x, 1, score=lambda out: out[:, 1].sigmoid())
    torch.testing.assert_close(of_shape, of_rows)
    of_columns = method.attribute(x, 1, score=lambda out: out[:, 1:2].sigmoid())
    torch.testing.assert_close(of_shape, of_columns)
    named = method.attribute(x, 1, score="logit")
    torch.testing.assert_close(method.attribute(x, 1, score=lambda out: out), named)


def test_the_baseline_is_one_row_where_examples_share_it():
    net, layer, x = NETWORKS["vgg_like"]()
    x = torch.cat([x, x.flip(-1)])
    rows = []
    method = LayerUnionCAM(counting(net, rows), layer)
    shared = method.attribute(x, [0, 1, 2, 3], baselines=0.5)
    forwarded = sum(rows)
    rows.clear()
    apart = method.attribute(x, [0, 1, 2, 3], baselines=torch.full_like(x, 0.5))
    assert sum(rows) == forwarded + 3
    torch.testing.assert_close(shared, apart, atol=1e-12, rtol=0)


def test_rows_per_forward_count_every_input():
    small, large = images(1, 3, 8, 8), images(1, 3, 224, 224)
    net, layer, _ = NETWORKS["gap_head"]()
    for inputs in ((small, large), (large, small)):
        rows = []
        both = counting(lambda a, b: net(a) + net(b), rows)
        LayerUnionCAM(both, layer).attribute(inputs, 1)
        assert max(rows) <= 4


def test_arguments_written_into_stay_the_users():
    net, layer, x = NETWORKS["vgg_like"]()

    def forward(inputs, scale):
        return net(inputs) * scale.mul_(1.5)

    scale = torch.ones(5)
    attr = LayerUnionCAM(forward, layer).attribute(x, 1, scale, perturbations_per_eval=1)
    assert torch.equal(scale, torch.ones(5))
    expected = LayerUnionCAM(lambda i: net(i) * 1.5, layer).attribute(x, 1)
    torch.testing.assert_close(attr, expected)


@pytest.mark.filterwarnings("ignore:UnionCAM is blank")
def test_a_dead_layer_and_an_output_of_another_dtype():
    net, _, x = NETWORKS["vgg_like"]()
    with torch.no_grad():
        net[3].bias.fill_(-1e3)
    net.float()
    attr = LayerUnionCAM(lambda i: net(i).double(), net[4]).attribute(x.float(), 1)
    assert attr.dtype == torch.float32
    assert not attr.any()


def test_wrapped_forward_functions_find_their_model():
    import functools

    net, layer, x = NETWORKS["signed"]()
    expected = LayerUnionCAM(net, layer).attribute(x, 0)
    net.train()
    for forward in (net.forward, functools.partial(net), functools.partial(net.forward)):
        with pytest.warns(UserWarning, match="explained in evaluation mode"):
            assert torch.equal(LayerUnionCAM(forward, layer).attribute(x, 0), expected)
    recursive = lambda i: net(i)  # noqa: E731
    recursive.func = recursive
    with pytest.warns(UserWarning, match="call model.eval"):
        LayerUnionCAM(recursive, layer).attribute(x, 0)


def test_progress_on_request_only(capsys):
    net, layer, x = NETWORKS["vgg_like"]()
    LayerUnionCAM(net, layer).attribute(x, 1)
    assert capsys.readouterr() == ("", "")
    LayerUnionCAM(net, layer).attribute(x, 1, show_progress=True)
    shown = capsys.readouterr()
    assert "UnionCAM attribution: 100%" in shown.err
    assert shown.out == ""


def test_nothing_is_kept_after_the_call():
    import gc

    net, layer, x = NETWORKS["vgg_like"]()
    method = LayerUnionCAM(net, layer)
    attr = method.attribute(x, 1)
    gc.collect()
    before = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
    for _ in range(3):
        attr = method.attribute(x, 1)
    gc.collect()
    assert sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()) == before
    assert attr.grad_fn is None


def scored(outputs):
    target = TargetScores.from_output("probability", 0, outputs)
    return target.target_score(outputs, torch.arange(len(outputs)))[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 1000])
def test_distributions_are_known_in_every_precision(dtype, classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, classes, generator=generator, dtype=torch.double)
    distributions = logits.softmax(1).to(dtype)
    for given in (distributions, distributions.double()):
        torch.testing.assert_close(scored(given), given[:, 0].to(scored(given)))


def test_few_logits_are_no_distribution_by_accident():
    outputs = torch.tensor([[0.2654, 0.7331], [0.30, 0.74], [0.5, 0.5]], dtype=torch.double)
    wanted = outputs.softmax(1)[:, 0]
    wanted[2] = 0.5
    torch.testing.assert_close(scored(outputs), wanted)
