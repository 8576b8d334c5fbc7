"""Connected regions of many binary maps at once, without an image library."""

import numpy as np
from numpy.typing import NDArray


def largest_boxes(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the tight box of the largest connected region of every mask.

    Pixels that touch at a side or a corner are connected. The largest region is that of the most
    pixels; of equal ones, that whose first pixel comes first row by row.

    Args:
        masks (ndarray): (K, H, W) bool.

    Returns:
        *ndarray* of (x_min, y_min, x_max, y_max), (K, 4), the last two one past the region;
        zeros for a mask without any pixel.

    Examples::

        >>> mask = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 1]], dtype=bool)
        >>> largest_boxes(mask[None]).tolist()
        [[0, 0, 2, 3]]
    """
    count, height, width = masks.shape
    # A blank column after every row and a blank row after every mask let all masks lie in one
    # line without touching each other.
    pitch = width + 1
    line = np.zeros((count, height + 1, pitch), dtype=bool)
    line[:, :height, :width] = masks
    edges = np.flatnonzero(np.diff(line.reshape(-1), prepend=False))
    start, end = edges[::2], edges[1::2]
    root = _roots(start, end, pitch)
    # Regions are numbered by their first runs, so that they come in the order of the masks.
    first_run, region = np.unique(root, return_inverse=True)
    row, column = np.divmod(start, pitch)
    boxes = np.empty((len(first_run), 4), dtype=np.int64)
    for axis, low, high in ((0, column, column + end - start), (1, row, row + 1)):
        boxes[:, axis], boxes[:, axis + 2] = np.iinfo(np.int64).max, 0
        np.minimum.at(boxes[:, axis], region, low)
        np.maximum.at(boxes[:, axis + 2], region, high)
    mask = row[first_run] // (height + 1)
    boxes[:, 1::2] -= (mask * (height + 1))[:, None]
    pixels = np.bincount(region, end - start, len(first_run))
    largest = np.zeros((count, 4), dtype=np.int64)
    # Written from the smallest to the largest; a stable sort of the reversed order writes the
    # first of equal regions last.
    order = np.arange(len(pixels))[::-1]
    order = order[np.argsort(pixels[order], kind="stable")]
    largest[mask[order]] = boxes[order]
    return largest


def _roots(start: NDArray[np.int64], end: NDArray[np.int64], pitch: int) -> NDArray[np.int64]:
    """Return the first run of the region that each run of pixels belongs to."""
    # A run touches those of the row above that begin no later than one past its end, and end
    # no earlier than one before its start.
    first = np.searchsorted(end + pitch, start, side="left")
    touching = np.maximum(np.searchsorted(start + pitch, end, side="right") - first, 0)
    below = np.repeat(np.arange(len(start)), touching)
    nth = np.arange(len(below)) - np.repeat(np.cumsum(touching) - touching, touching)
    above = first[below] + nth
    root = np.arange(len(start))
    while len(below):
        a, b = root[below], root[above]
        apart = a != b
        below, above, a, b = below[apart], above[apart], a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while np.any(root != root[root]):
            root = root[root]
    return root
