"""Callable targets in a comparison: named, mixed with classes, of any output, in every method."""

import pytest
import torch
from captum.attr import DeepLift, LayerGradCam, NoiseTunnel, Saliency

from captum_unioncam import LayerScoreCAM, compare
from captum_unioncam.targets import ClassContrast
from tests.networks import vgg_like
from tests.test_targets import FORMS, Returns, second_class

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is blank", "ignore:.*required_grads", "ignore:Setting forward, backward hooks"
)


@pytest.mark.parametrize("form", FORMS)
def test_callables_are_the_scores_that_they_return(form):
    net, layer, x = vgg_like()
    wrapped, (_, target) = Returns(net, FORMS[form][0]).eval(), FORMS[form]
    methods = ["gradcam", "scorecam", "ablationcam", "rise:n_masks=8", "unioncam.region"]
    given = {"score": "logit", "metrics": ["insertion", "deletion"], "layer": layer}
    expected = compare(methods, x, 2, forward_func=net, **given)
    result = compare(methods, x, {"mine": target}, forward_func=wrapped, **given)
    for label, maps in expected.maps.items():
        torch.testing.assert_close(result.maps[label], maps)
    for row, other in zip(result.rows, expected.rows, strict=True):
        assert row["class"] == "mine"
        assert row["insertion"] == pytest.approx(other["insertion"])
    told = [row["probability"] for row in result.rows if row["method"] == "Score-CAM"]
    assert result.quantity == "output"
    assert told == pytest.approx(net(x)[:, 2].tolist())


def test_classes_and_callables_side_by_side():
    net, layer, x = vgg_like()
    cam = LayerScoreCAM(net, layer)
    each = [ClassContrast(0, 1), ClassContrast(2, 3)]
    result = compare([cam], x, {"class": 2, "why": ClassContrast(2, 0), "each": each}, metrics=[])
    for number, target in enumerate([2, ClassContrast(2, 0), each]):
        alone = cam.attribute(x, target, relu_attributions=True)
        torch.testing.assert_close(result.maps["Score-CAM"][:, number : number + 1], alone)
    unnamed = compare([cam], x, second_class, metrics=[])
    assert {row["class"] for row in unnamed.rows} == {"second_class"}


def test_captums_methods_and_what_wraps_them():
    net, layer, x = vgg_like()
    saliency, grad_cam = Saliency(net), LayerGradCam(net, layer)
    methods = {"s": saliency, "g": grad_cam, "t": NoiseTunnel(saliency), "d": DeepLift(net)}
    options = {"t": {"nt_samples": 1, "stdevs": 0.0}}
    methods = {name: (method, options.get(name, {})) for name, method in methods.items()}
    result = compare(methods, x, second_class, metrics=["coherency"])
    expected = compare(methods, x, 2, metrics=["coherency"])
    for label, maps in expected.maps.items():
        torch.testing.assert_close(result.maps[label], maps)
    assert saliency.forward_func is net
    assert grad_cam.forward_func is net
