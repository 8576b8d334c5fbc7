"""UnionCAM and its family of class activation maps as Captum layer attributions."""

from captum_unioncam.helpers import as_explanation_func, black_baseline
from captum_unioncam.suggest import SuggestedLayer, suggest_layer
from captum_unioncam.unioncam import LayerUnionCAM, UnionCAMDetails

__version__ = "0.1.0"

__all__ = [
    "LayerUnionCAM",
    "SuggestedLayer",
    "UnionCAMDetails",
    "as_explanation_func",
    "black_baseline",
    "suggest_layer",
]
