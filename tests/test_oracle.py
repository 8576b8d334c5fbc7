"""LayerUnionCAM against the loop-by-loop version written from the paper."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from captum_unioncam import LayerUnionCAM
from tests.methods import in_turn
from tests.networks import NETWORKS, TARGETS, of_rank
from tests.oracles.union_cam import union_cam

# Blank maps are among the cases compared; the warning has its own test.
pytestmark = pytest.mark.filterwarnings("ignore:UnionCAM is blank")
ON_NETWORKS = [(network,) for network in NETWORKS]
FIELDS = ["denoised", "region", "union", "beta_denoised", "beta_region", "beta_union"]


def compare(net, layer, x, target, **options):
    attr, details = LayerUnionCAM(net, layer).attribute(x, target, return_details=True, **options)
    options["baseline"] = options.pop("baselines", 0.0)
    for i in range(len(x)):
        expected = union_cam(net, layer, x[i : i + 1], target, **options)
        torch.testing.assert_close(attr[i, 0], expected["map"], atol=1e-6, rtol=0)
        for field in FIELDS:
            actual = getattr(details, field)[i].squeeze(0)
            wanted = torch.as_tensor(expected[field], dtype=actual.dtype)
            torch.testing.assert_close(actual, wanted, atol=1e-6, rtol=0)
        assert details.selected_union[i].item() == expected["selected_union"]
    return details


@pytest.mark.parametrize(
    ("theta", "denoise_on", "alpha", "network"),
    in_turn(
        itertools.product([0, 10, 60, 100], ["all", "positive"], ["sum", "count"]), ON_NETWORKS
    ),
)
def test_denoising(theta, denoise_on, alpha, network):
    net, layer, x = NETWORKS[network]()
    compare(net, layer, x, TARGETS[network], theta=theta, denoise_on=denoise_on, alpha=alpha)


@pytest.mark.parametrize(
    ("score", "region_weights", "baseline", "network"),
    in_turn(
        itertools.product(
            ["probability", "logit", torch.sigmoid], ["score", "softmax"], [0.0, -0.7, "row"]
        ),
        ON_NETWORKS,
    ),
)
def test_scores_and_baselines(score, region_weights, baseline, network):
    net, layer, x = NETWORKS[network]()
    if baseline == "row":
        baseline = torch.linspace(-1, 1, x.shape[1]).double().reshape(1, -1, 1, 1)
    compare(
        net, layer, x, TARGETS[network],
        score=score, region_weights=region_weights, baselines=baseline,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "index"), [("vgg_like", 0), ("vgg_like", 3), ("vgg_like", 5), ("gap_head", 0),
                           ("convolutional", 2)]
)  # fmt: skip
def test_layers(network, index):
    net, _, x = NETWORKS[network]()
    compare(net, net[index], x, TARGETS[network])


@pytest.mark.parametrize("rank", [1, 3])
def test_ranks(rank):
    net, layer, x = of_rank(rank)
    compare(net, layer, x, 1)


def test_both_selections_occur():
    selections = set()
    for network, score in itertools.product(NETWORKS, ["probability", "logit"]):
        net, layer, x = NETWORKS[network]()
        for target in range(3):
            target = (target, 1, 1) if network == "convolutional" else target
            details = compare(net, layer, x, target, score=score)
            selections |= set(details.selected_union.tolist())
    assert selections == {True, False}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("score", ["probability", "logit"])
def test_returned_map_is_the_mask_that_was_scored(network, score):
    net, layer, x = NETWORKS[network]()
    target = TARGETS[network]
    black = torch.full_like(x[:1], -0.3)
    attr, details = LayerUnionCAM(net, layer).attribute(
        x, target, score=score, baselines=black, return_details=True
    )
    mask = F.interpolate(attr, x.shape[2:], mode="bilinear")
    flat = mask.flatten(1)
    torch.testing.assert_close(flat.amin(1), torch.zeros(len(x)).double(), atol=1e-12, rtol=0)
    shown = attr.flatten(1).any(1)
    assert shown.all() or score == "logit"  # negative logits can leave no region at all
    torch.testing.assert_close(flat.amax(1), shown.double(), atol=1e-12, rtol=0)

    def f(inputs):
        with torch.no_grad():
            out = net(inputs)
        out = out.softmax(1) if score == "probability" else out
        return out[(slice(None), *(target if isinstance(target, tuple) else (target,)))]

    beta = f(black + mask * (x - black)) - f(black)
    selected = torch.where(details.selected_union, details.beta_union, details.beta_region)
    torch.testing.assert_close(beta, selected, atol=1e-6, rtol=0)


def test_several_inputs_of_different_size_share_one_scale():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.layer, _ = NETWORKS["vgg_like"]()

        def forward(self, fine, coarse):
            return self.net(fine) + self.net(F.interpolate(coarse, fine.shape[2:]))

    net = Two().eval()
    x = NETWORKS["vgg_like"]()[2]
    inputs = (x, F.avg_pool2d(x, 2))
    attr, details = LayerUnionCAM(net, net.layer).attribute(inputs, 2, return_details=True)
    masked = tuple(F.interpolate(attr, i.shape[2:], mode="bilinear") * i for i in inputs)
    with torch.no_grad():
        score, black = (net(*m).softmax(1)[:, 2] for m in (masked, [i * 0 for i in inputs]))
    selected = torch.where(details.selected_union, details.beta_union, details.beta_region)
    torch.testing.assert_close(score - black, selected, atol=1e-9, rtol=0)
