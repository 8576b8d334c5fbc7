"""Measures a layer and scores perturbed inputs or features, once, for every method built on it."""

from captum_unioncam.engine.arguments import (
    check_choice,
    check_finite,
    check_flag,
    check_max_masks,
    check_number,
    check_percent,
)
from captum_unioncam.engine.cam import (
    Attributions,
    ClassActivationMap,
    quotient,
    spatial_mean,
    weighted_sum,
)
from captum_unioncam.engine.captum_compat import BaselineType, TargetType
from captum_unioncam.engine.feature_scoring import FeatureScores
from captum_unioncam.engine.layer_state import LayerState, measure_inputs
from captum_unioncam.engine.maps import min_max, percentile, resize, unit_range
from captum_unioncam.engine.mask_scoring import MaskScorer, MaskScores
from captum_unioncam.engine.randomness import Seed, check_seed, generator_of
from captum_unioncam.engine.request import Request, checked_request
from captum_unioncam.engine.target_scores import Score

__all__ = [
    "Attributions",
    "BaselineType",
    "ClassActivationMap",
    "FeatureScores",
    "LayerState",
    "MaskScorer",
    "MaskScores",
    "Request",
    "Score",
    "Seed",
    "TargetType",
    "check_choice",
    "check_finite",
    "check_flag",
    "check_max_masks",
    "check_number",
    "check_percent",
    "check_seed",
    "checked_request",
    "generator_of",
    "measure_inputs",
    "min_max",
    "percentile",
    "quotient",
    "resize",
    "spatial_mean",
    "unit_range",
    "weighted_sum",
]
