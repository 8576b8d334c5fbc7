"""Coherency, complexity and ADCC against arithmetic by hand, loops, controls and a peer."""

import contextlib
import statistics

import pytest
import torch
from captum.attr import InputXGradient, LayerGradCam, Saliency

from captum_unioncam import LayerUnionCAM
from captum_unioncam.metrics.adcc import adcc, coherency, complexity, harmonic_mean
from captum_unioncam.metrics.common import prepared_maps
from captum_unioncam.metrics.faithfulness import average_drop
from tests.networks import TwoInputs, images, of_rank, seeded, vgg_like
from tests.test_metrics_faithfulness import maps, pixel_sum, probabilities, scaled, state_of

EXPLAINED = [coherency, adcc]
TARGETS = [2, 4]


def always(*values):
    """An explanation that knows nothing of its input."""
    return lambda inputs, **_: torch.tensor([values] * len(inputs))[:, None]


def test_complexity_by_hand():
    attr = torch.tensor([[[[0.0, 4.0], [1.0, 1.0]]], [[[5.0, 1.0], [1.0, 1.0]]]])
    found = complexity(pixel_sum, torch.ones(2, 1, 2, 2), attr)
    assert found.tolist() == [(0 + 4 + 1 + 1) / 16, 1 / 4]


def test_complexity_of_resized_maps_and_of_controls():
    net, _, x = vgg_like()
    attr = maps(2, 1, 5, 4)
    expected = torch.stack([M.mean() for M in scaled(attr, (12, 12))])
    torch.testing.assert_close(complexity(net, x, attr, target=1), expected)
    for value, share in ((1.0, 1.0), (0.0, 0.0), (7.5, 1.0), (0.25, 0.25)):
        flat = torch.full((2, 1, 5, 4), value)
        assert complexity(net, x, flat, target=1).tolist() == [share, share]


def test_coherency_by_hand():
    x, attr = torch.ones(1, 1, 4), torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    for explained, r in [
        ((0.0, 0.0, 3.0, 3.0), 1),
        ((1.0, 1.0, -1.0, -1.0), -1),
        ((0.0, 1.0, 0.0, 1.0), 0),
        # Covariance 1/4, variances 1/4 and 5/4.
        ((0.0, 1.0, 2.0, 3.0), 2 / 5**0.5),
    ]:
        found = coherency(pixel_sum, x, attr, explanation_func=always(*explained))
        torch.testing.assert_close(found, torch.tensor([(1 + r) / 2]))


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_flat_maps_are_not_coherent(value):
    x, attr = torch.ones(1, 1, 4), torch.tensor([[[0.0, 0.1, 0.7, 1.0]]])
    flat = torch.full((1, 1, 4), value)
    for first, explained in ((attr, flat), (flat, attr), (flat, flat)):
        found = coherency(pixel_sum, x, first, explanation_func=lambda inputs, e=explained: e)
        assert found.tolist() == [0.0]


def test_the_same_map_again_is_entirely_coherent():
    net, _, x = vgg_like()
    attr = maps(2, 3, 5, 7).float()
    found = coherency(net, x, attr, explanation_func=lambda inputs, target: attr, target=1)
    assert found.tolist() == [1.0, 1.0]


def test_adcc_by_hand():
    # Shown are 1, 0, 1/2 and 1 of the pixels: 0.4 of 0.5; coherent by (1 + 1) / 2.
    x = torch.tensor([[[0.1, 0.05, 0.1, 0.25]]])
    attr = torch.tensor([[[2.0, 0.0, 1.0, 2.0]]])
    found = adcc(pixel_sum, x, attr, explanation_func=lambda inputs: attr)
    torch.testing.assert_close(found, torch.tensor([3 / (1 / 1 + 1 / 0.375 + 1 / 0.8)]))


