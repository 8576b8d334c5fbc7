"""Metrics that see only the order of a map's pixels, so that no map gains by covering more."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.baselines import BASELINES, named_baseline
from captum_unioncam.engine import BaselineType, Seed, check_choice, check_flag, check_seed
from captum_unioncam.engine.areas import pixel_order, pixels_of, rank_maps
from captum_unioncam.metrics.common import evaluation
from captum_unioncam.metrics.faithfulness import percent_drop
from captum_unioncam.metrics.options import EvaluationOptions, Forward, Inputs, Maps, metric

AREAS = (0.1, 0.2, 0.3, 0.4, 0.5)
PHOTOGRAPH = "photograph"


@metric
def keep_at_area(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *,
    areas: Sequence[float] = AREAS, background: str | Tensor = "black", seed: Seed = 0,
    return_curve: bool = False, **options: Unpack[EvaluationOptions],
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    r"""Score the inputs with only the most important pixels kept, at areas equal for all maps.

    .. math::
        \mathrm{mean}_a\, f_c(M_a \odot I_0 + (1 - M_a) \odot I_b), \qquad
        M_a = 1[\text{among the } a \text{ largest values of the map}]

    with f_c the softmax probability and :math:`I_b` the background. Higher is better; in [0, 1]
    for probabilities. Any increasing function of a map of the inputs' size, such as a power, has
    the same value.

    With :func:`~captum_unioncam.engine.log_odds.log_odds` as `score`, differences still count
    where probabilities are all close to 0 or 1.

    Protocol: maps of another size are resized linearly and then ranked. Equal values are ordered
    by one random permutation of the pixels, which `seed` fixes, so that a constant map keeps
    random pixels. What can be gained by the outline of the kept region depends on the background:
    measure on several, of which at least one was not used to make the map.

    Cost: one forward per area, and one clean.

    Source: our reading of common practice: Fong, Vedaldi: Interpretable Explanations of Black
    Boxes by Meaningful Perturbation. ICCV, 2017. https://arxiv.org/abs/1704.03296 (preservation
    and deletion games on several backgrounds), at areas as in Fong, Patrick, Vedaldi:
    Understanding Deep Networks via Extremal Perturbations and Smooth Masks. ICCV, 2019.
    https://arxiv.org/abs/1910.08485

    Returns:
        *Tensor* of mean scores, (N,), detached, in float32 or better; with ``return_curve=True``
        a tuple of it and of the scores at every area, (N, areas).

    Examples::

        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> # 4 is kept, then 4 and 3.
        >>> keep_at_area(forward, x, x, areas=(0.25, 0.5), return_curve=True)
        (tensor([5.5000]), tensor([[4., 7.]]))
    """
    check_flag("return_curve", return_curve)
    scores = _scores(
        "keep at area", forward_func, inputs, attributions, areas, background, seed, options,
        torch.lt,
    )  # fmt: skip
    return (scores.mean(1), scores) if return_curve else scores.mean(1)


@metric
def drop_at_area(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *,
    areas: Sequence[float] = AREAS, background: str | Tensor = "black", seed: Seed = 0,
    return_curve: bool = False, **options: Unpack[EvaluationOptions],
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    r"""Score the inputs without the most important pixels, at areas equal for all maps.

    .. math:: \mathrm{mean}_a\, f_c((1 - M_a) \odot I_0 + M_a \odot I_b)

    with everything as in :func:`keep_at_area`. Lower is better: the score that is left once the
    pixels are dropped; in [0, 1] for probabilities.

    Protocol, cost and source: those of :func:`keep_at_area`.

    Returns:
        *Tensor* of mean scores, or a tuple with ``return_curve=True``, as in :func:`keep_at_area`.

    Examples::

        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> # 4 is dropped, then 4 and 3.
        >>> drop_at_area(forward, x, x, areas=(0.25, 0.5), return_curve=True)
        (tensor([4.5000]), tensor([[6., 3.]]))
    """
    check_flag("return_curve", return_curve)
    scores = _scores(
        "drop at area", forward_func, inputs, attributions, areas, background, seed, options,
        torch.ge,
    )  # fmt: skip
    return (scores.mean(1), scores) if return_curve else scores.mean(1)


@metric
def rank_average_drop(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *,
    background: str | Tensor = "black", seed: Seed = 0, **options: Unpack[EvaluationOptions],
) -> Tensor:  # fmt: skip
    r"""Average drop under a soft mask of the map's ranks, which is equally bright for all maps.

    .. math:: AD = 100 \cdot \frac{\max(0, Y - O)}{Y}, \qquad
        O = f_c(I_b + M \odot (I_0 - I_b)), \qquad M = 1 - \frac{rank}{pixels - 1}

    with everything else as in :func:`~captum_unioncam.metrics.faithfulness.average_drop`, and rank
    0 for the largest value. The mask's mean is one half, so that a map's power of one half, which
    shows more and so drops less, has the same value as the map. In percent from 0 to 100, lower is
    better. Equal values are ordered as in :func:`keep_at_area`: a map of ones is random noise here.

    Cost: three forwards per example.

    Source: ours, of the average drop: Chattopadhay, Sarkar, Howlader, Balasubramanian: Grad-CAM++.
    WACV, 2018. https://arxiv.org/abs/1710.11063

    Returns:
        *Tensor* of drops in percent, (N,), detached, in float32 or better.

    Examples::

        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> # Shown by 0, 1/3, 2/3 and all: 2/3 and 2 and 4 remain of 10.
        >>> rank_average_drop(forward, x, x)
        tensor([33.3333])
    """
    check_seed("seed", seed)
    options["baselines"] = _background(background, inputs, options.get("baselines"))
    name = "rank average drop"
    with evaluation(name, forward_func, inputs, attributions, **options) as evaluated:
        masks = rank_maps(evaluated.maps, seed)
        return percent_drop(*evaluated.scores_under(torch.ones_like(masks), masks))


def _scores(
    name: str, forward_func: Forward, inputs: Inputs, attributions: Maps, areas: Sequence[float],
    background: str | Tensor, seed: Seed, options: EvaluationOptions,
    shows_input: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """Return the scores of every example at every area, (N, areas).

    Args:
        shows_input (Callable): compares the places of pixels in the map's order with how many an
            area holds, and returns which of them show the input.
    """
    check_seed("seed", seed)
    options["baselines"] = _background(background, inputs, options.get("baselines"))
    with evaluation(name, forward_func, inputs, attributions, **options) as evaluated:
        maps = evaluated.maps
        counts = torch.tensor(pixels_of(areas, maps[0].numel()), device=maps.device)
        order = pixel_order(maps, seed)[:, 0]
        rows = evaluated.rows.repeat_interleave(len(counts))
        counts = counts.repeat(len(maps))[:, None]

        def masks(chunk: slice) -> Tensor:
            shown = shows_input(order[rows[chunk]], counts[chunk])
            made: Tensor = shown.to(maps.dtype).reshape(-1, *maps.shape[1:])
            return made

        return evaluated.masked_scores(rows, masks).reshape(len(maps), -1)


def _background(background: Any, inputs: Inputs, black: BaselineType) -> BaselineType:
    """Return what hidden pixels show, as baselines of the inputs."""
    if not isinstance(background, str):
        if not isinstance(background, Tensor):
            raise TypeError(
                "background must be the name of a kind or a tensor, such as another photograph, "
                f"got {type(background).__name__}"
            )
        return background
    if background == PHOTOGRAPH:
        raise ValueError(
            "background='photograph' needs one: give another photograph as a tensor that "
            "broadcasts to the input"
        )
    check_choice("background", background, tuple(BASELINES))
    return named_baseline(background, inputs, 0 if black is None else black)
