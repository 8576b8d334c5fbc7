"""Average drop, increase and gain against arithmetic by hand, loops, controls and peers."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from captum_unioncam.metrics.common import evaluation, pixel_ranks, prepared_maps
from captum_unioncam.metrics.faithfulness import (
    average_drop,
    average_gain,
    average_increase,
    clean_and_masked_scores,
    percent_drop,
    percent_gain,
    percent_increase,
)
from tests.networks import TwoInputs, images, of_rank, seeded, vgg_like

METRICS = [average_drop, average_increase, average_gain]
TARGETS = [2, 4]


def pixel_sum(x):
    return x.flatten(1).sum(1)


def maps(*shape, seed=3):
    return images(*shape, seed=seed) - 0.3


def scaled(attr, size):
    """Sum channels, resize and scale to [0, 1], one map after the other."""
    made = []
    for one in attr.sum(1):
        if tuple(one.shape) != tuple(size):
            one = nn.functional.interpolate(one[None, None], size, mode="bilinear")[0, 0]
        made.append((one - one.min()) / (one.max() - one.min()))
    return made


def probabilities(net, rows, targets):
    """Forward one row at a time."""
    found = []
    for row, c in zip(rows, targets, strict=True):
        with torch.no_grad():
            found.append(float(net(row[None]).softmax(1)[0, c]))
    return found


def by_loops(net, x, masks, baseline, targets=TARGETS):
    """Return percentages of drop, increase and gain, image by image in Python's floats."""
    shown = [b + M * (i - b) for i, M, b in zip(x, masks, baseline, strict=True)]
    Y, E = probabilities(net, x, targets), probabilities(net, shown, targets)
    drop = [100 * max(0.0, y - o) / y for y, o in zip(Y, E, strict=True)]
    increase = [100.0 if o > y else 0.0 for y, o in zip(Y, E, strict=True)]
    gain = [100 * max(0.0, o - y) / (1 - y) for y, o in zip(Y, E, strict=True)]
    return [torch.tensor(values, dtype=torch.float64) for values in (drop, increase, gain)]


def test_numbers_by_hand():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[1.0, -2.0], [3.0, 2.0]]]])
    attr = torch.tensor([[[[0.0, 2.0], [1.0, 4.0]]], [[[1.0, 0.0], [1.0, 1.0]]]])
    # Masks 0 1/2 1/4 1 leave 1 + 0.75 + 4 of 10; hiding -2 leaves 6 of 4.
    drop = average_drop(pixel_sum, x, attr)
    assert torch.equal(drop, torch.tensor([42.5, 0.0]))
    assert torch.equal(average_increase(pixel_sum, x, attr), torch.tensor([0.0, 100.0]))
    # As probabilities: 0.4 becomes 0.6, a third of the missing 0.6.
    gain = average_gain(pixel_sum, x / 10, attr)
    torch.testing.assert_close(gain, torch.tensor([0.0, 100 / 3]))


def test_a_baseline_by_hand():
    x = torch.tensor([[[4.0, 6.0]]])
    attr = torch.tensor([[[0.25, 1.0]]])
    # Flatness aside, masks are scaled: 0 and 1. The first pixel shows 3: 9 of 10.
    torch.testing.assert_close(average_drop(pixel_sum, x, attr, baselines=3), torch.tensor([10.0]))
    each = torch.tensor([[[-1.0, 50.0]]])
    drop = average_drop(pixel_sum, x, attr, baselines=each)
    torch.testing.assert_close(drop, torch.tensor([50.0]))


@pytest.mark.parametrize("size", [(12, 12), (3, 3), (5, 9), (30, 17)])
def test_soft_masks_are_those_of_a_loop(size):
    net, _, x = vgg_like()
    attr, baseline = maps(2, 3, *size), images(2, 3, 12, 12, seed=9)
    expected = by_loops(net, x, scaled(attr, (12, 12)), baseline)
    for metric, values in zip(METRICS, expected, strict=True):
        found = metric(net, x, attr, target=TARGETS, baselines=baseline)
        torch.testing.assert_close(found, values)


