"""Coherency, complexity and their harmonic mean with the average drop: ADCC."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine.locks import exclusive_use
from captum_unioncam.metrics.common import Evaluation, evaluation, prepared_maps
from captum_unioncam.metrics.faithfulness import (
    check_probabilities,
    clean_and_masked_scores,
    percent_drop,
    refuse_logits,
)
from captum_unioncam.metrics.options import EvaluationOptions, Forward, Inputs, Maps, metric
from captum_unioncam.metrics.similarity import correlation


@metric
def coherency(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *,
    explanation_func: Callable[..., Maps], explanation_kwargs: Mapping[str, Any] | None = None,
    **options: Unpack[EvaluationOptions],
) -> Tensor:  # fmt: skip
    r"""Coherency: whether what a map shows is explained by the same map.

    .. math::
        Coh = \frac{1 + r(M, M')}{2}, \qquad M' = CAM_c(I_b + M \odot (I_0 - I_b))

    with M the map in [0, 1] at the input's size, M' the map of the masked input for the same
    target, prepared like M, and r Pearson's correlation of their pixels. From 0 to 1, higher is
    better. 0 if either map is flat, which has no correlation.

    Protocol: soft mask. The authors' code gives 0 only where a map holds NaN.

    No score is measured: options of scores are there so that every metric takes the same, and
    all examples are explained in one call.

    Cost: one forward per example, which checks the arguments, and one explanation.

    Source: Poppi, Cornia, Baraldi, Cucchiara: Revisiting The Evaluation of Class Activation
    Mapping for Explainability: A Novel Metric and Experimental Analysis. CVPR Workshops, 2021.
    https://arxiv.org/abs/2104.10252

    Returns:
        *Tensor* of coherencies, (N,), detached, in float32 or better.

    Examples::

        >>> from captum_unioncam import LayerUnionCAM
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(144, 2),
        ... ).eval()
        >>> cam, x = LayerUnionCAM(net, net[1]), torch.rand(2, 3, 8, 8)
        >>> attr = cam.attribute(x, target=1)
        >>> coherency(net, x, attr, explanation_func=cam.attribute, target=1).shape
        torch.Size([2])
    """
    _check_explanation(explanation_func, explanation_kwargs)
    options["scorer"] = None
    measured = evaluation("coherency", forward_func, inputs, attributions, **options)
    with exclusive_use(forward_func, explanation_func), measured as evaluated:
        explained = _explained(evaluated, inputs, explanation_func, explanation_kwargs, options)
        return correlation_share(evaluated.maps, explained)


@metric
def complexity(
    forward_func: Forward, inputs: Inputs, attributions: Maps,
    **options: Unpack[EvaluationOptions],
) -> Tensor:  # fmt: skip
    r"""Complexity: how much of the input a map shows.

    .. math:: Com = \mathrm{mean}_{ij}\, M_{ij}

    with M the map in [0, 1] at the input's size, so that a map of ones has complexity 1. From 0 to
    1, lower is better. No score is measured, as in :func:`coherency`.

    Cost: one forward per example, which checks the arguments.

    Source: that of :func:`coherency`.

    Returns:
        *Tensor* of complexities, (N,), detached, in float32 or better.

    Examples::

        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> attr = torch.tensor([[[[0.0, 1.0], [0.0, 2.0]]]])
        >>> complexity(forward, torch.ones(1, 1, 2, 2), attr)
        tensor([0.3750])
    """
    options["scorer"] = None
    with evaluation("complexity", forward_func, inputs, attributions, **options) as evaluated:
        return shown_share(evaluated.maps)


@metric
def adcc(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *,
    explanation_func: Callable[..., Maps], explanation_kwargs: Mapping[str, Any] | None = None,
    **options: Unpack[EvaluationOptions],
) -> Tensor:  # fmt: skip
    r"""ADCC: average drop, coherency and complexity in one number that trivial maps cannot win.

    .. math::
        ADCC = 3 \Big/ \Big( \frac{1}{Coh} + \frac{1}{1 - Com} + \frac{1}{1 - AD} \Big)

    with Coh :func:`coherency`, Com :func:`complexity` and AD
    :func:`~captum_unioncam.metrics.faithfulness.average_drop` as a fraction, per example. From 0
    to 1, higher is better; the published number is the mean over images. 0 wherever one of the
    three terms is 0, where the authors' code divides by zero: so a map of ones, which wins every
    average drop, scores exactly 0.

    Protocol: soft mask.

    Cost: three forwards per example and one explanation.

    Source: that of :func:`coherency`.

    Args:
        score (str or Callable, optional): f_c: "probability", or a function of the raw output
            with values in [0, 1]; others raise ValueError. Default: "probability"

    Returns:
        *Tensor* of ADCC, (N,), detached, in float32 or better.

    Examples::

        >>> x = torch.rand(2, 3, 8, 8)
        >>> forward = lambda x: x.mean((1, 2, 3))
        >>> adcc(forward, x, torch.ones(2, 1, 6, 6), explanation_func=lambda x: x)
        tensor([0., 0.])
    """
    _check_explanation(explanation_func, explanation_kwargs)
    refuse_logits("adcc", options)
    measured = evaluation("adcc", forward_func, inputs, attributions, **options)
    with exclusive_use(forward_func, explanation_func), measured as evaluated:
        clean, masked = clean_and_masked_scores(evaluated)
        check_probabilities("adcc", clean, masked)
        explained = _explained(evaluated, inputs, explanation_func, explanation_kwargs, options)
        return harmonic_mean(
            correlation_share(evaluated.maps, explained).to(clean),
            1 - shown_share(evaluated.maps).to(clean),
            1 - percent_drop(clean, masked) / 100,
        )


def correlation_share(first: Tensor, second: Tensor) -> Tensor:
    """Return (1 + r) / 2 of the pixels of two stacks of maps, and 0 where either is flat.

    Examples::

        >>> M = torch.tensor([[[0.0, 0.5, 1.0]]])
        >>> correlation_share(M.repeat(3, 1, 1), torch.cat([M, 1 - M, 0 * M]))
        tensor([1., 0., 0.])
    """
    r = correlation(first, second.to(first.device))
    return torch.where(r.isnan(), 0, (1 + r) / 2).to(first)


def shown_share(maps: Tensor) -> Tensor:
    """Return the mean of each map, (N,)."""
    return maps.flatten(1).mean(1)


def harmonic_mean(*terms: Tensor) -> Tensor:
    """Return the harmonic mean of terms that are at least 0, and 0 where one of them is 0.

    Examples::

        >>> harmonic_mean(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 1.0]))
        tensor([0.6667, 0.0000])
    """
    stacked = torch.stack(terms)
    positive = stacked > 0
    mean = len(terms) / stacked.where(positive, 1).reciprocal().sum(0)
    return torch.where(positive.all(0), mean, 0)


def _check_explanation(explanation_func: Any, explanation_kwargs: Any) -> None:
    if not callable(explanation_func):
        hint = ": pass its attribute method" if hasattr(explanation_func, "attribute") else ""
        raise TypeError(
            f"explanation_func must be callable, got {type(explanation_func).__name__}{hint}"
        )
    if explanation_kwargs is not None and not isinstance(explanation_kwargs, Mapping):
        raise TypeError(
            "explanation_kwargs must be a mapping of keywords or None, got "
            f"{type(explanation_kwargs).__name__}"
        )


def _explained(
    evaluated: Evaluation,
    inputs: Inputs,
    explanation_func: Callable[..., Maps],
    explanation_kwargs: Mapping[str, Any] | None,
    options: EvaluationOptions,
) -> Tensor:
    """Explain the masked inputs as the user explained the clean ones; maps as `prepared_maps`."""
    masked = evaluated.masked_inputs()
    given = {name: options.get(name) for name in ("target", "additional_forward_args")}
    with torch.enable_grad():
        explained = explanation_func(
            masked if isinstance(inputs, tuple) else masked[0],
            **{name: value for name, value in given.items() if value is not None},
            **(explanation_kwargs or {}),
        )
    shape = evaluated.maps.shape
    return prepared_maps(explained, shape[0], shape[2:], "what explanation_func returns")
