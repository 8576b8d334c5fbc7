"""UnionCAM and its family of class activation maps as Captum layer attributions."""

from captum_unioncam.baselines import black_baseline
from captum_unioncam.comparison.compare import compare
from captum_unioncam.comparison.result import Comparison
from captum_unioncam.helpers import as_explanation_func
from captum_unioncam.methods import registry
from captum_unioncam.methods.layer_cam import fuse_layer_cams
from captum_unioncam.methods.registry import *  # noqa: F403
from captum_unioncam.methods.union_cam import UnionCAMDetails
from captum_unioncam.suggest import SuggestedLayer, suggest_layer

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "SuggestedLayer",
    "UnionCAMDetails",
    "as_explanation_func",
    "black_baseline",
    "compare",
    "fuse_layer_cams",
    "suggest_layer",
]
__all__ += registry.__all__