@pytest.mark.parametrize("keep", [0.5, 0.1, 0.9, 1 / 3])
def test_top_fractions_are_those_of_a_loop(keep):
    net, _, x = vgg_like()
    # Values with many ties: 144 pixels of eight values.
    attr = (maps(2, 1, 12, 12) * 8).round() / 8
    masks = []
    for values in attr.flatten(1).tolist():
        order = sorted(range(144), key=lambda p, values=values: (-values[p], p))
        kept = set(order[: round(keep * 144)])
        masks.append(torch.tensor([float(p in kept) for p in range(144)]).reshape(12, 12))
    expected = by_loops(net, x, masks, torch.full((2, 1, 1, 1), 0.25))
    for metric, values in zip(METRICS, expected, strict=True):
        found = metric(net, x, attr, target=TARGETS, baselines=0.25, keep=keep)
        torch.testing.assert_close(found, values)


def test_ties_are_kept_in_scan_order():
    x = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
    drop = average_drop(pixel_sum, x, torch.tensor([[[0.5, 0.0, 0.5, 0.5]]]), keep=0.5)
    torch.testing.assert_close(drop, torch.tensor([100 * (1 - 5 / 15)]))
    flat = average_drop(pixel_sum, x, torch.ones(1, 1, 4), keep=0.75)
    torch.testing.assert_close(flat, torch.tensor([100 * (1 - 7 / 15)]))


