"""The same map whatever the number of threads that torch works in."""

import pytest
import torch
from torch import nn

from captum_unioncam.methods.registry import METHODS
from tests.methods import QUICK
from tests.networks import seeded

THREADS = (1, 2, 4)
# Defined on transformers alone, or without a forward of the network.
LEFT_OUT = ("legrad", "vitreciprocam", "ones", "random", "center")
# Many forwards of the network.
SLOW = ("opticam", "reciprocam", "refinedcam", "regressioncam", "selectedcam")
CASES = [
    pytest.param(name, marks=[pytest.mark.exhaustive] * (name in SLOW))
    for name in METHODS
    if name not in LEFT_OUT
]


@pytest.fixture(scope="module")
def measured():
    """A network whose layers are large enough to be shared among threads."""
    net = seeded(
        nn.Sequential(
            *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 12, 3, stride=2)),
            *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
        )
    ).float()
    return net, net[6], torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def in_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", CASES)
def test_threads_do_not_move_the_map(name, measured, in_threads):
    net, layer, x = measured
    method = METHODS[name]
    made = method.cls(net, layer) if method.needs_layer else method.cls(net)
    maps = []
    for threads in THREADS:
        in_threads(threads)
        seed = {"seed": 0} if "seed" in method.options else {}
        maps.append(made.attribute(x, 1, **QUICK.get(name, {}), **seed))
    for cam in maps[1:]:
        assert (cam - maps[0]).abs().max() <= 1e-5 * maps[0].abs().max()
    assert maps[0].any()
