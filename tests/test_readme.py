"""What the README shows runs, and what it names exists."""

import re
from pathlib import Path

import pytest
from PIL import Image
from skimage import data
from torchvision import models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:UnionCAM explains nothing")
def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.cat()).save("cat.jpg")
    # Weights are drawn instead of downloaded; channels that are dead need no forward.
    drawn = models.resnet18(weights=None).state_dict()
    drawn["layer4.1.bn2.bias"][50:] = -1e3
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda *_, **__: drawn)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    assert names["attr"].shape == (1, 1, 7, 7)
    assert names["heat"].shape == (1, 1, 224, 224)
    assert names["attr"].any()
    assert len(names["result"].rows) == 6
    assert "UnionCAM max_masks=64" in capsys.readouterr().out
    assert (tmp_path / "comparison.png").stat().st_size > 50_000


def test_linked_files_exist():
    links = re.findall(r"\]\(((?!http)[^)]+)\)", README)
    assert "docs/demo.png" in links
    assert all((ROOT / link).is_file() for link in links)


def test_commands_are_those_that_ci_runs():
    script = (ROOT / ".ci" / "run").read_text().replace(" --quiet", "")
    for command in ('pip install ".[demo]" && unioncam demo', 'pip install ".[test]" && pytest'):
        assert f"    {command}\n" in README
        # Lines of one function, and so in one environment.
        lines = "^ +" + ".*^ +".join(map(re.escape, command.split(" && ")))
        assert any(re.search(lines, f, re.MULTILINE | re.DOTALL) for f in script.split("\n}\n"))
