"""benchmarks.surrogate: maps of fewer masks beside exact ones."""

import re
import sys

import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import surrogate
from captum_unioncam.engine import mask_scoring
from captum_unioncam.vision.networks import standard_preprocess
from tests.networks import seeded

BUDGETS = ("4", "40", "auto", "auto:1e-9")


def network():
    """Forty channels that differ, and a preprocessing."""
    net = nn.Sequential(
        nn.Conv2d(3, 40, 16, stride=32), nn.Softplus(), nn.Flatten(), nn.Linear(40 * 49, 5)
    )
    return seeded(net).float(), standard_preprocess([0.5] * 3, [0.5] * 3), list("abcde")


@pytest.fixture
def photographs(tmp_path):
    """Two pictures of noise."""
    noise = torch.rand(2, 60, 60, 3, generator=torch.Generator().manual_seed(0)) * 255
    for number, pixels in enumerate(noise):
        picture = Image.fromarray(pixels.byte().numpy())
        picture.resize((256, 256)).save(tmp_path / f"{number}.jpg")
    return tmp_path


def run(monkeypatch, capsys, photographs, *more):
    model = f"{__name__}:network"
    words = ["surrogate", str(photographs), *BUDGETS, "--model", model, *more]
    monkeypatch.setattr(sys, "argv", words)
    surrogate.main()
    return capsys.readouterr().out


def test_the_table_is_that_of_the_maps(monkeypatch, capsys, photographs):
    out = run(monkeypatch, capsys, photographs, "--union-cam")
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["0.jpg", "1.jpg"]
    rows = [re.split(r" ?\| ?", line)[1:-1] for line in out.splitlines() if line.startswith("| ")]
    by = {(name, budget): values for name, budget, *values in rows[2:]}
    assert list(by) == [(name, budget) for name in surrogate.MAPS for budget in BUDGETS]
    for name in surrogate.MAPS:
        for budget in ("40", "auto:1e-9"):
            assert by[name, budget][:6] == ["40.0", "40", "1.0000", "1.0000", "1.0000", "1.00"]
        assert by[name, "4"][:2] == ["4.0", "4"]
        assert float(by[name, "4"][4]) < 0.9999
        assert 32 <= float(by[name, "auto"][0]) <= 40


def test_what_is_kept_is_not_forwarded_again(monkeypatch, capsys, photographs, tmp_path):
    keep = ("--union-cam", "--keep", str(tmp_path / "kept"))
    first = run(monkeypatch, capsys, photographs, *keep)
    forwarded = []
    forward = mask_scoring.MaskScorer.score_rows
    monkeypatch.setattr(
        mask_scoring.MaskScorer,
        "score_rows",
        lambda self, rows, *given, **named: (
            forwarded.append(len(rows)) or forward(self, rows, *given, **named)
        ),
    )
    assert run(monkeypatch, capsys, photographs, *keep) == first
    # D with R, and DR, for the exact map and each budget.
    assert sorted(set(forwarded)) == [1, 2]
