"""Scores of masks that are not forwarded, predicted from those that are."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from captum_unioncam.engine.target_scores import Score

# The variance of what masks alone do not explain, as a share of the scores' own.
NOISE = 0.05

# Squared distances of unit vectors known in float32 are rounding up to here.
ROUNDING: float = torch.finfo(torch.float32).eps ** 2

# Values in float32 that differ by so little are equal up to rounding.
EQUAL = 32 * torch.finfo(torch.float32).eps

# Masks whose covariances with all others are held at once.
BLOCK = 256

# What weighs channels in a map: their scores, or the softmax of their raw outputs.
Weights = Literal["score", "softmax"]


class PredictedScores(NamedTuple):
    """What M masks earn for T targets, measured or predicted.

    Attributes:
        logits (Tensor): the target's raw output, (M, T).
        scores (Tensor): the target's score f_c, (M, T).
        logit_std (Tensor): standard deviation of the logits, zero where measured, (M, T).
        score_std (Tensor): standard deviation of the scores, zero where measured, (M, T).
    """

    logits: Tensor
    scores: Tensor
    logit_std: Tensor
    score_std: Tensor


def choose_masks(maps: Tensor, weights: Tensor, budget: int, begun: Tensor | None = None) -> Tensor:
    r"""Choose masks of one example that stand for the others, by farthest-point sampling.

    .. math::
        i_1 = \arg\max_i w_i, \qquad
        i_{n+1} = \arg\max_i\; w_i \min_{j \le n} \Vert u_i - u_{i_j} \Vert, \qquad
        u_i = m_i / \Vert m_i \Vert

    over the masks not chosen yet; of equals the first. Two masks of one shape are near each
    other however bright they are, and a mask whose channels vary little adds little to a map,
    wherever it lies. What is chosen does not depend on any target.

    Source: Gonzalez: Clustering to minimize the maximum intercluster distance. Theoretical
    Computer Science, 1985. https://doi.org/10.1016/0304-3975(85)90224-5 The weights are this
    project's.

    Args:
        maps (Tensor): masks at the layer's resolution, (M, *spatial), any scale.
        weights (Tensor): what each mask's channels can add to a map, not negative, (M,): the
            sum of their standard deviations over space.
        budget (int): most masks to choose, at least 1.
        begun (Tensor, optional): indices of masks chosen before, in any order, which count
            towards the budget. Default: None

    Returns:
        *Tensor* of different indices in the order of choice, min(budget, M) less those chosen
        before.

    Examples::

        >>> maps = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 1.0]])
        >>> choose_masks(maps, torch.tensor([2.0, 3.0, 1.0, 1.0]), 3)
        tensor([1, 2, 3])
    """
    u = _unit_vectors(maps)
    w = weights.to(u)
    # Relative weights cannot leave the range of float32, in which they are compared.
    w = torch.where(w.max() > 0, w / w.max(), 1) if len(w) else w
    nearest = torch.full_like(w, 2)
    before = u.new_zeros(0, dtype=torch.long) if begun is None else begun
    count = max(0, min(budget, len(u)) - len(before))
    chosen = torch.zeros(count, dtype=torch.long, device=u.device)
    taken = torch.zeros_like(w, dtype=torch.bool)
    if len(before):
        nearest = torch.minimum(nearest, _squared_distances(u, u[before]).amin(1))
        taken[before] = True
    for n in range(len(chosen)):
        # In float32, equals stay equal whatever the order in which products were summed.
        i = (w * nearest.sqrt()).float().masked_fill(taken, -1).argmax()
        chosen[n] = i
        taken[i] = True
        nearest = torch.minimum(nearest, _squared_distances(u, u[i, None])[:, 0])
    return chosen


def predict_scores(
    maps: Tensor, chosen: Tensor, logits: Tensor, scores: Tensor, kind: Score = "probability"
) -> PredictedScores:
    r"""Predict the scores of an example's masks from those of some of them.

    A Gaussian process with one kernel for all targets:

    .. math::
        \hat y_i &= \bar y + k_i^\top (K + \sigma^2 I)^{-1} (y - \bar y), \qquad
        k(i, j) = \exp\Big(-\frac{\Vert u_i - u_j \Vert^2}{2 \ell^2}\Big) \\
        \mathrm{var}_i &= v \big(1 + \sigma^2 - k_i^\top (K + \sigma^2 I)^{-1} k_i\big), \qquad
        v = \tfrac{1}{n} (y - \bar y)^\top (K + \sigma^2 I)^{-1} (y - \bar y)

    with :math:`u_i = m_i / \Vert m_i \Vert`, :math:`\ell` the median distance between two chosen
    masks (of an even number the lower), :math:`\sigma^2 = 0.05`, :math:`\bar y` the mean over
    the chosen masks and v the variance that makes their values likeliest. y are the raw outputs,
    and the logarithms of the scores where all those measured of a target lie in (0, 1] and they
    are not raw outputs themselves; such scores are predicted in [0, 1], with standard deviation
    :math:`\hat f \sqrt{\mathrm{var}}`. Other scores are predicted as they are; probabilities of
    which one is rounded to zero are then clamped to [0, 1]. Measured values are kept. A single one
    is what all masks are predicted to earn, with standard deviation zero, since it has no variance.

    Source: Rasmussen, Williams: Gaussian Processes for Machine Learning, MIT Press, 2006,
    Eqs. 2.25 and 2.26. https://gaussianprocess.org/gpml/

    Args:
        maps (Tensor): masks at the layer's resolution, (M, *spatial), any scale.
        chosen (Tensor): indices of the masks that were forwarded, all different, (n,), n > 0.
        logits (Tensor): the targets' raw outputs on these, (n, T).
        scores (Tensor): the targets' scores of these, (n, T).
        kind (str or Callable, optional): what the scores are: "probability", "logit" or a
            function of the user's own. Default: "probability"

    Returns:
        *PredictedScores* of all masks, each (M, T), in the dtypes that came.

    Raises:
        ValueError: if no mask was forwarded.

    Examples::

        >>> maps = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> logits, scores = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.1], [0.4]])
        >>> found = predict_scores(maps, torch.tensor([0, 1]), logits, scores)
        >>> found.logits[:, 0], found.scores[:, 0]
        (tensor([1., 3., 2.]), tensor([0.1000, 0.4000, 0.2000]))
    """
    if not len(chosen):
        raise ValueError("scores are predicted from measured ones: forward at least one mask")
    on_log = _on_log(scores, kind)
    bounded = ((scores >= 0) & (scores <= 1)).all(0) & (kind == "probability")
    wide = scores.double()
    measured = torch.cat([logits.double(), torch.where(on_log, wide.log(), wide)], 1)
    found = _gaussian_process(maps, chosen, measured)
    logit, score = found.mean.chunk(2, 1)
    logit_std, score_std = (found.spread[:, None] * found.scale).chunk(2, 1)
    probability = score.clamp(max=0).exp()
    score_std = torch.where(on_log, probability * score_std, score_std)
    score = torch.where(on_log, probability, torch.where(bounded, score.clamp(0, 1), score))
    return PredictedScores(
        logit.to(logits).index_copy(0, chosen, logits),
        score.to(scores).index_copy(0, chosen, scores),
        logit_std.to(logits).index_fill(0, chosen, 0),
        score_std.to(scores).index_fill(0, chosen, 0),
    )


def predicted_deviation(
    maps: Tensor,
    chosen: Tensor,
    logits: Tensor,
    scores: Tensor,
    sums: Tensor,
    weights: Weights = "score",
    kind: Score = "probability",
) -> Tensor:
    r"""Estimate how far the map of predicted scores is from that of measured ones.

    The map is :math:`L = \sum_i w_i a_i`, a_i the sum of the channels that make mask i, w_i its
    score or the softmax of its raw output. With e its error, the estimate is

    .. math::
        d = \frac{\sqrt{\mathrm{E} \Vert e_\perp \Vert^2}}{\Vert L - \bar L \Vert}, \qquad
        \mathrm{E} \Vert e_\perp \Vert^2
        = \sum_{ij} s_i s_j \rho_{ij}\, a_{i\perp} \cdot a_{j\perp}

    over the masks that were not forwarded: :math:`\rho_{ij}` is the correlation of two
    predictions' errors in the Gaussian process of `predict_scores`, s_i their standard deviation,
    :math:`\min(w_i \sqrt{\exp(\mathrm{var}_i) - 1}, 1/2)` where logarithms were predicted, and
    :math:`\perp` what is left of a map without its mean and without L itself, which alone lowers
    the correlation with the exact map: that is about :math:`1 / \sqrt{1 + d^2}`, 0.995 at d = 0.1.

    Args:
        maps (Tensor): masks at the layer's resolution, (M, *spatial), any scale.
        chosen (Tensor): indices of the masks that were forwarded, all different, (n,), n > 0.
        logits (Tensor): the targets' raw outputs on these, (n, T).
        scores (Tensor): the targets' scores of these, (n, T).
        sums (Tensor): sum of the channels of every mask, (M, *spatial).
        weights (str, optional): a mask's weight in the map is its "score", or the "softmax" of the
            raw outputs. Default: "score"
        kind (str or Callable, optional): what the scores are. Default: "probability"

    Returns:
        *Tensor* d of every target, (T,); infinite where the masks do not tell: where all those
        forwarded earned the same, or the map is flat.

    Examples::

        >>> maps = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.5]])
        >>> y = torch.tensor([[0.1], [0.4], [0.3]])
        >>> predicted_deviation(maps, torch.tensor([0, 1, 2]), y, y, maps) < 0.5
        tensor([True])
        >>> predicted_deviation(maps, torch.tensor([0, 1, 2]), y, y * 0, maps)
        tensor([inf])
    """
    on_log = _on_log(scores, kind) if weights == "score" else torch.ones_like(scores[0]).bool()
    wide = scores.double()
    wide = torch.where(on_log, wide.log(), wide) if weights == "score" else logits.double()
    found = _gaussian_process(maps, chosen, wide)
    std = found.spread[:, None] * found.scale
    y = found.mean.index_copy(0, chosen, wide)
    # Raw outputs can be large, and a map has no scale here.
    w = y.softmax(0) if weights == "softmax" else torch.where(on_log, y.clamp(max=0).exp(), y)
    # Numbers in [0, 1] have no larger deviation than a half.
    s = torch.where(on_log, (w * std.square().expm1().sqrt()).clamp(max=0.5), std)
    a = sums.flatten(1).double()
    a = a - a.mean(1, keepdim=True)
    unknown = torch.ones(len(maps), dtype=torch.bool, device=maps.device)
    unknown[chosen] = False
    u, halves = _unit_vectors(maps)[unknown], found.halves[:, unknown]
    errors = []
    for own, own_s in zip(w.T, s.T, strict=True):
        cam = own @ a
        along = cam / torch.linalg.vector_norm(cam)
        # An error of the map's own shape changes its brightness, which no correlation sees.
        across = a[unknown] - (a[unknown] @ along)[:, None] * along
        b = (own_s / found.spread)[unknown, None] * across / torch.linalg.vector_norm(cam)
        total = NOISE * b.square().sum() - (halves @ b).square().sum()
        for start in range(0, len(u), BLOCK):
            block = slice(start, start + BLOCK)
            kernel = (-_squared_distances(u[block], u) / (2 * found.squared_length)).exp()
            total = total + (b[block] * (kernel @ b)).sum()
        errors.append(total.clamp(min=0).sqrt())
    d = torch.stack(errors)
    varies = found.scale > EQUAL * wide.abs().amax(0).clamp(min=1)
    return torch.where(varies & d.isfinite(), d, torch.inf).to(scores)


def budgeted(
    rows: Tensor, maps: Tensor, weights: Tensor, budget: int, begun: Tensor | None = None
) -> Tensor:
    """Choose at most `budget` masks of every example, like `choose_masks`.

    Args:
        rows (Tensor): the example that each mask belongs to, (M,).
        maps (Tensor): masks of all examples at the layer's resolution, (M, *spatial).
        weights (Tensor): what each mask's channels can add to a map, (M,).
        budget (int): most masks of an example, at least 1.
        begun (Tensor, optional): masks chosen before, which count towards it, (M,) bool.
            Default: None

    Returns:
        *Tensor* that is True for the masks to forward, those chosen before among them, (M,)
        bool; all masks of an example that has no more than `budget`.

    Examples::

        >>> rows = torch.tensor([0, 0, 0, 1, 1])
        >>> maps = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> budgeted(rows, maps, torch.ones(5), 2)
        tensor([ True, False,  True,  True,  True])
    """
    chosen = torch.zeros_like(rows, dtype=torch.bool) if begun is None else begun.clone()
    for example in torch.unique(rows):
        own = (rows == example).nonzero()[:, 0]
        before = chosen[own].nonzero()[:, 0]
        chosen[own[choose_masks(maps[own], weights[own], budget, before)]] = True
    return chosen


def completed(
    rows: Tensor,
    maps: Tensor,
    chosen: Tensor,
    logits: Tensor,
    scores: Tensor,
    kind: Score = "probability",
) -> PredictedScores:
    """Fill up the scores of a budgeted table, example by example, like `predict_scores`.

    Args:
        rows (Tensor): the example that each mask belongs to, (M,).
        maps (Tensor): masks of all examples at the layer's resolution, (M, *spatial).
        chosen (Tensor): the masks that were forwarded, some of every example, (M,) bool.
        logits (Tensor): the targets' raw outputs on these, (chosen.sum(), T).
        scores (Tensor): the targets' scores of these, (chosen.sum(), T).
        kind (str or Callable, optional): what the scores are. Default: "probability"

    Returns:
        *PredictedScores* of all masks, each (M, T); of an example whose masks were all
        forwarded, what was measured.

    Examples::

        >>> rows = torch.tensor([0, 0, 1])
        >>> maps = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> chosen, logits = torch.tensor([True, False, True]), torch.tensor([[1.0], [3.0]])
        >>> completed(rows, maps, chosen, logits, logits).logits[:, 0]
        tensor([1., 1., 3.])
    """
    found = PredictedScores(*(v.new_zeros(len(rows), v.shape[1]) for v in (logits, scores) * 2))
    found.logits[chosen], found.scores[chosen] = logits, scores
    for example in torch.unique(rows[~chosen]):
        own = (rows == example).nonzero()[:, 0]
        forwarded = chosen[own].nonzero()[:, 0]
        known = own[forwarded]
        predicted = predict_scores(
            maps[own], forwarded, found.logits[known], found.scores[known], kind
        )
        for values, own_values in zip(found, predicted, strict=True):
            values[own] = own_values
    return found


class _Process(NamedTuple):
    """A Gaussian process given the values of n of M masks, for T targets.

    Attributes:
        mean (Tensor): of all masks, (M, T).
        spread (Tensor): standard deviation of all masks in units of `scale`, (M,).
        scale (Tensor): of a target's values, the square root of v, (T,).
        halves (Tensor): columns whose products are what the n masks explain, (n, M).
        squared_length (Tensor): of the kernel.
    """

    mean: Tensor
    spread: Tensor
    scale: Tensor
    halves: Tensor
    squared_length: Tensor


def _gaussian_process(maps: Tensor, chosen: Tensor, y: Tensor) -> _Process:
    """Fit the process to the values y of the chosen masks, (n, T)."""
    u = _unit_vectors(maps)
    apart = _squared_distances(u, u[chosen])
    one = torch.eye(len(chosen)).to(u)
    pairs = apart[chosen][one == 0]
    # One mask, or copies of one, leave no length to find; at any the prediction is their mean.
    median = pairs.median() if len(pairs) else one[0, 0]
    median = torch.where(median > 0, median, 1)
    kernel = (-apart / (2 * median)).exp()
    root = torch.linalg.cholesky(kernel[chosen] + NOISE * one)
    # Solved by half: products of two such columns are those with the inverse between them.
    k = torch.linalg.solve_triangular(root, kernel.T, upper=False)
    centre = y.mean(0)
    residual = torch.linalg.solve_triangular(root, y - centre, upper=False)
    spread = (1 + NOISE - k.square().sum(0)).sqrt()
    scale = residual.square().mean(0).sqrt()
    return _Process(centre + k.T @ residual, spread, scale, k, median)


def _on_log(scores: Tensor, kind: Score) -> Tensor:
    """Return for which targets logarithms are predicted, (T,) bool."""
    # One output alone is its own score and need not be a probability: the values tell.
    return ((scores > 0) & (scores <= 1)).all(0) & (kind != "logit")


def _unit_vectors(maps: Tensor) -> Tensor:
    """Return the directions of maps as vectors in float64, (M, P); a zero map has none."""
    vectors = maps.flatten(1).double()
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return torch.where(length > 0, vectors / length, 0)


def _squared_distances(u: Tensor, v: Tensor) -> Tensor:
    """Return squared distances between unit vectors, (M, n), exactly zero between copies."""
    squared = 2 - 2 * (u @ v.T)
    return squared.where(squared > ROUNDING, 0)
