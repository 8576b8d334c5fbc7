"""Insertion and deletion: the score as pixels are shown or hidden in the map's order."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_unioncam.engine import (
    BaselineType,
    MaskScorer,
    Score,
    TargetType,
    check_flag,
    check_number,
)
from captum_unioncam.metrics.common import Evaluation, evaluation, pixel_ranks

# RISE changes 8 x 224 of 224 x 224 pixels at a time.
RISE_STEPS = 28


def deletion(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    *,
    target: TargetType = None,
    baselines: BaselineType = None,
    additional_forward_args: Any = None,
    score: Score = "probability",
    perturbations_per_eval: int | None = None,
    show_progress: bool = False,
    step: int | None = None,
    return_curve: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
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

    Args:
        forward_func (Callable or torch.nn.Module): the model, or any function of it that returns
            one row of scores per example.
        inputs (Tensor or tuple[Tensor, ...]): inputs, dimension 0 being the examples, N. Floating
            point inputs of the first one's rank change, the others pass; those of another size
            follow the first one's pixels, resized linearly.
        attributions (Tensor): maps of shape (N, C, *any spatial size), from any attribution.
            Channels are summed; maps are resized linearly to the input.
        target (int, tuple, Tensor or list, optional): output to measure, as in every Captum
            method. Default: None
        baselines (scalar, Tensor or tuple, optional): what deleted pixels show, one entry per
            input: a number, or a tensor that broadcasts to the input. For a black image under mean
            and standard deviation use ``black_baseline``. Default: 0
        additional_forward_args (Any, optional): further arguments of forward_func. Tensors whose
            first dimension is N follow their example, the rest is passed as it is. Default: None
        score (str or Callable, optional): f_c: "probability", "logit", or a function of the raw
            output that returns a tensor of its shape or one score per row.
            Default: "probability"
        perturbations_per_eval (int, optional): at most this many times N rows in a forward; None
            fits the rows to the device. Does not change the result. Default: None
        show_progress (bool, optional): show a progress bar on stderr. Default: False
        step (int, optional): pixels per step. None takes a 28th of them, rounded up: the 8 x 224
            of RISE's evaluation on 224 x 224 pixels. Default: None
        return_curve (bool, optional): also return the scores. Default: False

    Returns:
        *Tensor* of areas, (N,), or a tuple (**areas**, **scores**) with ``return_curve=True``,
        the scores s_0 to s_T being (N, T + 1). Detached, in float32 or better.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range or of the wrong shape, or values are not finite.

    Examples::

        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> # The map of the values themselves: 4 goes first.
        >>> deletion(forward, x, x, step=1, return_curve=True)
        (tensor([3.7500]), tensor([[10.,  6.,  3.,  1.,  0.]]))
    """
    _check_curve(step, return_curve)
    with evaluation(
        "deletion", forward_func, inputs, attributions, target=target, baselines=baselines,
        additional_forward_args=additional_forward_args, score=score,
        perturbations_per_eval=perturbations_per_eval, show_progress=show_progress,
    ) as evaluated:  # fmt: skip
        scores = _curve(evaluated, step, torch.ge)
        areas = _area(scores)
    return (areas, scores) if return_curve else areas


