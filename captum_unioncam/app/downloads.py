"""Pictures with their regions, and files to take along; all of it in memory."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from captum_unioncam import visualization
from captum_unioncam.app.snippet import code_of
from captum_unioncam.app.work import Result
from captum_unioncam.commands.record import as_json
from captum_unioncam.comparison.html import report
from captum_unioncam.comparison.result import rows_as_csv, summary_of

if TYPE_CHECKING:
    from PIL.Image import Image

# Larger pictures are written at this length: a photograph of a telephone, half as long.
LONGEST_WRITTEN = 2400


class Drawing(NamedTuple):
    """How a map is drawn.

    Attributes:
        opacity (float): how much of the picture its colours cover.
        threshold (float): the share of its maximum above which regions lie.
        has_contours (bool): draw the regions' outlines.
        has_boxes (bool): draw boxes around them.
    """

    opacity: float
    threshold: float
    has_contours: bool
    has_boxes: bool


class File(NamedTuple):
    """A file to take along.

    Attributes:
        kind (str): what its button says.
        name (str): its name.
        mime (str): its media type.
        content (Callable): returns what is in it, once it is asked for.
    """

    kind: str
    name: str
    mime: str
    content: Callable[[], bytes]


def drawn(
    picture: "Image", cam: Tensor, drawing: Drawing, preprocess: Any
) -> tuple["Image", int | None]:
    """Return a picture under a map with its regions, and their number; None if it has none."""
    over = visualization.overlay(picture, cam, opacity=drawing.opacity, preprocess=preprocess)
    if is_blank(cam):
        return over, None
    options = {"threshold": drawing.threshold, "preprocess": preprocess}
    boxes = visualization.boxes(cam, picture, **options)
    contours = visualization.contours(cam, picture, **options) if drawing.has_contours else ()
    shown = boxes if drawing.has_boxes else None
    return visualization.outlined(over, boxes=shown, contours=contours), len(boxes.scores)


def is_blank(cam: Tensor) -> bool:
    """Return whether a map has the same value everywhere."""
    return bool(cam.max() == cam.min())


def files(result: Result, method: str, number: int, drawing: Drawing) -> list[File]:
    """Return the files of a method's map for the class of that number, and of the whole result."""
    stem = result.picture.name.rpartition(".")[0] or result.picture.name
    name = f"{stem}.unioncam"
    return [
        File("PNG", f"{name}.png", "image/png", lambda: png(result, method, number, drawing)),
        File("NPY", f"{name}.npy", "application/octet-stream", lambda: npy(result, method, number)),
        File("CSV", f"{name}.csv", "text/csv", lambda: rows_as_csv(rows(result)).encode()),
        File(
            "JSON", f"{name}.json", "application/json",
            lambda: record(result, method, number, drawing).encode("utf-8", "backslashreplace"),
        ),
        File("HTML", f"{name}.html", "text/html", lambda: page(result).encode()),
        File("Code", f"{name}.py", "text/x-python", lambda: code(result, method, number).encode()),
    ]  # fmt: skip


def png(result: Result, method: str, number: int, drawing: Drawing) -> bytes:
    """Return the picture under a map, at the picture's own size unless that is very large."""
    ground = result.ground
    if result.preprocess is not None:
        ground = result.picture.load()
        ground.thumbnail((LONGEST_WRITTEN, LONGEST_WRITTEN))
    over, _ = drawn(ground, result.map_of(method, number), drawing, result.preprocess)
    file = io.BytesIO()
    over.save(file, "PNG")
    return file.getvalue()


def npy(result: Result, method: str, number: int) -> bytes:
    """Return a map at the layer's resolution, as ``numpy.load`` reads it."""
    file = io.BytesIO()
    np.save(file, result.map_of(method, number).float().numpy(), allow_pickle=False)
    return file.getvalue()


def rows(result: Result) -> list[dict[str, Any]]:
    """Return every number, a row for each class and method."""
    return result.session.rows(result.shown, result.picture.name)


def record(result: Result, method: str, number: int, drawing: Drawing) -> str:
    """Return as JSON what repeats a result, and the boxes of a map in the picture's own pixels."""
    cam, (width, height) = result.map_of(method, number), result.size
    found: dict[str, Any] = {"map": method, "threshold": drawing.threshold, "boxes": []}
    found["pixels_of"] = "input of the network" if result.preprocess is None else "picture"
    if not is_blank(cam):
        # Not on what is shown, whose pixels may be wider than the picture's own.
        boxes = visualization.boxes(
            cam, (height, width), threshold=drawing.threshold, preprocess=result.preprocess
        )
        found["boxes"] = [
            {"box": corners, "score": score}
            for corners, score in zip(*(part.tolist() for part in boxes), strict=True)
        ]
    return as_json({**result.record, **found})


def page(result: Result) -> str:
    """Return the report that ``unioncam compare --html`` writes."""
    session = result.session
    means = summary_of(rows(result), session.metrics)
    return report(
        [result.shown], means, session.class_name, session.heading(), record=result.record
    )  # fmt: skip


def code(result: Result, method: str, number: int) -> str:
    """Return the lines of Python that make a map again."""
    return code_of(result, method, number)
