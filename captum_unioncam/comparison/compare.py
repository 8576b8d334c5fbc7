"""Several attributions of the same inputs, side by side, on one set of measurements."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.comparison.data import Measured
from captum_unioncam.comparison.grad_cam import LayersOfGradCAM
from captum_unioncam.comparison.result import Comparison
from captum_unioncam.engine import BaselineType, Score, check_choice, check_flag, checked_request
from captum_unioncam.engine.callable_targets import is_callable_target, target_name
from captum_unioncam.engine.captum_compat import NullProgress, progress
from captum_unioncam.engine.cost import Cost, measured_cost
from captum_unioncam.engine.layer_state import evaluation_mode, scorer_of_all
from captum_unioncam.engine.locks import exclusive_use
from captum_unioncam.engine.modules import model_behind
from captum_unioncam.engine.request import copied
from captum_unioncam.engine.scorer_choice import ScorerOption, name_of_scorer
from captum_unioncam.engine.target_scores import (
    TargetScores,
    check_output,
    output_as_read,
    parse_target,
)
from captum_unioncam.methods.compared_methods import (
    ComparedMethod,
    Explainer,
    Methods,
    compared_methods_of,
    forward_func_of,
    keywords_of,
)
from captum_unioncam.methods.selected_cam import CRITERIA, Criterion, LayerSelectedCAM
from captum_unioncam.metrics import SharedScores, metric_of
from captum_unioncam.scorers import Scorer

DEFAULT_METRICS = ("average_drop", "average_increase", "insertion", "deletion")


def compare(
    methods: Methods,
    inputs: Tensor | tuple[Tensor, ...],
    target: Any = None,
    *,
    forward_func: Callable[..., Any] | None = None,
    layer: nn.Module | None = None,
    additional_forward_args: Any = None,
    baselines: BaselineType = None,
    score: Score | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    metric_options: Mapping[str, Mapping[str, Any]] | None = None,
    perturbations_per_eval: int | None = None,
    scorer: ScorerOption = None,
    best_by: Criterion | None = None,
    show_progress: bool = False,
) -> Comparison:
    r"""Explain the same inputs with several methods and measure every map.

    Methods of this package share one measurement of the layer: the clean pass, and the masked
    forwards of Score-CAM, Grad++-ScoreCAM, Fusion-CAM and UnionCAM. Several classes share the
    masked forwards too, so that m such methods and k classes cost one masked pass. Maps are
    clipped at zero, as in the papers, unless a method scales them to [0, 1]; attributions of
    pixels are summed over channels first.

    Args:
        methods (Mapping or Sequence): names from the registry, with options after colons
            (``"unioncam:theta=30"``, ``"unioncam.region"`` for one of its modules), attribution
            objects of this package or of Captum, or tuples (name or object, options of its
            `attribute`). A mapping gives each its label.
        inputs (Tensor or tuple[Tensor, ...]): inputs, dimension 0 being the examples.
        target (Any, optional): a target as in every Captum method; ``"top3"`` for each
            example's three most probable classes (any number); a callable, as those of
            :mod:`captum_unioncam.targets`, or one for each example; or a dict from labels to
            targets, to compare classes or anything else. Default: None
        forward_func (Callable, optional): the model; needed for methods given by name, taken
            from the first attribution object otherwise. Default: None
        layer (torch.nn.Module, optional): layer for methods given by name. Default: None
        additional_forward_args (Any, optional): further arguments of forward_func.
            Default: None
        baselines (scalar, Tensor or tuple, optional): what masked-out parts show, in metrics
            and in methods that take baselines; those that bring their own, as Group-CAM its
            blurred input, keep it. Default: 0
        score (str or Callable, optional): f_c of metrics and methods. By default the methods
            keep theirs and metrics use the "probability". Default: None
        metrics (Sequence[str], optional): names from ``captum_unioncam.metrics.METRICS``, with
            options after colons (``"keep_at_area:background=blur"``).
            Default: average_drop, average_increase, insertion, deletion
        metric_options (Mapping, optional): further keywords of a metric, by how it is named.
            Default: None
        perturbations_per_eval (int, optional): at most this many times N rows in a forward;
            None fits the rows to the device. Default: None
        scorer (Callable or str, optional): what changed inputs run through, in methods and
            metrics alike, instead of forward_func: what :mod:`captum_unioncam.scorers` builds, its
            name, or a callable of your own. It is compared with the model for every class; where
            one deviates by more than is tolerated, the model runs them all. A name builds it for
            this call; for several calls build it once. Methods with a `scorer` among their own
            options keep that. Default: None
        best_by (str, optional): a last column, "best by ...", with that map of the others which is
            the best of each example and class: a criterion of
            :class:`captum_unioncam.LayerSelectedCAM`, "keep_less_drop_at_area", "keep_at_area",
            "drop_at_area" or "beta". The method itself, in `methods`, also unites pairs.
            Default: None
        show_progress (bool, optional): show a progress bar on stderr. Default: False

    Returns:
        *Comparison* with ``maps`` (label to (N, K, *spatial of the map), K classes), ``rows``
        (one per example, class and method, with every metric and what it cost), ``figure()``,
        ``save()``, ``to_csv()`` and a readable repr; with `scorer` also ``scorer`` and
        ``scorer_deviation``, what ran the changed inputs and how far it was from the model.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if there is no such method or metric, or as the methods and metrics raise.

    Examples::

        >>> from captum.attr import Saliency
        >>> from captum_unioncam import compare
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(144, 3),
        ... ).eval()
        >>> result = compare(
        ...     ["gradcam", "scorecam", "unioncam:alpha=count", Saliency(net)],
        ...     torch.rand(2, 3, 8, 8), "top2", forward_func=net, layer=net[1],
        ...     metrics=["average_drop"],
        ... )
        >>> list(result.maps)
        ['Grad-CAM', 'Score-CAM', 'UnionCAM alpha=count', 'Saliency']
        >>> result.maps["Score-CAM"].shape, len(result.rows)
        (torch.Size([2, 2, 6, 6]), 16)
    """
    check_flag("show_progress", show_progress)
    entries = compared_methods_of(methods, forward_func, layer)
    model_func = forward_func or forward_func_of(entries[0].attribution)
    if best_by is not None:
        check_choice("best_by", best_by, CRITERIA)
        entries.append(_best_of(entries, best_by, model_func, layer))
    wanted = _metric_options(metrics, metric_options)
    common: dict[str, Any] = {
        "baselines": baselines,
        "score": score,
        "perturbations_per_eval": perturbations_per_eval,
        "scorer": scorer,
    }
    request = checked_request(
        model_func, None, inputs, None, additional_forward_args,
        **{**common, "score": score or "probability"},
    )  # fmt: skip
    bar = progress if show_progress else NullProgress
    maps: dict[str, list[Tensor]] = {}
    details: dict[str, list[Any]] = {}
    values: dict[str, list[Measured]] = {}
    costs: dict[str, Cost] = {}
    with ExitStack() as stack:
        # All at once: two comparisons that took models one by one could wait for each other.
        used = [one for e in entries for one in _used_by(e)]
        stack.enter_context(exclusive_use(model_func, request.scorer, *used))
        stack.enter_context(evaluation_mode(request))
        given = copied((*request.inputs, *request.extra))
        layers = LayersOfGradCAM([entry.attribution for entry in entries])
        with layers.watching(model_behind(model_func), request.num_examples):
            output = model_func(*given)
        entries = [
            replace(entry, attribution=layers.fitting(entry.attribution, request.inputs))
            for entry in entries
        ]
        classes = _classes(target, output, request.num_examples)
        targets = [target for _, target in classes]
        ran, deviation = model_func, None
        if request.scorer_is_own and _are_changed(entries, wanted):
            ran, deviation = scorer_of_all(request, targets)
        # What was found to run all classes is not chosen again.
        common["scorer"] = ran if request.scorer_is_own else None
        watched = _watched(model_func, ran)
        # Only what takes long, masked or perturbed forwards, has a bar of its own.
        told = {**common, "show_progress": show_progress or None}
        explainer = Explainer(
            stack, entries, inputs, targets, additional_forward_args, told,
            returns_tensor=isinstance(output, Tensor),
        )  # fmt: skip
        total = len(entries) * len(targets)
        with stack.enter_context(bar(desc="maps", total=total, unit="map")) as shown:
            for entry in entries:
                with measured_cost(watched, request.inputs[0].device) as costs[entry.label]:
                    maps[entry.label] = []
                    for number in range(len(targets)):
                        asked = entry
                        if best_by is not None and entry is entries[-1]:
                            # Selected from what is there, which is not explained again.
                            others = {e.label: maps[e.label][number] for e in entries[:-1]}
                            asked = replace(entry, options={**entry.options, "pool": others})
                        cam, found_beside = explainer.map(asked, number)
                        maps[entry.label].append(cam)
                        # A part is a map of its own, of which the method's details say nothing.
                        if found_beside is not None and not entry.part:
                            details.setdefault(entry.label, []).append(found_beside)
                        shown.update()
        measured = [SharedScores() for _ in targets]
        with stack.enter_context(bar(desc="metrics", total=total, unit="map")) as shown:
            for entry in entries:
                values[entry.label] = []
                for number, (one, shared) in enumerate(zip(targets, measured, strict=True)):
                    found = _known(maps, values, entry.label, number, wanted)
                    if found is None:
                        found = _measured(
                            wanted, model_func, inputs, maps[entry.label][number],
                            {**common, "target": one, "shared": shared,
                             "additional_forward_args": additional_forward_args},
                            explainer.explanation_func(entry),
                        )  # fmt: skip
                    values[entry.label].append(found)
                    shown.update()
        count = request.num_examples
        probabilities = [_probability(one, output, count) for one in targets]
    return Comparison.of(
        {label: torch.cat(parts, dim=1).cpu() for label, parts in maps.items()},
        values,
        costs,
        torch.stack(probabilities, dim=1).cpu(),
        [[labels[n] for labels, _ in classes] for n in range(request.num_examples)],
        request.inputs,
        "probability" if _are_probabilities(targets, output, count) else "output",
        details,
        name_of_scorer(ran, model_func) if request.scorer_is_own else "",
        deviation,
    )


def _used_by(entry: ComparedMethod) -> list[Any]:
    """Return what an entry's maps are made with."""
    return [entry.attribution, *map(entry.options.get, ("scorer", "pool"))]


