"""ViT-Recipro-CAM: Recipro-CAM of a vision transformer's tokens (Byun and Lee, 2023)."""

from dataclasses import replace

from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    FeatureOptions,
    Forwards,
    GradKwargs,
    Inputs,
    LayerState,
    Layout,
    Source,
    TargetType,
)
from captum_unioncam.methods.recipro_cam import windows


class LayerViTReciproCAM(ClassActivationMap):
    r"""ViT-Recipro-CAM: every patch is scored by the transformer that sees its tokens alone.

    .. math::
        L_t = f_c(Z^t), \qquad Z^t_s = g_{s-t} Z_s

    with Z the layer's patch tokens on their grid, g the 3 x 3 pattern 1/4, 1/8, 1/16 around t,
    and f_c the softmax probability. Unlike in Recipro-CAM neighbours keep their own values. The
    class token, with whatever else leads the patches, stays as it is. ``gaussian=False`` keeps
    the token of t alone, unweighted. Cost: one forward per patch, of the part of the network
    after the layer. The map holds the scores themselves; the authors min-max scale it.

    Meant for the LayerNorm that a late block starts with, ``encoder.layers[-1].ln_1`` in
    torchvision; the authors' code takes the last block but one.

    Source: Byun, Lee: ViT-ReciproCAM: Gradient and Attention-Free Visual Explanations for Vision
    Transformer. 2023. https://arxiv.org/abs/2310.02588

    Examples::

        >>> import torch
        >>> from torchvision.models import VisionTransformer
        >>> vit = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
        >>> cam = LayerViTReciproCAM(vit, vit.encoder.layers[-1].ln_1)
        >>> cam.attribute(torch.rand(2, 3, 32, 32), target=1).shape
        torch.Size([2, 1, 4, 4])
    """

    name = "ViT-Recipro-CAM"
    source = Source("Byun and Lee", 2023, "https://arxiv.org/abs/2310.02588", "authors' code")
    forwards = Forwards("P suffixes + 9", 9, per_position=1)
    needs_gradients = False

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        gaussian: bool = True,
        keep_class_token: bool = True,
        **options: Unpack[FeatureOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            gaussian (bool, optional): keep a patch's neighbours too, weighted by distance.
                Default: True
            keep_class_token (bool, optional): keep the tokens that lead the patches; otherwise
                they are zero. Default: True
        """
        return self.explain(locals())

    def cam(self, state: LayerState, gaussian: bool, keep_class_token: bool) -> Tensor:
        layout = state.layout
        if (
            not isinstance(layout, Layout)
            or layout.channels == "first"
            or state.layer_tensor.dim() > 3
        ):
            raise ValueError(
                f"{state.request.layer_name} gives shape {tuple(state.layer_tensor.shape)}, no "
                "tokens (N, T, D) of an image; use Recipro-CAM for layers of maps"
            )
        if not keep_class_token:
            tokens = state.layer_tensor.clone()
            tokens[:, : layout.leading_tokens] = 0
            state = replace(state, layer_tensor=tokens)
        A = state.activations

        def alone(example: int, positions: Tensor) -> Tensor:
            return A[example] * windows(layout.size, positions, gaussian, A)

        scores = state.features.score(A[0, 0].numel(), alone).scores
        return scores.reshape(len(A), 1, *layout.size)
