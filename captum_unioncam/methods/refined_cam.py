"""Refined CAM: a map moved by the gradients of what its masks keep and drop."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.baselines import BASELINES, named_baseline
from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    Count,
    Forwards,
    GradKwargs,
    Inputs,
    LayerState,
    MaskOptions,
    MaskScorer,
    Seed,
    Source,
    TargetType,
    check_choice,
    generator_of,
    min_max,
    percentile,
    resize,
)
from captum_unioncam.engine.given_maps import check_map, given_maps
from captum_unioncam.engine.maps import resized_extrema
from captum_unioncam.engine.mask_gradients import mask_gradients
from captum_unioncam.engine.standard_scores import log_odds_of, z_score
from captum_unioncam.methods.regression_cam import prior_maps, regression_maps

# Of Adam, and of the masks that it moves.
RATE, BETAS = 0.25, (0.8, 0.99)
MASKS, AREAS, TEMPERATURE = 3, (0.03, 0.6), 0.25
# Log-odds beyond which nothing is gained, and the weight of smoothness.
KEPT, DROPPED, SMOOTHNESS = 6.0, -8.0, 3.0
PENALTY = 8.0


def check_backgrounds(name: str, backgrounds: Any) -> None:
    """Raise unless `backgrounds` are one or more names of baselines."""
    if not isinstance(backgrounds, tuple | list) or not backgrounds:
        raise TypeError(f"{name} must be a tuple of names, such as ('black',), got {backgrounds!r}")
    for background in backgrounds:
        check_choice(f"each of {name}", background, tuple(BASELINES))


Start = Annotated[str | Tensor, partial(check_map, choices=("regression", "denoised"))]
Backgrounds = Annotated[tuple[str, ...], check_backgrounds]


class LayerRefinedCAM(ClassActivationMap):
    r"""Refined CAM: Adam moves a map so that its masks keep the class and their rest loses it.

    .. math::
        L = \mathrm{minmax}\big(z(u_0) + z(u_T)\big)^2, \qquad
        u_{t+1} = \mathrm{Adam}\Big(u_t, \nabla_u \Big[
        \frac{1}{4} \sum_m \min(s(m), 6) - \max(s(1 - m), -8)
        - 3\, R(u) \Big] \Big)

    with :math:`u_0` the standard scores z of a map to start from, on a grid finer than the layer,
    and s(m) the log-odds of :math:`f_c(I_b + m \odot (I_0 - I_b))`. The four masks m of a step
    are made of the map resized to the input: three are
    :math:`\mathrm{sigmoid}((u - q_a) / 0.25)`, with :math:`q_a` the value that a share a of the
    pixels exceeds, drawn anew between 3 and 60 %, on each of the backgrounds in turn; the fourth
    is the map min-max scaled, on the first background; :math:`q_a` and the extrema count as
    constants. R is the mean square of differences between neighbours along each dimension of the
    grid, summed over these. Adam has a rate of 0.25 and betas 0.8 and 0.99. Where f_c is no
    probability, s is f_c itself, without limits. All examples and targets see the same areas.

    **It optimises what faithfulness metrics measure**: read average drop, and what is kept and
    dropped on the backgrounds it was given, as training measures, and judge it on others.

    **Maps are finer than the layer**: of `grid` positions a side, if neither the layer has more
    nor the input fewer. They span [0, 1] once resized, since no value means "no effect". The square
    keeps the order of the positions and shows half as much.

    It is the meaningful perturbation of Fong and Vedaldi (2017, https://arxiv.org/abs/1704.03296)
    in few steps from a good map, with masks of many areas as in Extremal Perturbations (Fong,
    Patrick, Vedaldi 2019, https://arxiv.org/abs/1910.08485) in place of one that is found alone.

    Cost: those of :class:`LayerRegressionCAM` without selection, unless it starts elsewhere, and
    eight forwards with backwards for each step, which no ``scorer`` runs.

    Source: this project; no publication describes it.

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerRefinedCAM(net.eval(), net[1]).attribute(x, target=1, steps=2).shape
        torch.Size([2, 1, 8, 8])
    """

    name = "Refined CAM"
    source = Source(
        "this project, after Fong and Vedaldi, ICCV", 2017, "https://arxiv.org/abs/1704.03296",
        "by definition",
    )  # fmt: skip
    is_scaled = True
    forwards = Forwards("2 × pairs + 8 × steps + 2", 338)

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        start: Start = "regression",
        pairs: Count = 128,
        grid: Count = 28,
        steps: Count = 10,
        backgrounds: Backgrounds = ("black", "blur", "noise", "mean"),
        seed: Seed = 0,
        **options: Unpack[MaskOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            start (str or Tensor, optional): the map to start from: "regression", that of
                :class:`LayerRegressionCAM` at its first penalty; "denoised", UnionCAM's; or any
                other maps, (N, 1, *spatial), such as another method returns.
                Default: "regression"
            pairs (int, optional): most channels that the regression scores as masks, each with
                its complement. Default: 128
            grid (int, optional): positions along each dimension; no less than the layer's, so
                that 1 stays at its resolution. Default: 28
            steps (int, optional): steps of Adam. Default: 10
            backgrounds (tuple[str, ...], optional): names of
                :data:`captum_unioncam.baselines.BASELINES` that the masks hide the input with;
                "black" stands for what `baselines` gives.
                Default: ("black", "blur", "noise", "mean")
            seed (int or torch.Generator, optional): seed of the areas. Default: 0
        """
        return self.explain(locals())

    def cam(
        self,
        state: LayerState,
        start: Start,
        pairs: Count,
        grid: Count,
        steps: Count,
        backgrounds: Backgrounds,
        seed: Seed,
    ) -> Tensor:
        A, pixels = state.activations, state.masks.sizes[0]
        size = [max(a, min(grid, n)) for a, n in zip(A.shape[2:], pixels, strict=True)]
        scorers = [hiding_with(state, name) for name in backgrounds]
        low, high = AREAS
        drawn = torch.rand((steps, MASKS), generator=generator_of(seed), dtype=torch.float64)
        first = standard(start_maps(state, start, pairs, size))
        u = first.clone()
        adam = torch.optim.Adam([u], lr=RATE, betas=BETAS)
        for step, areas in enumerate((low + (high - low) * drawn).tolist()):
            turn = [scorers[(step * MASKS + n) % len(scorers)] for n in range(MASKS)]
            u.grad = -ascent(u, areas, [*turn, scorers[0]])
            adam.step()
        refined = state.masks.scale_for_resize(first + standard(u))
        return state.masks.scale_for_resize(refined.square())


def start_maps(state: LayerState, start: Start, pairs: int, size: Sequence[int]) -> Tensor:
    """Return the maps that are refined, resized to the grid, (N, 1, *size)."""
    if isinstance(start, Tensor):
        return given_maps("start", start, state.activations, size)
    D = prior_maps(state, "denoised")
    return resize(
        regression_maps(state, pairs, D, (PENALTY,)) if start == "regression" else D, size
    )


def standard(maps: Tensor) -> Tensor:
    """Return the standard scores of each map over its positions."""
    return z_score(maps.flatten(1)).reshape(maps.shape)


def ascent(u: Tensor, areas: Sequence[float], scorers: Sequence[MaskScorer]) -> Tensor:
    """Return the gradient of what is maximised, at maps u (N, 1, *spatial).

    Args:
        u (Tensor): the maps.
        areas (Sequence[float]): share of the pixels above each threshold.
        scorers (Sequence[MaskScorer]): of the mask of each area, then of the map itself.
    """
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        resized = [resize(u, size) for size in scorers[0].sizes]
        masks = [thresholded(resized, area) for area in areas] + [scaled(resized)]
        (total,) = torch.autograd.grad(-SMOOTHNESS * roughness(u), u, retain_graph=True)
        for scorer in dict.fromkeys(scorers):
            its = [made for made, other in zip(masks, scorers, strict=True) if other is scorer]
            # For each masked input: every mask, then every complement.
            kept = [torch.cat(of_input) for of_input in zip(*its, strict=True)]
            both = [torch.cat([m, 1 - m]) for m in kept]
            rows = torch.arange(len(u), device=scorer.device).repeat(2 * len(its))
            gradients = mask_gradients(scorer, rows, both, partial(gain, scorer, len(rows) // 2))
            (gradient,) = torch.autograd.grad(both, u, gradients, retain_graph=True)
            total = total + gradient / len(masks)
    return total


def roughness(u: Tensor) -> Tensor:
    """Return the mean square of differences along each dimension, summed over these and maps."""
    steps = [u.diff(dim=dim).square().flatten(1) for dim in range(2, u.dim()) if u.shape[dim] > 1]
    return sum((of_dim.mean(1).sum() for of_dim in steps), 0 * u.sum())


def gain(scorer: MaskScorer, kept: int, raw: Tensor, scores: Tensor, chunk: slice) -> Tensor:
    """Return what each row adds: the first `kept` rows keep a mask, the others drop it."""
    keeps = torch.arange(chunk.start, chunk.stop, device=scores.device) < kept
    if not scorer.target.gives_probabilities:
        return scores.where(keeps, -scores)
    odds = log_odds_of(scores)
    return odds.clamp(max=KEPT).where(keeps, -odds.clamp(min=DROPPED))


def thresholded(resized: Sequence[Tensor], area: float) -> list[Tensor]:
    """Return soft masks of the pixels above the value that a share `area` of them exceeds."""
    values = [percentile(maps.detach(), 100 * (1 - area)) for maps in resized]
    pairs = zip(resized, values, strict=True)
    return [((maps - value) / TEMPERATURE).sigmoid() for maps, value in pairs]


def scaled(resized: Sequence[Tensor]) -> list[Tensor]:
    """Scale maps to [0, 1] by extrema that are constants: equal values would share gradients."""
    low, high = resized_extrema([maps.detach() for maps in resized])
    return [min_max(maps, low, high) for maps in resized]


def hiding_with(state: LayerState, background: str) -> MaskScorer:
    """Return what masks the inputs with a baseline by name."""
    if background == "black":
        return state.masks
    # One baseline for each input, since these are a tuple.
    baselines: Any = named_baseline(background, state.request.inputs, state.request.baselines)
    return state.masks_over(baselines)
