"""Every method against its loop-by-loop version, in float64, on networks of several kinds."""

import pytest
import torch

from tests.methods import in_turn
from tests.networks import NETWORKS, TARGETS
from tests.oracles import features, gradient, masks, searched

ORACLES = gradient.ORACLES | masks.ORACLES | features.ORACLES | searched.ORACLES
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


def test_a_plain_run_takes_one_pair_of_each_row_and_the_columns_in_turn():
    cases = in_turn(
        [(1,), (2,), (3,)], [("a",), ("b",)], lambda row, column: (row, column) != (2, "b")
    )
    assert [case.id for case in cases] == ["1-a", "1-b", "2-a", "3-a", "3-b"]
    plain = [case.values for case in cases if not case.marks]
    assert plain == [(1, "a"), (2, "a"), (3, "a")]
    columns = [(letter,) for letter in "abc"]
    plain = [
        case.values[1] for case in in_turn([(i,) for i in range(4)], columns) if not case.marks
    ]
    assert plain == ["a", "b", "c", "a"]
