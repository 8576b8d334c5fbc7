"""Maps of the demo network that must not move: `python -m tests.golden` wrote them."""

import pytest
import torch

from captum_unioncam import LayerUnionCAM
from captum_unioncam.engine.layer_state import measure_layer
from captum_unioncam.methods import union_cam
from captum_unioncam.vision.networks import demo_network
from tests import golden

pytestmark = pytest.mark.network


@pytest.mark.parametrize("name", ["coffee", pytest.param("chelsea", marks=pytest.mark.exhaustive)])
def test_maps_are_those_that_are_kept(name):
    expected, found = golden.kept()[name], golden.maps([name])[name]
    assert found.keys() == expected.keys()
    far = {spec: golden.off(cam, expected[spec]) for spec, cam in found.items()}
    assert max(far.values()) < golden.TOLERANCE, far


def denoised_with(power):
    """Return AMD with alpha to a power, written out."""

    def denoise(A, W, theta, denoise_on, alpha):
        least = torch.quantile(W.flatten(2), theta / 100, 2)[..., None, None]
        kept = W.where(least <= W, 0).relu()
        total = kept.sum((2, 3), keepdim=True)
        return (torch.where(total > 0, total**-power, 0) * kept * A).sum(1, keepdim=True).relu()

    return denoise


CHANGES = {
    "theta + 1": ("denoise", lambda own: lambda A, W, theta, *o: own(A, W, theta + 1, *o)),
    "alpha ** 0.99": ("denoise", lambda own: denoised_with(0.99)),
    "rounded gradients": ("denoise", lambda own: lambda A, W, *o: own(A, W.bfloat16().float(), *o)),
    "squared activations": ("denoise", lambda own: lambda A, *o: own(A * A.abs() ** 0.02, *o)),
    "rounded activations": ("region", lambda own: lambda A, *o: own(A.bfloat16().float(), *o)),
    "beta of D + 1 %": ("unite", lambda own: lambda D, R, d, r: own(D, R, 1.01 * d, r)),
}


def test_a_changed_formula_is_noticed(monkeypatch):
    """Every change is, and the formula written out once more is not."""
    expected, network = golden.kept()["coffee"], demo_network()
    x, black = golden.inputs_of("coffee")
    method = LayerUnionCAM(network.model, network.model.get_submodule(golden.LAYER))
    target = int(network.outputs(x).argmax())
    prepared = method.prepare({"inputs": x, "target": target, "baselines": black, "theta": 50})
    with measure_layer(prepared.request) as [state]:

        def farthest(name, changed):
            with monkeypatch.context() as patch:
                patch.setattr(union_cam, name, changed(getattr(union_cam, name)))
                _, found = method.map(state, prepared.options)
            maps = {
                "unioncam.denoised:theta=50": found.denoised,
                "unioncam.region": found.region,
                "unioncam.union:theta=50": found.union,
            }
            return max(golden.off(cam[0, 0], expected[spec]) for spec, cam in maps.items())

        assert farthest("denoise", lambda own: denoised_with(1)) < golden.TOLERANCE
        far = {change: farthest(*CHANGES[change]) for change in CHANGES}
    assert min(far.values()) > 2 * golden.TOLERANCE, far
