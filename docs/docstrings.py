"""Sphinx extension: docstrings in Captum's layout as Sphinx wants them."""

import re
from typing import Any

from captum_unioncam import METHODS

CLASSES = [method.cls for method in METHODS.values()]


# A literal block, or the star of a shape such as (N, 1, *spatial), which opens no emphasis.
STAR = re.compile(r"(::\n(?:\n| .*\n?)+)|(\([^()`*]*, )\*(?=\w)")


def fit(app: Any, what: Any, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite what is ambiguous in reStructuredText."""
    # Python writes this line for every named tuple.
    text = "\n".join(line for line in lines if not line.startswith("Create new instance of "))
    lines[:] = STAR.sub(lambda found: found[1] or rf"{found[2]}\*", text).split("\n")
    # Under "Returns" stands prose, whose first colon does not end a type.
    if name.startswith("captum_unioncam") and "Returns:" in lines:
        lines.insert(lines.index("Returns:") + 1, "    \\ ")


def skip(app: Any, what: str, name: str, obj: Any, is_skipped: bool, options: Any) -> bool | None:
    """Leave methods to their own pages, and fields of named tuples to their class."""
    has_page = what == "module" and obj in CLASSES
    return True if has_page or type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> None:
    """Connect both; before napoleon, which reads what `fit` wrote."""
    app.connect("autodoc-process-docstring", fit, priority=400)
    app.connect("autodoc-skip-member", skip)
