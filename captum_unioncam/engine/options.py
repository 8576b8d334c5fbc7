"""Options of `attribute`: types that carry their own check, and those that many methods share."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, get_args, get_origin

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import (
    check_choice,
    check_flag,
    check_max_masks,
    check_number,
    check_percent,
)
from captum_unioncam.engine.captum_compat import BaselineType
from captum_unioncam.engine.layout import LayoutOption
from captum_unioncam.engine.randomness import check_seed
from captum_unioncam.engine.scorer_choice import ScorerOption
from captum_unioncam.engine.target_scores import Score

Inputs = Tensor | tuple[Tensor, ...]
Attributions = Tensor | tuple[Tensor, ...]
GradKwargs = dict[str, Any] | None

# An option's check, which raises for wrong values before any forward, stands in its type.
Count = Annotated[int, partial(check_number, above=0, whole=True)]
MaxMasks = Annotated[int | Literal["auto"] | None, check_max_masks]
NotNegative = Annotated[float, partial(check_number, least=0)]
Number = Annotated[float, check_number]
Percent = Annotated[float, check_percent]
Positive = Annotated[float, partial(check_number, above=0)]
Seed = Annotated[int | torch.Generator, check_seed]
Share = Annotated[float, partial(check_number, least=0, most=1)]


class LayerOptions(TypedDict, total=False):
    """Options of every method of a layer."""

    layout: LayoutOption


class PathOptions(LayerOptions, total=False):
    """Options of methods that follow a path from a baseline."""

    baselines: BaselineType


class PerturbationOptions(TypedDict, total=False):
    """Options of every method that scores something changed."""

    score: Score
    perturbations_per_eval: int | None
    show_progress: bool


class InputOptions(PerturbationOptions, total=False):
    """Options of every method that scores changed inputs."""

    baselines: BaselineType
    scorer: ScorerOption


class FeatureOptions(LayerOptions, PerturbationOptions, total=False):
    """Options of every method that scores changed features of a layer."""


class MaskOptions(LayerOptions, InputOptions, total=False):
    """Options of every method that scores inputs masked by maps of a layer."""


class SharedOption(NamedTuple):
    """What a shared option is by default, and what documentation says of it."""

    default: Any
    text: str


# In the order of signatures and documentation.
SHARED_OPTIONS: dict[str, SharedOption] = {
    "layout": SharedOption(
        None,
        """\
layout (str, Layout or Callable, optional): how the layer's tensor lies on the input:
    "maps" (N, C, *spatial), "channels_last" (N, *spatial, C), "tokens" (N, T, C), a
    :class:`captum_unioncam.engine.Layout`, or a function from the tensor to maps, with
    one back, ``(there, back)``, for methods that change the layer's features. None
    finds out, and raises where two readings fit. Default: None
""",
    ),
    "baselines": SharedOption(
        None,
        """\
baselines (scalar, Tensor or tuple, optional): what masked-out parts show, one entry
    per input: a number, or a tensor that broadcasts to the input. For a black image
    under mean and standard deviation use ``black_baseline``.
    Default: {baselines}
""",
    ),
    "score": SharedOption(
        None,
        """\
score (str or Callable, optional): f_c: "probability", "logit", or a function of the
    raw output that returns a tensor of its shape or one score per row.
    Default: "{score}"
""",
    ),
    "perturbations_per_eval": SharedOption(
        None,
        """\
perturbations_per_eval (int, optional): at most this many times N rows in a forward;
    None fits the rows to the device. Does not change the result. Default: None
""",
    ),
    "scorer": SharedOption(
        None,
        """\
scorer (Callable or str, optional): what masked inputs run through instead of
    forward_func, such as a compiled, frozen, half-precision or distributed copy of the
    model, or the name of one that :mod:`captum_unioncam.scorers` builds ("auto" takes
    the fastest that agrees); gradients and hooks stay on forward_func. Inputs are
    converted to the dtype of a module's parameters; scores are kept in float32 or
    better. Default: None
""",
    ),
    "show_progress": SharedOption(
        False,
        """\
show_progress (bool, optional): show a progress bar on stderr. Default: False
""",
    ),
}


def shared_options(annotation: Any, score: Score) -> list[inspect.Parameter]:
    """Return the parameters that ``**options: Unpack[...]`` stands for, in signatures' order.

    Args:
        annotation (Any): ``Unpack`` of one of the dicts above.
        score (str or Callable): the method's default for the option of that name.
    """
    types = get_args(annotation)[0].__annotations__
    defaults = {name: option.default for name, option in SHARED_OPTIONS.items()} | {"score": score}
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(name, keyword, default=default, annotation=types[name])
        for name, default in defaults.items()
        if name in types
    ]


def check_options(values: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """Check values by the types of the parameters that take them.

    Raises:
        TypeError: if a value is of the wrong kind.
        ValueError: if it is out of range, or no such choice, naming the closest one.
    """
    for name, value in values.items():
        annotation = annotations[name]
        if get_origin(annotation) is Annotated:
            annotation.__metadata__[0](name, value)
        elif get_origin(annotation) is Literal:
            check_choice(name, value, get_args(annotation))
        elif annotation is bool:
            check_flag(name, value)