def test_ranks_sort_stably():
    values = torch.tensor([[[[0.0, 3.0], [3.0, 1.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    assert pixel_ranks(values).tolist() == [[3, 0, 1, 2], [0, 1, 2, 3]]
    many = torch.zeros(1, 1, 224, 224)
    assert torch.equal(pixel_ranks(many), torch.arange(224 * 224)[None])


@pytest.mark.parametrize("keep", [None, 0.4])
def test_ones_lose_nothing_or_what_is_hidden(keep):
    net, _, x = vgg_like()
    drop = average_drop(net, x, torch.ones(2, 1, 3, 3), target=TARGETS, keep=keep)
    assert bool((drop > 0).any()) == (keep is not None)


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("value", [1.0, 3.7])
def test_ones_score_exactly_nothing_in_single_precision(chunk, value):
    net, _, _ = vgg_like()
    x = images(7, 3, 12, 12, seed=5).float()
    ones = torch.full((7, 1, 5, 3), value)
    black = images(7, 3, 12, 12, seed=6).float()
    for metric in METRICS:
        found = metric(
            net.float(), x, ones, target=[0, 1, 2, 3, 4, 0, 1], baselines=black,
            perturbations_per_eval=chunk,
        )  # fmt: skip
        assert found.dtype == torch.float32
        assert found.tolist() == [0.0] * 7


@pytest.mark.network
def test_ones_score_exactly_nothing_on_photographs():
    from PIL import Image
    from skimage import data

    from captum_unioncam.vision.networks import demo_network

    network = demo_network()
    pictures = [network.prepare(Image.fromarray(p())) for p in (data.coffee, data.chelsea)]
    pictures.append(network.prepare(Image.fromarray(data.astronaut())))
    x, black = torch.cat([p[0] for p in pictures]), pictures[0][1]
    with torch.no_grad():
        target = network.model(x).argmax(1)
    stacked = torch.cat([x, x.flip(3)[:2]])
    target = torch.cat([target, target[:2]])
    common = {"target": target, "baselines": black}
    # Five rows in chunks of four and one, the engine's choice on a CPU.
    with evaluation("drop", network.model, stacked, torch.ones(5, 1, 7, 7), **common) as measured:
        clean, masked = clean_and_masked_scores(measured)
    assert torch.equal(clean, masked)
    assert (clean[:1] > 0.9).all()
    lopsided = torch.zeros(5, 1, 7, 7)
    lopsided[..., :3] = 1
    with evaluation("drop", network.model, stacked, lopsided, **common) as measured:
        again, masked = clean_and_masked_scores(measured)
    assert torch.equal(again, clean)
    assert (percent_drop(clean, masked) > 1).any()


def test_zeros_show_the_baseline_alone():
    net, _, x = vgg_like()
    baseline = images(1, 3, 12, 12, seed=8)
    Y = probabilities(net, x, TARGETS)
    B = probabilities(net, baseline.expand(2, -1, -1, -1), TARGETS)
    expected = [100 * max(0.0, y - b) / y for y, b in zip(Y, B, strict=True)]
    assert max(expected) > 0
    drop = average_drop(net, x, torch.zeros(2, 1, 4, 4), target=TARGETS, baselines=baseline)
    torch.testing.assert_close(drop, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("keep", [None, 0.3])
def test_chunks_and_company_do_not_matter(metric, keep):
    net, _, _ = vgg_like()
    x, attr = images(5, 3, 12, 12, seed=2), maps(5, 1, 6, 6)
    target = [0, 1, 2, 3, 4]
    whole = metric(net, x, attr, target=target, keep=keep)
    assert whole.unique().numel() > 1
    for chunk in (1, 2, 100):
        found = metric(net, x, attr, target=target, keep=keep, perturbations_per_eval=chunk)
        torch.testing.assert_close(found, whole)
    singles = [
        metric(net, x[i : i + 1], attr[i : i + 1], target=i, keep=keep) for i in range(len(x))
    ]
    torch.testing.assert_close(torch.cat(singles), whole)


def test_memory_that_runs_out_between_the_two_passes_leaves_them_alike():
    net, _, _ = vgg_like()
    net = net.float()
    x, ones = images(6, 3, 12, 12).float(), torch.ones(6, 1, 2, 2)
    seen = []

    def scarce(rows):
        seen.append(len(rows))
        # The clean inputs at once and a first pass of six rows fit, what follows does not.
        if len(rows) > 2 and len(seen) > 2:
            raise torch.OutOfMemoryError("no memory")
        return net(rows)

    with (
        pytest.warns(UserWarning, match="do not fit"),
        evaluation("drop", scarce, x, ones, target=1, perturbations_per_eval=1) as measured,
    ):
        clean, masked = clean_and_masked_scores(measured)
    assert torch.equal(clean, masked)
    # One row: six, too many, three, too many, six times one; then both passes again, each of six.
    assert seen == [6, 6, 6, 3, *[1] * 18]


def test_drops_of_logits():
    net, _, x = vgg_like()
    attr = maps(2, 1, 12, 12)
    M = torch.stack(scaled(attr, (12, 12)))[:, None]
    with torch.no_grad():
        Y, E = net(x), net(M * x)
    best = Y.argmax(1)
    Y, E = (v.gather(1, best[:, None])[:, 0] for v in (Y, E))
    assert (Y > 0).all()
    found = average_drop(net, x, attr, target=best, score="logit")
    torch.testing.assert_close(found, 100 * (Y - E).clamp(min=0) / Y)
    callable_score = average_drop(net, x, attr, target=best, score=lambda out: 2 * out)
    torch.testing.assert_close(callable_score, found)


def test_zero_and_one_are_exact():
    assert percent_drop(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0])).tolist() == [0.0, 0.0]
    tiny = torch.tensor([1e-30])
    torch.testing.assert_close(percent_drop(tiny, tiny / 2), torch.tensor([50.0]))
    assert percent_gain(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.5])).tolist() == [0.0, 0.0]
    assert percent_increase(torch.tensor([0.2]), torch.tensor([0.2])).tolist() == [0.0]


def test_scores_that_no_percentage_is_defined_for():
    with pytest.raises(ValueError, match=r"must be positive, got -2 for example\(s\) \[1\]; use"):
        percent_drop(torch.tensor([1.0, -2.0]), torch.tensor([0.0, 0.0]))
    with pytest.raises(ValueError, match="must be positive, got 0"):
        percent_drop(torch.tensor([0.0]), torch.tensor([-1.0]))
    for clean, masked in ((1.5, 0.5), (0.5, 1.5), (-0.5, 0.5), (0.5, -0.5)):
        with pytest.raises(ValueError, match="average_gain is defined for probabilities"):
            percent_gain(torch.tensor([clean]), torch.tensor([masked]))
    x = -torch.ones(1, 1, 4)
    with pytest.raises(ValueError, match="use score='probability'"):
        average_drop(pixel_sum, x, x)
    with pytest.raises(ValueError, match="score=torch.sigmoid"):
        average_gain(pixel_sum, 2 - x, x)
    one_output = seeded(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)))
    values = average_gain(one_output, images(2, 1, 4), maps(2, 1, 4), score=torch.sigmoid)
    assert ((values >= 0) & (values <= 100)).all()


