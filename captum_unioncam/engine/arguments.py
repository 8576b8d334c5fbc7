"""Checks of what the user passed, made before anything expensive runs."""

import ast
import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from captum_unioncam.engine.captum_compat import BaselineType


def closest(name: str, names: Iterable[str]) -> str:
    """Return a sentence that points at the names closest to a wrong one, or nothing."""
    found = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; closest: {', '.join(map(repr, found))}" if found else ""


def read_options(
    text: str, name: str, assignments: Iterable[str], known: Iterable[str]
) -> dict[str, Any]:
    """Return options written as ``option=value``; values are Python literals or plain words.

    Args:
        text (str): what the user wrote as a whole.
        name (str): what takes the options.
        assignments (Iterable[str]): the parts of the text that set one each.
        known (Iterable[str]): the options that there are.

    Raises:
        ValueError: if a part sets no such option, naming the closest ones.

    Examples::

        >>> read_options("unioncam:theta=30:alpha=count", "unioncam", ["theta=30", "alpha=count"],
        ...              ["theta", "alpha"])
        {'theta': 30, 'alpha': 'count'}
    """
    known, options = list(known), {}
    for assignment in assignments:
        option, equals, value = assignment.partition("=")
        if not equals or option not in known:
            raise ValueError(
                f"{text!r}: {assignment!r} is no option=value of {name}{closest(option, known)}; "
                f"it takes {', '.join(known) or 'none'}"
            )
        try:
            options[option] = ast.literal_eval(value)
        # It documents them all.
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            options[option] = value
    return options


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        hint = closest(value, choices) if isinstance(value, str) else ""
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}{hint}"
        )


def check_flag(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is True or False: a tensor here is a misplaced argument."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    whole: bool = False,
) -> None:
    """Raise unless `value` is a finite number within the bounds given, and an int if `whole`."""
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = "an int" if whole else "a number"
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")
    number = float(value)
    bounds = {"greater than": above, "at least": least, "at most": most}
    outside = (
        (above is not None and number <= above)
        or (least is not None and number < least)
        or (most is not None and number > most)
    )
    if outside or not math.isfinite(number):
        wanted = " and ".join(f"{word} {b}" for word, b in bounds.items() if b is not None)
        raise ValueError(f"{name} must be a finite number {wanted}".rstrip() + f", got {value}")


def check_count_or_none(name: str, value: Any) -> None:
    """Raise unless `value` is None or an int of at least 1."""
    if value is not None:
        check_number(name, value, above=0, whole=True)


def check_max_masks(name: str, value: Any) -> None:
    """Raise unless `value` is None, "auto" or an int of at least 1."""
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(f'{name} must be an int, "auto" or None, got {value!r}')
    else:
        check_count_or_none(name, value)


def check_percent(name: str, value: Any) -> float:
    """Return `value` as float.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is outside [0, 100].
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number from 0 to 100, got {type(value).__name__}")
    if not 0 <= float(value) <= 100:
        raise ValueError(f"{name} must be from 0 to 100, got {value}")
    return float(value)


def check_perturbations_per_eval(value: Any) -> None:
    """Raise unless `value` is None or an int of at least 1."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"perturbations_per_eval must be an int or None, got {type(value).__name__}"
        )
    if value < 1:
        raise ValueError(f"perturbations_per_eval must be at least 1, got {value}")


