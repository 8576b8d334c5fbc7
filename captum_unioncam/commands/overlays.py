"""Pictures under one map at their own size, with boxes, and a record of how they were made."""

from typing import TYPE_CHECKING, Any, NamedTuple

from captum_unioncam.commands.outputs import Work
from captum_unioncam.commands.record import as_json, record_of_picture
from captum_unioncam.commands.session import Session
from captum_unioncam.files import written_whole
from captum_unioncam.vision.geometry import box_steps

if TYPE_CHECKING:
    from PIL.Image import Image

    from captum_unioncam.comparison.figure import Shown
    from captum_unioncam.visualization import Threshold


class Overlay(NamedTuple):
    """What is drawn on a picture.

    Attributes:
        has_map (bool): the map's colours.
        has_boxes (bool): boxes around its regions.
        threshold (float or str): above which a region lies, as in `visualization.mask`.
        largest (bool): only the box of the largest region.
    """

    has_map: bool
    has_boxes: bool
    threshold: "Threshold" = 0.5
    largest: bool = False


def save_overlay(
    session: Session,
    shown: "Shown",
    picture: "Image",
    work: Work,
    wanted: str,
    overlay: Overlay,
    record: dict[str, Any],
) -> None:
    """Write the picture under the last map, and its record; what was cut off stays as it is.

    Args:
        session (Session): the network at hand.
        shown (Shown): the comparison of that picture.
        picture (Image): the picture.
        work (Work): where both are written.
        wanted (str): the class as it was named.
        overlay (Overlay): what is drawn.
        record (dict): what holds for all pictures.
    """
    from captum_unioncam import visualization

    *_, cam = shown.comparison.maps.values()
    if shown.pictures is None or cam.shape[1] > 1 or work.record is None:
        raise ValueError("an overlay shows one class of a picture")
    drawn: Any = picture
    preprocess: Any = session.network.preprocess
    try:
        box_steps(preprocess)
    # A preprocessing of the user's own: what the network sees is all that is known.
    except ValueError:
        drawn, preprocess = shown.pictures, None
    ground = "picture" if preprocess is not None else "input of the network"
    found: dict[str, Any] = {"pixels_of": ground}
    boxes = None
    if overlay.has_boxes:
        size = visualization.size_of(drawn)
        boxes = visualization.boxes(
            cam, size, threshold=overlay.threshold, largest=overlay.largest, preprocess=preprocess
        )
        found |= {
            "threshold": overlay.threshold,
            "largest": overlay.largest,
            "boxes": [
                {"box": corners, "score": score}
                for corners, score in zip(*(part.tolist() for part in boxes), strict=True)
            ],
        }
    if overlay.has_map:
        drawn = visualization.overlay(drawn, cam, preprocess=preprocess)
    if boxes is not None:
        drawn = visualization.outlined(drawn, boxes=boxes, scores=True)
    name, content = work.path.name, work.path.read_bytes()
    of_picture = record_of_picture(session, shown, name, content, picture.size, wanted)
    with written_whole(work.record) as partial:
        # Names of files may hold bytes that are no text.
        text = as_json({**of_picture, **found, "run": record})
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    with written_whole(work.figure) as partial:
        drawn.save(partial)
