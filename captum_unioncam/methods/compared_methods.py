"""The methods of a comparison, and their maps on shared measurements."""

import inspect
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_unioncam.engine import ClassActivationMap
from captum_unioncam.engine.arguments import closest, parse_baselines
from captum_unioncam.engine.callable_targets import is_callable_target
from captum_unioncam.engine.layer_state import LayerState, SharedMeasurements, measure_layer
from captum_unioncam.engine.request import Request, copied
from captum_unioncam.engine.target_scores import parse_target
from captum_unioncam.methods.method import METHODS
from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.targets import ScoredModel

Methods = Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class ComparedMethod:
    """One method of a comparison.

    Attributes:
        label (str): what tables and figures call it.
        attribution (Attribution): the method on its model.
        options (dict[str, Any]): keywords of its `attribute`.
        part (str): the map that is meant of those it unites; empty for the method's own.
    """

    label: str
    attribution: Attribution
    options: dict[str, Any] = field(default_factory=dict)
    part: str = ""


def compared_methods_of(
    methods: Methods, forward_func: Callable[..., Any] | None, layer: nn.Module | None
) -> list[ComparedMethod]:
    """Resolve the methods that the user named, before any forward.

    Raises:
        TypeError: if a method is neither a name nor an attribution object.
        ValueError: if a name, part or option is unknown, or a name comes without its model.
    """
    if isinstance(methods, str) or not isinstance(methods, Mapping | Sequence) or not methods:
        raise TypeError(
            "methods must be a sequence of names and attribution objects, or a mapping from "
            f"labels to them, got {methods!r}"
        )
    labelled = methods.items() if isinstance(methods, Mapping) else ((None, m) for m in methods)
    entries: list[ComparedMethod] = []
    for label, given in labelled:
        method, options = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
        if isinstance(method, str):
            entry = _named(method, forward_func, layer)
        elif isinstance(method, Attribution):
            entry = ComparedMethod(method.get_name(), method)
        else:
            raise TypeError(
                "a method must be a name of the registry or an attribution object of Captum, or "
                f"one of them with its options, (method, {{...}}), got {given!r}"
            )
        if isinstance(methods, Mapping) and (not isinstance(label, str) or not label):
            raise TypeError(f"labels of methods must be str and not empty, got {label!r}")
        if not isinstance(options, Mapping):
            raise TypeError(f"options of {entry.label} must be a dict, got {options!r}")
        _check_options(entry, options)
        title = label or entry.label
        same = sum(title in (e.label, e.label.rpartition(" #")[0]) for e in entries)
        # A user's own labels are the keys of a mapping, and differ.
        title = f"{title} #{same + 1}" if same and label is None else title
        entries.append(replace(entry, label=title, options={**entry.options, **options}))
    return entries


def _check_options(entry: ComparedMethod, options: Mapping[str, Any]) -> None:
    if isinstance(entry.attribution, ClassActivationMap):
        return
    known = keywords_of(entry.attribution)
    innermost = _parameters(_nested(entry.attribution)[-1]).values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in innermost)
    for name in options:
        if not takes_any and name not in known:
            raise TypeError(
                f"{entry.attribution.get_name()} has no option {name!r}{closest(name, known)}; it "
                f"takes {', '.join(sorted(known))}"
            )


def _nested(attribution: Any) -> list[Any]:
    """Return an attribution and those it wraps, as NoiseTunnel does, the innermost last."""
    inner = getattr(attribution, "attribution_method", None)
    return [attribution] if inner is None else [attribution, *_nested(inner)]


def keywords_of(attribution: Attribution) -> set[str]:
    """Return what is known by name to an attribution or to one that it wraps."""
    return {name for one in _nested(attribution) for name in _parameters(one)}


