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
from tests.fuzz.networks import subject_of

ROOT = Path(__file__).parent.parent
# Cases in which something was found once, in the package or in an oracle, and what is special.
HARD = {
    (2, "legrad"): "a second input",
    (39, "fusioncam"): "a callable target",
    (57, "unioncam"): "one value and a table",
    (68, "fdcam"): "scores of every position",
    (102, "grad++scorecam"): "a scalar",
    (107, "legrad"): "an argument for each row",
    (109, "unioncam"): "one value and softmax weights",
    (141, "iscam"): "another scorer on a flat layer",
    (1000003, "refinedcam"): "a flat layer",
    (1000139, "refinedcam"): "one position",
    (1000173, "opticam"): "two images of which one is convolved",
    (2000226, "regressioncam"): "ranks of a layer of one row",
    (3000231, "regressioncam"): "masks that tell equally much",
}


@pytest.mark.parametrize(
    ("seed", "method"), HARD, ids=[f"{name}-{seed}-{what}" for (seed, name), what in HARD.items()]
)
def test_hard_cases(seed, method):
    case, outcome = checks.run_case(seed, method)
    assert not outcome.findings, (str(case), outcome.findings)
    assert not outcome.undecided
    assert outcome.counts["calls"]


@pytest.fixture(scope="module")
def seed():
    """Return a case of several examples on which LayerCAM depends on the gradients' signs."""
    for seed in range(1000):
        subject = subject_of(seed)
        if subject.head == "mlp" and len(subject.inputs[0]) > 1:
            return seed
    raise AssertionError


def layer_cams(seed):
    return checks.run_case(seed, "layercam")


def test_a_case_is_a_pure_function_of_its_seed(seed):
    random = torch.get_rng_state()
    (first, one), (second, other) = (layer_cams(seed) for _ in range(2))
    assert str(first) == str(second)
    assert one == other
    assert not one.findings
    assert torch.equal(random, torch.get_rng_state())


def test_a_wrong_formula_is_found(seed, monkeypatch):
    monkeypatch.setattr(
        LayerCAM, "cam", lambda self, state: weighted_sum(state.gradients, state.activations)
    )
    _, outcome = layer_cams(seed)
    assert any("oracle" in finding for finding in outcome.findings)


def test_what_depends_on_the_batch_is_found(seed, monkeypatch):
    monkeypatch.setattr(
        LayerCAM, "cam",
        lambda self, state: weighted_sum(state.gradients.relu(), state.activations)
        / state.activations.amax(),
    )  # fmt: skip
    assert any("being alone" in finding for finding in layer_cams(seed)[1].findings)


@pytest.mark.parametrize(
    ("leave", "named"),
    [
        (lambda state: state.request.layer.register_forward_hook(lambda *a: None), "hooks of"),
        (lambda state: torch.rand(1), "random state of torch"),
        (lambda state: state.request.layer.__dict__.update(kept=1), "attributes of"),
        (lambda state: state.request.forward_func.requires_grad_(False), "requires_grad of"),
        (lambda state: state.request.inputs[0].add_(1), "values of argument"),
    ],
    ids=["hook", "random state", "attribute", "frozen", "input"],
)
def test_what_is_left_behind_is_found(seed, monkeypatch, leave, named):
    own = LayerCAM.cam

    def leaving(self, state):
        leave(state)
        return own(self, state)

    monkeypatch.setattr(LayerCAM, "cam", leaving)
    findings = layer_cams(seed)[1].findings
    assert any(finding.startswith(f"changed: {named}") for finding in findings) or any(
        named in finding for finding in findings
    )


def test_an_undocumented_error_is_found_and_repeated_alone(seed, monkeypatch, capsys):
    def failing(self, state):
        raise KeyError("planted")

    monkeypatch.setattr(LayerCAM, "cam", failing)
    # The first case of this run is that seed.
    monkeypatch.setattr(fuzz, "CASES", seed)
    assert fuzz.main(["--minutes", "0", "--seed", "1", "--method", "layercam"]) == 1
    captured = capsys.readouterr()
    (command,) = re.findall(r"python -m tests.fuzz (--case \d+ --method \w+)", captured.err)
    assert "1 cases failed" in captured.out
    assert fuzz.main(command.split()) == 1
    assert "undocumented KeyError" in capsys.readouterr().err


def test_a_run_ends_with_a_summary_line(seed, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "CASES", seed)
    assert fuzz.main(["--minutes", "0", "--seed", "1", "--method", "layercam"]) == 0
    captured = capsys.readouterr()
    assert re.match(r"fuzz --seed 1: 1 cases of 1 methods, .* 0 cases failed\n$", captured.out)


def test_it_runs_without_pytest():
    hidden = "import sys; sys.modules['pytest'] = None; import tests.fuzz.__main__"
    subprocess.run([sys.executable, "-c", hidden], cwd=ROOT, check=True, timeout=120)
