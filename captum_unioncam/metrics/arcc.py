"""ARCC: coherency, complexity and ROAD in one number."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import Seed
from captum_unioncam.engine.locks import exclusive_use
from captum_unioncam.metrics.adcc import coherency, complexity, harmonic_mean
from captum_unioncam.metrics.faithfulness import refuse_logits
from captum_unioncam.metrics.options import (
    EvaluationOptions,
    Forward,
    Inputs,
    Maps,
    ScoreOptions,
    metric,
)
from captum_unioncam.metrics.remove_and_debias import road

PERCENTAGES = (20, 40, 60, 80)


@metric
def arcc(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *,
    explanation_func: Callable[..., Maps], explanation_kwargs: Mapping[str, Any] | None = None,
    noise: float = 0.01, seed: Seed = 0, **options: Unpack[EvaluationOptions],
) -> Tensor:  # fmt: skip
    r"""ARCC: :func:`~captum_unioncam.metrics.adcc.adcc` with ROAD in place of the average drop.

    .. math::
        ARCC = 3 \Big/ \Big( \frac{1}{Coh} + \frac{1}{1 - Com} + \frac{1}{R} \Big), \qquad
        R = \max(0, 2 \cdot \mathrm{ROAD})

    with Coh :func:`~captum_unioncam.metrics.adcc.coherency`, Com
    :func:`~captum_unioncam.metrics.adcc.complexity` and ROAD the "combined" order of
    :func:`~captum_unioncam.metrics.remove_and_debias.road` with 20, 40, 60 and 80 % of the pixels
    removed. From 0 to 1, higher is better; 0 wherever one of the three terms is 0, as for a map of
    ones. Coherency and complexity see the map's values, ROAD only their order.

    Cost: eleven forwards per example and one explanation.

    Source: Domeniconi, Stramiglio, Lombardi, Salti: How to Evaluate and Refine your CAM. 2026.
    https://arxiv.org/abs/2605.14641. The formula and the percentages are those of pytorch-grad-cam,
    which the authors name as the maintained implementation; we have not seen the paper's equation.

    Args:
        inputs (Tensor or tuple[Tensor, ...]): images (N, C, H, W); beside them there may be
            inputs of other ranks, which pass as they are.
        noise (float, optional): of ROAD's imputation, in units of the inputs. Default: 0.01
        seed (int or torch.Generator, optional): of ROAD's noise and of the order of equal values;
            the random state of torch is not touched. Default: 0
        score (str or Callable, optional): f_c: "probability", or a function of the raw output
            with values in [0, 1]; "logit" raises ValueError. Default: "probability"

    Returns:
        *Tensor* of ARCC, (N,), detached, in float32 or better.

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> from captum_unioncam import LayerUnionCAM
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
        ... ).eval()
        >>> cam, x = LayerUnionCAM(net, net[1]), torch.rand(2, 3, 8, 8)
        >>> arcc(net, x, cam.attribute(x, 1), explanation_func=cam.attribute, target=1).shape
        torch.Size([2])
    """
    refuse_logits("arcc", options)
    of_road = cast(ScoreOptions, {n: v for n, v in options.items() if n != "baselines"})
    with exclusive_use(forward_func, explanation_func):
        coherent = coherency(
            forward_func, inputs, attributions, explanation_func=explanation_func,
            explanation_kwargs=explanation_kwargs, **options,
        )  # fmt: skip
        shown = complexity(forward_func, inputs, attributions, **options)
        removed = road(
            forward_func, inputs, attributions, percentages=PERCENTAGES, noise=noise, seed=seed,
            **of_road,
        )  # fmt: skip
    separates = (2 * cast(Tensor, removed)).clamp(0, 1)
    return harmonic_mean(coherent.to(separates), 1 - shown.to(separates), separates)
