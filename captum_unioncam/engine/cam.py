"""The base class of every method: Captum's interface around a formula."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from captum.attr import GradientAttribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_unioncam.engine.arguments import check_finite, check_flag, closest
from captum_unioncam.engine.captum_compat import BaselineType
from captum_unioncam.engine.layer_state import LayerState, measure_layer
from captum_unioncam.engine.modules import check_layer
from captum_unioncam.engine.request import Request, checked_request
from captum_unioncam.engine.target_scores import Score
from captum_unioncam.engine.warn import warn

Attributions = Tensor | tuple[Tensor, ...]

# Further keyword-only parameters of `attribute`, by what a method perturbs.
ENGINE_OPTIONS: dict[str | None, dict[str, Any]] = {
    None: {},
    "features": {"score": None, "perturbations_per_eval": None, "show_progress": False},
    "inputs": {
        "baselines": None,
        "score": None,
        "perturbations_per_eval": None,
        "scorer": None,
        "show_progress": False,
    },
}

COMMON_ARGS = """\
            inputs (Tensor or tuple[Tensor, ...]): inputs, dimension 0 being the examples.
            target (int, tuple, Tensor or list, optional): output to explain, as in every Captum
                method: one index for all examples, or one per example; tuples for outputs of
                more than two dimensions; None if there is one value per example.
                Default: None
            additional_forward_args (Any, optional): further arguments of forward_func. Tensors
                whose first dimension is the number of examples follow their example, the rest
                is passed as it is. Default: None
            attribute_to_layer_input (bool, optional): use the layer's input instead of its
                output. Default: False
            relu_attributions (bool, optional): clip the returned map at zero, as the papers do;
                by default maps are signed, as in Captum. Default: False
            grad_kwargs (dict[str, Any], optional): passed to ``torch.autograd.grad``.
                Default: None
"""
OPTION_ARGS = {
    "baselines": """\
            baselines (scalar, Tensor or tuple, optional): what masked-out parts show, one entry
                per input: a number, or a tensor that broadcasts to the input. For a black image
                under mean and standard deviation use ``black_baseline``.
                Default: {baselines}
""",
    "score": """\
            score (str or Callable, optional): f_c: "probability", "logit", or a function of the
                raw output that returns a tensor of its shape or one score per row.
                Default: "{score}"
""",
    "perturbations_per_eval": """\
            perturbations_per_eval (int, optional): at most this many times N rows in a forward;
                None fits the rows to the device. Does not change the result. Default: None
""",
    "scorer": """\
            scorer (Callable, optional): what masked inputs run through instead of forward_func,
                such as a compiled, frozen, half-precision or distributed copy of the model;
                gradients and hooks stay on forward_func. Inputs are converted to the dtype of a
                module's parameters; scores are kept in float32 or better. Default: None
""",
    "show_progress": """\
            show_progress (bool, optional): show a progress bar on stderr. Default: False
""",
}
RETURNS = """
        Returns:
            *Tensor* or *tuple[Tensor, ...]* of **attributions**: maps of shape
            (N, 1, *spatial of the layer), in the layer's dtype, detached; a tuple only if the
            layer gives several tensors. Layers of image tokens give (N, 1, rows, columns).

        Raises:
            TypeError: if an argument is of the wrong kind.
            ValueError: if an argument is out of range or of the wrong shape, the layer is not
                reached or has no spatial dimensions, or values are not finite.
