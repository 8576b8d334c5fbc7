"""Beta against arithmetic by hand, loops, and what UnionCAM measured of its own maps."""

import pytest
import torch

from captum_unioncam import LayerUnionCAM
from captum_unioncam.metrics import METRICS, beta
from tests.networks import images, vgg_like


def network():
    """Return one whose classes all have a probability worth measuring, its layer and inputs."""
    net, layer, x = vgg_like()
    with torch.no_grad():
        net[-1].weight *= 0.1
    return net, layer, x


def by_loops(net, x, attr, baseline, targets):
    """Forward one masked image and one baseline at a time, in Python's floats."""
    found = []
    for one, M, black, c in zip(x, attr, baseline, targets, strict=True):
        M = torch.nn.functional.interpolate(M[None], one.shape[1:], mode="bilinear")[0, 0]
        M = (M - M.min()) / (M.max() - M.min())
        shown = torch.stack([M * i + (1 - M) * b for i, b in zip(one, black, strict=True)])
        with torch.no_grad():
            masked, blank = (float(net(rows[None]).softmax(1)[0, c]) for rows in (shown, black))
        found.append(masked - blank)
    return found


def test_numbers_by_hand():
    x = torch.tensor([[[1.0, 2.0, 4.0]], [[1.0, -2.0, 3.0]]])
    attr = torch.tensor([[[0.0, 2.0, 4.0]], [[0.0, 1.0, 0.0]]])
    total = lambda rows: rows.flatten(1).sum(1)  # noqa: E731
    assert beta(total, x, attr).tolist() == [0 + 1 + 4, -2]
    # Masked: 5, (5 + 2) / 2 and 4 of 15; 5, -2 and 5 of 15.
    assert beta(total, x, attr, baselines=5).tolist() == [12.5 - 15, 8 - 15]


@pytest.mark.parametrize("size", [(12, 12), (3, 4), (20, 30)])
def test_a_loop(size):
    net, _, x = network()
    attr, baseline = images(2, 1, *size, seed=4) - 0.3, images(2, 3, 12, 12, seed=9)
    found = beta(net, x, attr, target=[2, 4], baselines=baseline)
    assert found.tolist() == pytest.approx(by_loops(net, x, attr, baseline, [2, 4]), abs=1e-12)


@pytest.mark.filterwarnings("ignore:UnionCAM is blank")
@pytest.mark.parametrize("score", ["probability", "logit", torch.sigmoid])
@pytest.mark.parametrize("baselines", [None, 0.3, "each"])
def test_the_betas_of_unioncam(score, baselines):
    net, layer, _ = network()
    x, target = images(5, 3, 12, 12, seed=2), [0, 1, 2, 3, 4]
    common = {
        "target": target,
        "baselines": images(5, 3, 12, 12, seed=7) if baselines == "each" else baselines,
        "score": score,
    }
    _, details = LayerUnionCAM(net, layer).attribute(x, return_details=True, **common)
    for part in ("denoised", "region", "union"):
        expected = getattr(details, f"beta_{part}")
        assert expected.abs().max() > 1e-3
        found = beta(net, x, getattr(details, part), **common)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_trivial_maps():
    net, _, x = network()
    net, x = net.float(), x.float()
    black = -3 * images(2, 3, 12, 12, seed=7).float()
    common = {"target": [2, 4], "baselines": black}
    assert beta(net, x, torch.zeros(2, 1, 4, 4), **common).tolist() == [0, 0]
    with torch.no_grad():
        whole, blank = (net(rows).softmax(1)[[0, 1], [2, 4]] for rows in (x, black))
    everything = beta(net, x, torch.ones(2, 1, 4, 4), **common)
    torch.testing.assert_close(everything, whole - blank, atol=1e-6, rtol=0)
    assert everything.abs().min() > 1e-4


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_chunks_and_company_do_not_matter(chunk):
    net, _, _ = network()
    x, attr, target = images(5, 3, 12, 12), images(5, 1, 6, 6, seed=3), [0, 1, 2, 3, 4]
    whole = beta(net, x, attr, target=target)
    found = beta(net, x, attr, target=target, perturbations_per_eval=chunk)
    torch.testing.assert_close(found, whole)
    singles = [beta(net, x[i : i + 1], attr[i : i + 1], target=i) for i in range(5)]
    torch.testing.assert_close(torch.cat(singles), whole)


def test_what_it_is():
    metric = METRICS["beta"]
    assert (metric.title, metric.higher_is_better, metric.low, metric.high) == ("β", True, -1, 1)
    net, _, x = network()
    assert torch.equal(metric.function(net, x, x, target=1), beta(net, x, x, target=1))
