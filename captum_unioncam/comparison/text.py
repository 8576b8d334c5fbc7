"""Tables as lines of text, and what stands in them."""

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from captum_unioncam.metrics import METRICS


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    r"""Return the lines of a table in columns, to be read as they are.

    Args:
        header (Sequence[str]): heads of the columns.
        rows (Sequence): as many cells in each.
        left (int, optional): how many columns are set to the left, the others being numbers.
            Default: 1

    Examples::

        >>> print("\n".join(aligned(["method", "rows"], [["CAM", "1"], ["RISE", "4001"]])))
        method  rows
        CAM        1
        RISE    4001
    """
    return ["  ".join(line).rstrip() for line in _padded([header, *rows], left)]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    r"""Return the lines of a Markdown table, aligned as `aligned` does it.

    Examples::

        >>> print("\n".join(markdown(["method", "rows"], [["CAM", "1"], ["RISE", "4001"]])))
        | method | rows |
        | ------ | ---: |
        | CAM    |    1 |
        | RISE   | 4001 |
    """
    head, *body = _padded([header, *rows], left)
    rule = ["-" * width(c) if i < left else f"{'-' * (width(c) - 1)}:" for i, c in enumerate(head)]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *body)]


def _padded(lines: Sequence[Sequence[str]], left: int) -> list[list[str]]:
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    padded = []
    for line in lines:
        blanks = [" " * (w - width(cell)) for cell, w in zip(line, widths, strict=True)]
        pairs = enumerate(zip(line, blanks, strict=True))
        padded.append([cell + blank if i < left else blank + cell for i, (cell, blank) in pairs])
    return padded


def width(text: str) -> int:
    r"""Return how many columns of a terminal a text takes; Chinese characters take two.

    Examples::

        >>> width("UnionCAM"), width("猫.png"), width("e\u0301")
        (8, 6, 1)
    """
    return sum(
        (1 + (unicodedata.east_asian_width(c) in "WF")) * (not unicodedata.combining(c))
        for c in text
    )


def formatted(value: Any) -> str:
    """Return a number with three significant digits, and a dash for none.

    Examples::

        >>> formatted(0.5), formatted(1234.5), formatted(0.0000312), formatted(None)
        ('0.500', '1234', '0.0000312', '–')
    """
    if value is None:
        return "–"
    if not isinstance(value, int | float):
        return str(value)
    if abs(value) >= 100:
        return f"{value:.0f}"
    # Shares and probabilities read badly as 3.12e-05.
    is_small = 1e-7 <= abs(value) < 1e-4
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}" if is_small else f"{value:#.3g}"


def heading_of(name: str) -> str:
    """Return a metric's title with its unit and an arrow towards better."""
    metric = METRICS[name]
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{metric.title}{unit} {'↑' if metric.higher_is_better else '↓'}"
