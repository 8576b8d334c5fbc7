"""Pools of attributions: what a user names, and their maps on one set of measurements."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from captum.attr import LayerGradCam
from torch import Tensor

from captum_unioncam.engine import ClassActivationMap, LayerState, Score
from captum_unioncam.engine.given_maps import check_map, given_maps
from captum_unioncam.methods.compared_methods import (
    ComparedMethod,
    Explainer,
    compared_methods_of,
)
from captum_unioncam.methods.grad_cam import LaidOutGradCAM

Pool = str | Sequence[Any] | Mapping[str, Any]


def pool_of(pool: Any, method: ClassActivationMap) -> dict[str, Any]:
    """Return the members of a pool by label: tensors of maps, and methods as `compare` holds them.

    Args:
        pool (str, Sequence or Mapping): names of the registry with options after colons,
            separated by slashes if they are one string; attribution objects; tuples of one of
            them and its options; or maps. A mapping gives each its label.
        method (ClassActivationMap): gives the model and the layer of those that are names.

    Raises:
        TypeError: if a member is none of these.
        ValueError: if there is none, or a name, part or option is unknown.
    """
    if isinstance(pool, str):
        pool = pool.split("/")
    if isinstance(pool, Tensor) or not isinstance(pool, Mapping | Sequence):
        raise TypeError(
            "pool must be a tuple of names, attributions and maps, a mapping from labels to them, "
            f"or names separated by slashes, got {type(pool).__name__}"
        )
    if not pool:
        raise ValueError("pool is empty; name at least one method, such as ('unioncam',)")
    given = pool if isinstance(pool, Mapping) else dict(enumerate(pool))
    made = {key: m for key, m in given.items() if isinstance(m, Tensor | ComparedMethod)}
    for key, member in made.items():
        if isinstance(member, Tensor):
            check_map(f"map {key!r} of the pool" if isinstance(key, str) else "a map", member, ())
    named: Any = {key: m for key, m in given.items() if key not in made}
    labelled = named if isinstance(pool, Mapping) else list(named.values())
    entries = compared_methods_of(labelled, method.forward_func, method.layer) if named else []
    made.update(zip(named, entries, strict=True))
    members: dict[str, Any] = {}
    for number, key in enumerate(given, 1):
        member = made[key]
        label = f"map {number}" if isinstance(member, Tensor) else member.label
        members[key if isinstance(key, str) else label] = _reading(member)
    return members


def _reading(member: Any) -> Any:
    """Return a member, or a Grad-CAM that reads what the layer gave in place of Captum's own.

    Captum's would run the clean inputs again, and takes every layer's tensor for maps.
    """
    own: Any = getattr(member, "attribution", None)
    if type(own) is not LayerGradCam or member.options:
        return member
    return replace(member, attribution=LaidOutGradCAM(own.forward_func, own.layer, own.device_ids))


def pool_maps(state: LayerState, members: Mapping[str, Any], method: ClassActivationMap) -> Tensor:
    """Return the maps of a pool's members at the size of the finest, (N, members, *spatial).

    Methods on the state's layer read the state, and share what it measures. Maps are clipped at
    zero unless their method scales them; those that the user gives stay as they are.

    Raises:
        ValueError: if a member does not give one map for each example, of the layer's rank.
    """
    request = state.request
    own_score: Score | None = request.score if request.score != method.default_score else None
    rows = request.rows_per_forward
    common = {
        "baselines": _one_or_all(request.baselines),
        "score": own_score,
        "perturbations_per_eval": rows and rows // request.num_examples,
        "scorer": request.scorer if request.scorer_is_own else None,
        "attribute_to_layer_input": request.attribute_to_layer_input,
        "grad_kwargs": request.grad_kwargs,
    }
    entries = {label: m for label, m in members.items() if isinstance(m, ComparedMethod)}
    maps = dict(members)
    with ExitStack() as stack:
        explainer = Explainer(
            stack, list(entries.values()), _one_or_all(request.inputs), [request.target],
            request.extra or None, common,
        )  # fmt: skip
        explainer.use(method.forward_func, request.layer, (state,))
        for label, entry in entries.items():
            attribution = entry.attribution
            if isinstance(attribution, ClassActivationMap) and attribution.layer is method.layer:
                # A method over several layers is mapped on states of others than its own.
                own = copy(attribution)
                own.layer = request.layer
                options = {"layout": request.layout, **entry.options}
                entry = replace(entry, attribution=own, options=options)
            maps[label], _ = explainer.map(entry, 0)
    A = state.activations
    size = max((m.shape[2:] for m in maps.values()), key=torch.Size.numel)
    return torch.cat(
        [given_maps(f"the map of {name!r}", cam, A, size) for name, cam in maps.items()], dim=1
    )


def _one_or_all(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values
