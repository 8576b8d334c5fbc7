"""One map of several layers: any method over a list of them, fused position by position."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from captum.attr import LayerAttribution
from torch import Tensor, nn

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    GradKwargs,
    Inputs,
    TargetType,
    check_choice,
    min_max,
    resize,
)
from captum_unioncam.engine.arguments import closest
from captum_unioncam.engine.callable_targets import is_callable_target
from captum_unioncam.engine.layer_state import measure_layers
from captum_unioncam.engine.maps import extrema
from captum_unioncam.engine.modules import check_layer
from captum_unioncam.engine.warn import warn
from captum_unioncam.targets import ScoredModel

Fuse = Literal["mean", "max", "product"]
FUSES = ("mean", "max", "product")


def fuse_maps(maps: Sequence[Tensor], fuse: Fuse = "mean") -> Tensor:
    r"""Fuse the maps of several layers into one.

    .. math::
        M = \operatorname*{fuse}_l \; \mathrm{minmax}(\mathrm{Up}(L_l))

    with :math:`L_l` the map of layer l, Up linear resizing to the finest of them, minmax scaling
    to [0, 1] of each example's map, and fuse the mean, the maximum or the product at each position:
    what the layers agree on on average, what any shows, or what all show. A flat map says nothing:
    it is left out of its example.

    Args:
        maps (Sequence[Tensor]): one map per layer, (N, 1, *spatial) each.
        fuse (str, optional): "mean", "max" or "product". Default: "mean"

    Returns:
        *Tensor* of shape (N, 1, *spatial of the finest), from 0 to 1; zero where every map of an
        example is flat.

    Raises:
        ValueError: if there is no map, or maps disagree on examples or rank.

    Examples::

        >>> shallow, deep = torch.tensor([[[0.0, 1.0, 4.0, 2.0]]]), torch.tensor([[[3.0, -1.0]]])
        >>> fuse_maps([shallow, deep], "max")
        tensor([[[1.0000, 0.7500, 1.0000, 0.5000]]])
        >>> fuse_maps([shallow, deep], "product")
        tensor([[[0.0000, 0.1875, 0.2500, 0.0000]]])
    """
    check_choice("fuse", fuse, FUSES)
    if len({(len(m), m.dim()) for m in maps}) != 1 or any(m.shape[1] != 1 for m in maps):
        shapes = ", ".join(str(tuple(m.shape)) for m in maps) or "none"
        raise ValueError(
            "maps must have shape (N, 1, *spatial) with the same N and the same number of spatial "
            f"dimensions, got {shapes}"
        )
    finest = max((m.shape[2:] for m in maps), key=torch.Size.numel)
    scaled, shown = [], []
    for cam in maps:
        low, high = extrema(cam)
        shown.append(high > low)
        resized = resize(cam, finest)
        scaled.append(min_max(resized, *extrema(resized)))
    M, live = torch.stack(scaled), torch.stack(shown)
    if fuse == "mean":
        fused = M.where(live, 0).sum(0) / live.sum(0).clamp(min=1)
    elif fuse == "max":
        fused = M.where(live, 0).amax(0)
    else:
        fused = M.where(live, 1).prod(0)
    return fused.where(live.any(0), 0)


class MultiLayer(LayerAttribution):
    """A layer attribution over several layers, whose maps :func:`fuse_maps` makes one of.

    The product over layers is RefineCAM's idea, the mean is what pytorch-grad-cam does, and
    :func:`~captum_unioncam.fuse_layer_cams` is LayerCAM's own way, a maximum of tanh.

    Layers of this package's methods share one clean forward, one backward where the method needs
    one, the forward of the baselines and the check of a named scorer. The masked inputs of a layer
    are forwards of its own, and so are those of methods that change features. Captum's own methods
    share nothing.

    Args:
        method (type): a layer attribution of this package or of Captum.
        forward_func (Callable or torch.nn.Module): the model, or any function of it.
        layers (Sequence[torch.nn.Module]): the layers.
        fuse (str, optional): "mean", "max" or "product". Default: "mean"
        device_ids (list[int], optional): order of the devices, as every method takes it.
            Default: None
        **options (Any): options of the method's `attribute`, its defaults here.

    Raises:
        TypeError: if an argument is of the wrong kind, or the method has no such option.
        ValueError: if there is no layer, or one is given twice.

    Examples::

        >>> from captum_unioncam import LayerScoreCAM
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU(),
        ...     nn.Flatten(), nn.Linear(16, 2),
        ... ).eval()
        >>> both = MultiLayer(LayerScoreCAM, net, [net[1], net[4]], "product", weights="softmax")
        >>> both.attribute(torch.rand(2, 3, 8, 8), target=1).shape
        torch.Size([2, 1, 6, 6])
        >>> both.get_name()
        'Score-CAM, product of 2 layers'
    """

    def __init__(
        self,
        method: type[Any],
        forward_func: Any,
        layers: Sequence[nn.Module],
        fuse: Fuse = "mean",
        device_ids: list[int] | None = None,
        **options: Any,
    ) -> None:
        if not (isinstance(method, type) and issubclass(method, LayerAttribution)):
            raise TypeError(f"method must be a class of layer attributions, got {method!r}")
        check_choice("fuse", fuse, FUSES)
        if isinstance(layers, nn.Module) or not isinstance(layers, Sequence):
            raise TypeError(
                f"layers must be a sequence of modules, got {type(layers).__name__}; for one layer "
                f"take {method.__name__} itself"
            )
        for layer in layers:
            check_layer(forward_func, layer)
        if not layers or len({id(layer) for layer in layers}) < len(layers):
            raise ValueError(
                f"layers must be different modules, at least one, got {len(layers)}, of which "
                f"{len({id(layer) for layer in layers})} differ"
            )
        known = inspect.signature(method.attribute).parameters
        for name in options:
            if name not in known:
                raise TypeError(f"{method.__name__} has no option {name!r}{closest(name, known)}")
        LayerAttribution.__init__(self, forward_func, layers[0], device_ids)
        self.method, self.layers, self.fuse, self.options = method, list(layers), fuse, options

    @property
    def attribution_method(self) -> Any:
        """The method on the first layer, as Captum's wrappers name what they wrap."""
        return self.method(self.forward_func, self.layers[0], self.device_ids)

    def get_name(self) -> str:
        """Return what tables and figures call it."""
        name = getattr(self.method, "name", None) or self.method.get_name()
        return f"{name}, {self.fuse} of {len(self.layers)} layers"

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        **options: Any,
    ) -> Tensor:
        """Compute the fused map.

        Args:
            inputs (Tensor or tuple[Tensor, ...]): inputs, dimension 0 being the examples.
            target (optional): as the method takes it, or a callable. Default: None
            additional_forward_args (Any, optional): further arguments of forward_func.
                Default: None
            attribute_to_layer_input (bool, optional): use the layers' inputs. Default: False
            relu_attributions (bool, optional): clip every layer's map at zero before it is scaled;
                signed maps are scaled from their lowest value. Default: False
            grad_kwargs (dict[str, Any], optional): passed to ``torch.autograd.grad``.
                Default: None
            **options (Any): options of the method's `attribute`, over those given when this was
                made.

        Returns:
            *Tensor* (N, 1, *spatial of the finest layer's map), from 0 to 1.

        Raises:
            TypeError: if an argument is of the wrong kind.
            ValueError: as the method raises, if maps are of different rank, or a layer gives
                several tensors.
        """
        arguments = {
            "inputs": inputs,
            "target": target,
            "additional_forward_args": additional_forward_args,
            "attribute_to_layer_input": attribute_to_layer_input,
            "relu_attributions": relu_attributions,
            "grad_kwargs": grad_kwargs,
            **self.options,
            **options,
        }
        is_ours = issubclass(self.method, ClassActivationMap)
        maps = self._on_one_pass(arguments) if is_ours else self._one_by_one(arguments)
        fused = fuse_maps(maps, self.fuse)
        blank = (fused == 0).flatten(1).all(1).nonzero()[:, 0].tolist()
        if blank:
            warn(f"{self.get_name()} is blank for example(s) {blank}")
        return fused

    def _on_one_pass(self, arguments: dict[str, Any]) -> list[Tensor]:
        method = self.attribution_method
        prepared = method.prepare(arguments)
        requests = [replace(prepared.request, layer=layer) for layer in self.layers]
        maps = []
        with measure_layers(requests, needs_gradients=method.needs_gradients) as measured:
            for states in measured:
                if len(states) > 1:
                    raise ValueError(
                        f"{states[0].request.layer_name} gives {len(states)} tensors; fuse layers "
                        "that give one"
                    )
                cam, _ = method.map(states[0], prepared.options)
                maps += method.finish(states, [cam], prepared.relu_attributions)
        return maps

    def _one_by_one(self, arguments: dict[str, Any]) -> list[Tensor]:
        forward_func, known = self.forward_func, inspect.signature(self.method.attribute).parameters
        if is_callable_target(arguments["target"]):
            forward_func = ScoredModel(forward_func, arguments["target"])
            arguments = {**arguments, "target": None}
        given = {name: value for name, value in arguments.items() if name in known}
        maps = []
        for layer in self.layers:
            found: Attributions = self.method(forward_func, layer, self.device_ids).attribute(
                **given
            )
            if isinstance(found, tuple):
                raise ValueError(f"a layer gives {len(found)} tensors; fuse layers that give one")
            maps.append(found.detach().sum(1, keepdim=True))
        return maps
