"""Every method against its loop-by-loop version, in float64, on networks of several kinds."""

import pytest
import torch

from tests.networks import NETWORKS, TARGETS
from tests.oracles import features, gradient, masks

ORACLES = gradient.ORACLES | masks.ORACLES | features.ORACLES
CASES = [
    pytest.param(name, options, id=f"{name}-{i}")
    for name, oracle in ORACLES.items()
    for i, options in enumerate(oracle.options)
]


@pytest.mark.filterwarnings("ignore:.*is blank for example")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_oracle(name, options, network):
    oracle = ORACLES[name]
    networks = options.get("networks", list(NETWORKS))
    options = {key: value for key, value in options.items() if key != "networks"}
    if network not in networks:
        pytest.skip("the method refuses this network; see its own test")
    net, layer, x = NETWORKS[network]()
    target = TARGETS[network]
    attr = oracle.cls(net, layer).attribute(x, target, **options)
    for i in range(len(x)):
        index = target if isinstance(target, tuple) else (target,)
        expected = oracle.naive(net, layer, x[i : i + 1], index, **options)
        torch.testing.assert_close(attr[i, 0], expected, atol=1e-6, rtol=1e-6)