"""


class ClassActivationMap(LayerAttribution, GradientAttribution):
    """A class activation map of one layer; a method is a subclass that defines `_cam`.

    Subclasses define::

        name = "XGrad-CAM"                        # readable name
        needs_gradients = True                    # whether the clean pass runs a backward
        perturbs = None | "inputs" | "features"   # adds the engine's options to `attribute`
        default_score = "probability"             # f_c, where something is perturbed
        default_baselines = "0"                   # what the docstring says of `_baselines`
        is_scaled = False                         # whether maps span [0, 1] once resized

        def _cam(self, state, *, option=default): # signed map, (N, 1, *spatial)

    `attribute` gets the parameters of Captum's LayerGradCam, in its order, then the options of
    `_cam` and of the engine as keywords.
    """

    name: ClassVar[str] = "class activation map"
    needs_gradients: ClassVar[bool] = True
    perturbs: ClassVar[Literal["inputs", "features"] | None] = None
    default_score: ClassVar[Score] = "probability"
    default_baselines: ClassVar[str] = "0"
    is_scaled: ClassVar[bool] = False
    _cam: Callable[..., Any]

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module,
        device_ids: list[int] | None = None,
    ) -> None:
        r"""Name the model and the layer; nothing is registered or computed yet.

        Args:
            forward_func (Callable or torch.nn.Module): the model, or any function of it that
                returns one row of scores per example. A module, its bound method or a partial
                of it is explained in evaluation mode; behind any other function the model must
                be in evaluation mode already.
            layer (torch.nn.Module): layer whose activations make the map, usually the last
                convolutional one; :func:`captum_unioncam.suggest_layer` names it.
            device_ids (list[int], optional): order of the devices, needed only if forward_func
                applies a DataParallel model without being one. Default: None
        """
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        GradientAttribution.__init__(self, forward_func)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_cam" in vars(cls) and "attribute" not in vars(cls):
            cls.attribute = _attribute_of(cls)

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """Return the keyword-only parameters of `attribute`, by name."""
        own = {
            name: parameter
            for name, parameter in inspect.signature(cls._cam).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        engine = dict(ENGINE_OPTIONS[cls.perturbs])
        if "score" in engine:
            engine["score"] = cls.default_score
        keyword = inspect.Parameter.KEYWORD_ONLY
        return own | {
            name: inspect.Parameter(name, keyword, default=default)
            for name, default in engine.items()
        }

    def attribute_future(self) -> None:
        """Not available: forwards run one after the other."""
        raise NotImplementedError(f"attribute_future is not implemented for {self.name}")

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name as progress bars and tables show it."""
        return cls.name

    def _measured_cams(
        self, positional: tuple[Any, ...], options: dict[str, Any]
    ) -> list[tuple[LayerState, Any]]:
        """Check arguments, measure the layer, and return what `_cam` makes of each tensor."""
        check_flag("relu_attributions", positional[4])
        request, chosen = self._checked(positional, options)
        with measure_layer(request, needs_gradients=self.needs_gradients) as states:
            return [(state, self._cam(state, **chosen)) for state in states]

    def _checked(
        self, positional: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[Request, dict[str, Any]]:
        """Check the arguments of `attribute`; return the call and the options of `_cam`."""
        known = self.options()
        for name in options:
            if name not in known:
                raise TypeError(
                    f"{type(self).__name__}.attribute has no parameter {name!r}"
                    f"{closest(name, known)}; it takes {', '.join(known) or 'no options'}"
                )
        if self.layer is None:
            check_layer(self.forward_func, self.layer)
        inputs, target, extra, to_input, _, grad_kwargs = positional
        chosen = {name: options.get(name, p.default) for name, p in known.items()}
        show_progress = chosen.pop("show_progress", False)
        check_flag("show_progress", show_progress)
        engine = {n: chosen.pop(n) for n in ENGINE_OPTIONS[self.perturbs] if n in chosen}
        self._check(**chosen)
        if "baselines" in engine and engine["baselines"] is None:
            engine["baselines"] = self._baselines(inputs)
        request = checked_request(
            self.forward_func,
            self.layer,
            inputs,
            target,
            extra,
            device_ids=self.device_ids,
            attribute_to_layer_input=to_input,
            grad_kwargs=grad_kwargs,
            description=f"{self.name} attribution" if show_progress else None,
            **engine,
        )
        return request, chosen

    def _baselines(self, inputs: Any) -> BaselineType:
        """Return what masked-out parts show where the user says nothing; inputs are unchecked."""
        return None

    def _check(self, *_: Any, **options: Any) -> None:
        """Raise for wrong values of the method's own options, before any forward."""

    def _finished(
        self, maps: list[tuple[LayerState, Tensor]], relu_attributions: bool
    ) -> tuple[Tensor, ...]:
        """Give maps their final form: the layer's dtype, finite, and said if they are blank."""
        finished = []
        for state, cam in maps:
            check_finite("maps", cam, "the layer's values span more than their dtype can hold")
            cam = cam.to(state.layer_tensor.dtype).contiguous()
            finished.append(cam.relu() if relu_attributions else cam)
        blank = {
            r for cam in finished for r in (cam == 0).flatten(1).all(1).nonzero()[:, 0].tolist()
        }
        if blank:
            warn(
                f"{self.name} is blank for example(s) {sorted(blank)}: no channel of the layer "
                "varies over space, or those that do sum to nothing (for clipped maps: to "
                "nothing positive, as negative weights do)"
            )
        return tuple(finished)


def _attribute_of(cls: type[ClassActivationMap]) -> Callable[..., Any]:
    """Build `attribute` with the signature and docstring that the class's options call for."""

    def attribute(
        self: ClassActivationMap,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Attributions:
        positional = (
            inputs, target, additional_forward_args, attribute_to_layer_input,
            relu_attributions, grad_kwargs,
        )  # fmt: skip
        maps = self._finished(self._measured_cams(positional, options), relu_attributions)
        return maps[0] if len(maps) == 1 else maps

    signature = inspect.signature(attribute)
    first = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    attribute.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*first, *cls.options().values()]
    )
    attribute.__qualname__ = f"{cls.__name__}.attribute"
    attribute.__module__ = cls.__module__
    own = inspect.getdoc(cls._cam) or ""
    _, _, own_args = own.partition("Args:\n")
    shared = "".join(
        OPTION_ARGS[name].format(score=cls.default_score, baselines=cls.default_baselines)
        for name in ENGINE_OPTIONS[cls.perturbs]
    )
    own_text = "".join(f"        {line}\n" for line in own_args.rstrip().splitlines())
    attribute.__doc__ = (
        f"Compute the {cls.name} map of the layer for the target.\n\n        Args:\n"
        f"{COMMON_ARGS}{own_text}{shared}{RETURNS}"
    )
    wrapped: Callable[..., Any] = log_usage()(attribute)
    return wrapped


def spatial_mean(values: Tensor) -> Tensor:
    """Return the mean over space, (N, C, 1, ...)."""
    return values.mean(tuple(range(2, values.dim())), keepdim=True)


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Return sum_k w_k A_k, (N, 1, *spatial), for weights (N, C) or of A's rank."""
    if weights.dim() == 2:
        weights = weights.reshape(*weights.shape, *[1] * (activations.dim() - 2))
    return (weights.to(activations.dtype) * activations).sum(1, keepdim=True)


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with exactly zero where the denominator is zero."""
    return torch.where(denominator != 0, numerator / denominator.where(denominator != 0, 1), 0)
