"""Beta, average drop, increase and gain: the score when only the map's part is shown."""

import numbers
from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.metrics.common import Evaluation, evaluation
from captum_unioncam.metrics.options import EvaluationOptions, Forward, Inputs, Maps, metric
from captum_unioncam.metrics.shared import once

USE_PROBABILITIES = "use score='probability', or for a network of one output score=torch.sigmoid"


@metric
def beta(
    forward_func: Forward, inputs: Inputs, attributions: Maps,
    **options: Unpack[EvaluationOptions],
) -> Tensor:  # fmt: skip
    r"""Beta: how much of the score the map's part alone wins over the baseline.

    .. math:: \beta = f_c(I_b + M \odot (I_0 - I_b)) - f_c(I_b)

    with M the map in [0, 1] at the input's size, f_c the softmax probability and :math:`I_b` the
    baseline. From -1 to 1, higher is better. UnionCAM unites its maps with these weights and
    selects one by them; of its own maps this metric gives exactly the betas of its details, as
    long as the baseline and the score are the same.

    The baseline's score is computed like that of the masked input, by masking with zeros in the
    same chunks, so that a map of zeros wins exactly nothing. A map that shows everything wins
    what the whole input wins.

    Cost: three forwards per example.

    Source: Hu, Wang, Lin, Yu: UnionCAM: enhancing CNN interpretability through denoising,
    weighted fusion, and selective high-quality class activation mapping. Frontiers in
    Neurorobotics, 2024. https://doi.org/10.3389/fnbot.2024.1490198, Eqs. 4, 5 and 7.

    Returns:
        *Tensor* of betas, (N,), detached, in float32 or better.

    Examples::

        >>> import torch
        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> # Only the pixels of value 2 and 4 are shown: 6, and nothing without them.
        >>> attr = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
        >>> beta(forward, x, attr)
        tensor([6.])
    """
    with evaluation("beta", forward_func, inputs, attributions, **options) as evaluated:
        blank, masked = evaluated.scores_under(0, evaluated.maps)
        return masked - blank


@metric
def average_drop(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *, keep: float | None = None,
    **options: Unpack[EvaluationOptions],
) -> Tensor:  # fmt: skip
    r"""Average drop: how much of the score is lost when only the map's part is shown.

    .. math::
        AD = 100 \cdot \frac{\max(0, Y - O)}{Y}, \qquad
        Y = f_c(I_0), \qquad O = f_c(I_b + M \odot (I_0 - I_b))

    with M the map in [0, 1] at the input's size, f_c the softmax probability and :math:`I_b` the
    baseline. 0 where Y is 0; ValueError where it is negative. In percent from 0 to 100, lower is
    better; the published number is the mean over images.

    Protocol: by default M masks softly, as published; `keep` shows a share of the pixels as they
    are instead, as Score-CAM's authors do. Numbers of the two, or of different baselines, do not
    compare: see :data:`captum_unioncam.metrics.protocols.PROTOCOLS`.

    Y is computed like O, by masking with ones in the same chunks, so that a map of ones drops
    exactly nothing on any network. A map that shows everything is optimal, which ``adcc`` mends.
    With logits a masked score below zero gives more than 100.

    Cost: three forwards per example.

    Source: Chattopadhay, Sarkar, Howlader, Balasubramanian: Grad-CAM++: Generalized Gradient-based
    Visual Explanations for Deep Convolutional Networks. WACV, 2018.
    https://arxiv.org/abs/1710.11063

    Returns:
        *Tensor* of drops in percent, (N,), detached, in float32 or better.

    Examples::

        >>> import torch
        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> # Only the pixels of value 2 and 4 are shown: 6 remain of 10.
        >>> attr = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
        >>> average_drop(forward, x, attr)
        tensor([40.])
    """
    return percent_drop(*_scores("average drop", forward_func, inputs, attributions, keep, options))


def percent_drop(clean: Tensor, masked: Tensor) -> Tensor:
    """Return 100 max(0, Y - O) / Y, and 0 where Y is 0.

    Raises:
        ValueError: if the clean score Y is negative, or 0 with a masked score O below it.

    Examples::

        >>> import torch
        >>> percent_drop(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.75, 0.5]))
        tensor([50.,  0.,  0.])
    """
    below = (clean < 0) | ((clean == 0) & (masked < 0))
    if bool(below.any()):
        raise ValueError(
            "a drop is relative to the clean score, which must be positive, got "
            f"{clean[below][0]:.4g} for example(s) {_examples(below)}; {USE_PROBABILITIES}"
        )
    return 100 * (clean - masked).clamp(min=0) / clean.where(clean > 0, 1)


@metric
def average_increase(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *, keep: float | None = None,
    **options: Unpack[EvaluationOptions],
) -> Tensor:  # fmt: skip
    r"""Average increase: whether the score rises when only the map's part is shown.

    .. math:: AI = 100 \cdot 1[O > Y]

    with Y the clean and O the masked score, measured as in :func:`average_drop`. Each example
    gives 0 or 100 percent, higher is better; the published number, also called increase in
    confidence, is the mean over images. The inequality is strict and Y and O take the same path
    through the network, so that a map of ones increases nothing.

    Protocol, cost and source: those of :func:`average_drop`.

    Returns:
        *Tensor* of 0 or 100 percent, (N,), detached, in float32 or better.

    Examples::

        >>> import torch
        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> x = torch.tensor([[[[1.0, 2.0], [-3.0, 4.0]]]])
        >>> # The pixel of value -3 is hidden: 7 instead of 4.
        >>> attr = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]]]])
        >>> average_increase(forward, x, attr)
        tensor([100.])
    """
    scores = _scores("average increase", forward_func, inputs, attributions, keep, options)
    return percent_increase(*scores)


