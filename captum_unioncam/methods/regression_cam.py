"""Regression-CAM: scores of masks and their complements, regressed on them."""

from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.baselines import blurred
from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    Count,
    Forwards,
    GradKwargs,
    Inputs,
    LayerState,
    MaskOptions,
    Source,
    TargetType,
    check_number,
)
from captum_unioncam.engine.areas import rank_maps
from captum_unioncam.engine.given_maps import check_map, given_maps
from captum_unioncam.engine.mask_pairs import MaskPairs, scored_pairs
from captum_unioncam.engine.mask_scoring import Finish, min_max_together
from captum_unioncam.engine.standard_scores import log_odds_of, z_score
from captum_unioncam.engine.ties import first_largest
from captum_unioncam.methods.union_cam import denoise

# Variance of the prior's coefficient, where that of a position is 1.
PRIOR_VARIANCE = 3.0


def check_penalties(name: str, penalties: Any) -> None:
    """Raise unless `penalties` are one or more positive numbers."""
    if not isinstance(penalties, tuple | list) or not penalties:
        raise TypeError(f"{name} must be a tuple of numbers, such as (8.0,), got {penalties!r}")
    for penalty in penalties:
        check_number(f"each of {name}", penalty, above=0)


Prior = Annotated[str | Tensor | None, partial(check_map, choices=("denoised",), or_none=True)]
Penalties = Annotated[tuple[float, ...], check_penalties]


class RegressionCAMDetails(NamedTuple):
    """What Regression-CAM chose its map from, per example.

    Attributes:
        candidates (Tensor): the prior, if there is one, then a map for each penalty,
            (N, K, *spatial).
        scores (Tensor, optional): S of each candidate, (N, K); None if none was selected by it.
        selected (Tensor): which of the candidates the map is, (N,).
    """

    candidates: Tensor
    scores: Tensor | None
    selected: Tensor


class LayerRegressionCAM(ClassActivationMap):
    r"""Regression-CAM: what each position adds to the score, by regression on pairs of masks.

    .. math::
        \theta_\lambda &= \tfrac{1}{\sigma^2} K X^\top
        \big(\tfrac{1}{\sigma^2} X K X^\top + \lambda I\big)^{-1} y, \qquad
        K = I + 3\, d\, d^\top \\
        y_i &= z\big(\log p_i - \log(1 - p_i)\big) + z(p_i), \qquad
        p_i = f_c(I_b + m_i \odot (I_0 - I_b))

    with masks :math:`m_i` that are channels of the layer, min-max scaled, **and their
    complements**, :math:`1 - m_i`; X their values at the layer's positions, a row each, less
    their mean; :math:`\sigma^2` the mean of the diagonal of :math:`X X^\top`; z the standard
    score over the masks; d that of the prior over the positions, which the regression follows at
    hardly any penalty. Where f_c is no probability, it takes the place of the log-odds too.

    Of all channels `pairs` are scored that span the others, by greedy pivoted Cholesky of the
    Gram matrix of the masks. Then, as UnionCAM's AMS does, the best candidate is selected, out
    of the prior and :math:`\theta_\lambda` for each penalty :math:`\lambda`, by

    .. math::
        S(M) = \sum_v f_c(v) - f_c(1 - v)

    over v the map scaled to [0, 1] and its ranks, on the baseline, and its ranks on the blurred
    input. The map is signed: negative coefficients are positions that speak against the target.

    It is LIME (Ribeiro et al. 2016, https://arxiv.org/abs/1602.04938) or KernelSHAP (Lundberg
    and Lee 2017, https://arxiv.org/abs/1705.07874) with channels as masks in place of random
    groups of superpixels, all masks weighing the same. Scoring each with its complement is the
    paired sampling of Covert and Lee (2021, https://arxiv.org/abs/2012.01536). Score-CAM's
    weighted sum is :math:`X^\top y` alone, which counts what masks have in common many times.

    Cost: one forward with backward, two forwards for each pair, six for each candidate, and
    two for the baselines. Targets of one comparison share those of the pairs.

    Source: this project; no publication describes it.

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> method = LayerRegressionCAM(net.eval(), net[1])
        >>> method.attribute(x, target=1, pairs=3).shape
        torch.Size([2, 1, 6, 6])
        >>> arguments = {"inputs": x, "target": 1, "options": {"pairs": 3}}
        >>> _, details = method.explain_in_detail(arguments)
        >>> details.candidates.shape, details.scores.shape, details.selected.shape
        (torch.Size([2, 4, 6, 6]), torch.Size([2, 4]), torch.Size([2]))
    """

    name = "Regression-CAM"
    source = Source(
        "this project, after Ribeiro et al., KDD", 2016, "https://arxiv.org/abs/1602.04938",
        "by definition",
    )  # fmt: skip
    forwards = Forwards("2 × pairs + 27", 283)

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        pairs: Count = 128,
        prior: Prior = "denoised",
        penalties: Penalties = (8.0, 3.0, 24.0),
        select: bool = True,
        **options: Unpack[MaskOptions],
    ) -> Attributions:
        """Compute the map; ``explain_in_detail`` also tells the candidates and their scores.

        Args:
            pairs (int, optional): most channels to score as masks, each with its complement.
                Default: 128
            prior (str or Tensor, optional): UnionCAM's "denoised" map; any other maps,
                (N, 1, *spatial), such as another method returns; or None. Default: "denoised"
            penalties (tuple[float, ...], optional): penalties of the regression, in variances of
                y; the first is used where nothing is selected. Default: (8.0, 3.0, 24.0)
            select (bool, optional): select the best of the prior and the maps of all penalties;
                False returns the first penalty's. Default: True
        """
        return self.explain(locals())

    def cam(
        self, state: LayerState, pairs: Count, prior: Prior, penalties: Penalties, select: bool
    ) -> tuple[Tensor, RegressionCAMDetails]:
        D = prior_maps(state, prior)
        M = regression_maps(state, pairs, D, penalties)
        if not select:
            return M[:, :1], RegressionCAMDetails(M, None, torch.zeros(len(M), dtype=torch.long))
        if prior is not None:
            M = torch.cat([state.masks.scale_for_resize(D), M], dim=1)
        S, size = kept_less_dropped(state, M)
        best = first_largest(S, size).to(M.device)
        L = M[torch.arange(len(M), device=M.device), best][:, None]
        return L, RegressionCAMDetails(M, S, best)


