"""Maps made visible: overlays, regions, contours and boxes, slices of volumes and moving pictures.

They need the extra ``demo`` (matplotlib, Pillow, scikit-image), which is imported when they run.
"""

from captum_unioncam.visualization.overlay import outlined, overlay
from captum_unioncam.visualization.placing import PictureLike
from captum_unioncam.visualization.regions import Boxes, Threshold, boxes, contours, mask

__all__ = [
    "Boxes",
    "PictureLike",
    "Threshold",
    "boxes",
    "contours",
    "mask",
    "outlined",
    "overlay",
]
