"""Measures a layer and scores masked inputs, once, for every method built on it."""

from captum_unioncam.engine.arguments import (
    check_choice,
    check_finite,
    check_flag,
    check_percent,
)
from captum_unioncam.engine.captum_compat import BaselineType, TargetType
from captum_unioncam.engine.layer_state import LayerState, measured
from captum_unioncam.engine.maps import percentile, resize
from captum_unioncam.engine.mask_scoring import MaskScores
from captum_unioncam.engine.target_scores import Score

__all__ = [
    "BaselineType",
    "LayerState",
    "MaskScores",
    "Score",
    "TargetType",
    "check_choice",
    "check_finite",
    "check_flag",
    "check_percent",
    "measured",
    "percentile",
    "resize",
]
