"""The budgeted surrogate of mask scores against loops and dense formulas in float64."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from captum_unioncam.engine.maps import distinct, unit_range
from captum_unioncam.engine.surrogate import (
    budgeted,
    choose_masks,
    completed,
    predict_scores,
    predicted_deviation,
)

seeds = st.integers(0, 10_000)


def relu_maps(seed, count, *spatial):
    """Maps with zeros among their values, as ReLU layers have."""
    values = torch.randn(count, *spatial, generator=torch.Generator().manual_seed(seed))
    values[:, 0] += 0.5
    return values.relu()


def uniform(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def different_maps(seed, count, cells):
    """Maps of which no two have one direction, so that rounding decides nothing."""
    return relu_maps(seed, count, cells) + uniform(seed, count, cells) / 10


def naive_choice(maps, weights, budget):
    u = [m.ravel() / np.linalg.norm(m) for m in maps.double().numpy()]
    chosen = [int(np.argmax(weights.numpy()))]
    while len(chosen) < min(budget, len(u)):
        gains = [
            -1.0
            if i in chosen
            else weights[i].item() * min(np.linalg.norm(u[i] - u[j]) for j in chosen)
            for i in range(len(u))
        ]
        chosen.append(int(np.argmax(gains)))
    return chosen


def naive_process(maps, chosen, y):
    """Mean and standard deviation for every map, one at a time, through a dense inverse."""
    u = [m.ravel() / np.linalg.norm(m) for m in maps.double().numpy()]
    n = len(chosen)
    distances = sorted(
        np.linalg.norm(u[chosen[i]] - u[chosen[j]]) for i in range(n) for j in range(i)
    )
    length = distances[(len(distances) - 1) // 2]

    def k(i, j):
        return np.exp(-(np.linalg.norm(u[i] - u[j]) ** 2) / (2 * length**2))

    inverse = np.linalg.inv([[k(i, j) + 0.05 * (i == j) for j in chosen] for i in chosen])
    centred = y - y.mean()
    variance = centred @ inverse @ centred / n
    mean, std = [], []
    for i in range(len(u)):
        column = np.array([k(i, j) for j in chosen])
        mean.append(y.mean() + column @ inverse @ centred)
        std.append(np.sqrt(variance * (1.05 - column @ inverse @ column)))
    return np.array(mean), np.array(std)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 25), st.integers(1, 30), st.integers(4, 12))
def test_choice_is_the_naive_one(seed, count, budget, cells):
    maps, weights = different_maps(seed, count, cells), uniform(seed + 1, count)
    assert choose_masks(maps, weights, budget).tolist() == naive_choice(maps, weights, budget)


def test_choice_by_hand():
    # Directions 0, 45 and 90 degrees, the first one twice; chords 0.765 and 1.414.
    maps = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.0]])
    assert choose_masks(maps, torch.tensor([2.0, 1.0, 1.0, 1.0]), 4).tolist() == [0, 2, 1, 3]
    # 3 x 0.765 is more than 1.414.
    assert choose_masks(maps, torch.tensor([4.0, 3.0, 1.0, 1.0]), 2).tolist() == [0, 1]


def test_choice_knows_directions_only():
    maps, weights = relu_maps(3, 30, 4, 4), uniform(4, 30)
    chosen = choose_masks(maps, weights, 12)
    brightness = 10.0 ** torch.arange(-15, 15)[:, None, None]
    assert torch.equal(choose_masks(maps * brightness, weights, 12), chosen)
    assert torch.equal(choose_masks(maps.double(), weights, 12), chosen)
    assert torch.equal(choose_masks(maps, weights.double() * 1e-60, 12), chosen)


def test_ties_go_to_the_first():
    apart = torch.eye(6)
    assert choose_masks(apart, torch.ones(6), 4).tolist() == [0, 1, 2, 3]
    assert choose_masks(apart, torch.zeros(6), 9).tolist() == [0, 1, 2, 3, 4, 5]
    same = torch.tensor([[0.3, 0.7, 0.1]]) * torch.tensor([[1.0], [0.2], [5.0]])
    assert choose_masks(same, torch.ones(3), 2).tolist() == [0, 1]
    assert choose_masks(same, torch.tensor([1.0, 1.0, 2.0]), 3).tolist() == [2, 0, 1]


def test_rounding_decides_no_tie():
    # All shifts of one map: products of whole numbers tell exactly which lie equally far apart.
    cells = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2]
    maps = np.stack([np.roll(cells, i) for i in range(17)])
    products, chosen = maps @ maps.T, [0]
    while len(chosen) < 17:
        nearest = products[:, chosen].max(1)
        nearest[chosen] = products.max()
        chosen.append(int(np.argmin(nearest)))
    assert choose_masks(torch.tensor(maps), torch.full((17,), 0.3), 17).tolist() == chosen


@pytest.mark.parametrize("seed", range(5))
def test_permuted_masks_give_permuted_results(seed):
    maps, weights, y = relu_maps(seed, 60, 5, 5), uniform(seed, 60), uniform(seed, 60, 2)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    chosen = choose_masks(maps, weights, 20)
    permuted = choose_masks(maps[order], weights[order], 20)
    assert torch.equal(order[permuted], chosen)
    found = predict_scores(maps, chosen, y[chosen], y[chosen])
    again = predict_scores(maps[order], permuted, y[order][permuted], y[order][permuted])
    for values, values_again in zip(found, again, strict=True):
        assert torch.allclose(values[order], values_again, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(3, 30), st.integers(2, 12))
def test_prediction_is_the_dense_formula(seed, count, cells):
    maps = different_maps(seed, count, cells).double()
    chosen = choose_masks(maps, uniform(seed, count), max(2, count // 2))
    logits = uniform(seed + 1, len(chosen), 2).double() * 9 - 4
    scores = uniform(seed + 2, len(chosen), 2).double() * 0.99 + 0.01
    scores[0, 1] = -1
    found = predict_scores(maps, chosen, logits, scores)
    unknown = [i for i in range(count) if i not in chosen.tolist()]
    for t in range(2):
        mean, std = naive_process(maps, chosen.tolist(), logits[:, t].numpy())
        assert np.allclose(found.logits[unknown, t], mean[unknown])
        assert np.allclose(found.logit_std[unknown, t], std[unknown])
    mean, std = naive_process(maps, chosen.tolist(), scores[:, 0].log().numpy())
    probability = np.exp(np.minimum(mean, 0))
    assert np.allclose(found.scores[unknown, 0], probability[unknown])
    assert np.allclose(found.score_std[unknown, 0], (probability * std)[unknown])
    mean, std = naive_process(maps, chosen.tolist(), scores[:, 1].numpy())
    assert np.allclose(found.scores[unknown, 1], mean[unknown])
    assert np.allclose(found.score_std[unknown, 1], std[unknown])


def test_prediction_by_hand():
    # At 45 degrees between two chosen at 0 and 90: the squared chords are 2 - sqrt 2 and 2, so
    # the kernel is exp(-(2 - sqrt 2) / 4) to each of them and 1 / e between them.
    maps, chosen = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1])
    logits, scores = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.1], [0.4]])
    found = predict_scores(maps, chosen, logits, scores)
    assert found.logits[2].item() == pytest.approx(2)
    # Of logarithms the mean is that of the geometric mean.
    assert found.scores[2].item() == pytest.approx(0.2)
    gap = 1.05 - np.exp(-1 / 2)
    variance = 2 / gap / 2
    column = np.exp(-(2 - np.sqrt(2)) / 4)
    left = 1.05 - 2 * column**2 / (1.05 + np.exp(-1 / 2))
    assert found.logit_std[2].item() == pytest.approx(np.sqrt(variance * left), rel=1e-5)


def test_measured_values_are_kept_exactly():
    maps, y = relu_maps(0, 40, 7), uniform(1, 40, 3)
    chosen = choose_masks(maps, uniform(2, 40), 11)
    found = predict_scores(maps, chosen, y[chosen] * 20 - 10, y[chosen])
    assert torch.equal(found.logits[chosen], y[chosen] * 20 - 10)
    assert torch.equal(found.scores[chosen], y[chosen])
    for std in (found.logit_std, found.score_std):
        assert not std[chosen].any()
        assert (std.sum(1) > 0).sum() == 29
    assert all(values.dtype == torch.float32 for values in found)


def test_targets_do_not_depend_on_each_other():
    maps, logits, scores = relu_maps(0, 40, 7), uniform(1, 9, 3) * 9 - 4, uniform(2, 9, 3)
    scores[:, 1] -= 0.5
    chosen = choose_masks(maps, uniform(3, 40), 9)
    shared = predict_scores(maps, chosen, logits, scores)
    for t in range(3):
        alone = predict_scores(maps, chosen, logits[:, [t]], scores[:, [t]])
        for values, own in zip(shared, alone, strict=True):
            assert torch.allclose(values[:, [t]], own, rtol=1e-6, atol=0)


def test_probabilities_stay_between_zero_and_one():
    # Values that rise along an arc, so that beyond its end more than one is extrapolated.
    angle = torch.linspace(0, 1.5, 31)
    maps = torch.stack([angle.cos(), angle.sin()], dim=1)
    chosen = torch.arange(0, 24, 3)
    y = (angle[chosen] - 1.05).clamp(max=0).exp()[:, None]
    found = predict_scores(maps, chosen, y, y)
    assert (found.logits > 1).any()
    assert (found.scores >= 0).all()
    assert found.scores.max() == 1


@pytest.mark.parametrize("changed", [-0.2, 0.0, 1.2])
def test_other_scores_are_predicted_like_logits(changed):
    maps, y = relu_maps(0, 30, 9), uniform(1, 8, 1)
    y[2] = changed
    chosen = choose_masks(maps, uniform(2, 30), 8)
    found = predict_scores(maps, chosen, y, y, torch.relu)
    assert torch.equal(found.logits, found.scores)
    assert torch.equal(found.logit_std, found.score_std)


def test_uncertainty_is_the_size_of_the_errors():
    maps = relu_maps(0, 400, 3, 3).double()
    u = torch.nn.functional.normalize(maps.flatten(1))
    chosen = choose_masks(maps, uniform(1, 400), 60)
    squared = torch.cdist(u, u).square()
    pairs = squared[chosen][:, chosen][~torch.eye(60, dtype=torch.bool)]
    covariance = (-squared / (2 * pairs.median())).exp() + 0.05 * torch.eye(400)
    normal = torch.randn(400, 200, generator=torch.Generator().manual_seed(2)).double()
    y = 3 * torch.linalg.cholesky(covariance) @ normal + 7
    found = predict_scores(maps, chosen, y[chosen], y[chosen])
    errors = (found.logits - y) / found.logit_std
    others = torch.ones(400, dtype=torch.bool)
    others[chosen] = False
    # The mean and the variance are estimated from 60 values.
    assert errors[others].square().mean().sqrt().item() == pytest.approx(1, abs=0.05)


def test_equal_scores_are_predicted_without_doubt():
    maps = relu_maps(0, 20, 6)
    y = torch.full((5, 1), 0.3)
    found = predict_scores(maps, choose_masks(maps, uniform(1, 20), 5), y - 2, y)
    assert torch.allclose(found.logits, torch.tensor(-1.7))
    assert torch.allclose(found.scores, torch.tensor(0.3))
    assert found.logit_std.max() < 1e-6
    assert found.score_std.max() < 1e-6


def test_one_measured_mask_speaks_for_all():
    maps, y = relu_maps(0, 8, 6), torch.tensor([[0.25]])
    found = predict_scores(maps, torch.tensor([3]), y * 8, y)
    assert torch.equal(found.logits, torch.full((8, 1), 2.0))
    assert torch.allclose(found.scores, torch.tensor(0.25))
    assert not found.logit_std.any()
    assert not found.score_std.any()


def test_copies_earn_the_mean_of_what_their_kind_earned():
    maps = torch.tensor([[0.3, 0.7]]) * torch.arange(1, 7)[:, None]
    y = torch.tensor([[0.2], [0.4], [0.9]])
    found = predict_scores(maps, torch.tensor([0, 1, 2]), y, y - 1)
    assert torch.allclose(found.logits[3:], torch.tensor(0.5))
    assert torch.allclose(found.scores[3:], torch.tensor(-0.5))
    assert (found.logit_std[3:] > 0).all()


def test_zero_maps_and_half_copies_are_finite():
    maps = torch.zeros(6, 4)
    maps[3:, 0] = 1
    maps[5, 1] = 1
    chosen = choose_masks(maps, torch.ones(6), 5)
    y = uniform(0, 5, 2)
    assert all(values.isfinite().all() for values in predict_scores(maps, chosen, y, y))


def test_no_measured_mask_is_an_error():
    nothing = torch.zeros(0, 1)
    with pytest.raises(ValueError, match="forward at least one mask"):
        predict_scores(torch.eye(3), nothing[:, 0].long(), nothing, nothing)


def batch(seed, examples=3, channels=40):
    """Distinct masks of a batch, their weights, and made-up values for two targets."""
    A = relu_maps(seed, examples * channels, 4, 4).reshape(examples, channels, 4, 4)
    A[0, 5:] = 0
    rows, maps, live, inverse = distinct(unit_range(A))
    spread = A.flatten(2).double().std(2, correction=0)[live]
    weights = torch.zeros(len(rows)).double().index_add_(0, inverse, spread)
    return rows, maps, weights, uniform(seed, len(rows), 2)


@pytest.mark.parametrize("budget", [1, 7, 39, 40])
def test_a_batch_is_its_examples_one_by_one(budget):
    rows, maps, weights, y = batch(0)
    chosen = budgeted(rows, maps, weights, budget)
    found = completed(rows, maps, chosen, y[chosen] * 9, y[chosen])
    for example in range(3):
        own = rows == example
        alone = budgeted(rows[own], maps[own], weights[own], budget)
        assert alone.sum() == min(budget, own.sum())
        assert torch.equal(chosen[own], alone)
        single = completed(
            rows[own], maps[own], alone, y[own][alone] * 9, y[own][alone]
        )  # fmt: skip
        for values, values_alone in zip(found, single, strict=True):
            assert torch.equal(values[own], values_alone)


def test_rows_of_examples_may_be_mixed():
    rows, maps, weights, y = batch(1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    chosen, mixed = (
        budgeted(rows[o], maps[o], weights[o], 9) for o in (torch.arange(len(rows)), order)
    )
    assert torch.equal(chosen[order], mixed)
    found = completed(rows, maps, chosen, y[chosen], y[chosen])
    again = completed(rows[order], maps[order], mixed, y[order][mixed], y[order][mixed])
    for values, values_again in zip(found, again, strict=True):
        assert torch.allclose(values[order], values_again, atol=1e-6)


def test_a_budget_that_covers_all_is_exact():
    rows, maps, weights, y = batch(2)
    chosen = budgeted(rows, maps, weights, 40)
    assert chosen.all()
    found = completed(rows, maps, chosen, y * 9, y)
    assert torch.equal(found.logits, y * 9)
    assert torch.equal(found.scores, y)
    assert not found.logit_std.any()
    assert not found.score_std.any()


def test_examples_within_the_budget_are_exact():
    rows, maps, weights, y = batch(3)
    chosen = budgeted(rows, maps, weights, 10)
    found = completed(rows, maps, chosen, y[chosen], y[chosen])
    small = rows == 0
    assert small.sum() <= 5
    assert torch.equal(found.scores[small], y[small])
    assert not found.score_std[small].any()
    assert (found.score_std[~small & ~chosen] > 0).all()


def test_nothing_live_is_an_empty_table():
    rows, maps, _, _ = distinct(torch.zeros(2, 3, 4, 4))
    chosen = budgeted(rows, maps, torch.zeros(0), 5)
    found = completed(rows, maps, chosen, torch.zeros(0, 2), torch.zeros(0, 2))
    assert [tuple(values.shape) for values in (chosen, *found)] == [(0,), *[(0, 2)] * 4]
    assert choose_masks(maps, torch.zeros(0), 5).shape == (0,)


def test_nothing_is_written_into():
    rows, maps, weights, y = batch(4)
    before = [values.clone() for values in (rows, maps, weights, y)]
    chosen = budgeted(rows, maps, weights, 9)
    state, kept = torch.get_rng_state(), chosen.clone()
    completed(rows, maps, chosen, y[chosen], y[chosen])
    assert torch.equal(torch.get_rng_state(), state)
    for values, copy in zip((rows, maps, weights, y, chosen), (*before, kept), strict=True):
        assert torch.equal(values, copy)


def test_raw_outputs_between_zero_and_one_are_no_probabilities():
    maps, y = relu_maps(0, 30, 9), uniform(1, 8, 1)
    chosen = choose_masks(maps, uniform(2, 30), 8)
    found = predict_scores(maps, chosen, y, y, "logit")
    assert torch.equal(found.logits, found.scores)
    shifted = predict_scores(maps, chosen, y + 5, y + 5, "logit")
    torch.testing.assert_close(shifted.scores, found.scores + 5, atol=1e-5, rtol=0)


def test_probabilities_stay_ones_where_one_is_rounded_to_zero():
    maps = relu_maps(0, 200, 9)
    chosen = choose_masks(maps, uniform(2, 200), 40)
    y = (uniform(1, 40, 1) > 0.8).float()
    found = predict_scores(maps, chosen, y, y)
    assert (found.logits < 0).any()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()


def naive_deviation(maps, chosen, y, sums, weight, slope):
    """The formula, pair by pair: weights and their slopes are functions of mean and deviation."""
    u = [m.ravel() / np.linalg.norm(m) for m in maps.double().numpy()]
    distances = sorted(
        np.linalg.norm(u[i] - u[j]) for a, i in enumerate(chosen) for j in chosen[:a]
    )
    length = distances[(len(distances) - 1) // 2]

    def k(i, j):
        return np.exp(-(np.linalg.norm(u[i] - u[j]) ** 2) / (2 * length**2)) + 0.05 * (i == j)

    inverse = np.linalg.inv([[k(i, j) for j in chosen] for i in chosen])
    centred = y - y.mean()
    variance = centred @ inverse @ centred / len(chosen)
    columns = [
        np.array([k(i, j) if i != j else k(i, j) - 0.05 for j in chosen]) for i in range(len(u))
    ]
    mean = np.array([y.mean() + column @ inverse @ centred for column in columns])
    mean[chosen] = y
    w = weight(mean)
    a = sums.double().flatten(1).numpy()
    a = a - a.mean(1, keepdims=True)
    cam = w @ a
    unknown = [i for i in range(len(u)) if i not in chosen]
    total = 0
    for i in unknown:
        for j in unknown:
            covariance = variance * (k(i, j) - columns[i] @ inverse @ columns[j])
            var_i = variance * (1.05 - columns[i] @ inverse @ columns[i])
            var_j = variance * (1.05 - columns[j] @ inverse @ columns[j])
            across = a[i] @ a[j] - (a[i] @ cam) * (a[j] @ cam) / (cam @ cam)
            rho = covariance / np.sqrt(var_i * var_j)
            total += slope(w[i], var_i) * slope(w[j], var_j) * rho * across
    return np.sqrt(total) / np.linalg.norm(cam)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(4, 25), st.integers(3, 12))
def test_deviation_is_the_dense_formula(seed, count, cells):
    maps, sums = different_maps(seed, count, cells).double(), uniform(seed + 4, count, cells)
    chosen = choose_masks(maps, uniform(seed, count), max(3, count // 2))
    if len(chosen) == count:
        return
    logits = uniform(seed + 1, len(chosen), 1).double() * 3 - 4
    scores = uniform(seed + 2, len(chosen), 1).double() * 0.9 + 0.1
    log_normal = lambda w, var: min(w * np.sqrt(np.exp(var) - 1), 0.5)  # noqa: E731
    cases = [
        ("score", "probability", scores.log(), lambda y: np.exp(np.minimum(y, 0)), log_normal),
        ("score", "logit", scores, lambda y: y, lambda w, var: np.sqrt(var)),
        ("softmax", "logit", logits, lambda y: np.exp(y) / np.exp(y).sum(), log_normal),
    ]
    for weights, kind, y, weight, slope in cases:
        found = predicted_deviation(maps, chosen, logits, scores, sums, weights, kind)
        expected = naive_deviation(maps, chosen.tolist(), y[:, 0].numpy(), sums, weight, slope)
        assert found.item() == pytest.approx(expected, rel=1e-5)


def test_deviation_is_what_correlations_lose():
    maps = relu_maps(0, 300, 3, 3).double()
    sums = maps + relu_maps(5, 300, 3, 3)
    u = torch.nn.functional.normalize(maps.flatten(1))
    chosen = choose_masks(maps, uniform(1, 300), 40)
    squared = torch.cdist(u, u).square()
    pairs = squared[chosen][:, chosen][~torch.eye(40, dtype=torch.bool)]
    covariance = (-squared / (2 * pairs.median())).exp() + 0.05 * torch.eye(300)
    normal = torch.randn(300, 400, generator=torch.Generator().manual_seed(2)).double()
    y = torch.linalg.cholesky(covariance) @ normal + 5
    d = predicted_deviation(maps, chosen, y[chosen], y[chosen], sums, kind="logit")
    found = predict_scores(maps, chosen, y[chosen], y[chosen], "logit").scores
    both = torch.stack([v.T @ sums.flatten(1) for v in (y, found)])
    both = torch.nn.functional.normalize(both - both.mean(2, keepdim=True), dim=2)
    lost = both.prod(0).sum(1) ** -2 - 1
    assert (lost.mean() / d.square().mean()).item() == pytest.approx(1, abs=0.1)


def test_deviation_does_not_know_brightness_or_company():
    maps, y = relu_maps(0, 40, 7), uniform(1, 9, 3)
    chosen = choose_masks(maps, uniform(3, 40), 9)
    d = predicted_deviation(maps, chosen, y * 9, y, maps)
    assert torch.allclose(predicted_deviation(maps, chosen, y * 9, y, maps * 1e4), d)
    d_of_softmax = predicted_deviation(maps, chosen, y * 9, y, maps, "softmax")
    shifted = predicted_deviation(maps, chosen, y * 9 + 100, y, maps, "softmax")
    assert torch.allclose(shifted, d_of_softmax, rtol=1e-4)
    for t in range(3):
        alone = predicted_deviation(maps, chosen, y[:, [t]] * 9, y[:, [t]], maps)
        assert torch.allclose(alone, d[[t]])


def test_deviation_is_infinite_where_nothing_is_told():
    maps, y = relu_maps(0, 20, 6), uniform(1, 5, 1)
    chosen = choose_masks(maps, uniform(1, 20), 5)
    same, flat = torch.full((5, 1), 0.3), torch.ones(20, 6)
    assert predicted_deviation(maps, chosen, y, same, maps).isinf().all()
    assert predicted_deviation(maps, chosen, y, y, flat).isinf().all()
    assert predicted_deviation(maps, chosen[:1], y[:1], y[:1], maps).isinf().all()
    # So far apart that their exponentials overflow.
    assert predicted_deviation(maps, chosen, y * 1e4, y, maps, "softmax").isinf().all()


@pytest.mark.parametrize("first", [1, 5, 19])
def test_a_choice_goes_on_where_it_ended(first):
    maps, weights = relu_maps(3, 40, 4, 4), uniform(4, 40)
    whole = choose_masks(maps, weights, 20)
    begun = choose_masks(maps, weights, first)
    assert torch.equal(torch.cat([begun, choose_masks(maps, weights, 20, begun)]), whole)
    assert torch.equal(choose_masks(maps, weights, 20, begun.flip(0)), whole[first:])
    assert not len(choose_masks(maps, weights, first, begun))
    assert sorted(choose_masks(maps, weights, 99, begun).tolist() + begun.tolist()) == [*range(40)]