def _best_of(
    entries: Sequence[ComparedMethod],
    criterion: Criterion,
    model_func: Callable[..., Any],
    layer: nn.Module | None,
) -> ComparedMethod:
    """Return what selects from the other methods of a comparison."""
    layers = [getattr(e.attribution, "layer", None) for e in entries]
    found = next((one for one in (layer, *layers) if one is not None), None)
    if found is None:
        raise ValueError("best_by needs the layer of its map, and no method has one; pass layer=")
    options = {"pool": {e.label: e for e in entries}, "unions": False, "criterion": criterion}
    return ComparedMethod(f"best by {criterion}", LayerSelectedCAM(model_func, found), options)


def _classes(target: Any, output: Any, count: int) -> list[tuple[list[str], Any]]:
    """Return the targets to compare, each with a label per example."""
    if isinstance(target, str):
        output = check_output(output, count)
        wanted = target.removeprefix("top")
        if not target.startswith("top") or not wanted.isdecimal() or output.dim() != 2:
            raise ValueError(
                f'target {target!r}: a string must be "top1", "top2", ... for an output of shape '
                f"(N, classes), here {tuple(output.shape)}"
            )
        if not 1 <= int(wanted) <= output.shape[1]:
            raise ValueError(f"target {target!r}: the model has {output.shape[1]} classes")
        best = output.topk(int(wanted), dim=1).indices
        return [([str(c) for c in column], column) for column in best.T.tolist()]
    if isinstance(target, Mapping):
        if not target:
            raise ValueError("target is an empty mapping; give at least one class")
        return [([str(label)] * count, one) for label, one in target.items()]
    parsed = parse_target(target, count)
    labels = parsed if isinstance(parsed, list) else [parsed] * count
    return [(["output" if one is None else _label(one) for one in labels], target)]


