"""Imports point downwards, also those inside functions and those for types alone."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "captum_unioncam"
# The package's face, and first names of modules that have moved: they import what they like.
FACES = {"__init__", "__main__", "helpers", "networks"}


def floors() -> list[str]:
    """The order that ARCHITECTURE.md gives, from the top."""
    text = " ".join((ROOT / "ARCHITECTURE.md").read_text().split())
    return re.search(r"Imports point downwards only.*?: (.*?)\.", text)[1].split(", ")


def rooms_imported(source: str) -> set[str]:
    """Folders and modules of the package that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")}
    return {room for room in found if not room.startswith("__")}


def test_every_room_has_a_floor():
    rooms = {path.stem for path in (ROOT / PACKAGE).iterdir() if path.suffix == ".py"}
    rooms |= {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")}
    assert rooms - FACES == set(floors())


def test_imports_point_downwards():
    order, upwards = floors(), []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        own = path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")
        if own in FACES:
            continue
        below = order[order.index(own) :]
        others = rooms_imported(path.read_text()) - set(below)
        upwards += [f"{path.relative_to(ROOT)} imports {room}" for room in sorted(others)]
    assert upwards == []


@pytest.mark.parametrize(
    "source",
    [
        "from captum_unioncam.app.work import Work",
        "import captum_unioncam.app.work as work",
        "from captum_unioncam import __version__, app",
        "def f():\n    from captum_unioncam.app import work",
        "if TYPE_CHECKING:\n    from captum_unioncam.app.work import Work",
    ],
)
def test_imports_are_found_wherever_they_are(source):
    assert rooms_imported(source) == {"app"}
