"""Insertion and deletion: the score as pixels are shown or hidden in the map's order."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.baselines import blurred_as_in_rise
from captum_unioncam.engine import BaselineType, MaskScorer, check_flag, check_number
from captum_unioncam.metrics.common import Evaluation, evaluation
from captum_unioncam.metrics.options import EvaluationOptions, Forward, Inputs, Maps, metric
from captum_unioncam.metrics.shared import once

# RISE changes 8 x 224 of 224 x 224 pixels at a time.
RISE_STEPS = 28


@metric
def deletion(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *, step: int | None = None,
    return_curve: bool = False, **options: Unpack[EvaluationOptions],
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    r"""Deletion: the area under the score as pixels vanish, the map's largest first.

    .. math::
        \frac{1}{T} \sum_{t=1}^{T} \frac{s_{t-1} + s_t}{2}, \qquad
        s_t = f_c\big(\text{the first } t \cdot step \text{ pixels show } I_b\text{, the others }
        I_0\big)

    with T = ceil(pixels / step) and f_c the softmax probability, not divided by the clean one.
    With probabilities from 0 to 1, lower is better.

    Protocol: RISE's. All channels of a pixel change together; the last step may be a shorter one
    and counts like the others. Deleted pixels show 0, which on normalised inputs is the mean
    colour, as in the authors' evaluation.

    Deviations: pixels of equal value go in scan order, where theirs go as an unstable sort has
    them, so that maps without many values, such as those resized to the nearest, differ. A map of
    equal values is measured as that order; the control for curves is a random map. `step`
    defaults to their share of the pixels rather than to their number.

    Cost: T + 2 forwards per example.

    Source: Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box
    Models. BMVC, 2018. https://arxiv.org/abs/1806.07421

    Returns:
        *Tensor* of areas, (N,), or a tuple (**areas**, **scores**) with ``return_curve=True``,
        the scores s_0 to s_T being (N, T + 1). Detached, in float32 or better.

    Examples::

        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> # The map of the values themselves: 4 goes first.
        >>> deletion(forward, x, x, step=1, return_curve=True)
        (tensor([3.7500]), tensor([[10.,  6.,  3.,  1.,  0.]]))
    """
    _check_curve(step, return_curve)
    with evaluation("deletion", forward_func, inputs, attributions, **options) as evaluated:
        scores = _curve(evaluated, step, torch.ge, (1, 0))
        areas = _area(scores)
    return (areas, scores) if return_curve else areas


@metric
def insertion(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *, step: int | None = None,
    blur_size: int = 11, blur_stdev: float = 5.0, start: BaselineType = None,
    return_curve: bool = False, **options: Unpack[EvaluationOptions],
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    r"""Insertion: the area under the score as pixels appear, the map's largest first.

    As :func:`deletion`, but with
    :math:`s_t = f_c(\text{the first } t \cdot step \text{ pixels show } I_0\text{, the others }
    G * I_0)`, G being a Gaussian blur. With probabilities from 0 to 1, higher is better.

    Protocol: RISE's, as in :func:`deletion`, with the same tie rule. The blur is theirs too: its
    kernel is SciPy's Gaussian filter applied to a single point in a window of 11 pixels. SciPy
    reflects the tails into the window, so that the kernel sums to one and is much flatter than a
    truncated Gaussian. Outside the input counts as zero, the mean colour of normalised inputs.

    Cost: T + 2 forwards per example.

    Source: that of :func:`deletion`.

    Args:
        baselines (scalar, Tensor or tuple, optional): accepted, so that every metric takes the same
            arguments, and not used; see `start`. Default: None
        blur_size (int, optional): pixels of the blur along each dimension, odd. Default: 11
        blur_stdev (float, optional): standard deviation of the blur in pixels. Default: 5.0
        start (scalar, Tensor or tuple, optional): what pixels show before they are inserted, given
            like baselines, in place of the blurred input. Default: None

    Returns:
        *Tensor* of areas, or a tuple with ``return_curve=True``, as in :func:`deletion`.

    Examples::

        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> # The map of the values themselves: 4 comes first.
        >>> insertion(forward, x, x, step=1, start=0, return_curve=True)
        (tensor([6.2500]), tensor([[ 0.,  4.,  7.,  9., 10.]]))
    """
    _check_curve(step, return_curve)
    check_number("blur_size", blur_size, above=0, whole=True)
    if blur_size % 2 == 0:
        raise ValueError(f"blur_size must be odd, to have a middle, got {blur_size}")
    check_number("blur_stdev", blur_stdev, above=0)
    options["baselines"] = start
    with evaluation("insertion", forward_func, inputs, attributions, **options) as evaluated:
        if start is None:
            evaluated = _from_blurred(evaluated, blur_size, blur_stdev)
        scores = _curve(evaluated, step, torch.lt, (0, 1))
        areas = _area(scores)
    return (areas, scores) if return_curve else areas


def _check_curve(step: Any, return_curve: Any) -> None:
    check_flag("return_curve", return_curve)
    if step is not None:
        check_number("step", step, above=0, whole=True)


def _curve(
    evaluated: Evaluation,
    step: int | None,
    shows_input: Callable[[Tensor, Tensor], Tensor],
    ends: tuple[int, int],
) -> Tensor:
    """Return the scores as more and more pixels change, (N, T + 1).

    Args:
        evaluated (Evaluation): what to score.
        shows_input (Callable): compares the places of pixels in the map's order with how many
            have changed, and returns which of them show the input.
        ends (tuple[int, int]): the masks that it begins and ends with, whatever the map.
    """
    ranks = evaluated.ranks
    pixels = ranks.shape[1]
    if step is None:
        step = math.ceil(pixels / RISE_STEPS)
    if step > pixels:
        raise ValueError(
            f"step={step} is more than the {pixels} pixels of these inputs, so that the order of "
            "the map would not matter; None takes a 28th of them"
        )
    changed = step * torch.arange(1, math.ceil(pixels / step), device=ranks.device)
    rows = evaluated.rows.repeat_interleave(len(changed))
    changed = changed.repeat(len(ranks))

    def masks(chunk: slice) -> Tensor:
        shown = shows_input(ranks[rows[chunk]], changed[chunk, None])
        return shown.to(evaluated.maps.dtype).reshape(-1, *evaluated.maps.shape[1:])

    first, last = evaluated.scores_under(*ends)
    between = evaluated.masked_scores(rows, masks).reshape(len(ranks), -1)
    return torch.cat([first[:, None], between.to(first), last[:, None]], dim=1)


def _area(scores: Tensor) -> Tensor:
    """Return the area under each curve over [0, 1], by the trapezoidal rule."""
    return torch.trapezoid(scores, dim=1) / (scores.shape[1] - 1)


def _from_blurred(evaluated: Evaluation, size: int, stdev: float) -> Evaluation:
    """Return the evaluation with blurred inputs as what masked-out parts show."""
    old = evaluated.scorer
    starts = once(
        evaluated.of_inputs,
        ("blurred", size, stdev),
        lambda: tuple(
            blurred_as_in_rise(x, size, stdev) if is_masked else 0
            for x, is_masked in zip(evaluated.request.inputs, old.masked, strict=True)
        ),
    )
    scorer = MaskScorer(evaluated.request, old.masked, starts, old.target, old.stream)
    return replace(evaluated, scorer=scorer, baselines=starts)
