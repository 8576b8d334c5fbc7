"""ARCC against its parts, and against pytorch-grad-cam's."""

import numpy as np
import pytest
import torch
from torch import nn

from captum_unioncam import LayerUnionCAM
from captum_unioncam.metrics import arcc, coherency, complexity, road
from tests.networks import images, vgg_like


def test_it_is_the_harmonic_mean_of_three_terms():
    net, layer, x = vgg_like()
    cam = LayerUnionCAM(net, layer)
    black = images(1, 3, 12, 12, seed=9)
    maps = cam.attribute(x, [2, 1], baselines=black, relu_attributions=True)
    maps[1] = -maps[1]
    explain = {"explanation_func": cam.attribute, "explanation_kwargs": {"baselines": black}}
    common = {"target": [2, 1]}
    a = coherency(net, x, maps, **explain, baselines=black, **common).tolist()
    b = complexity(net, x, maps, baselines=black, **common).tolist()
    c = road(net, x, maps, percentages=(20, 40, 60, 80), seed=3, noise=0.1, **common).tolist()
    expected = []
    for coherent, shown, removed in zip(a, b, c, strict=True):
        terms = [coherent, 1 - shown, min(max(2 * removed, 0), 1)]
        expected.append(3 / sum(1 / term for term in terms) if all(terms) else 0.0)
    found = arcc(net, x, maps, **explain, baselines=black, seed=3, noise=0.1, **common)
    assert found.tolist() == pytest.approx(expected)
    assert found.max() > 0
    single = arcc(net, x[:1], maps[:1], **explain, baselines=black, seed=3, noise=0.1, target=2)
    torch.testing.assert_close(single, found[:1])


def test_ones_and_maps_that_mislead_score_nothing():
    x = torch.zeros(1, 1, 16, 16)
    x[..., :8] = 1

    def half(x):
        mean = x[..., :8].flatten(1).mean(1)
        return torch.stack([mean, -mean], 1)

    def score(cam):
        return arcc(half, x, cam, explanation_func=lambda x, target: cam, target=0).item()

    good = x + 0.01 * images(1, 1, 16, 16).float()
    assert score(good) > 0.2
    assert score(torch.ones(1, 1, 16, 16)) == 0
    assert score(1 - good) == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_pytorch_grad_cam(seed):
    theirs = pytest.importorskip("pytorch_grad_cam.metrics.arcc")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    torch.manual_seed(seed)

    class LeftHalf(nn.Module):
        def forward(self, x):
            mean = x[..., :16].flatten(1).mean(1)
            return torch.stack([9 * mean, 9 - 9 * mean], 1)

    net = LeftHalf().eval()
    # No ties; smooth enough that noise of the imputation matters little.
    x = torch.rand(1, 3, 4, 4) * torch.tensor([1.0, 1.0, 0.2, 0.2])
    x = nn.functional.interpolate(x, (32, 32), mode="bilinear")
    cam = x.mean(1, keepdim=True) + 0.05 * torch.rand(1, 1, 32, 32)
    cam = (cam - cam.min()) / (cam.max() - cam.min())
    again = torch.rand(1, 1, 32, 32)
    ours = arcc(net, x, cam, explanation_func=lambda x, target: again, target=0).item()
    made = theirs.ARCC(base_method=lambda input_tensor, targets: again[:, 0].numpy())
    targets = [ClassifierOutputSoftmaxTarget(0)]
    expected = float(np.ravel(made(x, cam[:, 0].numpy(), targets, net))[0])
    assert expected > 0.2
    assert ours == pytest.approx(expected, abs=0.02)


def test_logits_and_misspelt_options_are_refused():
    net, _, x = vgg_like()
    with pytest.raises(ValueError, match="arcc is defined for probabilities"):
        arcc(net, x, x, explanation_func=lambda x: x, target=1, score="logit")
    with pytest.raises(TypeError, match="explanation_func must be callable"):
        arcc(net, x, x, explanation_func=None, target=1)
