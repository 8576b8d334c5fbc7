"""What mypy and pyright see of every method: each keyword with its type, a wrong one at once."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captum_unioncam import METHODS
from tests.methods import OURS

ROOT = Path(__file__).parents[1]
HEAD = """\
from typing import Any

import torch
from torch import Tensor, nn

import captum_unioncam as c
from captum_unioncam.metrics import average_drop
from captum_unioncam.targets import ClassContrast

net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
x = torch.rand(1, 3, 8, 8)
flag: bool = len(x) > 0
def one_score(output: Any) -> Tensor: return torch.as_tensor(output[:, 0])
def no_score(output: Any) -> int: return 0
"""
# Of another type than any option: strings suit no number, numbers no name.
WRONG = "object()"
DETAILED = ("unioncam", "fusioncam", "groupcam")


def calls():
    """Return lines of source, each with whether it is right."""
    lines = []
    for name, method in METHODS.items():
        if name == "gradcam":
            continue
        made = f"c.{method.cls.__name__}(net{', net[1]' if method.needs_layer else ''})"
        given = [f"{option}={value!r}" for option, value in method.options.items()]
        lines.append((f"{made}.attribute(x, 1, None, {', '.join(given)})", True))
        lines.append((f"{made}.attribute(inputs=x, target=[1])", True))
        lines.append((f"{made}.attribute((x, x), (0, 1))", True))
        lines.append((f"{made}.attribute(x, one_score)", True))
        lines.append(
            (f"{made}.attribute(x, [ClassContrast(0, [1, 2]), ClassContrast(1, 0)])", True)
        )
        lines.append((f"{made}.attribute(x, no_score)", False))
        lines.append((f"{made}.attribute(x, 'cat')", False))
        lines.append((f"{made}.attribute(x, 1, perturbation=3)", False))
        lines.append((f"{made}.attribute()", False))
        lines.append((f"{made}.attribute(x, 1, additional_args=None)", False))
        for option in method.options:
            lines.append((f"{made}.attribute(x, 1, {option}={WRONG})", False))
            lines.append((f"{made}.attribute(x, 1, {option}_=None)", False))
    for name in DETAILED:
        cls = METHODS[name].cls
        made = f"c.{cls.__name__}(net, net[1])"
        lines += [
            (f"a_{name}: Tensor | tuple[Tensor, ...] = {made}.attribute(x, 1)", True),
            (f"b_{name}, d_{name} = {made}.attribute(x, 1, return_details=True)", True),
            (f"e_{name}: Tensor | tuple[Tensor, ...] = b_{name}", True),
            (f"f_{name}: int = d_{name}", False),
            (f"g_{name}: Tensor = {made}.attribute(x, 1, return_details=True)", False),
            (f"h_{name} = {made}.attribute(x, 1, return_details=flag)", True),
        ]
    lines += [
        (
            "average_drop(net, x, x, target=1, baselines=0, perturbations_per_eval=3, keep=0.5)",
            True,
        ),
        ("average_drop(net, x, x, target=one_score)", True),
        ("average_drop(net, x, x, targets=1)", False),
        ("average_drop(net, x, x, target=no_score)", False),
        ("average_drop(net, x, x, perturbations_per_eval='3')", False),
    ]
    return lines


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("typing") / "calls.py"
    path.write_text(HEAD + "\n".join(line for line, _ in calls()) + "\n")
    return path


def check(errors):
    """Compare the lines that a checker names with those that are wrong."""
    first = HEAD.count("\n") + 1
    named = {number for number in errors if number >= first}
    wrong = {number for number, (_, right) in enumerate(calls(), first) if not right}
    text = (HEAD + "\n".join(line for line, _ in calls())).splitlines()
    assert not [text[n - 1] for n in sorted(wrong - named)], "wrong calls that pass"
    assert not [text[n - 1] for n in sorted(named - wrong)], "right calls that are refused"
    assert len(wrong) > len(OURS) * 3


def test_mypy(source):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "setup.cfg")]
    done = subprocess.run(
        [*command, "--no-error-summary", str(source)], cwd=ROOT, capture_output=True, text=True
    )
    errors = re.findall(rf"{source.name}:(\d+): error", done.stdout)
    assert errors, done.stdout + done.stderr
    check(set(map(int, errors)))


def test_pyright(source):
    if shutil.which("pyright") is None:
        pytest.skip("pyright is not installed")
    # Tools that read files do not see what an editable installation hooks into imports.
    config = json.dumps({"extraPaths": [str(ROOT)], "typeCheckingMode": "standard"})
    (source.parent / "pyrightconfig.json").write_text(config)
    command = ["pyright", "--outputjson", "--pythonpath", sys.executable, str(source)]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["generalDiagnostics"]
    except (ValueError, KeyError):
        pytest.skip(f"pyright does not run here: {(done.stdout + done.stderr)[:200]}")
    check({d["range"]["start"]["line"] + 1 for d in found if d["severity"] == "error"})
