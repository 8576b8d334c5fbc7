"""Warnings that name the user's line, however deep in the package they arise."""

import sys
import warnings

# What lies between the user's line and ours: context managers, decorators, Captum's wrappers.
INSIDE = ("captum_unioncam", "captum", "contextlib", "functools", "torch")


def warn(message: str) -> None:
    """Issue a UserWarning at the innermost frame that is not the package's own."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
