"""A comparison as one HTML file: pictures with sliders, curves, tables; nothing is loaded."""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from torch import Tensor

from captum_unioncam.comparison.data import ComparisonData
from captum_unioncam.comparison.figure import Shown, pictures_of
from captum_unioncam.comparison.text import Row, choice_of, formatted, numbers_of, scorers_told
from captum_unioncam.engine.maps import unit_range
from captum_unioncam.metrics import metric_of
from captum_unioncam.visualization.overlay import HEAT, OPACITY, as_image, palette

# Metrics whose curve is over shares of the pixels.
CHARTED = ("insertion", "deletion")
# Line styles that the style sheet knows.
STYLES = 8
# Classes of pictures that a notebook shows: it keeps all that it has shown.
IN_NOTEBOOK = 6
# Width and height of a chart, and the space around its curves, in units of its own.
CHART = (240, 120)
MARGIN = 36


def report(
    parts: Sequence[Shown],
    means: Sequence[Row],
    names: Callable[[str], str],
    heading: str = "",
    *,
    record: Mapping[str, Any] | None = None,
    most: int | None = None,
) -> str:
    """Return a page that shows comparisons; see `Comparison.to_html`.

    Args:
        parts (Sequence[Shown]): comparisons of the same methods and metrics.
        means (Sequence): a row per method with the means of every number.
        names (Callable): turns a class label into what the page calls it.
        heading (str, optional): title of the page, and lines below it. Default: ""
        record (Mapping, optional): what is needed to repeat it, shown as JSON. Default: None
        most (int, optional): show at most so many classes of pictures; means are of all.
            Default: None, all
    """
    title, _, about = (heading or "Maps side by side").partition("\n")
    rows = [row for part in parts for row in part.comparison.rows]
    about = "\n".join(line for line in (about, scorers_told(rows)) if line)
    cases = [
        (number, n, k)
        for number, part in enumerate(parts)
        for n, classes in enumerate(part.comparison.classes)
        for k in range(len(classes))
    ]
    body = [f"<h1>{escape(title)}</h1>"]
    if about:
        body.append(f"<p>{escape(about)}</p>")
    if most is not None and most < len(cases):
        body.append(f"<p>The first {most} of {len(cases)}; to_html writes all of them.</p>")
    if any(has_pictures(part) for part in parts):
        body += [
            '<div class="controls">',
            _slider("opacity", "Opacity of the maps", OPACITY),
            _slider("threshold", "Only above this share of the maximum", 0),
            '<label><input type="checkbox" id="boxes"> Boxes around what is above</label>',
            "</div>",
        ]
    for number, n, k in cases[:most]:
        body += _case(parts[number], f"picture-{number}-{n}", n, k, names)
    body += _tables(parts, means, names, most)
    if record is not None:
        text = escape(json.dumps(record, indent=2, ensure_ascii=False, default=str))
        body.append(f"<details><summary>How this was made</summary><pre>{text}</pre></details>")
    return _page(title, "\n".join(body))


def framed(comparison: ComparisonData, means: Sequence[Row]) -> str:
    """Return the page of a comparison's first classes, in a frame for notebooks.

    The frame keeps the page's script and style apart from the notebook's.
    """
    part = Shown(comparison)
    if not has_pictures(part):
        return ""
    page = escape(report([part], means, str, most=IN_NOTEBOOK))
    return (
        f'<iframe srcdoc="{page}" sandbox="allow-scripts" width="100%" height="640" '
        'title="maps of the comparison" frameborder="0"></iframe>'
    )


def has_pictures(part: Shown) -> bool:
    """Return whether the inputs of a comparison are images, which maps can be drawn over."""
    return any(x.dim() == 4 for x in part.comparison.inputs)


def _page(title: str, body: str) -> str:
    folder = resources.files("captum_unioncam.comparison")
    style, script = ((folder / f"report.{end}").read_text("utf-8") for end in ("css", "js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hashed(style)}'; "
        f"script-src '{_hashed(script)}'; base-uri 'none'; form-action 'none'"
    )
    colors = (255 * palette(HEAT)).round().astype(np.uint8)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<main data-colors="{_base64(colors.tobytes())}">\n{body}\n</main>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )
    # Names of files may hold bytes that are no text.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _slider(name: str, label: str, value: float) -> str:
    return (
        f'<label>{label} <input type="range" id="{name}" min="0" max="1" step="0.01" '
        f'value="{value}"><output id="{name}-value" for="{name}"></output></label>'
    )