def parse_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple of tensors with the same number of examples.

    Raises:
        TypeError: if `inputs` is not a tensor or a tuple of tensors.
        ValueError: if there is no example, or the inputs disagree on how many there are.
    """
    parsed = inputs if isinstance(inputs, tuple) else (inputs,)
    for position, value in enumerate(parsed):
        if not isinstance(value, Tensor):
            which = f"inputs[{position}]" if isinstance(inputs, tuple) else "inputs"
            raise TypeError(
                f"{which} must be a Tensor, got {type(value).__name__}; give several inputs as a "
                "tuple of Tensors, and anything else through additional_forward_args"
            )
        if value.dim() == 0 or len(value) == 0:
            raise ValueError(
                f"inputs must hold at least one example, got shape {tuple(value.shape)}"
            )
        if value.is_meta:
            raise ValueError(
                f"inputs must hold values, got a meta tensor of shape {tuple(value.shape)}; make "
                'it without torch.device("meta"), and the model too'
            )
    if not parsed:
        raise ValueError("inputs is an empty tuple")
    if len({len(value) for value in parsed}) > 1:
        shapes = ", ".join(str(tuple(value.shape)) for value in parsed)
        raise ValueError(f"inputs must agree on the number of examples, got shapes {shapes}")
    return parsed


def check_finite(name: str, values: Tensor, hint: str) -> None:
    """Raise ValueError naming how many values of which example are NaN or infinite."""
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        bad = (~finite).reshape(len(finite), -1).sum(1).tolist()
        rows = [row for row, count in enumerate(bad) if count]
        raise ValueError(
            f"{name} hold NaN or infinity: {sum(bad)} of {values.numel()} values, in example(s) "
            f"{rows[:5]}; {hint}"
        )


def maskable(inputs: tuple[Tensor, ...], layer_output: Tensor) -> tuple[bool, ...]:
    """Say which inputs a map of the layer can mask: floating point and of the layer's rank.

    Raises:
        ValueError: if there is none.
    """
    fits = tuple(x.is_floating_point() and x.dim() == layer_output.dim() for x in inputs)
    if not any(fits):
        kinds = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in inputs)
        ranks = {x.dim() for x in inputs}
        remedy = (
            "convert it with .float()"
            if layer_output.dim() in ranks
            else "choose a layer that keeps maps, see captum_unioncam.suggest_layer"
        )
        raise ValueError(
            f"no input can be masked: the layer gives shape {tuple(layer_output.shape)}, so an "
            f"input must be floating point with {layer_output.dim()} dimensions, got {kinds}; "
            f"{remedy}"
        )
    return fits


def parse_baselines(
    baselines: BaselineType, inputs: tuple[Tensor, ...]
) -> tuple[Tensor | int | float, ...]:
    """Return one baseline per input, each a number or a tensor that broadcasts to its input.

    Raises:
        TypeError: if a baseline is neither a number nor a tensor.
        ValueError: if there is not one per input, or a shape does not fit.
    """
    if baselines is None:
        return (0,) * len(inputs)
    # Captum's wrappers pass a tuple even for a bare tensor.
    parsed = baselines if isinstance(baselines, tuple) else (baselines,)
    if len(parsed) != len(inputs):
        raise ValueError(
            f"baselines must give one entry per input: got {len(parsed)} for {len(inputs)} inputs"
        )
    for x, baseline in zip(inputs, parsed, strict=True):
        _check_baseline(baseline, x)
    return parsed


def _check_baseline(baseline: Any, x: Tensor) -> None:
    if isinstance(baseline, Tensor):
        same_rank = baseline.dim() == x.dim()
        fits = same_rank and all(b in (1, s) for b, s in zip(baseline.shape, x.shape, strict=True))
        if baseline.dim() and not fits:
            leading = baseline.dim() == x.dim() - 1
            hint = "; add the example dimension with baselines.unsqueeze(0)" if leading else ""
            raise ValueError(
                f"a baseline of shape {tuple(baseline.shape)} does not fit an input of shape "
                f"{tuple(x.shape)}: every size must be the input's or 1{hint}"
            )
        finite = bool(torch.isfinite(baseline).all())
    elif isinstance(baseline, bool) or not isinstance(baseline, numbers.Real):
        raise TypeError(f"a baseline must be a number or a Tensor, got {type(baseline).__name__}")
    else:
        finite = math.isfinite(baseline)
    if not finite:
        raise ValueError("a baseline holds NaN or infinity")