@pytest.mark.parametrize("size", [(12, 12), (3, 3)])
def test_adcc_in_loops(size):
    net, layer, x = vgg_like()
    baseline = images(1, 3, 12, 12, seed=8)
    if size == (3, 3):
        attr = LayerGradCam(net, layer).attribute(x, TARGETS).detach()[..., ::2, ::2]
    else:
        attr = maps(2, 1, *size)
    expected, coherencies = [], []
    for i, M in enumerate(scaled(attr, (12, 12))):
        shown = baseline + M * (x[i : i + 1] - baseline)
        again = LayerGradCam(net, layer).attribute(shown, TARGETS[i]).detach()
        (N,) = scaled(again, (12, 12))
        r = statistics.correlation(M.flatten().tolist(), N.flatten().tolist())
        Y, E = (probabilities(net, rows, TARGETS[i : i + 1])[0] for rows in (x[i : i + 1], shown))
        terms = [(1 + r) / 2, 1 - M.mean().item(), 1 - max(0.0, Y - E) / Y]
        coherencies.append(terms[0])
        expected.append(statistics.harmonic_mean(terms))
    arguments = {
        "explanation_func": LayerGradCam(net, layer).attribute,
        "target": TARGETS,
        "baselines": baseline,
    }
    found = coherency(net, x, attr, **arguments)
    torch.testing.assert_close(found, torch.tensor(coherencies, dtype=torch.float64))
    found = adcc(net, x, attr, **arguments)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("value", [1.0, 5.0])
def test_ones_score_exactly_zero(value):
    net, layer, x = vgg_like()
    x = x.float()
    explain = LayerGradCam(net.float(), layer).attribute
    ones = torch.full((2, 1, 3, 3), value)
    assert adcc(net, x, ones, explanation_func=explain, target=TARGETS).tolist() == [0.0, 0.0]


def test_maps_that_show_all_but_a_corner_win_the_drop_and_lose_adcc():
    net, layer, x = vgg_like()
    fake = torch.ones(2, 1, 12, 12)
    fake[..., 0, 0] = 0
    explain = LayerGradCam(net, layer).attribute
    assert (average_drop(net, x, fake, target=TARGETS) < 5).all()
    assert (adcc(net, x, fake, explanation_func=explain, target=TARGETS) < 0.03).all()


def test_a_drop_of_everything_scores_zero():
    def forward(rows):
        return rows.flatten(1)[:, 0]

    x, attr = torch.ones(1, 1, 3), torch.tensor([[[0.0, 0.5, 1.0]]])
    assert adcc(forward, x, attr, explanation_func=lambda inputs: attr).tolist() == [0.0]


