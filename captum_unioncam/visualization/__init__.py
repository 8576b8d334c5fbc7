"""Maps made visible: overlays, regions, contours and boxes, slices of volumes and moving pictures.

They need the extra ``demo`` (matplotlib, Pillow, scikit-image), which is imported when they run.
"""

from captum_unioncam.visualization.overlay import outlined, overlay
from captum_unioncam.visualization.placing import PictureLike, size_of
from captum_unioncam.visualization.regions import Boxes, Threshold, boxes, contours, mask
from captum_unioncam.visualization.volumes import animate, slices

__all__ = [
    "Boxes",
    "PictureLike",
    "Threshold",
    "animate",
    "boxes",
    "contours",
    "mask",
    "outlined",
    "overlay",
    "size_of",
    "slices",
]