def _label(target: Any) -> str:
    return target_name(target) if callable(target) else str(target)


def _are_probabilities(targets: Sequence[Any], output: Any, count: int) -> bool:
    """Return whether every target is a class among several, whose probability is told."""
    if any(is_callable_target(parse_target(target, count)) for target in targets):
        return False
    return check_output(output, count)[0].numel() > 1


def _metric_options(
    names: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    """Return the metrics asked for with their options, checked before any forward."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"metrics must be a sequence of names, got {names!r}")
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise TypeError(f"metric_options must map metrics to dicts of options, got {options!r}")
    for name in (*names, *options):
        metric_of(name)
    unused = set(options) - set(names)
    if unused:
        raise ValueError(f"metric_options name {_listed(unused)}, which metrics does not ask for")
    for name in names:
        needed = set(metric_of(name).needs) - {"explanation_func"}
        if needed and not needed & set(options.get(name, {})):
            raise ValueError(f"metric {name!r} needs metric_options for {_listed(needed, ' or ')}")
    return {name: dict(options.get(name, {})) for name in names}


def _listed(names: Any, between: str = ", ") -> str:
    return between.join(sorted(names))


def _are_changed(entries: Sequence[ComparedMethod], wanted: Iterable[str]) -> bool:
    """Return whether methods or metrics take a scorer, which is not built for nothing."""
    taken = [keywords_of(e.attribution) for e in entries]
    taken += [set(inspect.signature(metric_of(name).function).parameters) for name in wanted]
    return any("scorer" in names for names in taken)


def _watched(model_func: Callable[..., Any], ran: Callable[..., Any]) -> list[nn.Module]:
    """Return the modules whose rows are counted; none where some would be missed."""
    # Rows of a scorer count as its model's.
    models = [model_behind(one) for one in (model_func, ran) if not isinstance(one, Scorer)]
    known = [one for one in models if one is not None]
    return list(dict.fromkeys(known)) if len(known) == len(models) else []


def _known(
    maps: Mapping[str, Sequence[Tensor]],
    values: Mapping[str, Sequence[Measured]],
    label: str,
    number: int,
    wanted: Mapping[str, Any],
) -> Measured | None:
    """Return what an equal map of another method measured, as UnionCAM's and its region's."""
    if any("explanation_func" in metric_of(name).needs for name in wanted):
        return None
    for other, found in values.items():
        if len(found) > number and torch.equal(maps[other][number], maps[label][number]):
            return found[number]
    return None


def _measured(
    wanted: Mapping[str, Mapping[str, Any]],
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    maps: Tensor,
    common: Mapping[str, Any],
    explanation_func: Callable[..., Tensor],
) -> Measured:
    """Measure one method's maps of one target."""
    found = Measured({}, {})
    for name, options in wanted.items():
        metric = metric_of(name)
        known = inspect.signature(metric.function).parameters
        given = {n: v for n, v in common.items() if n in known and v is not None}
        if "explanation_func" in known:
            given["explanation_func"] = explanation_func
        has_curve = "return_curve" in known and "return_curve" not in options
        if has_curve:
            given["return_curve"] = True
        value = metric.function(forward_func, inputs, maps, **{**given, **options})
        if has_curve:
            value, curve = value
            found.curves[name] = curve.cpu()
        if not isinstance(value, Tensor):
            raise ValueError(
                f"metric {name!r} gives more than its values with {options}; drop that"
            )
        found.values[name] = value.cpu()
    return found


def _probability(target: Any, output: Any, count: int) -> Tensor:
    parsed = parse_target(target, count)
    read = output_as_read(parsed, output, count)
    scores = TargetScores.from_output("probability", parsed, read)
    return scores.target_score(read, torch.arange(count))[1]