def test_harmonic_means():
    terms = torch.tensor([[1.0, 0.5, 1e-45, 0.0], [1.0, 0.25, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    found = harmonic_mean(*terms)
    torch.testing.assert_close(found, torch.tensor([1.0, 3 / 7, 0.0, 0.0]))


@pytest.mark.parametrize("metric", EXPLAINED)
def test_the_masked_inputs_are_explained_as_the_user_would(metric):
    net = seeded(TwoInputs())
    image, table, scale = images(2, 2, 6, 6), images(2, 3, seed=1), images(2, seed=2)
    attr = maps(2, 1, 6, 6)
    M = torch.stack(scaled(attr, (6, 6)))[:, None]
    net.conv.training = True
    asked = []

    def explain(inputs, target=None, additional_forward_args=None, *, theta):
        asked.append((inputs, target, additional_forward_args, theta))
        assert torch.is_grad_enabled()
        assert not net.conv.training
        return (attr,)

    with pytest.warns(UserWarning, match="training mode") as warned:
        metric(
            net, (image, table), attr, explanation_func=explain, target=[3, 1],
            additional_forward_args=(scale, 0.5), baselines=(0.25, 0),
            explanation_kwargs={"theta": 7},
        )  # fmt: skip
    assert warned[0].filename == __file__
    ((shown, passed), target, extra, theta) = asked[0]
    torch.testing.assert_close(shown, 0.25 + M * (image - 0.25))
    assert torch.equal(passed, table)
    assert shown.is_contiguous()
    assert (target, theta) == ([3, 1], 7)
    assert extra[0] is scale
    assert net.conv.training


def test_only_what_is_given_reaches_the_explanation():
    x, attr = torch.ones(1, 1, 2), torch.tensor([[[0.0, 1.0]]])
    asked = []

    def explain(*arguments, **keywords):
        asked.append((arguments, keywords))
        return attr

    coherency(pixel_sum, x, attr, explanation_func=explain, score="logit")
    ((inputs,), keywords) = asked[0]
    assert inputs.tolist() == [[[0.0, 1.0]]]
    assert keywords == {}


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("metric", EXPLAINED)
@pytest.mark.parametrize("attribution", [Saliency, InputXGradient, LayerUnionCAM])
def test_attributions_of_captum(metric, attribution):
    net, layer, x = vgg_like()
    made = attribution(net, layer) if attribution is LayerUnionCAM else attribution(net)
    attr = made.attribute(x.clone(), target=TARGETS).detach()
    found = metric(net, x, attr, explanation_func=made.attribute, target=TARGETS)
    assert ((found > 0) & (found < 1)).all()
    assert not found.requires_grad


def test_baselines_of_the_explanation_are_its_own():
    net, layer, x = vgg_like()
    cam, black = LayerUnionCAM(net, layer), torch.full((1, 3, 12, 12), -1.0)
    attr = cam.attribute(x, TARGETS, baselines=black)
    seen = []

    def explain(inputs, **keywords):
        seen.append(keywords.get("baselines"))
        return cam.attribute(inputs, **keywords)

    common = {"explanation_func": explain, "target": TARGETS, "baselines": black}
    coherency(net, x, attr, **common)
    coherency(net, x, attr, explanation_kwargs={"baselines": black}, **common)
    assert seen == [None, black]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_rank(rank):
    net, layer, x = of_rank(rank)
    explain = LayerGradCam(net, layer).attribute
    attr = explain(x, target=1).detach()
    shown = prepared_maps(attr, 3, x.shape[2:]) * x
    again = prepared_maps(explain(shown, target=1), 3, x.shape[2:])
    both = zip(prepared_maps(attr, 3, x.shape[2:]), again, strict=True)
    r = [statistics.correlation(a.flatten().tolist(), b.flatten().tolist()) for a, b in both]
    found = coherency(net, x, attr, explanation_func=explain, target=1)
    torch.testing.assert_close(found, (1 + torch.tensor(r, dtype=torch.float64)) / 2)


@pytest.mark.parametrize("metric", [*EXPLAINED, complexity])
def test_chunks_and_company_do_not_matter(metric):
    net, layer, _ = vgg_like()
    x, attr, target = images(3, 3, 12, 12, seed=2), maps(3, 1, 6, 6), [0, 1, 2]
    explained = {} if metric is complexity else {
        "explanation_func": LayerGradCam(net, layer).attribute
    }  # fmt: skip
    whole = metric(net, x, attr, target=target, **explained)
    assert whole.unique().numel() == 3
    found = metric(net, x, attr, target=target, perturbations_per_eval=1, **explained)
    torch.testing.assert_close(found, whole)
    singles = [metric(net, x[i : i + 1], attr[i : i + 1], target=i, **explained) for i in range(3)]
    torch.testing.assert_close(torch.cat(singles), whole)


def test_half_precision_maps_are_correlated_in_single_precision():
    net, layer, x = vgg_like()
    explain = LayerGradCam(net.bfloat16(), layer).attribute
    x = x.bfloat16()
    attr = explain(x, target=1).detach()
    assert attr.dtype == torch.bfloat16
    found = coherency(net, x, attr, explanation_func=explain, target=1)
    assert found.dtype == torch.float32
    assert (found > 0.5).all()


BAD = [
    ({"explanation_func": None}, TypeError, "explanation_func must be callable, got NoneType$"),
    (
        {"explanation_func": Saliency(pixel_sum)},
        TypeError,
        "got Saliency: pass its attribute method",
    ),
    ({"explanation_kwargs": ["theta"]}, TypeError, "must be a mapping of keywords or None"),
    ({"show_progress": 1}, TypeError, "show_progress must be True or False"),
    ({"target": [1, 2, 3]}, ValueError, "3 entries for 2 examples"),
    ({"baselines": (0, 0)}, ValueError, "got 2 for 1 inputs"),
]


@pytest.mark.parametrize("metric", EXPLAINED)
@pytest.mark.parametrize(("wrong", "error", "message"), BAD)
def test_bad_input_is_named_before_any_forward(metric, wrong, error, message):
    def never(*_):
        raise AssertionError("a forward ran")

    x = vgg_like()[2]
    arguments = {"target": 1, "explanation_func": never} | wrong
    with pytest.raises(error, match=message):
        metric(never, x, torch.ones(2, 1, 3, 3), **arguments)


@pytest.mark.parametrize("metric", EXPLAINED)
@pytest.mark.parametrize(
    ("explained", "error", "message"),
    [
        (torch.ones(3, 1, 2, 2), ValueError, r"what explanation_func returns must have shape \(2"),
        ((torch.ones(2, 1, 2, 2),) * 2, ValueError, "got a tuple of 2"),
        (None, TypeError, "what explanation_func returns must be a floating point Tensor"),
        (torch.full((2, 1, 2, 2), float("nan")), ValueError, "explanation_func returns hold NaN"),
    ],
)
def test_bad_explanations(metric, explained, error, message):
    net, _, x = vgg_like()
    with pytest.raises(error, match=message):
        metric(net, x, maps(2, 1, 3, 3), explanation_func=lambda i, target: explained, target=1)


def test_a_target_given_twice():
    net, layer, x = vgg_like()
    with pytest.raises(TypeError, match="multiple values for keyword argument 'target'"):
        coherency(
            net, x, maps(2, 1, 3, 3), explanation_func=LayerGradCam(net, layer).attribute,
            target=1, explanation_kwargs={"target": 2},
        )  # fmt: skip


def test_adcc_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="adcc is defined for probabilities"):
        adcc(None, torch.ones(1, 1, 2), None, explanation_func=pixel_sum, score="logit")
    x = torch.tensor([[[1.0, 2.0]]])
    with pytest.raises(ValueError, match=r"got the score 3 for example\(s\) \[0\]"):
        adcc(pixel_sum, x, x, explanation_func=lambda inputs: inputs)


@pytest.mark.parametrize("metric", [*EXPLAINED, complexity])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_users_changes(metric, fails):
    net, layer, x = vgg_like()
    net[1].training = True
    x.requires_grad_()
    attr, cam = maps(2, 1, 6, 6).requires_grad_(), LayerGradCam(net, layer)

    def explain(inputs, target):
        if fails:
            raise RuntimeError("broken on purpose")
        return cam.attribute(inputs, target)

    before = state_of(net, x, attr)
    expects = fails and metric is not complexity
    outcome = pytest.raises(RuntimeError, match="purpose") if expects else contextlib.nullcontext()
    explained = {} if metric is complexity else {"explanation_func": explain}
    with pytest.warns(UserWarning, match="training mode"), outcome:
        metric(net, x, attr, target=1, **explained)
    assert state_of(net, x, attr) == before


def test_the_grad_cam_library():
    # Its Complexity and Coherency; flat maps, which are half coherent there, are left out.
    arcc = pytest.importorskip("pytorch_grad_cam.metrics.arcc")
    net, layer, x = vgg_like()
    explain = LayerGradCam(net, layer).attribute
    M = prepared_maps(maps(2, 1, 12, 12), 2, (12, 12))
    target = [1, 1]

    def base_method(input_tensor, targets):
        return prepared_maps(explain(input_tensor, targets), 2, (12, 12))[:, 0].numpy()

    theirs = arcc.Coherency()(x, M[:, 0].numpy(), target, net, base_method)
    found = coherency(net, x, M, explanation_func=explain, target=target)
    assert found.unique().numel() == 2
    torch.testing.assert_close(found, torch.as_tensor(theirs), atol=1e-6, rtol=0)
    theirs = arcc.Complexity()(M[:, 0].numpy())
    torch.testing.assert_close(complexity(net, x, M, target=1), torch.as_tensor(theirs))


@pytest.mark.network
def test_a_photograph_on_the_real_network():
    from PIL import Image
    from skimage import data

    from captum_unioncam import suggest_layer
    from captum_unioncam.vision.networks import demo_network

    network = demo_network()
    x, black, _ = network.prepare(Image.fromarray(data.coffee()))
    with torch.no_grad():
        target = network.model(x).argmax(1)
    cam = LayerGradCam(network.model, suggest_layer(network.model, x).layer)
    common = {"explanation_func": cam.attribute, "target": target, "baselines": black}
    attr = cam.attribute(x, target).detach()
    assert adcc(network.model, x, torch.ones_like(attr), **common).item() == 0
    # The espresso stays where it is when all else turns black.
    assert coherency(network.model, x, attr, **common).item() > 0.9
    assert adcc(network.model, x, attr, **common).item() > 0.6