def _case(part: Shown, picture_id: str, n: int, k: int, names: Callable[[str], str]) -> list[str]:
    """Return the section of one class of a picture: the picture, its maps, and their curves."""
    comparison = part.comparison
    label = comparison.classes[n][k]
    called = names(label)
    said = ": ".join([*([part.titles[n]] if part.titles else []), called])
    probability = f"{comparison.quantity} {formatted(float(comparison.probabilities[n, k]))}"
    lines = [f"<section>\n<h2>{escape(said)} ({escape(probability)})</h2>", '<div class="grid">']
    picture = (255 * pictures_of(part)[n]).round().byte().numpy() if has_pictures(part) else None
    # Every class of a picture draws on the first one's.
    if picture is not None and k == 0:
        height, width = picture.shape[:2]
        lines.append(
            f'<figure><img id="{picture_id}" alt="{escape(said)}" width="{width}" '
            f'height="{height}" src="data:image/png;base64,{_png(picture)}">'
            f"<figcaption>{escape(said)}</figcaption></figure>"
        )
    cells = {
        row["method"]: row
        for row in comparison.rows
        if (row["example"], row["class"]) == (n, label)
    }
    for method, maps in comparison.maps.items():
        row = cells[method]
        about = [
            (metric_of(metric).title, f"{formatted(row[metric])} {metric_of(metric).unit}")
            for metric in comparison.metrics
        ]
        if choice := choice_of(row):
            about.append(("chosen", choice))
        numbers = "".join(f"<div><dt>{escape(t)}</dt><dd>{escape(v)}</dd></div>" for t, v in about)
        canvas = ""
        if picture is not None:
            height, width = picture.shape[:2]
            numbers += '<div><dt>pixels above</dt><dd class="above"></dd></div>'
            canvas = (
                f'<canvas role="img" aria-label="{escape(f"{method} for {said}")}" '
                f'width="{width}" height="{height}" data-picture="{picture_id}" '
                f"{_heat(maps[n, k])}></canvas>"
            )
        lines.append(
            f"<figure>{canvas}<figcaption><strong>{escape(method)}</strong><dl>{numbers}</dl>"
            "</figcaption></figure>"
        )
    return [*lines, '</div>\n<div class="grid">', *_charts(part, n, k), "</div>\n</section>"]


def _heat(cam: Tensor) -> str:
    """Return a map as attributes of an element: its size, and values in 16 bits."""
    flat = bool(cam.max() == cam.min())
    # As in the metrics, a flat map has no extrema to scale by.
    unit = cam.clamp(0, 1) if flat else unit_range(cam[None, None].double())[0, 0]
    values = (65535 * unit.double()).round().numpy().astype("<u2")
    rows, columns = cam.shape
    return f'data-rows="{rows}" data-columns="{columns}" data-heat="{_base64(values.tobytes())}"'


