"""Scorers: the same maps by other runtimes, which follow the weights or are not used."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from captum_unioncam import LayerScoreCAM, LayerUnionCAM, scorers
from captum_unioncam.scorers import ScorerError

EXACT = ("onnxruntime", "openvino")


def network():
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 10, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5)),
    ).eval()
    return net, net[4], torch.rand(3, 3, 16, 16)


def needs(name):
    if not scorers.is_installed(name):
        pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("given", ["by name", "built"])
def test_exact_runtimes_give_the_models_map(name, given):
    needs(name)
    net, layer, x = network()
    before = copy.deepcopy(net.state_dict())
    cam = LayerUnionCAM(net, layer)
    scorer = name if given == "by name" else getattr(scorers, name)(net, x[:1])
    attr, details = cam.attribute(x, [1, 2, 3], scorer=scorer, return_details=True)
    expected, exact = cam.attribute(x, [1, 2, 3], return_details=True)
    torch.testing.assert_close(attr, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(details.beta_union, exact.beta_union, atol=1e-5, rtol=1e-4)
    # One example alone, and another number of rows than it was built with.
    alone = cam.attribute(x[1:2], 2, scorer=scorer)
    torch.testing.assert_close(alone, attr[1:2], atol=1e-4, rtol=1e-4)
    after = net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not net.training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_half_is_near():
    net, layer, x = network()
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    attr = LayerScoreCAM(net, layer).attribute(x, 1, scorer="half")
    assert not torch.equal(attr, expected)
    torch.testing.assert_close(attr, expected, atol=0.02 * float(expected.abs().max()), rtol=0)


def test_a_named_scorer_is_built_once_and_follows_the_weights(monkeypatch):
    net, layer, x = network()
    made = []
    half = scorers.BUILDERS["half"]
    monkeypatch.setitem(
        scorers.BUILDERS, "half", lambda *given: made.append(half(*given)) or made[-1]
    )
    cam = LayerScoreCAM(net, layer)
    first = cam.attribute(x, 1, scorer="half")
    assert torch.equal(cam.attribute(x, 1, scorer="half"), first)
    assert len(made) == 1, "kept with the method's object"
    with torch.no_grad():
        net[7].weight.mul_(-1)
    changed = cam.attribute(x, 1, scorer="half")
    assert len(made) == 1
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    torch.testing.assert_close(changed, expected, atol=0.02 * float(expected.abs().max()), rtol=0)
    assert not torch.allclose(changed, first, atol=0.02 * float(expected.abs().max()))


def test_weights_are_seen_however_they_change():
    net, _, x = network()
    scorer = scorers.half(net)
    assert not scorer.refresh()
    net[0].weight.data[0, 0, 0, 0] += 1
    assert scorer.refresh()
    net[7].bias = nn.Parameter(net[7].bias.detach() + 1)
    assert scorer.refresh()
    assert not scorer.refresh()
    close = scorer(x).float(), net(x).detach()
    torch.testing.assert_close(*close, atol=0.05, rtol=0.05)


def test_a_scorer_that_is_too_far_off_is_not_used():
    net, layer, x = network()
    scorer = scorers.half(net, tolerance=0)
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    with pytest.warns(UserWarning, match="scorer 'half' is not used: on masked inputs"):
        attr = LayerScoreCAM(net, layer).attribute(x, 1, scorer=scorer)
    assert torch.equal(attr, expected)
    assert scorer.deviation > 0


def test_objects_with_named_scorers_are_copied_and_pickled():
    net, layer, x = network()
    cam = LayerScoreCAM(net, layer)
    first = cam.attribute(x, 1, scorer="half")
    for other in (copy.deepcopy(cam), pickle.loads(pickle.dumps(cam))):
        assert other.layer is other.forward_func[4]
        assert torch.equal(other.attribute(x, 1, scorer="half"), first)


def test_auto_is_the_model_where_nothing_is_installed(monkeypatch):
    net, layer, x = network()
    monkeypatch.setattr("captum_unioncam.engine.scorer_choice.is_installed", lambda name: False)
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    assert torch.equal(LayerScoreCAM(net, layer).attribute(x, 1, scorer="auto"), expected)


def test_auto_takes_an_installed_runtime():
    needs("onnxruntime")
    net, layer, x = network()
    cam = LayerScoreCAM(net, layer)
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attr = cam.attribute(x, 1, scorer="auto")
    used = cam.named_scorers["auto"].used
    assert used.name == "onnxruntime"
    assert used.deviation <= used.tolerance
    torch.testing.assert_close(attr, expected, atol=1e-4, rtol=1e-4)


def test_bad_scorers():
    net, layer, x = network()
    cam = LayerScoreCAM(net, layer)
    with pytest.raises(ValueError, match="scorer must be one of .*; closest: 'onnxruntime'"):
        cam.attribute(x, 1, scorer="onnxruntim")
    with pytest.raises(TypeError, match="scorer must be callable, a name or None, got int"):
        cam.attribute(x, 1, scorer=3)
    assert torch.equal(
        LayerScoreCAM(lambda images: net(images), layer).attribute(x, 1), cam.attribute(x, 1)
    ), "maps behind a function that hides the model"
    with pytest.raises(TypeError, match=r"half copies a torch\.nn\.Module, got function"):
        LayerScoreCAM(lambda images: net(images), layer).attribute(x, 1, scorer="half")

    class Stubborn(nn.Sequential):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    with pytest.raises(ScorerError, match="half cannot copy Stubborn: no copies"):
        scorers.half(Stubborn(nn.Linear(2, 2)))
