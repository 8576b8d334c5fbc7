"""The base class of every method: Captum's interface around a formula."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from captum.attr import GradientAttribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn
from typing_extensions import Unpack

from captum_unioncam.engine.arguments import check_finite, check_flag, closest
from captum_unioncam.engine.captum_compat import BaselineType, TargetType
from captum_unioncam.engine.documentation import complete
from captum_unioncam.engine.layer_state import LayerState, measure_layer
from captum_unioncam.engine.modules import check_layer
from captum_unioncam.engine.options import (
    SHARED_OPTIONS,
    Attributions,
    GradKwargs,
    Inputs,
    LayerOptions,
    check_options,
)
from captum_unioncam.engine.request import Request, checked_request
from captum_unioncam.engine.scorer_choice import NamedScorer
from captum_unioncam.engine.target_scores import Score
from captum_unioncam.engine.warn import warn

Certainty = Literal["authors' code", "paper", "secondary sources", "our reading", "by definition"]
CAPTUMS = (
    *("inputs", "target", "additional_forward_args", "attribute_to_layer_input"),
    *("relu_attributions", "grad_kwargs"),
)


class Source(NamedTuple):
    """Where a method was published.

    Attributes:
        paper (str): who published it where; empty for controls.
        year (int): year of the paper; 0 for controls.
        link (str): address of the paper.
        certainty (str): what its definition was taken from.
    """

    paper: str
    year: int
    link: str
    certainty: Certainty


class Forwards(NamedTuple):
    """Rows forwarded per example, for a layer of C channels and P positions.

    They are an upper bound: flat and equal channels are skipped, and few networks need all nine
    rows that find out how to run the part of the network after the layer, the suffix, alone.

    Attributes:
        text (str): how documentation says it.
        fixed (int): rows whatever the layer, at the method's defaults.
        per_channel (int): rows for each channel.
        per_position (int): rows for each position.
    """

    text: str
    fixed: int
    per_channel: int = 0
    per_position: int = 0

    def at_most(self, channels: int, positions: int) -> int:
        """Return the most rows of an example."""
        return self.fixed + self.per_channel * channels + self.per_position * positions


ONE_FORWARD = Forwards("1", 1)


class Prepared(NamedTuple):
    """The arguments of `attribute`, checked.

    Attributes:
        request (Request): what is to be measured.
        options (dict): the method's own options, arguments of `cam`.
        relu_attributions (bool): clip the map at zero.
    """

    request: Request
    options: dict[str, Any]
    relu_attributions: bool


class ClassActivationMap(LayerAttribution, GradientAttribution):
    """A class activation map of one layer; a method is a subclass that defines a formula.

    Subclasses define::

        name = "XGrad-CAM"                        # readable name
        source = Source("Fu et al., BMVC", 2020, "https://...", "authors' code")
        forwards = Forwards("C + 2", 2, per_channel=1)
        needs_gradients = True                    # whether the clean pass runs a backward
        default_score = "probability"             # f_c, where something is scored
        brings_baselines = False                  # whether `default_baselines` returns some
        is_scaled = False                         # whether maps span [0, 1] once resized
        parts = ()                                # fields of its details that are maps

        def cam(self, state, option):             # signed map, (N, 1, *spatial)

        def attribute(self, inputs, ..., *, option=default, **options: Unpack[LayerOptions]):
            return self.explain(locals())

    `cam` returns the map, or a tuple of the map and what else was found. A method with options of
    its own, or with those of perturbing methods, writes `attribute` anew: the parameters of
    Captum's LayerGradCam, in its order, then its own as keywords, whose types check them, and
    those it shares with others, whose documentation is filled in.
    """

    name: ClassVar[str] = "class activation map"
    source: ClassVar[Source] = Source("", 0, "", "by definition")
    forwards: ClassVar[Forwards] = ONE_FORWARD
    needs_gradients: ClassVar[bool] = True
    default_score: ClassVar[Score] = "probability"
    brings_baselines: ClassVar[bool] = False
    is_scaled: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ()
    cam: Callable[..., Any]

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
        if "attribute" in vars(cls):
            as_captums(cls)

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        **options: Unpack[LayerOptions],
    ) -> Attributions:
        """Compute the map."""
        return self.explain(locals())

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """Return the keyword-only parameters of `attribute`, by name."""
        return keywords(cls.attribute)

    def attribute_future(self) -> None:
        """Not available: forwards run one after the other."""
        raise NotImplementedError(f"attribute_future is not implemented for {self.name}")

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name as progress bars and tables show it."""
        return cls.name

    def default_baselines(self, inputs: Any) -> BaselineType:
        """Return what masked-out parts show where the user says nothing; inputs are unchecked."""
        raise NotImplementedError(f"{self.name} brings no baselines")

    def explain(self, arguments: Mapping[str, Any]) -> Attributions:
        """Return what `attribute` does, given its arguments by name, as its ``locals()`` hold them.

        Args:
            arguments (Mapping): ``options`` in it are those shared with other methods.
        """
        return self.explain_in_detail(arguments)[0]

    def explain_in_detail(self, arguments: Mapping[str, Any]) -> tuple[Attributions, Any]:
        """Return the maps and what else was found; tuples if the layer gives several tensors."""
        given = by_name(arguments)
        check_flag("return_details", given.pop("return_details", False))
        prepared = self.prepare(given)
        with measure_layer(prepared.request, needs_gradients=self.needs_gradients) as states:
            found = [self.map(state, prepared.options) for state in states]
        maps = self.finish(states, [cam for cam, _ in found], prepared.relu_attributions)
        if len(maps) == 1:
            return maps[0], found[0][1]
        return maps, tuple(details for _, details in found)

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        """Check the arguments of `attribute`, given by name, before any forward.

        Raises:
            TypeError: if one is unknown, naming the closest, or of the wrong kind.
            ValueError: if one is out of range or of the wrong shape.
        """
        if self.layer is None:
            check_layer(self.forward_func, self.layer)
        return prepared(self, self.layer, arguments, device_ids=self.device_ids)

    def map(self, state: LayerState, options: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Return the map of one measured tensor, and what else was found, or None."""
        found = self.cam(state, **options)
        return found if isinstance(found, tuple) else (found, None)

    def finish(
        self, states: Sequence[LayerState], maps: Sequence[Tensor], relu_attributions: bool
    ) -> tuple[Tensor, ...]:
        """Give maps their final form: the layer's dtype, finite; warn of blank ones."""
        finished = []
        for state, cam in zip(states, maps, strict=True):
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


def as_captums(cls: type[Any]) -> None:
    """Complete the documentation of a class's `attribute`, and wrap it as Captum does its own."""
    complete(cls.attribute, cls)
    # Captum's wrappers call what is below its decorator.
    cls.attribute = log_usage()(cls.attribute)


as_captums(ClassActivationMap)


def by_name(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call from the ``locals()`` of its function."""
    given = {n: v for n, v in arguments.items() if n not in ("self", "options")}
    given |= arguments["options"]
    return given


def prepared(
    method: Any, layer: nn.Module | None, arguments: Mapping[str, Any], **captums: Any
) -> Prepared:
    """Check the arguments of a method's `attribute`, given by name, before any forward."""
    known = {n: p for n, p in keywords(method.attribute).items() if n != "return_details"}
    for name in arguments:
        if name not in known and name not in CAPTUMS:
            raise TypeError(
                f"{type(method).__name__}.attribute has no parameter {name!r}"
                f"{closest(name, known)}; it takes {', '.join(known) or 'no options'}"
            )
    relu_attributions = arguments.get("relu_attributions", False)
    check_flag("relu_attributions", relu_attributions)
    values = {name: arguments.get(name, p.default) for name, p in known.items()}
    shared = {name: values.pop(name) for name in SHARED_OPTIONS if name in values}
    show_progress = shared.pop("show_progress", False)
    check_flag("show_progress", show_progress)
    check_options(values, {name: known[name].annotation for name in values})
    if method.brings_baselines and shared["baselines"] is None:
        shared["baselines"] = method.default_baselines(arguments["inputs"])
    if isinstance(shared.get("scorer"), str):
        # Built once, and kept with the method's object for the next call.
        kept = vars(method).setdefault("named_scorers", {})
        shared["scorer"] = kept.setdefault(shared["scorer"], NamedScorer(shared["scorer"]))
    request = checked_request(
        method.forward_func,
        layer,
        arguments["inputs"],
        arguments.get("target"),
        arguments.get("additional_forward_args"),
        attribute_to_layer_input=arguments.get("attribute_to_layer_input", False),
        grad_kwargs=arguments.get("grad_kwargs"),
        description=f"{method.name} attribution" if show_progress else None,
        **captums,
        **shared,
    )
    return Prepared(request, values, relu_attributions)


def keywords(attribute: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keyword-only parameters of a function, by name."""
    parameters = inspect.signature(attribute).parameters
    return {n: p for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