def _charts(part: Shown, n: int, k: int) -> list[str]:
    """Return a chart for every metric that has curves, with a line for each method."""
    comparison = part.comparison
    charts = []
    for metric in (one for one in comparison.metrics if one in CHARTED):
        curves = {
            method: by_metric[metric][n, k].tolist()
            for method, by_metric in comparison.curves.items()
            if metric in by_metric
        }
        if not curves:
            continue
        title = metric_of(metric).title
        top = max(0.0, *(max(curve) for curve in curves.values()))
        bottom = min(0.0, *(min(curve) for curve in curves.values()))
        lines = [
            f'<polyline class="curve c{index % STYLES}" points="{_points(curve, bottom, top)}">'
            f"<title>{escape(method)}</title></polyline>"
            for index, (method, curve) in enumerate(curves.items())
        ]
        keys = "".join(
            f'<li><svg viewBox="0 0 20 6" aria-hidden="true"><path class="curve c{i % STYLES}" '
            f'd="M0 3H20"/></svg>{escape(method)}</li>'
            for i, method in enumerate(curves)
        )
        width, height = CHART
        charts.append(
            f'<figure class="chart"><svg viewBox="{-MARGIN} -6 {width + MARGIN + 4} {height + 24}" '
            f'role="img" aria-label="{escape(title)}">'
            f'<path class="axis" d="M0 0V{height}H{width}"/>'
            f'<text x="-3" y="8" text-anchor="end">{formatted(top)}</text>'
            f'<text x="-3" y="{height}" text-anchor="end">{formatted(bottom)}</text>'
            f'<text x="0" y="{height + 13}">0 %</text>'
            f'<text x="{width}" y="{height + 13}" text-anchor="end">100 % of the pixels</text>'
            f"{''.join(lines)}</svg><figcaption><strong>{escape(title)}</strong>"
            f'<ul class="legend">{keys}</ul></figcaption></figure>'
        )
    return charts


def _points(curve: Sequence[float], bottom: float, top: float) -> str:
    width, height = CHART
    high = (top - bottom) or 1.0
    return " ".join(
        f"{width * i / (len(curve) - 1):.1f},{height * (top - value) / high:.1f}"
        for i, value in enumerate(curve)
    )


def _tables(
    parts: Sequence[Shown], means: Sequence[Row], names: Callable[[str], str], most: int | None
) -> list[str]:
    metrics = parts[0].comparison.metrics
    rows = [(part, row) for part in parts for row in part.comparison.rows]
    # Only UnionCAM chooses.
    notes = ["chosen"] if any(choice_of(row) for _, row in rows) else []
    lines: list[list[tuple[str, Any]]] = []
    # Every class of a picture has a row for each method.
    for part, row in rows if most is None else rows[: most * len(means)]:
        image = part.titles[row["example"]] if part.titles else str(row["example"])
        lines.append(
            [
                *((word, word) for word in (image, names(row["class"]), row["method"])),
                (formatted(row["probability"]), row["probability"]),
                *_numbers(row, metrics),
                *((choice_of(row), choice_of(row)) for _ in notes),
            ]
        )
    numbers = list(numbers_of(means[0], metrics))
    quantity = parts[0].comparison.quantity
    words = ["picture", "class", "method"]
    found = _table(words, [quantity, *numbers], notes, lines)
    tables = [f"<h2>All numbers</h2>\n{found}"]
    if len(rows) > len(means):
        of_means = [[(row["method"], row["method"]), *_numbers(row, metrics)] for row in means]
        tables.insert(0, f"<h2>Means</h2>\n{_table(['method'], numbers, [], of_means)}")
    return tables


def _numbers(row: Row, metrics: Sequence[str]) -> list[tuple[str, Any]]:
    """Return what stands in a row's cells, and what they are sorted by."""
    values = [*(row[name] for name in (*metrics, "forwards", "seconds", "peak_bytes"))]
    return list(zip(numbers_of(row, metrics).values(), values, strict=True))


def _table(
    words: Sequence[str],
    numbers: Sequence[str],
    notes: Sequence[str],
    lines: Sequence[Sequence[tuple[str, Any]]],
) -> str:
    """Return a table that is sorted by the column whose head is pressed."""
    kinds = ['class="word"'] * len(words) + [""] * len(numbers) + ['class="word"'] * len(notes)
    heads = zip(kinds, (*words, *numbers, *notes), strict=True)
    head = "".join(
        f'<th scope="col" {kind}><button type="button">{escape(text)}</button></th>'
        for kind, text in heads
    )
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td {kind} data-value="{"" if value is None else escape(str(value))}">'
            f"{escape(text)}</td>"
            for kind, (text, value) in zip(kinds, line, strict=True)
        )
        + "</tr>"
        for line in lines
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _png(picture: Any) -> str:
    pixels = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
    held = io.BytesIO()
    as_image(pixels).save(held, "PNG", optimize=True)
    return _base64(held.getvalue())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _hashed(text: str) -> str:
    return f"sha256-{_base64(hashlib.sha256(text.encode()).digest())}"