BAD = [
    ({"keep": 0}, ValueError, "keep must be a fraction of the pixels between 0 and 1"),
    ({"keep": 1.0}, ValueError, "None masks softly"),
    ({"keep": 50}, ValueError, "between 0 and 1, such as 0.5, got 50"),
    ({"keep": True}, TypeError, "keep must be a fraction of the pixels or None, got bool"),
    ({"keep": "half"}, TypeError, "got str"),
    ({"show_progress": 1}, TypeError, "show_progress must be True or False"),
    ({"score": "prob"}, ValueError, "score must be one of.*closest: 'probability'"),
    ({"perturbations_per_eval": 0}, ValueError, "at least 1"),
    ({"baselines": torch.zeros(4, 3, 12, 12)}, ValueError, "does not fit an input of shape"),
    ({"target": [1, 2, 3]}, ValueError, "3 entries for 2 examples"),
    ({"inputs": "x"}, TypeError, "inputs must be a Tensor, got str"),
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("wrong", "error", "message"), BAD)
def test_bad_input_is_named_before_any_forward(metric, wrong, error, message):
    def never(*_):
        raise AssertionError("a forward ran")

    x = vgg_like()[2]
    arguments = {"inputs": x, "attributions": torch.ones(2, 1, 3, 3), "target": 1} | wrong
    with pytest.raises(error, match=message):
        metric(never, **arguments)


def test_gain_refuses_logits_before_any_forward():
    with pytest.raises(ValueError, match="average_gain is defined for probabilities"):
        average_gain(None, torch.ones(1, 1, 4), torch.ones(1, 1, 4), score="logit")


@pytest.mark.parametrize(
    ("attr", "error", "message"),
    [
        (torch.ones(3, 1, 3, 3), ValueError, r"shape \(2, C, \*, \*\).*got \(3, 1, 3, 3\)"),
        (torch.ones(2, 3, 3), ValueError, r"shape \(2, C, \*, \*\)"),
        (torch.ones(2, 0, 3, 3), ValueError, r"got \(2, 0, 3, 3\)"),
        (torch.ones(2, 1, 3, 3).long(), TypeError, "floating point Tensor, got torch.int64"),
        (np.ones((2, 1, 3, 3)), TypeError, "attributions must be a floating point Tensor"),
        ((torch.ones(2, 1, 3, 3),) * 2, ValueError, "got a tuple of 2"),
        (torch.full((2, 1, 3, 3), float("nan")), ValueError, "attributions hold NaN"),
    ],
)
def test_bad_maps(attr, error, message):
    net, _, x = vgg_like()
    with pytest.raises(error, match=message):
        average_drop(net, x, attr, target=1)


def test_a_share_of_too_few_pixels():
    x = torch.ones(1, 1, 12)
    with pytest.raises(ValueError, match=r"keep=0.01 of 12 pixels shows 0.*at least 0.083"):
        average_drop(pixel_sum, x, x, keep=0.01)
    with pytest.raises(ValueError, match="keep=0.99 of 12 pixels shows 12"):
        average_drop(pixel_sum, x, x, keep=0.99)


def test_flat_maps_stay_flat_when_resized():
    # Interpolating 9.91... gives values that differ in their last digits.
    value, size = 0.912742973372, (9, 106)
    attr = torch.full((1, 1, 13, 5), value)
    resized = nn.functional.interpolate(attr, size, mode="bilinear")
    assert resized.min() < resized.max()
    assert torch.equal(prepared_maps(attr, 1, size), torch.full((1, 1, *size), value))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_rank(rank):
    net, _, x = of_rank(rank)
    attr = maps(3, 2, *x.shape[2:])
    M = attr.sum(1, keepdim=True)
    flat = M.flatten(1)
    low, high = (v.reshape(-1, 1, *[1] * rank) for v in (flat.amin(1), flat.amax(1)))
    M = (M - low) / (high - low)
    with torch.no_grad():
        Y, E = (net(rows).softmax(1)[:, 1] for rows in (x, M * x))
    found = average_drop(net, x, attr, target=1)
    torch.testing.assert_close(found, 100 * (Y - E).clamp(min=0) / Y)


def test_tables_beside_pictures_pass_unmasked():
    net = seeded(TwoInputs())
    image, table, scale = images(2, 2, 6, 6), images(2, 3, seed=1), images(2, seed=2)
    attr = maps(2, 1, 6, 6)
    M = torch.stack(scaled(attr, (6, 6)))[:, None]
    with torch.no_grad():
        Y = net(image, table, scale, 0.5).softmax(1)[:, 3]
        E = net(0.1 + M * (image - 0.1), table, scale, 0.5).softmax(1)[:, 3]
    arguments = {"target": 3, "additional_forward_args": (scale, 0.5), "baselines": (0.1, 7)}
    found = average_drop(net, (image, table), attr, **arguments)
    torch.testing.assert_close(found, 100 * (Y - E).clamp(min=0) / Y)
    torch.testing.assert_close(
        average_increase(net, (image, table), (attr,), **arguments), 100 * (E > Y).double()
    )