def insertion(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    *,
    target: TargetType = None,
    baselines: BaselineType = None,
    additional_forward_args: Any = None,
    score: Score = "probability",
    perturbations_per_eval: int | None = None,
    show_progress: bool = False,
    step: int | None = None,
    blur_size: int = 11,
    blur_stdev: float = 5.0,
    start: BaselineType = None,
    return_curve: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Insertion: the area under the score as pixels appear, the map's largest first.

    .. math::
        \frac{1}{T} \sum_{t=1}^{T} \frac{s_{t-1} + s_t}{2}, \qquad
        s_t = f_c\big(\text{the first } t \cdot step \text{ pixels show } I_0\text{, the others }
        G * I_0\big)

    with T = ceil(pixels / step), f_c the softmax probability and G a Gaussian blur. With
    probabilities from 0 to 1, higher is better.

    Protocol: RISE's, as in :func:`deletion`, with the same tie rule. The blur is theirs too: its
    kernel is SciPy's Gaussian filter applied to a single point in a window of 11 pixels. SciPy
    reflects the tails into the window, so that the kernel sums to one and is much flatter than a
    truncated Gaussian. Outside the input counts as zero, the mean colour of normalised inputs.

    Cost: T + 2 forwards per example.

    Source: Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box
    Models. BMVC, 2018. https://arxiv.org/abs/1806.07421

    Args:
        forward_func (Callable or torch.nn.Module): as in :func:`deletion`.
        inputs (Tensor or tuple[Tensor, ...]): as in :func:`deletion`.
        attributions (Tensor): maps of shape (N, C, *any spatial size), prepared as in
            :func:`deletion`.
        target (int, tuple, Tensor or list, optional): output to measure. Default: None
        baselines (scalar, Tensor or tuple, optional): accepted, so that every metric takes the same
            arguments, and not used; see `start`. Default: None
        additional_forward_args (Any, optional): further arguments of forward_func. Default: None
        score (str or Callable, optional): f_c: "probability", "logit", or a function of the raw
            output. Default: "probability"
        perturbations_per_eval (int, optional): at most this many times N rows in a forward; None
            fits the rows to the device. Does not change the result. Default: None
        show_progress (bool, optional): show a progress bar on stderr. Default: False
        step (int, optional): pixels per step; None takes a 28th of them, rounded up, as in
            :func:`deletion`. Default: None
        blur_size (int, optional): pixels of the blur along each dimension, odd. Default: 11
        blur_stdev (float, optional): standard deviation of the blur in pixels. Default: 5.0
        start (scalar, Tensor or tuple, optional): what pixels show before they are inserted, given
            like baselines, in place of the blurred input. Default: None
        return_curve (bool, optional): also return the scores. Default: False

    Returns:
        *Tensor* of areas, (N,), or a tuple (**areas**, **scores**) with ``return_curve=True``,
        the scores s_0 to s_T being (N, T + 1). Detached, in float32 or better.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range or of the wrong shape, or values are not finite.

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
    with evaluation(
        "insertion", forward_func, inputs, attributions, target=target, baselines=start,
        additional_forward_args=additional_forward_args, score=score,
        perturbations_per_eval=perturbations_per_eval, show_progress=show_progress,
    ) as evaluated:  # fmt: skip
        if start is None:
            evaluated = _from_blurred(evaluated, blur_size, blur_stdev)
        scores = _curve(evaluated, step, torch.lt)
        areas = _area(scores)
    return (areas, scores) if return_curve else areas


def _check_curve(step: Any, return_curve: Any) -> None:
    check_flag("return_curve", return_curve)
    if step is not None:
        check_number("step", step, above=0, whole=True)


def _curve(
    evaluated: Evaluation, step: int | None, shows_input: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the scores as more and more pixels change, (N, T + 1).

    Args:
        evaluated (Evaluation): what to score.
        step (int, optional): pixels per step.
        shows_input (Callable): compares the places of pixels in the map's order with how many
            have changed, and says which of them show the input.
    """
    ranks = pixel_ranks(evaluated.maps)
    pixels = ranks.shape[1]
    if step is None:
        step = math.ceil(pixels / RISE_STEPS)
    if step > pixels:
        raise ValueError(
            f"step={step} is more than the {pixels} pixels of these inputs, so that the order of "
            "the map would not matter; None takes a 28th of them"
        )
    changed = step * torch.arange(math.ceil(pixels / step) + 1, device=ranks.device)
    rows = evaluated.rows.repeat_interleave(len(changed))
    changed = changed.repeat(len(ranks))

    def masks(chunk: slice) -> Tensor:
        shown = shows_input(ranks[rows[chunk]], changed[chunk, None])
        return shown.to(evaluated.maps.dtype).reshape(-1, *evaluated.maps.shape[1:])

    return evaluated.masked_scores(rows, masks).reshape(len(ranks), -1)


def _area(scores: Tensor) -> Tensor:
    """Return the area under each curve over [0, 1], by the trapezoidal rule."""
    return torch.trapezoid(scores, dim=1) / (scores.shape[1] - 1)


def _from_blurred(evaluated: Evaluation, size: int, stdev: float) -> Evaluation:
    """Return the evaluation with blurred inputs as what masked-out parts show."""
    old = evaluated.scorer
    starts = tuple(
        _blurred(x, size, stdev) if is_masked else 0
        for x, is_masked in zip(evaluated.request.inputs, old.masked, strict=True)
    )
    return replace(evaluated, scorer=MaskScorer(evaluated.request, old.masked, starts, old.target))


def _blurred(x: Tensor, size: int, stdev: float) -> Tensor:
    """Blur inputs (N, C, *spatial) by RISE's Gaussian, with zeros beyond the borders."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    weights = rise_kernel(size, stdev)
    for dim in range(2, x.dim()):
        lines = x.movedim(dim, -1)
        length = lines.shape[-1]
        padded = F.pad(lines, (size // 2, size // 2))
        # Shifted sums rather than a convolution keep the precision under a caller's autocast.
        blurred = torch.zeros_like(lines)
        for shift, weight in enumerate(weights):
            blurred += weight * padded[..., shift : shift + length]
        x = blurred.movedim(-1, dim)
    return x


def rise_kernel(size: int, stdev: float) -> list[float]:
    """Return RISE's blur along one dimension; that of an image is its outer product.

    A Gaussian of SciPy's default reach, four standard deviations to either side, is folded back
    into `size` pixels wherever it passes their ends.

    Examples::

        >>> [round(weight, 4) for weight in rise_kernel(5, 1.0)]
        [0.0584, 0.2421, 0.3989, 0.2421, 0.0584]
    """
    reach = int(4 * stdev + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    weights = (-0.5 * (offsets.double() / stdev) ** 2).exp()
    places = (size // 2 + offsets) % (2 * size)
    folded = torch.minimum(places, 2 * size - 1 - places)
    kernel = torch.zeros(size, dtype=torch.float64).index_add_(0, folded, weights / weights.sum())
    values: list[float] = kernel.tolist()
    return values
