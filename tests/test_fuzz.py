"""The fuzz: its hard cases always, and that it finds what is planted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from captum_unioncam.engine import weighted_sum
from captum_unioncam.methods.layer_cam import LayerCAM
from tests.fuzz import __main__ as fuzz
from tests.fuzz import checks
from tests.fuzz.cases import case_of
from tests.fuzz.networks import subject_of

ROOT = Path(__file__).parent.parent
# Cases that once found something, or that hold what few others do; the word is what it was.
HARD = {
    2: "legrad with a second input",
    39: "ties of fusioncam",
    57: "ties of unioncam",
    68: "fdcam of one position",
    107: "legrad with an argument for each row",
    109: "ties of betas",
    141: "another scorer on a flat layer",
    1000003: "refinedcam of a flat layer",
    1000139: "refinedcam of one position",
    1000173: "two images, one convolved",
    2000027: "ties of groupcam",
    2000226: "ranks of a layer of one row",
    3000231: "masks that tell equally much",
}


@pytest.mark.parametrize("seed", HARD, ids=lambda seed: f"{seed}-{HARD[seed]}")
def test_hard_cases(seed):
    case, outcome = checks.run_case(seed)
    assert not outcome.findings, (str(case), outcome.findings)
    assert outcome.counts["calls"]


def seed_of(name, **wanted):
    """Return the first seed of a method, on a network of what is wanted."""
    for seed in range(10_000):
        subject = subject_of(seed)
        if all(getattr(subject, key) == value for key, value in wanted.items()):
            case = case_of(seed, subject)
            if case.name == name:
                return seed
    raise AssertionError(name)


@pytest.fixture(scope="module")
def of_layer_cam():
    return seed_of("layercam", rank=2, head="mlp")


def test_a_case_is_a_pure_function_of_its_seed(of_layer_cam):
    random = torch.get_rng_state()
    (first, one), (second, other) = (checks.run_case(of_layer_cam) for _ in range(2))
    assert str(first) == str(second)
    assert one == other
    assert not one.findings
    assert torch.equal(random, torch.get_rng_state())


def test_a_wrong_formula_is_found(of_layer_cam, monkeypatch):
    monkeypatch.setattr(
        LayerCAM, "cam", lambda self, state: weighted_sum(state.gradients, state.activations)
    )
    _, outcome = checks.run_case(of_layer_cam)
    assert any("oracle" in finding for finding in outcome.findings)


def test_what_depends_on_the_batch_is_found(of_layer_cam, monkeypatch):
    monkeypatch.setattr(
        LayerCAM, "cam",
        lambda self, state: weighted_sum(state.gradients.relu(), state.activations)
        / state.activations.amax(),
    )  # fmt: skip
    assert any("being alone" in finding for finding in checks.run_case(of_layer_cam)[1].findings)


@pytest.mark.parametrize(
    ("leave", "named"),
    [
        (lambda state: state.request.layer.register_forward_hook(lambda *a: None), "hooks of"),
        (lambda state: torch.rand(1), "random state of torch"),
        (lambda state: state.request.layer.__dict__.update(kept=1), "attributes of"),
        (lambda state: state.request.layer.train(), "mode of"),
        (lambda state: state.request.inputs[0].add_(1), "values of argument"),
    ],
    ids=["hook", "random state", "attribute", "mode", "input"],
)
def test_what_is_left_behind_is_found(of_layer_cam, monkeypatch, leave, named):
    own = LayerCAM.cam

    def leaving(self, state):
        leave(state)
        return own(self, state)

    monkeypatch.setattr(LayerCAM, "cam", leaving)
    findings = checks.run_case(of_layer_cam)[1].findings
    assert any(finding.startswith(f"changed: {named}") for finding in findings) or any(
        named in finding for finding in findings
    )


def test_an_undocumented_error_is_found_and_repeated_alone(of_layer_cam, monkeypatch, capsys):
    def failing(self, state):
        raise KeyError("planted")

    monkeypatch.setattr(LayerCAM, "cam", failing)
    # The first case of this run is that seed.
    monkeypatch.setattr(fuzz, "CASES", of_layer_cam)
    assert fuzz.main(["--minutes", "0", "--seed", "1"]) == 1
    captured = capsys.readouterr()
    (command,) = re.findall(r"python -m tests.fuzz (--case \d+)", captured.err)
    assert "1 cases failed" in captured.out
    assert fuzz.main(command.split()) == 1
    assert "undocumented KeyError" in capsys.readouterr().err


def test_a_run_ends_with_a_summary_line(of_layer_cam, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "CASES", of_layer_cam)
    assert fuzz.main(["--minutes", "0", "--seed", "1"]) == 0
    captured = capsys.readouterr()
    assert re.match(r"fuzz --seed 1: 1 cases of 1 methods, .* 0 cases failed\n$", captured.out)


def test_it_runs_without_pytest():
    hidden = "import sys; sys.modules['pytest'] = None; import tests.fuzz.__main__"
    subprocess.run([sys.executable, "-c", hidden], cwd=ROOT, check=True, timeout=120)
