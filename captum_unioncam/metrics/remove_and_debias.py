"""ROAD: remove and debias (Rong, Leemann, Borisov, Kasneci, Kasneci, ICML 2022)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Seed,
    check_choice,
    check_finite,
    check_flag,
    check_number,
    check_seed,
    generator_of,
)
from captum_unioncam.engine.captum_compat import NullProgress, progress
from captum_unioncam.metrics.common import Evaluation, evaluation, pixel_ranks
from captum_unioncam.metrics.imputation import linear_imputation
from captum_unioncam.metrics.options import Forward, Inputs, Maps, ScoreOptions, metric

Order = Literal["combined", "morf", "lerf"]

# Elements of images that are filled at once: 64 images of 3 x 224 x 224.
ELEMENTS_AT_ONCE = 64 * 3 * 224 * 224


@metric
def road(
    forward_func: Forward, inputs: Inputs, attributions: Maps, *,
    percentages: Sequence[float] = (10, 20, 30, 40, 50, 70, 90), order: Order = "combined",
    noise: float = 0.01, seed: Seed = 0, return_curve: bool = False,
    **options: Unpack[ScoreOptions],
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    r"""Score images without their most, or least, relevant pixels, imputed from the others.

    .. math::
        \mathrm{MoRF} = \mathrm{mean}_p\, f_c(I_{\setminus top\,p}), \qquad
        \mathrm{LeRF} = \mathrm{mean}_p\, f_c(I_{\setminus bottom\,p}), \qquad
        \mathrm{combined} = \frac{\mathrm{LeRF} - \mathrm{MoRF}}{2}

    where :math:`I_{\setminus top\,p}` lacks the p % of its pixels where the map is largest.
    Removed pixels are filled by noisy linear imputation: the weighted mean of the neighbours,
    see :func:`captum_unioncam.metrics.imputation.linear_imputation`, plus normal noise. No
    baseline is involved, and the shape of the removed region says little about the class.

    Higher is better for "combined" and "lerf", lower for "morf". With probabilities "combined"
    is in [-0.5, 0.5] and the others in [0, 1]. A map that says nothing has a combined score of
    about 0.

    Protocol: all channels of a pixel go together. Exactly ``round(p / 100 * H * W)`` pixels
    are removed. Maps of another size than the images are resized bilinearly. Equal values are
    ordered by one random permutation of the pixels, which `seed` fixes, so that a constant map
    removes random pixels. Noise is added in the space of the model's inputs; that of a
    percentage is the same for all examples and both orders, so that results do not depend on the
    batch and "combined" is exactly (LeRF - MoRF) / 2 of the single orders.

    Deviations from the authors' code: it adds noise of 1e-4 to the scaled map, which also
    reorders nearly equal values; its "LeRF" at p keeps the top p % (ours removes the bottom p %,
    which pytorch-grad-cam calls the percentile 100 - p); it imputes pictures before they are
    normalised: for inputs divided by a standard deviation s, its noise is ``noise=0.01 / s``. It
    reports mean accuracy over a data set, which is the mean of a `score` of 0 or 1.

    Cost: one forward, and one per percentage and order.

    Source: Rong, Leemann, Borisov, Kasneci, Kasneci: A Consistent and Efficient Evaluation
    Strategy for Attribution Methods. ICML, 2022. https://arxiv.org/abs/2202.00449; "combined" is
    pytorch-grad-cam's ROADCombined.

    Args:
        inputs (Tensor or tuple[Tensor, ...]): images (N, C, H, W); beside them there may be
            inputs of other ranks, which pass as they are.
        attributions (Tensor): one map per example, (N, C, *any size); summed over C.
        percentages (Sequence[float], optional): shares p of pixels to remove, from 0 to
            below 100. Default: (10, 20, 30, 40, 50, 70, 90)
        order (str, optional): remove the most relevant first ("morf"), the least relevant first
            ("lerf"), or both ("combined"). Default: "combined"
        noise (float, optional): standard deviation of the noise, in units of the inputs.
            Default: 0.01
        seed (int or torch.Generator, optional): seed of the noise and of the order of equal
            values; the random state of torch is not touched. Default: 0
        return_curve (bool, optional): also return the value at every percentage.
            Default: False

    Returns:
        *Tensor* of values, (N,), in float32 or better; with ``return_curve=True`` a tuple of it
        and of the values at every percentage, (N, P), of which it is the mean.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range or of the wrong shape, the inputs hold no
            image or more than one, a percentage leaves no pixel, or values are not finite.

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
        >>> x = torch.rand(2, 3, 16, 16)
        >>> value, curve = road(net, x, x.mean(1, keepdim=True), target=1, return_curve=True)
        >>> value.shape, curve.shape
        (torch.Size([2]), torch.Size([2, 7]))
    """
    check_choice("order", order, ("combined", "morf", "lerf"))
    check_flag("return_curve", return_curve)
    check_number("noise", noise)
    if noise < 0:
        raise ValueError(f"noise is a standard deviation, 0 or more, got {noise}")
    check_seed("seed", seed)
    _check_percentages(percentages)
    with evaluation("ROAD", forward_func, inputs, attributions, **options) as evaluated:
        orders = ("morf", "lerf") if order == "combined" else (order,)
        curves = _curves(evaluated, percentages, orders, noise, generator_of(seed))
    curve = (curves[:, 1] - curves[:, 0]) / 2 if order == "combined" else curves[:, 0]
    return (curve.mean(1), curve) if return_curve else curve.mean(1)


def _check_percentages(percentages: Any) -> None:
    if isinstance(percentages, str) or not isinstance(percentages, Sequence) or not percentages:
        raise TypeError(f"percentages must be a sequence of numbers, got {percentages!r}")
    for p in percentages:
        check_number("a percentage", p)
        if not 0 <= p < 100:
            raise ValueError(f"a percentage must be from 0 to below 100, got {p}")


def _curves(
    evaluated: Evaluation,
    percentages: Sequence[float],
    orders: tuple[str, ...],
    noise: float,
    generator: torch.Generator,
) -> Tensor:
    """Return the score of every example, order and percentage, (N, orders, P)."""
    position = _image_of(evaluated)
    request, scorer = evaluated.request, evaluated.scorer
    images = request.inputs[position]
    pixels = images[0, 0].numel()
    # The tie-break and the noise are drawn at once, so that no slicing changes them.
    ranks = _ranks(evaluated.maps, torch.randperm(pixels, generator=generator))
    shape = len(percentages), *images.shape[1:]
    drawn = noise * torch.randn(shape, generator=generator, dtype=torch.float64)
    drawn = drawn.to(scorer.device)
    removed = [round(p * pixels / 100) for p in percentages]
    if max(removed) == pixels:
        raise ValueError(f"{max(percentages)} % of {pixels} pixels leaves none to fill from")
    # A step removes the ranks from its first to below its last.
    spans = [(0, k) if o == "morf" else (pixels - k, pixels) for o in orders for k in removed]
    first, last = torch.tensor(spans, device=scorer.device).T[..., None, None, None]
    rows = evaluated.rows.repeat_interleave(len(spans))
    steps = torch.arange(len(spans), device=scorer.device).repeat(len(evaluated.rows))

    def filled(rows: Tensor, steps: Tensor) -> Tensor:
        rank = ranks[rows]
        known = (rank < first[steps]) | (rank >= last[steps])
        smooth = linear_imputation(images[rows.to(images.device)], known)
        noisy = smooth + drawn[steps % len(removed)]
        return torch.where(known, smooth, noisy).to(images.dtype)

    def changed(chunk: slice) -> tuple[Tensor, ...]:
        some, at_once = rows[chunk], max(1, ELEMENTS_AT_ONCE // images[0].numel())
        parts = zip(*(torch.split(t, at_once) for t in (some, steps[chunk])), strict=True)
        made = torch.cat([filled(*part) for part in parts])
        return tuple(
            made if i == position else x[some.to(x.device)] for i, x in enumerate(request.inputs)
        )

    bar = progress if request.description else NullProgress
    with bar(desc=request.description, total=len(rows), unit="image") as shown:
        _, scores = scorer.stream.score_rows(rows, changed, [scorer.target], shown)[0]
    cause = "the network overflows on them, or a callable score returns such values"
    scores = scores.reshape(-1, len(orders), len(removed))
    check_finite("scores of imputed images", scores, cause)
    return scores


def _image_of(evaluated: Evaluation) -> int:
    """Return the position of the one input that is imputed."""
    shapes = [tuple(x.shape) for x in evaluated.request.inputs]
    found = [i for i, is_masked in enumerate(evaluated.scorer.masked) if is_masked]
    if len(found) > 1 or len(shapes[found[0]]) != 4:
        raise ValueError(
            "ROAD imputes the pixels of one input of images, (N, C, H, W); got shapes "
            f"{', '.join(map(str, shapes))}"
        )
    return found[0]


def _ranks(maps: Tensor, permutation: Tensor) -> Tensor:
    """Return the rank of every pixel, 0 where the map is largest, (N, 1, H, W)."""
    flat, permutation = maps.flatten(1), permutation.to(maps.device)
    # The sort keeps equal values in the order they come in: that of the permutation.
    ranks = pixel_ranks(flat[:, None, permutation])
    return torch.empty_like(ranks).index_copy_(1, permutation, ranks).reshape(maps.shape)