def test_half_precision_networks_are_scored_in_single_precision():
    net, _, x = vgg_like()
    attr = maps(2, 1, 3, 3)
    single = average_drop(net.float(), x.float(), attr, target=1)
    half = average_drop(net.bfloat16(), x.bfloat16(), attr.bfloat16(), target=1)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, single, atol=3, rtol=0)


def test_progress_is_shown_only_when_asked_for(capsys):
    net, _, x = vgg_like()
    average_drop(net, x, maps(2, 1, 3, 3), target=1)
    assert capsys.readouterr().err == ""
    average_drop(net, x, maps(2, 1, 3, 3), target=1, show_progress=True)
    assert "average drop: 100%" in capsys.readouterr().err


def state_of(net, *tensors):
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())
    return (
        [m.training for m in net.modules()],
        hooks,
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        [p.grad for p in net.parameters()],
        [p.requires_grad for p in net.parameters()],
        [(t.requires_grad, t.tolist()) for t in tensors],
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_users_changes(metric, fails):
    net, _, x = vgg_like()
    net[1].training = True
    x.requires_grad_()
    attr = maps(2, 1, 6, 6).requires_grad_()
    calls = []

    def score(output):
        calls.append(len(output))
        if fails and len(calls) == 2:
            raise RuntimeError("broken on purpose")
        return output.softmax(1)

    before = state_of(net, x, attr)
    outcome = pytest.raises(RuntimeError, match="on purpose") if fails else contextlib.nullcontext()
    with pytest.warns(UserWarning, match="training mode") as warned, outcome:
        assert not metric(net, x, attr, target=1, score=score).requires_grad
    assert warned[0].filename == __file__
    assert len(calls) > 1
    assert state_of(net, x, attr) == before


def same_size_network():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 5),
    )  # fmt: skip
    with torch.no_grad():
        net[-1].weight *= 4
    return net.eval()


def test_torchcam():
    # Its maps are scaled before they are resized: alike where the layer has the input's size.
    # They explain what logits_fn returns, here the probability; 1e-7 is added to denominators.
    methods, metrics = (
        pytest.importorskip("torchcam.methods"),
        pytest.importorskip("torchcam.metrics"),
    )
    net = same_size_network()
    x = images(6, 3, 16, 16).float() * 2 - 1
    target = [0, 1, 2, 3, 4, 0]
    with methods.GradCAM(net, target_layer=net[3]) as extractor:
        probability = net(x.clone().requires_grad_()).softmax(1)
        attr = extractor(target, probability)[0].detach()[:, None]
        metric = metrics.ClassificationMetric(extractor, lambda out: out.softmax(-1))
        metric.update(x.clone().requires_grad_(), target)
        theirs = metric.summary()
    drop = average_drop(net, x, attr, target=target)
    increase = average_increase(net, x, attr, target=target)
    assert drop.any()
    assert 0 < increase.mean() < 100
    assert drop.mean().item() == pytest.approx(100 * theirs["avg_drop"], abs=1e-3)
    assert increase.mean().item() == pytest.approx(100 * theirs["conf_increase"])


def test_the_grad_cam_library():
    # Its drop is not relative to the clean score, and its maps are taken as they come.
    confidence = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    net = same_size_network()
    x = images(6, 3, 16, 16).float() * 2 - 1
    target = [0, 1, 2, 3, 4, 0]
    attr = prepared_maps(maps(6, 1, 16, 16).float(), 6, (16, 16))
    theirs = [ClassifierOutputSoftmaxTarget(c) for c in target]
    drop = confidence.DropInConfidence()(x, attr[:, 0].numpy(), theirs, net)
    increase = confidence.IncreaseInConfidence()(x, attr[:, 0].numpy(), theirs, net)
    with torch.no_grad():
        Y = net(x).softmax(1)[range(6), target]
    ours = average_drop(net, x, attr, target=target)
    assert ours.any()
    torch.testing.assert_close(ours * Y / 100, torch.as_tensor(drop), atol=1e-6, rtol=1e-5)
    rises = average_increase(net, x, attr, target=target)
    assert rises.unique().numel() == 2
    torch.testing.assert_close(rises / 100, torch.as_tensor(increase))