def _parameters(attribution: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(attribution.attribute).parameters


def _named(
    text: str, forward_func: Callable[..., Any] | None, layer: nn.Module | None
) -> ComparedMethod:
    spec = parse_spec(text)
    method = METHODS[spec.name]
    if forward_func is None or (layer is None and method.needs_layer):
        raise ValueError(
            f"method {text!r} is given by name, so say which model and layer it explains: "
            "forward_func=model, layer=captum_unioncam.suggest_layer(model).layer"
        )
    made = method.cls(forward_func, layer) if method.needs_layer else method.cls(forward_func)
    return ComparedMethod(spec.title(), made, spec.options, spec.part)


def forward_func_of(attribution: Any) -> Callable[..., Any]:
    """Return the model of an attribution object.

    Raises:
        ValueError: if it does not tell.
    """
    found = getattr(_nested(attribution)[-1], "forward_func", None)
    if not callable(found):
        raise ValueError(f"{attribution.get_name()} does not tell its model; pass forward_func=")
    return cast(Callable[..., Any], found)


class Explainer:
    """Makes maps of entries for numbered targets, on shared measurements where they allow it."""

    def __init__(
        self,
        stack: ExitStack,
        entries: Sequence[ComparedMethod],
        inputs: Tensor | tuple[Tensor, ...],
        targets: Sequence[Any],
        extra: Any,
        common: Mapping[str, Any],
        *,
        returns_tensor: bool = True,
    ) -> None:
        self.stack, self.inputs, self.targets = stack, inputs, targets
        self.extra, self.common, self.returns_tensor = extra, common, returns_tensor
        self.needs_gradients = any(
            getattr(e.attribution, "needs_gradients", False) for e in entries
        )
        self.groups: dict[Any, list[tuple[LayerState, ...]]] = {}

    def use(
        self, forward_func: Callable[..., Any], layer: nn.Module, states: tuple[LayerState, ...]
    ) -> None:
        """Take what is measured already of the first target, in place of measuring it again."""
        self.groups[_group_of(forward_func, layer, states[0].request)] = [states]

    def map(self, entry: ComparedMethod, number: int) -> tuple[Tensor, Any]:
        """Return the entry's map for a target, and what else its method found, or None.

        The map is (N, 1, *spatial), clipped at zero unless it is scaled.
        """
        if isinstance(entry.attribution, ClassActivationMap):
            return self._cam(entry, entry.attribution, number)
        explain = self.explanation_func(entry)
        target, extra = self.targets[number], self.extra
        return explain(self.inputs, target=target, additional_forward_args=extra), None

    def explanation_func(self, entry: ComparedMethod) -> Callable[..., Tensor]:
        """Return a function that explains any inputs alone, as Captum's metrics call it."""
        own = _parameters(entry.attribution)
        known = keywords_of(entry.attribution)
        is_scaled = getattr(entry.attribution, "is_scaled", False)

        def explain(inputs: Any, **arguments: Any) -> Tensor:
            given = {**arguments, **self._options(entry, known)}
            passed = {"target", *known, *entry.options}
            given = {n: v for n, v in given.items() if n in passed}
            if "relu_attributions" in own:
                given["relu_attributions"] = not is_scaled
            if entry.part:
                given["return_details"] = True
            extra = "additional_forward_args"
            given = {n: copied(v) if n == extra else v for n, v in given.items()}
            attribution = entry.attribution
            if is_callable_target(given.get("target")) and not _is_ours(attribution):
                attribution = _scored(attribution, given["target"])
                given["target"] = None
            elif not self.returns_tensor and not _is_ours(attribution):
                attribution = _scored(attribution, None)
            with torch.inference_mode(False), torch.enable_grad():
                found = attribution.attribute(copied(inputs), **given)
            if entry.part:
                return cast(Tensor, getattr(found[1], entry.part))
            if isinstance(found, tuple) and len(found) > 1:
                raise ValueError(
                    f"{entry.label} gives {len(found)} maps, one for each input or tensor of the "
                    "layer; compare takes methods that give one"
                )
            first = found[0] if isinstance(found, tuple) else found
            cam = first.detach().sum(1, keepdim=True)
            return cast(Tensor, cam if is_scaled else cam.relu())

        return explain

    def _options(self, entry: ComparedMethod, known: Container[str]) -> dict[str, Any]:
        """Return the keywords of an entry's `attribute`: what all share where it fits, its own."""
        innermost = _nested(entry.attribution)[-1]
        shared = {
            name: value
            for name, value in self.common.items()
            if name in known
            and value is not None
            and not (name == "baselines" and getattr(innermost, "brings_baselines", False))
            and (name not in ("perturbations_per_eval", "scorer") or _is_ours(entry.attribution))
        }
        return {**shared, **entry.options}

    def _cam(
        self, entry: ComparedMethod, method: ClassActivationMap, number: int
    ) -> tuple[Tensor, Any]:
        own = self._options(entry, {*method.options(), "attribute_to_layer_input", "grad_kwargs"})
        arguments = {"inputs": self.inputs, "target": self.targets[0]}
        request, options, _ = method.prepare(
            {**arguments, "additional_forward_args": self.extra, **own}
        )
        # A method that masks nothing shares the clean pass of those that do.
        known = method.options()
        if "scorer" not in known and self.common.get("scorer") is not None:
            request = replace(request, scorer=self.common["scorer"])
        if "baselines" not in known:
            baselines = parse_baselines(self.common.get("baselines"), request.inputs)
            request = replace(request, baselines=baselines)
        if "score" not in known and self.common.get("score") is not None:
            request = replace(request, score=self.common["score"])
        key = _group_of(method.forward_func, method.layer, request)
        if key not in self.groups:
            shared = SharedMeasurements()
            self.groups[key] = [
                self.stack.enter_context(
                    measure_layer(
                        replace(request, target=parse_target(target, request.num_examples)),
                        needs_gradients=self.needs_gradients,
                        shared=shared,
                    )
                )
                for target in self.targets
            ]
        states = self.groups[key][number]
        if len(states) > 1:
            raise ValueError(
                f"{request.layer_name} gives {len(states)} tensors; compare layers that give one"
            )
        cam, details = method.map(states[0], options)
        cam = getattr(details, entry.part) if entry.part else cam
        (cam,) = method.finish(states, [cam], relu_attributions=not method.is_scaled)
        return cam, details


def _group_of(forward_func: Callable[..., Any], layer: nn.Module, request: Request) -> Any:
    """Return what methods have in common that share measurements."""
    # Tensors by identity: they are alive as long as the group that they describe.
    baselines = tuple(id(b) if isinstance(b, Tensor) else b for b in request.baselines)
    return (
        forward_func, layer, request.attribute_to_layer_input, request.score, request.scorer,
        request.layout, baselines,
    )  # fmt: skip


def _scored(attribution: Any, target: Any) -> Any:
    """Return a copy of Captum's attribution, of the scores in the output or a target's of them."""
    scored = copy(attribution)
    inner = getattr(attribution, "attribution_method", None)
    if inner is not None:
        scored.attribution_method = _scored(inner, target)
    scored.forward_func = ScoredModel(forward_func_of(attribution), target)
    if hasattr(attribution, "model"):
        scored.model = scored.forward_func
    return scored


def _is_ours(attribution: Attribution) -> bool:
    return type(attribution).__module__.startswith("captum_unioncam.")