def percent_increase(clean: Tensor, masked: Tensor) -> Tensor:
    """Return 100 where O > Y and 0 elsewhere.

    Examples::

        >>> import torch
        >>> percent_increase(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.75]))
        tensor([  0., 100.])
    """
    return 100 * (masked > clean).to(clean.dtype)


@metric
def average_gain(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *, keep: float | None = None,
    **options: Unpack[EvaluationOptions],
) -> Tensor:  # fmt: skip
    r"""Average gain: how much of the missing score is won when only the map's part is shown.

    .. math:: AG = 100 \cdot \frac{\max(0, O - Y)}{1 - Y}

    with Y the clean and O the masked probability, measured as in :func:`average_drop`. 0 where Y
    is 1. In percent from 0 to 100, higher is better; the published number is the mean over
    images.

    Protocol and cost: those of :func:`average_drop`.

    Source: Zhang, Torres, Sicre, Avrithis, Ayache: Opti-CAM: Optimizing saliency maps for
    interpretability. 2023. https://arxiv.org/abs/2301.07002

    Args:
        score (str or Callable, optional): f_c: "probability", or a function of the raw output
            with values in [0, 1]; others raise ValueError. Default: "probability"

    Returns:
        *Tensor* of gains in percent, (N,), detached, in float32 or better.

    Examples::

        >>> import torch
        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> x = torch.tensor([[[[0.5, 0.25], [-0.25, 0.0]]]])
        >>> # The pixel of value -0.25 is hidden: 0.75 instead of 0.5, half of what is missing.
        >>> attr = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]]]])
        >>> average_gain(forward, x, attr)
        tensor([50.])
    """
    refuse_logits("average_gain", options)
    return percent_gain(*_scores("average gain", forward_func, inputs, attributions, keep, options))


def percent_gain(clean: Tensor, masked: Tensor) -> Tensor:
    """Return 100 max(0, O - Y) / (1 - Y), and 0 where Y is 1.

    Raises:
        ValueError: if a score lies outside [0, 1].

    Examples::

        >>> import torch
        >>> percent_gain(torch.tensor([0.5, 0.5, 1.0]), torch.tensor([0.25, 0.75, 1.0]))
        tensor([ 0., 50.,  0.])
    """
    check_probabilities("average_gain", clean, masked)
    return 100 * (masked - clean).clamp(min=0) / (1 - clean).where(clean < 1, 1)


def _scores(
    name: str, forward_func: Forward, inputs: Inputs, attributions: Maps, keep: float | None,
    options: EvaluationOptions,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _check_keep(keep)
    with evaluation(name, forward_func, inputs, attributions, **options) as evaluated:
        return clean_and_masked_scores(evaluated, keep)


def clean_and_masked_scores(
    evaluated: Evaluation, keep: float | None = None
) -> tuple[Tensor, Tensor]:
    """Measure what average drop, increase and gain are made of, both through the same path.

    Args:
        evaluated (Evaluation): what :func:`captum_unioncam.metrics.common.evaluation` yields.
        keep (float, optional): share of pixels shown; None masks softly. Default: None

    Returns:
        *tuple* (Y, O) of the clean and the masked scores, both (N,).

    Raises:
        ValueError: if a score is not finite, or `keep` selects no pixel or all of them.
    """
    masks = evaluated.maps
    if keep is not None:
        masks = once(evaluated.of_maps, ("top", keep), lambda: _top(evaluated, keep))
    clean, masked = evaluated.scores_under(1, masks)
    return clean, masked


def refuse_logits(name: str, options: EvaluationOptions) -> None:
    """Raise ValueError for a metric that is defined for probabilities alone."""
    if options.get("score") == "logit":
        raise ValueError(f"{name} is defined for probabilities; use score='probability'")


def check_probabilities(name: str, *scores: Tensor) -> None:
    """Raise ValueError unless all scores, each (N,), lie in [0, 1]."""
    for values in scores:
        outside = (values < 0) | (values > 1)
        if bool(outside.any()):
            raise ValueError(
                f"{name} is defined for probabilities, got the score {values[outside][0]:.4g} "
                f"for example(s) {_examples(outside)}; {USE_PROBABILITIES}"
            )


def _check_keep(keep: Any) -> None:
    if keep is None:
        return
    if isinstance(keep, bool) or not isinstance(keep, numbers.Real):
        raise TypeError(f"keep must be a fraction of the pixels or None, got {type(keep).__name__}")
    if not 0 < float(keep) < 1:
        raise ValueError(
            f"keep must be a fraction of the pixels between 0 and 1, such as 0.5, got {keep}; None "
            "masks softly"
        )


def _top(evaluated: Evaluation, keep: float) -> Tensor:
    """Return masks that show the largest values of maps, (N, 1, *spatial)."""
    maps = evaluated.maps
    pixels = maps[0].numel()
    kept = round(keep * pixels)
    if not 0 < kept < pixels:
        raise ValueError(
            f"keep={keep} of {pixels} pixels shows {kept}, whatever the map; give at least "
            f"{1 / pixels:.2g} and at most {1 - 1 / pixels:.2g}"
        )
    return (evaluated.ranks < kept).to(maps.dtype).reshape(maps.shape)


def _examples(which: Tensor) -> list[int]:
    return which.nonzero()[:5, 0].tolist()
