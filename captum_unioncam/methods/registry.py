"""The family: every method, by the name that commands and specs use."""

from captum.attr import LayerGradCam

from captum_unioncam.engine import ClassActivationMap, InputMap
from captum_unioncam.engine.cam import ONE_FORWARD
from captum_unioncam.methods.ablation_cam import LayerAblationCAM
from captum_unioncam.methods.ablation_cam_plus_plus import LayerAblationCAMPlusPlus
from captum_unioncam.methods.augmented_grad_cam import LayerAugmentedGradCAM
from captum_unioncam.methods.controls import LayerCenterCAM, LayerOnesCAM, LayerRandomCAM
from captum_unioncam.methods.extremal_perturbations import ExtremalPerturbations
from captum_unioncam.methods.fd_cam import LayerFDCAM
from captum_unioncam.methods.feature_cam import LayerFeatureCAM
from captum_unioncam.methods.fimf_score_cam import LayerFIMFScoreCAM
from captum_unioncam.methods.fusion_cam import LayerFusionCAM
from captum_unioncam.methods.grad_cam import LaidOutGradCAM
from captum_unioncam.methods.grad_cam_plus_plus import LayerGradCAMPlusPlus
from captum_unioncam.methods.grad_plus_plus_score_cam import LayerGradPlusPlusScoreCAM
from captum_unioncam.methods.group_cam import LayerGroupCAM
from captum_unioncam.methods.hires_cam import LayerHiResCAM
from captum_unioncam.methods.integrated_grad_cam import LayerIntegratedGradCAM
from captum_unioncam.methods.is_cam import LayerISCAM
from captum_unioncam.methods.layer_cam import LayerCAM
from captum_unioncam.methods.legrad import LayerLeGrad
from captum_unioncam.methods.method import METHODS, Method
from captum_unioncam.methods.opti_cam import LayerOptiCAM
from captum_unioncam.methods.original_cam import LayerOriginalCAM
from captum_unioncam.methods.recipro_cam import LayerReciproCAM
from captum_unioncam.methods.refined_cam import LayerRefinedCAM
from captum_unioncam.methods.regression_cam import LayerRegressionCAM
from captum_unioncam.methods.rise import RISE
from captum_unioncam.methods.score_cam import LayerScoreCAM
from captum_unioncam.methods.selected_cam import LayerSelectedCAM
from captum_unioncam.methods.smooth_grad_cam_plus_plus import LayerSmoothGradCAMPlusPlus
from captum_unioncam.methods.ss_cam import LayerSSCAM
from captum_unioncam.methods.union_cam import LayerUnionCAM
from captum_unioncam.methods.vit_recipro_cam import LayerViTReciproCAM
from captum_unioncam.methods.xgrad_cam import LayerXGradCAM


def _own(cls: type[ClassActivationMap] | type[InputMap]) -> Method:
    return Method(cls.name, cls, cls.source, cls.needs_gradients, cls.forwards)


GRAD_CAM = Method(
    LaidOutGradCAM.name,
    LayerGradCam,
    LaidOutGradCAM.source,
    True,
    ONE_FORWARD,
)
METHODS |= {
    "cam": _own(LayerOriginalCAM),
    "gradcam": GRAD_CAM,
    "gradcam++": _own(LayerGradCAMPlusPlus),
    "smoothgradcam++": _own(LayerSmoothGradCAMPlusPlus),
    "xgradcam": _own(LayerXGradCAM),
    "augmentedgradcam": _own(LayerAugmentedGradCAM),
    "integratedgradcam": _own(LayerIntegratedGradCAM),
    "layercam": _own(LayerCAM),
    "hirescam": _own(LayerHiResCAM),
    "legrad": _own(LayerLeGrad),
    "rise": _own(RISE),
    "extremalperturbations": _own(ExtremalPerturbations),
    "scorecam": _own(LayerScoreCAM),
    "sscam": _own(LayerSSCAM),
    "iscam": _own(LayerISCAM),
    "fimfscorecam": _own(LayerFIMFScoreCAM),
    "groupcam": _own(LayerGroupCAM),
    "ablationcam": _own(LayerAblationCAM),
    "ablationcam++": _own(LayerAblationCAMPlusPlus),
    "reciprocam": _own(LayerReciproCAM),
    "vitreciprocam": _own(LayerViTReciproCAM),
    "fdcam": _own(LayerFDCAM),
    "featurecam": _own(LayerFeatureCAM),
    "grad++scorecam": _own(LayerGradPlusPlusScoreCAM),
    "unioncam": _own(LayerUnionCAM),
    "fusioncam": _own(LayerFusionCAM),
    "opticam": _own(LayerOptiCAM),
    "regressioncam": _own(LayerRegressionCAM),
    "refinedcam": _own(LayerRefinedCAM),
    "selectedcam": _own(LayerSelectedCAM),
    "ones": _own(LayerOnesCAM),
    "random": _own(LayerRandomCAM),
    "center": _own(LayerCenterCAM),
}
__all__ = [
    "METHODS",
    "RISE",
    "ExtremalPerturbations",
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
    "LayerLeGrad",
    "LayerOnesCAM",
    "LayerOptiCAM",
    "LayerOriginalCAM",
    "LayerRandomCAM",
    "LayerReciproCAM",
    "LayerRefinedCAM",
    "LayerRegressionCAM",
    "LayerSSCAM",
    "LayerScoreCAM",
    "LayerSelectedCAM",
    "LayerSmoothGradCAMPlusPlus",
    "LayerUnionCAM",
    "LayerViTReciproCAM",
    "LayerXGradCAM",
    "Method",
]
