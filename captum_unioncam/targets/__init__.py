"""Targets that are not an index: what they return of a model's output is explained.

Each takes what the model returned for R rows and gives one differentiable score per row, (R,), the
f_c of methods and metrics. Any callable that does is a target; a list gives each example its own.
"""

from captum_unioncam.targets.box import BoxScore
from captum_unioncam.targets.contrast import ClassContrast, similar_classes
from captum_unioncam.targets.embedding import EmbeddingSimilarity
from captum_unioncam.targets.region import ClassOverRegion
from captum_unioncam.targets.regression import Regression
from captum_unioncam.targets.scored_model import ScoredModel

__all__ = [
    "BoxScore",
    "ClassContrast",
    "ClassOverRegion",
    "EmbeddingSimilarity",
    "Regression",
    "ScoredModel",
    "similar_classes",
]
