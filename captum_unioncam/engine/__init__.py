"""Measures a layer and scores perturbed inputs or features, once, for every method built on it."""

from captum_unioncam.engine.arguments import (
    check_choice,
    check_finite,
    check_flag,
    check_number,
    check_percent,
)
from captum_unioncam.engine.cam import (
    ClassActivationMap,
    Forwards,
    Source,
)
from captum_unioncam.engine.captum_compat import BaselineType, TargetType
from captum_unioncam.engine.feature_scoring import FeatureScores
from captum_unioncam.engine.input_map import InputMap
from captum_unioncam.engine.layer_state import LayerState, measure_inputs
from captum_unioncam.engine.layout import Layout, LayoutOption, parse_layout
from captum_unioncam.engine.maps import (
    min_max,
    percentile,
    quotient,
    resize,
    spatial_mean,
    unit_range,
    weighted_sum,
)
from captum_unioncam.engine.mask_scoring import MaskScorer
from captum_unioncam.engine.measured_masks import TOLERANCE, Budget, MaskScores
from captum_unioncam.engine.options import (
    Attributions,
    Count,
    FeatureOptions,
    GradKwargs,
    InputOptions,
    Inputs,
    LayerOptions,
    MaskOptions,
    MaxMasks,
    NotNegative,
    Number,
    PathOptions,
    Percent,
    Positive,
    Seed,
    Share,
)
from captum_unioncam.engine.randomness import check_seed, generator_of
from captum_unioncam.engine.request import Request, checked_request
from captum_unioncam.engine.scorer_choice import NamedScorer
from captum_unioncam.engine.target_scores import Score

__all__ = [
    "TOLERANCE",
    "Attributions",
    "BaselineType",
    "Budget",
    "ClassActivationMap",
    "Count",
    "FeatureOptions",
    "FeatureScores",
    "Forwards",
    "GradKwargs",
    "InputMap",
    "InputOptions",
    "Inputs",
    "LayerOptions",
    "LayerState",
    "Layout",
    "LayoutOption",
    "MaskOptions",
    "MaskScorer",
    "MaskScores",
    "MaxMasks",
    "NamedScorer",
    "NotNegative",
    "Number",
    "PathOptions",
    "Percent",
    "Positive",
    "Request",
    "Score",
    "Seed",
    "Share",
    "Source",
    "TargetType",
    "check_choice",
    "check_finite",
    "check_flag",
    "check_number",
    "check_percent",
    "check_seed",
    "checked_request",
    "generator_of",
    "measure_inputs",
    "min_max",
    "parse_layout",
    "percentile",
    "quotient",
    "resize",
    "spatial_mean",
    "unit_range",
    "weighted_sum",
]
