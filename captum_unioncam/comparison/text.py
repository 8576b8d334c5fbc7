"""Tables as lines of text, and what stands in them."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from captum_unioncam.metrics import metric_of

Row = Mapping[str, Any]


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


def _padded(cells: Sequence[Sequence[str]], left: int) -> list[list[str]]:
    lines = [[*map(printable, line)] for line in cells]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    padded = []
    for line in lines:
        blanks = [" " * (w - width(cell)) for cell, w in zip(line, widths, strict=True)]
        pairs = enumerate(zip(line, blanks, strict=True))
        padded.append([cell + blank if i < left else blank + cell for i, (cell, blank) in pairs])
    return padded


def printable(text: str) -> str:
    r"""Return a text with control characters as escapes, which a terminal would obey.

    Names of files and of classes may hold some.

    Examples::

        >>> print(printable("a\x1b[2J\nb"))
        a\x1b[2J\nb
    """
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in text)


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
    metric = metric_of(name)
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{metric.title}{unit} {'↑' if metric.higher_is_better else '↓'}"


def numbers_of(row: Row, metrics: Sequence[str]) -> dict[str, str]:
    """Return a row's metrics and what they cost, by the heads of their columns."""
    peak = row["peak_bytes"]
    return {
        **{heading_of(name): formatted(row[name]) for name in metrics},
        "forwards": formatted(row["forwards"]),
        "seconds": formatted(row["seconds"]),
        "peak MiB": formatted(peak and peak / 2**20),
    }


def rows_table(rows: Sequence[Row], metrics: Sequence[str], quantity: str) -> list[str]:
    """Return a table of all rows, a block of lines for every image and class.

    Args:
        rows (Sequence): of a comparison, with "image" and "class_name" besides.
        metrics (Sequence[str]): names of the metrics in them.
        quantity (str): what their "probability" is.
    """
    lines: list[dict[str, str]] = []
    last: tuple[Any, ...] = ()
    for row in rows:
        block = (row["image"], row["class_name"], formatted(row["probability"]))
        image, name, probability = ("", "", "") if block == last else block
        last = block
        lines.append(
            {
                "image": image,
                "class": name,
                "method": row["method"],
                quantity: probability,
                **numbers_of(row, metrics),
                "chosen": choice_of(row),
            }
        )
    chosen = any(line["chosen"] for line in lines)
    header = [name for name in lines[0] if chosen or name != "chosen"]
    return aligned(header, [[line[name] for name in header] for line in lines], left=3)


def choice_of(row: Row) -> str:
    """Return which map UnionCAM's selection took and why, or Selected CAM's by name; else nothing.

    Examples::

        >>> choice_of({"chosen": "Grad-CAM + LayerCAM"})
        'Grad-CAM + LayerCAM'
        >>> choice_of({"selected_union": True, "beta_union": 0.75, "beta_region": 0.5})
        'union: β_DR 0.750 > β_R 0.500'
    """
    if row.get("selected_union") is None:
        return str(row.get("chosen", ""))
    union, region = row["beta_union"], row["beta_region"]
    if union > region and not row["selected_union"]:
        return "region: the union adds nothing"
    sign = "union: β_DR {} > β_R {}" if row["selected_union"] else "region: β_DR {} ≤ β_R {}"
    return sign.format(formatted(union), formatted(region))


def scorers_told(rows: Sequence[Row]) -> str:
    """Return a line that says what ran masked pictures; empty where no scorer was asked for.

    Examples::

        >>> scorers_told([{"scorer": "openvino", "scorer_deviation": 2e-6}, {"scorer": "model"}])
        'masked pictures run by openvino, the model; scores off by at most 2.0e-06 of the largest'
    """
    ran = dict.fromkeys(row["scorer"] for row in rows if "scorer" in row)
    names = ["the model" if name == "model" else name for name in ran]
    told = [row.get("scorer_deviation") for row in rows]
    found = [one for one in told if one is not None]
    off = f"; scores off by at most {max(found):.1e} of the largest" if found else ""
    return f"masked pictures run by {', '.join(names)}{off}" if names else ""
