"""Writes architectures.md from the table of architectures that is tested."""

import inspect
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.architecture_glue import GLUE  # noqa: E402
from tests.architectures import BRANCHES, TABLE, Architecture  # noqa: E402

FILE = HERE / "architectures.md"
TITLES = {
    "frames": "frames first",
    "wave": "one channel",
    "spectrogram": "spectrogram",
    "detections": "detections",
    "texts": "image of text",
    "timesformer": "time last",
    "yolos": "detection tokens",
}
REASONS = {
    BRANCHES: "branches meet at its output alone, and no layer holds all of it; one is named",
    "detections": "the model returns a list of detections, no tensor of scores",
    "not known to lie": "its last layers hold tokens that are not known to lie on the input",
    "does not change most in that part": "each of its latents sees all of the input",
}
INTRO = """# Architectures

`suggest_layer` has been tried on {count} architectures of torchvision, timm and transformers. For
{works} it names a layer that works, as they are; for {glued} more it does with a few lines
[around the model](#glue). It refuses {refused} and [says why](#refused); {named} of these work with
a layer that you name.

The weights are random, and transformers' models are made small: in larger ones the layer's name has
other numbers. Each part of the input is changed by itself. The layer's own part must then change at
least {least} times as much as by chance, and more than all other parts. Read in another way, with
rows and columns exchanged, mirrored, in unrolled order, or with features as positions, the same
layer must not pass. Images are not square where the model takes them.

`python docs/architecture_page.py` writes this page from the table that
`pytest -m "" tests/test_architectures.py` tries (extra `models`).
"""
GLUE_INTRO = """## Glue

Where a model's input or output is laid out otherwise, wrap the model and explain the wrapper; the
layer is the model's own. Where only the layer's tensor is in an order of its own,
[two functions](layouts.md#giving-it-yourself) are its `layout`. For a single detection,
[a target](targets.md) does without a wrapper.
"""


def outcome(row: Architecture) -> str:
    """Return what a user has to do, as a cell of the table."""
    title = TITLES.get(row.glue)
    glue = f" with [{title}](#{title.replace(' ', '-')})" if title else ""
    if row.refused:
        return "[refused](#refused)" + (f"; name this layer{glue}" if row.layer else "")
    return f"works{glue}" if glue else "works"


def source(name: str) -> str:
    """Return the code of a piece of glue."""
    glue = GLUE[name]
    pieces = glue if isinstance(glue, tuple) else (glue,)
    return "\n\n".join(inspect.getsource(piece) for piece in pieces)


def page(least: float) -> str:
    """Return the page in Markdown."""
    works = [row for row in TABLE if not row.refused and not row.glue]
    glued = [row for row in TABLE if not row.refused and row.glue]
    refused = [row for row in TABLE if row.refused]
    lines = [
        INTRO.format(
            count=len(TABLE),
            works=len(works),
            glued=len(glued),
            refused=len(refused),
            named=sum(bool(row.layer) for row in refused),
            least=least,
        )
    ]
    for library in dict.fromkeys(row.library for row in TABLE):
        lines += [f"## {library}\n", "| architecture | layer | |", "| --- | --- | --- |"]
        lines += [
            f"| `{row.name}` | {f'`{row.layer}`' if row.layer else '–'} | {outcome(row)} |"
            for row in TABLE
            if row.library == library
        ]
        lines.append("")
    lines.append(GLUE_INTRO)
    imports = "from typing import Any\n\nimport torch\nfrom torch import Tensor, nn\n\n\n"
    for name, title in TITLES.items():
        users = ", ".join(f"`{row.name}`" for row in TABLE if row.glue == name)
        lines += [f"### {title.capitalize()}\n", f"{users}:\n"]
        lines.append(f"```python\n{imports}{source(name).rstrip()}\n```\n")
        imports = ""
    lines.append("## Refused\n")
    for words, reason in REASONS.items():
        users = ", ".join(f"`{row.name}`" for row in refused if row.refused == words)
        lines.append(f"- {users}: {reason}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from tests.test_architectures import LEAST

    FILE.write_text(page(LEAST), encoding="utf-8")
