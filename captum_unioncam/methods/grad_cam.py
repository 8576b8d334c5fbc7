"""Grad-CAM where Captum's takes positions for channels: on tokens and channels last."""

from torch import Tensor

from captum_unioncam.engine import ClassActivationMap, LayerState, Source, weighted_sum


class LaidOutGradCAM(ClassActivationMap):
    r"""Grad-CAM on any layout: :math:`L = \sum_k \bar{W}_k A_k`, with the mean over positions.

    On maps (N, C, \*spatial) it is Captum's, which reads every layer so.
    """

    name = "Grad-CAM"
    source = Source(
        "Selvaraju et al., ICCV", 2017, "https://arxiv.org/abs/1610.02391", "authors' code"
    )

    def cam(self, state: LayerState) -> Tensor:
        """Return the map of one layer tensor."""
        return weighted_sum(state.gradients.flatten(2).mean(2), state.activations)
