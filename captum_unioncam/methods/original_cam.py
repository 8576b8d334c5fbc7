"""CAM: the classifier's own weights on the last maps (Zhou et al., CVPR 2016)."""

import torch
from torch import Tensor, nn

from captum_unioncam.engine import (
    ClassActivationMap,
    LayerState,
    Source,
    spatial_mean,
    weighted_sum,
)
from captum_unioncam.engine.modules import model_behind

Head = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


class LayerOriginalCAM(ClassActivationMap):
    r"""CAM: the weights of the last linear layer, applied before pooling instead of after it.

    .. math::
        L = \sum_k w_{ck} A_k, \qquad y_c = \mathrm{mean}_{ij} L_{ij} + b_c

    with A the layer's activations and w, b the weights of the linear layer. The second equation
    must hold: after the layer come global average pooling, at most flattening and dropout, and
    one linear layer. It is checked on the activations and raw outputs measured, with two forms
    of it allowed: a ReLU between layer and pooling (DenseNet), which is then applied to A, and a
    1x1 convolution instead of the linear layer, before pooling, with or without a ReLU of its own
    (SqueezeNet). ResNet, EfficientNet and MobileNetV2 fit, VGG does not. The check is of rounding
    accuracy, that of the layer's dtype. No gradients are needed.

    The authors' code has no ReLU either; it also rounds the map to 8 bits, which this does not.

    Source: Zhou, Khosla, Lapedriza, Oliva, Torralba: Learning Deep Features for Discriminative
    Localization. CVPR, 2016. https://arxiv.org/abs/1512.04150

    Examples::

        >>> net = nn.Sequential(
        ...     *(nn.Conv2d(3, 4, 3), nn.ReLU()),
        ...     *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
        ... )
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerOriginalCAM(net.eval(), net[1]).attribute(x, target=1).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "CAM"
    source = Source("Zhou et al., CVPR", 2016, "https://arxiv.org/abs/1512.04150", "authors' code")
    needs_gradients = False

    def cam(self, state: LayerState) -> Tensor:
        A, request = state.activations, state.request
        if state.target.functions is not None:
            raise ValueError(
                "CAM reads the weights of one class, so target must be its index, not a callable; "
                "LayerGradCAMPlusPlus, LayerHiResCAM and others take any differentiable target"
            )
        model = model_behind(request.forward_func)
        if model is None:
            raise ValueError(
                "CAM reads the weights of the linear layer, but forward_func hides the model: "
                f"pass the model itself, or use LayerGradCam for {request.layer_name}"
            )
        channels = A.shape[1]
        heads = _heads(model, channels)
        for features in (A, A.relu()):
            for head in heads.values():
                cam = _explained(state, features, head)
                if cam is not None:
                    return cam
        if heads:
            names = " and ".join(map(repr, heads))
            found = f"{names} would take its {channels} channels, but mean(L) + b is not the output"
            if bool(state.target.is_probability.all()):
                found += ", which is probabilities (pass the model without its softmax)"
        else:
            found = f"nothing linear takes its {channels} channels{_last_linear(model)}"
        raise ValueError(
            "CAM needs global average pooling and one linear layer after the layer; found after "
            f"{request.layer_name}: {found}. Choose the layer just before pooling if there is such "
            "a head, or use LayerGradCam, which needs none and on such a head gives the same map "
            "up to a factor"
        )


def _heads(model: nn.Module, channels: int) -> dict[str, Head]:
    """Return the last linear layer and the last 1x1 convolution of so many inputs, by name."""
    last = {}
    for name, module in model.named_modules():
        if (
            isinstance(module, Head)
            and module.weight.shape[1] == channels
            and module.weight[0, 0].numel() == 1
        ):
            last[isinstance(module, nn.Linear)] = name, module
    return dict(last.values())


def _last_linear(model: nn.Module) -> str:
    last = [named for named in model.named_modules() if isinstance(named[1], nn.Linear)][-1:]
    return "".join(f"; the last linear layer is {name!r}, {module}" for name, module in last)


def _explained(state: LayerState, A: Tensor, head: Head) -> Tensor | None:
    """Return the map that the head's weights make of A, or None where y_c is not its mean."""
    weight, bias = head.weight.detach().flatten(1), head.bias
    classes = state.target.index[:, :1].flatten().to(weight.device)
    if not len(classes):
        # One value per example without a class dimension.
        classes = classes.new_zeros(len(A))
    if int(classes.max()) >= len(weight):
        return None
    w = weight[classes].to(A)
    b = torch.zeros_like(w[:, 0]) if bias is None else bias.detach()[classes].to(A)
    cam = weighted_sum(w, A)
    scores = cam + b.reshape(-1, *[1] * (A.dim() - 1))
    # Rounding errors grow like the root of the sum of the squared terms of y_c.
    terms = w * spatial_mean(A.abs()).flatten(1)
    precision = torch.finfo(state.layer_tensor.dtype).eps
    tolerance = max(4 * precision, 1e-3) * (terms.square().sum(1).sqrt() + b.abs())
    readings = (scores,) if isinstance(head, nn.Linear) else (scores, scores.relu())
    for y in readings:
        if bool(((spatial_mean(y).flatten() - state.logits.to(A)).abs() <= tolerance).all()):
            return cam
    return None