def prior_maps(state: LayerState, prior: Prior) -> Tensor:
    """Return the maps that the regression starts from, (N, 1, *spatial); zero for None."""
    A = state.activations
    if isinstance(prior, Tensor):
        return given_maps("prior", prior, A, A.shape[2:])
    return torch.zeros_like(A[:, :1]) if prior is None else denoise(A, state.gradients)


def regression_maps(state: LayerState, pairs: int, D: Tensor, penalties: Penalties) -> Tensor:
    """Return the coefficients with prior maps D for each penalty, (N, penalties, *spatial)."""
    d = z_score(D.cpu().double().flatten(1))
    theta = [
        regressed(some, one, penalties, state.target.gives_probabilities)
        for some, one in zip(scored_pairs(state, pairs), d, strict=True)
    ]
    return torch.stack(theta).to(D).reshape(len(D), len(penalties), *D.shape[2:])


def regressed(pairs: MaskPairs, d: Tensor, penalties: Penalties, is_probability: bool) -> Tensor:
    """Return the coefficients for each penalty, (penalties, P), of one example.

    The rows of a pair are each other's negatives once centred, so that all depends on what
    keeping a mask scores above dropping it, at half of each penalty.
    """
    if not len(pairs.masks):
        return d.new_zeros(len(penalties), len(d))
    p = torch.cat([pairs.keep, pairs.drop])
    y = z_score(log_odds_of(p) if is_probability else p) + z_score(p)
    gains = (y[: len(pairs.keep)] - y[len(pairs.keep) :]) / 2
    X = pairs.masks - 0.5
    XK = X + PRIOR_VARIANCE * torch.outer(X @ d, d)
    variance = X.square().sum(1).mean()
    G, one = XK @ X.T / variance, torch.eye(len(X)).to(X)
    weights = [torch.linalg.solve(G + penalty / 2 * one, gains) for penalty in penalties]
    return torch.stack(weights) @ XK / variance


def kept_less_dropped(state: LayerState, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return S of maps (N, K, *spatial), (N, K): what they keep scores less what they drop.

    Returns:
        *tuple* of S and the largest of the scores that it is summed of, (N, 1), which it rounds
        with.
    """
    blurry = state.masks_over(
        tuple(
            blurred(x) if m else 0
            for x, m in zip(state.request.inputs, state.masks.masked, strict=True)
        )
    )
    S, largest = torch.zeros(maps.shape[:2], dtype=torch.float64), state.scores[:, None].cpu().abs()
    for scorer, kept in (
        (state.masks, min_max_together),
        (state.masks, ranked),
        (blurry, ranked),
    ):
        for sign, masks in ((1, kept), (-1, complement_of(kept))):
            scores = scorer.score(maps, finish=masks).scores.cpu()
            S += sign * scores
            largest = torch.maximum(largest, scores.abs().amax(1, keepdim=True))
    return S, largest


def ranked(resized: list[Tensor]) -> list[Tensor]:
    """Make masks of the ranks of resized maps' values."""
    return [rank_maps(maps) for maps in resized]


def complement_of(kept: Finish) -> Finish:
    """Return what makes masks that show what those of another hide."""
    return lambda resized: [1 - masks for masks in kept(resized)]
