"""UnionCAM and its family of class activation maps as Captum layer attributions."""

from captum_unioncam.baselines import as_explanation_func, black_baseline
from captum_unioncam.comparison.compare import compare
from captum_unioncam.comparison.result import Comparison
from captum_unioncam.methods.ablation_cam import LayerAblationCAM
from captum_unioncam.methods.ablation_cam_plus_plus import LayerAblationCAMPlusPlus
from captum_unioncam.methods.augmented_grad_cam import LayerAugmentedGradCAM
from captum_unioncam.methods.controls import LayerCenterCAM, LayerOnesCAM, LayerRandomCAM
from captum_unioncam.methods.fd_cam import LayerFDCAM
from captum_unioncam.methods.feature_cam import LayerFeatureCAM
from captum_unioncam.methods.fimf_score_cam import LayerFIMFScoreCAM
from captum_unioncam.methods.fusion_cam import LayerFusionCAM
from captum_unioncam.methods.grad_cam_plus_plus import LayerGradCAMPlusPlus
from captum_unioncam.methods.grad_plus_plus_score_cam import LayerGradPlusPlusScoreCAM
from captum_unioncam.methods.group_cam import LayerGroupCAM
from captum_unioncam.methods.hires_cam import LayerHiResCAM
from captum_unioncam.methods.integrated_grad_cam import LayerIntegratedGradCAM
from captum_unioncam.methods.is_cam import LayerISCAM
from captum_unioncam.methods.layer_cam import LayerCAM, fuse_layer_cams
from captum_unioncam.methods.original_cam import LayerOriginalCAM
from captum_unioncam.methods.recipro_cam import LayerReciproCAM
from captum_unioncam.methods.registry import METHODS, Method
from captum_unioncam.methods.rise import RISE
from captum_unioncam.methods.score_cam import LayerScoreCAM
from captum_unioncam.methods.smooth_grad_cam_plus_plus import LayerSmoothGradCAMPlusPlus
from captum_unioncam.methods.ss_cam import LayerSSCAM
from captum_unioncam.methods.union_cam import LayerUnionCAM, UnionCAMDetails
from captum_unioncam.methods.vit_recipro_cam import LayerViTReciproCAM
from captum_unioncam.methods.xgrad_cam import LayerXGradCAM
from captum_unioncam.suggest import SuggestedLayer, suggest_layer

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "RISE",
    "Comparison",
    "LayerAblationCAM",
    "LayerAblationCAMPlusPlus",
    "LayerAugmentedGradCAM",
    "LayerCAM",
    "LayerCenterCAM",
    "LayerFDCAM",
    "LayerFIMFScoreCAM",
    "LayerFeatureCAM",
    "LayerFusionCAM",
    "LayerGradCAMPlusPlus",
    "LayerGradPlusPlusScoreCAM",
    "LayerGroupCAM",
    "LayerHiResCAM",
    "LayerISCAM",
    "LayerIntegratedGradCAM",
    "LayerOnesCAM",
    "LayerOriginalCAM",
    "LayerRandomCAM",
    "LayerReciproCAM",
    "LayerSSCAM",
    "LayerScoreCAM",
    "LayerSmoothGradCAMPlusPlus",
    "LayerUnionCAM",
    "LayerViTReciproCAM",
    "LayerXGradCAM",
    "Method",
    "SuggestedLayer",
    "UnionCAMDetails",
    "as_explanation_func",
    "black_baseline",
    "compare",
    "fuse_layer_cams",
    "suggest_layer",
]
