"""Every method against its loop-by-loop version, in float64, on networks of several kinds."""

import pytest
import torch

from tests.methods import in_turn
from tests.networks import NETWORKS, TARGETS
from tests.oracles import features, gradient, masks

ORACLES = gradient.ORACLES | masks.ORACLES | features.ORACLES
CASES = [(name, number) for name in ORACLES for number in range(len(ORACLES[name].options))]


def has_oracle(name: str, number: int, network: str) -> bool:
    return network in ORACLES[name].options[number].get("networks", NETWORKS)


@pytest.mark.filterwarnings("ignore:.*is blank for example")
@pytest.mark.parametrize(
    ("name", "number", "network"),
    in_turn(CASES, [(network,) for network in NETWORKS], has_oracle),
)
def test_oracle(name, number, network):
    oracle = ORACLES[name]
    options = {k: v for k, v in oracle.options[number].items() if k != "networks"}
    net, layer, x = NETWORKS[network]()
    target = TARGETS[network]
    attr = oracle.cls(net, layer).attribute(x, target, **options)
    for i in range(len(x)):
        index = target if isinstance(target, tuple) else (target,)
        expected = oracle.naive(net, layer, x[i : i + 1], index, **options)
        torch.testing.assert_close(attr[i, 0], expected, atol=1e-6, rtol=1e-6)
