"""What every metric shares: one signature that tools read, one description, checked keywords."""

import doctest
import inspect
import re
import sys

import pytest
import torch
from typing_extensions import Unpack

from captum_unioncam.metrics import METRICS
from captum_unioncam.metrics.options import EvaluationOptions, Forward, Inputs, metric

FUNCTIONS = {name: one.function for name, one in METRICS.items()}
of_every_metric = pytest.mark.parametrize("name", FUNCTIONS)
SHARED = ("target", "additional_forward_args", "score", "perturbations_per_eval", "show_progress")


@of_every_metric
def test_every_parameter_is_described_once_in_captums_layout(name):
    function = FUNCTIONS[name]
    parameters = inspect.signature(function).parameters
    kinds = {p.kind for p in parameters.values()}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    text = inspect.getdoc(function)
    headings = re.findall(r"^(\w+):{1,2}$", text, re.MULTILINE)
    assert headings == ["Args", "Returns", "Raises", "Examples"]
    args = re.split(r"^\w+:{1,2}$", text, flags=re.MULTILINE)[1]
    assert re.findall(r"^    (\w+) \(", args, re.MULTILINE) == list(parameters)
    assert max(map(len, text.splitlines())) <= 96
    for p in parameters.values():
        assert p.annotation is not inspect.Parameter.empty, p
        if p.default is not inspect.Parameter.empty and p.name != "baselines":
            described = re.search(rf"^    {p.name} \((.*?)(?=^    \w|\Z)", args, re.M | re.S)[1]
            default = re.search(r"Default:\s+(.*)", described)[1]
            assert default.replace('"', "'") == repr(p.default)


@of_every_metric
def test_metrics_that_run_the_network_take_the_same_options(name):
    known = inspect.signature(FUNCTIONS[name]).parameters
    assert all(option in known for option in SHARED) == ("target" in known)
    assert ("baselines" in known) == ("target" in known and name != "road")


@of_every_metric
def test_a_misspelt_keyword_is_named_before_any_forward(name):
    def never(*_):
        raise AssertionError("a forward ran")

    x = torch.rand(1, 3, 8, 8)
    needed = dict.fromkeys(METRICS[name].needs)
    *_, last = inspect.signature(FUNCTIONS[name]).parameters
    with pytest.raises(TypeError, match=f"{name} has no parameter '{last}s'; closest: '{last}'"):
        FUNCTIONS[name](never, x, x, **needed, **{f"{last}s": None})


@of_every_metric
def test_examples_are_found_where_they_are_run(name):
    function = FUNCTIONS[name]
    module = sys.modules[function.__module__]
    found = {test.name: test.examples for test in doctest.DocTestFinder().find(module)}
    assert found[f"{module.__name__}.{name}"]


def test_the_own_description_comes_first_and_none_may_be_missing():
    def some(forward_func: Forward, *, own: int = 3, **options: Unpack[EvaluationOptions]) -> int:
        """Measure.

        Args:
            own (int, optional): the metric's own,
                on two lines. Default: 3
            score (str, optional): another text. Default: "probability"

        Returns:
            *int*: the sum.
        """
        return own + len(options)

    made = metric(some)
    assert made(None, target=1, own=4) == 5
    assert "    own (int, optional): the metric's own,\n        on two lines. Default: 3\n" in (
        made.__doc__
    )
    assert made.__doc__.count("score (") == 1
    assert "another text" in made.__doc__
    assert "Raises:\n    TypeError" in made.__doc__
    assert inspect.signature(made).parameters["score"].default == "probability"

    def undescribed(forward_func: Forward, other: Inputs) -> int:
        """Measure.

        Returns:
            *int*: nothing.
        """
        return 0

    with pytest.raises(KeyError, match="other"):
        metric(undescribed)
    undescribed.__doc__ = "Measure."
    with pytest.raises(ValueError, match="docstring says what it returns"):
        metric(undescribed)
