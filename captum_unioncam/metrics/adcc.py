"""Coherency, complexity and their harmonic mean with the average drop: ADCC."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from captum_unioncam.engine import BaselineType, Score, TargetType
from captum_unioncam.engine.maps import extrema
from captum_unioncam.metrics.common import Evaluation, evaluation, prepared_maps
from captum_unioncam.metrics.faithfulness import (
    check_probabilities,
    clean_and_masked_scores,
    percent_drop,
    refuse_logits,
)


def coherency(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    *,
    explanation_func: Callable[..., Tensor | tuple[Tensor, ...]],
    explanation_kwargs: Mapping[str, Any] | None = None,
    target: TargetType = None,
    baselines: BaselineType = None,
    additional_forward_args: Any = None,
    score: Score = "probability",
    perturbations_per_eval: int | None = None,
    show_progress: bool = False,
) -> Tensor:
    r"""Coherency: whether what a map shows is explained by the same map.

    .. math::
        Coh = \frac{1 + r(M, M')}{2}, \qquad M' = CAM_c(I_b + M \odot (I_0 - I_b))

    with M the map in [0, 1] at the input's size, M' the map of the masked input for the same
    target, prepared like M, and r Pearson's correlation of their pixels. From 0 to 1, higher is
    better. 0 if either map is flat, which has no correlation.

    Protocol: soft mask. The authors' code gives 0 only where a map holds NaN.

    Cost: one forward per example, which checks the arguments, and one explanation.

    Source: Poppi, Cornia, Baraldi, Cucchiara: Revisiting The Evaluation of Class Activation
    Mapping for Explainability: A Novel Metric and Experimental Analysis. CVPR Workshops, 2021.
    https://arxiv.org/abs/2104.10252

    Args:
        forward_func (Callable or torch.nn.Module): the model, or any function of it that returns
            one row of scores per example.
        inputs (Tensor or tuple[Tensor, ...]): inputs, dimension 0 being the examples, N. Floating
            point inputs of the first one's rank are masked, the others pass.
        attributions (Tensor): maps of shape (N, C, *any spatial size), from any attribution.
            Channels are summed; maps are resized linearly to the input and min-max scaled there.
            Flat maps are clipped to [0, 1] as they are.
        explanation_func (Callable): what made the maps, such as the `attribute` method of any
            attribution. It is called with the masked inputs, in a tuple if `inputs` is one, and
            with `target` and `additional_forward_args` as keywords if they are given. It must
            return maps of N examples, a Tensor or a tuple of one. The model is in evaluation mode
            and gradients are on.
        explanation_kwargs (Mapping[str, Any], optional): further keywords of `explanation_func`,
            those with which the maps were made. In particular `baselines` here is what the
            explanation takes, while the metric's own says what masked-out parts show.
            Default: None
        target (int, tuple, Tensor or list, optional): output to explain, as in every Captum
            method. Default: None
        baselines (scalar, Tensor or tuple, optional): what masked-out parts show, one entry per
            input: a number, or a tensor that broadcasts to the input. For a black image under
            mean and standard deviation use ``black_baseline``. Default: 0
        additional_forward_args (Any, optional): further arguments of forward_func. Default: None
        score (str or Callable, optional): accepted, so that every metric takes the same arguments;
            no score is measured. Default: "probability"
        perturbations_per_eval (int, optional): accepted likewise; all examples are explained in
            one call. Default: None
        show_progress (bool, optional): accepted likewise. Default: False

    Returns:
        *Tensor* of coherencies, (N,), detached, in float32 or better.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range or of the wrong shape, or values are not finite.

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
    with evaluation(
        "coherency", forward_func, inputs, attributions, target=target, baselines=baselines,
        additional_forward_args=additional_forward_args, score=score,
        perturbations_per_eval=perturbations_per_eval, show_progress=show_progress,
    ) as evaluated:  # fmt: skip
        explained = _masked_explanation(
            evaluated, inputs, explanation_func, explanation_kwargs, target, additional_forward_args
        )
        return correlation_share(evaluated.maps, explained)


def complexity(
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
) -> Tensor:
    r"""Complexity: how much of the input a map shows.

    .. math:: Com = \mathrm{mean}_{ij}\, M_{ij}

    with M the map in [0, 1] at the input's size, so that a map of ones has complexity 1. From 0 to
    1, lower is better.

    Cost: one forward per example, which checks the arguments.

    Source: Poppi, Cornia, Baraldi, Cucchiara: Revisiting The Evaluation of Class Activation
    Mapping for Explainability: A Novel Metric and Experimental Analysis. CVPR Workshops, 2021.
    https://arxiv.org/abs/2104.10252

    Args:
        forward_func (Callable or torch.nn.Module): as in :func:`coherency`.
        inputs (Tensor or tuple[Tensor, ...]): as in :func:`coherency`; they give the size.
        attributions (Tensor): maps of shape (N, C, *any spatial size), prepared as in
            :func:`coherency`.
        target (int, tuple, Tensor or list, optional): accepted, so that every metric takes the same
            arguments, and checked like the following ones; no score is measured. Default: None
        baselines (scalar, Tensor or tuple, optional): accepted likewise. Default: 0
        additional_forward_args (Any, optional): further arguments of forward_func. Default: None
        score (str or Callable, optional): accepted likewise. Default: "probability"
        perturbations_per_eval (int, optional): accepted likewise. Default: None
        show_progress (bool, optional): accepted likewise. Default: False

    Returns:
        *Tensor* of complexities, (N,), detached, in float32 or better.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range or of the wrong shape, or values are not finite.

    Examples::

        >>> forward = lambda x: x.flatten(1).sum(1)
        >>> attr = torch.tensor([[[[0.0, 1.0], [0.0, 2.0]]]])
        >>> complexity(forward, torch.ones(1, 1, 2, 2), attr)
        tensor([0.3750])
    """
    with evaluation(
        "complexity", forward_func, inputs, attributions, target=target, baselines=baselines,
        additional_forward_args=additional_forward_args, score=score,
        perturbations_per_eval=perturbations_per_eval, show_progress=show_progress,
    ) as evaluated:  # fmt: skip
        return shown_share(evaluated.maps)


def adcc(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    *,
    explanation_func: Callable[..., Tensor | tuple[Tensor, ...]],
    explanation_kwargs: Mapping[str, Any] | None = None,
    target: TargetType = None,
    baselines: BaselineType = None,
    additional_forward_args: Any = None,
    score: Score = "probability",
    perturbations_per_eval: int | None = None,
    show_progress: bool = False,
) -> Tensor:
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

    Source: Poppi, Cornia, Baraldi, Cucchiara: Revisiting The Evaluation of Class Activation
    Mapping for Explainability: A Novel Metric and Experimental Analysis. CVPR Workshops, 2021.
    https://arxiv.org/abs/2104.10252

    Args:
        forward_func (Callable or torch.nn.Module): as in :func:`coherency`.
        inputs (Tensor or tuple[Tensor, ...]): as in :func:`coherency`.
        attributions (Tensor): maps of shape (N, C, *any spatial size), prepared as in
            :func:`coherency`.
        explanation_func (Callable): what made the maps, called on the masked inputs as in
            :func:`coherency`.
        explanation_kwargs (Mapping[str, Any], optional): further keywords of `explanation_func`.
            Default: None
        target (int, tuple, Tensor or list, optional): output to explain. Default: None
        baselines (scalar, Tensor or tuple, optional): what masked-out parts show. Default: 0
        additional_forward_args (Any, optional): further arguments of forward_func. Default: None
        score (str or Callable, optional): f_c: "probability", or a function of the raw output
            with values in [0, 1]. Default: "probability"
        perturbations_per_eval (int, optional): at most this many times N rows in a forward; None
            fits the rows to the device. Default: None
        show_progress (bool, optional): show progress bars on stderr. Default: False

    Returns:
        *Tensor* of ADCC, (N,), detached, in float32 or better.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range or of the wrong shape, values are not finite, or
            scores are no probabilities.

    Examples::

        >>> from captum_unioncam import LayerUnionCAM
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(144, 2),
        ... ).eval()
        >>> cam, x = LayerUnionCAM(net, net[1]), torch.rand(2, 3, 8, 8)
        >>> adcc(net, x, torch.ones(2, 1, 6, 6), explanation_func=cam.attribute, target=1)
        tensor([0., 0.])
    """
    _check_explanation(explanation_func, explanation_kwargs)
    refuse_logits("adcc", score)
    with evaluation(
        "adcc", forward_func, inputs, attributions, target=target, baselines=baselines,
        additional_forward_args=additional_forward_args, score=score,
        perturbations_per_eval=perturbations_per_eval, show_progress=show_progress,
    ) as evaluated:  # fmt: skip
        clean, masked = clean_and_masked_scores(evaluated)
        check_probabilities("adcc", clean, masked)
        explained = _masked_explanation(
            evaluated, inputs, explanation_func, explanation_kwargs, target, additional_forward_args
        )
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
    second = second.to(first)
    a, b = ((maps.flatten(1) - maps.flatten(1).mean(1, keepdim=True)) for maps in (first, second))
    norms = (a.square().sum(1) * b.square().sum(1)).sqrt()
    flat = _is_flat(first) | _is_flat(second)
    r = ((a * b).sum(1) / norms.where(~flat, 1)).clamp(-1, 1)
    return torch.where(flat, 0, (1 + r) / 2)


def _is_flat(maps: Tensor) -> Tensor:
    # By extrema: a flat map's values may differ from their mean by rounding.
    low, high = extrema(maps)
    return (low == high).flatten()


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


def _masked_explanation(
    evaluated: Evaluation,
    inputs: Tensor | tuple[Tensor, ...],
    explanation_func: Callable[..., Tensor | tuple[Tensor, ...]],
    explanation_kwargs: Mapping[str, Any] | None,
    target: TargetType,
    additional_forward_args: Any,
) -> Tensor:
    """Explain the masked inputs as the user explained the clean ones; maps as `prepared_maps`."""
    masked = evaluated.masked_inputs()
    given = {"target": target, "additional_forward_args": additional_forward_args}
    with torch.enable_grad():
        explained = explanation_func(
            masked if isinstance(inputs, tuple) else masked[0],
            **{name: value for name, value in given.items() if value is not None},
            **(explanation_kwargs or {}),
        )
    shape = evaluated.maps.shape
    return prepared_maps(explained, shape[0], shape[2:], "what explanation_func returns")
