"""What is shown of a result: maps over the picture, their scores, regions, curves, downloads."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from captum_unioncam.app import downloads
from captum_unioncam.app.choices import unmarked
from captum_unioncam.app.work import Result
from captum_unioncam.comparison.text import choice_of, formatted, heading_of, scorers_told
from captum_unioncam.visualization.overlay import OPACITY

if TYPE_CHECKING:
    from torch import Tensor

# Columns side by side; more are too small to look at.
COLUMNS = 4
CURVES = ("insertion", "deletion")
# The maps that UnionCAM unites, by their field among its details.
MODULES = {"denoised": "D, denoised gradients", "region": "R, region", "union": "DR, the union"}
BLANK = "This map is the same everywhere: it shows nothing, and has no regions."


def show(result: Result) -> None:
    """Show a result, with sliders that draw it again."""
    left, right = st.columns(2)
    opacity = left.slider("Opacity", 0.0, 1.0, OPACITY, step=0.05)
    threshold = right.slider(
        "Threshold", 0.0, 0.95, 0.5, step=0.05,
        help="The share of a map's maximum above which its regions lie.",
    )  # fmt: skip
    wanted = st.pills(
        "Outlines", ["contour", "box"], default=["contour", "box"], selection_mode="multi"
    )
    drawing = downloads.Drawing(opacity, threshold, "contour" in wanted, "box" in wanted)
    for text in result.warned:
        st.warning(text)
    comparison = result.shown.comparison
    for number, label in enumerate(comparison.classes[0]):
        share = float(comparison.probabilities[0, number])
        told = f"{share:.1%}" if comparison.quantity == "probability" else formatted(share)
        name = unmarked(result.session.class_name(label))
        st.subheader(f"{name}: {comparison.quantity} {told}")
        _maps(result, number, drawing)
        _modules(result, number, drawing)
        _curves(result, number)
    st.subheader("Take it with you")
    _downloads(result, drawing)
    about = [*result.session.heading().splitlines(), scorers_told(comparison.rows)]
    st.caption(unmarked(" · ".join(filter(None, about))))


def _maps(result: Result, number: int, drawing: downloads.Drawing) -> None:
    cells = [("the picture", None), *((method, method) for method in result.methods)]
    count = min(COLUMNS, len(cells))
    for first in range(0, len(cells), count):
        row = cells[first : first + count]
        for column, (title, method) in zip(st.columns(count), row, strict=False):
            with column:
                st.markdown(f"**{title}**")
                if method is None:
                    st.image(result.ground, width="stretch")
                    continue
                _picture(result, result.map_of(method, number), drawing, f"{title}, map")
                _numbers(result, result.row_of(method, number))


def _picture(result: Result, cam: "Tensor", drawing: downloads.Drawing, title: str) -> None:
    drawn, count = downloads.drawn(result.ground, cam, drawing, result.preprocess)
    st.image(drawn, width="stretch")
    if count is None:
        st.caption(BLANK)
    else:
        st.caption(f"{count} region{'s' * (count != 1)} above {drawing.threshold:.0%}")


def _numbers(result: Result, row: dict[str, Any]) -> None:
    """Show the scores under a map."""
    lines = [f"| {heading_of(name)} | {formatted(row[name])} |" for name in result.choice.metrics]
    lines.append(f"| forwards | {formatted(row['forwards'])} |")
    st.markdown("\n".join(["| | |", "| --- | ---: |", *lines]))
    if chosen := choice_of(row):
        st.caption(f"AMS chose the {chosen}")


def _modules(result: Result, number: int, drawing: downloads.Drawing) -> None:
    """Show the maps that UnionCAM united, and which of them was chosen."""
    for method, found in result.shown.comparison.details.items():
        details = found[number]
        if not all(hasattr(details, f"beta_{name}") for name in MODULES):
            continue
        with st.expander(f"What {method} united"):
            for column, (name, title) in zip(
                st.columns(len(MODULES)), MODULES.items(), strict=True
            ):
                with column:
                    st.markdown(f"**{title}**")
                    _picture(result, getattr(details, name)[0, 0].cpu(), drawing, title)
                    beta = float(getattr(details, f"beta_{name}")[0])
                    st.markdown(f"β = {formatted(beta)}")
            st.markdown(f"AMS chose the {choice_of(result.row_of(method, number))}.")


def _curves(result: Result, number: int) -> None:
    """Show how the score rises and falls as pixels are shown and hidden in the map's order."""
    curves = result.shown.comparison.curves
    measured = [name for name in CURVES if any(name in found for found in curves.values())]
    if not measured:
        return
    import pandas as pd

    with st.expander("Curves of insertion and deletion"):
        for column, name in zip(st.columns(len(measured)), measured, strict=True):
            table = pd.DataFrame(
                {method: found[name][0, number].tolist() for method, found in curves.items()}
            )
            table.index = pd.Index(table.index / max(1, len(table) - 1))
            column.markdown(f"**{heading_of(name)}**")
            column.line_chart(table, x_label="share of the pixels", y_label="score", height=240)


def _downloads(result: Result, drawing: downloads.Drawing) -> None:
    classes = result.shown.comparison.classes[0]
    cases = [(method, n) for n in range(len(classes)) for method in result.methods]
    method, number = st.selectbox(
        "Map", cases, format_func=lambda case: _case(result, *case),
        index=cases.index((result.methods[-1], 0)),
    )  # fmt: skip
    files: Sequence[downloads.File] = downloads.files(result, method, number, drawing)
    for column, file in zip(st.columns(len(files)), files, strict=True):
        column.download_button(
            file.kind, file.content, file.name, file.mime, width="stretch", on_click="ignore"
        )
    st.markdown("The code that makes this very map:")
    st.code(downloads.code(result, method, number), language="python")


def _case(result: Result, method: str, number: int) -> str:
    label = result.shown.comparison.classes[0][number]
    return f"{method}, {result.session.class_name(label)}"
