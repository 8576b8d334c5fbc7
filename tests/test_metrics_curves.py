"""Insertion and deletion against arithmetic by hand, RISE's evaluation in loops, and a peer."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from captum_unioncam.baselines import rise_kernel
from captum_unioncam.metrics.curves import deletion, insertion
from captum_unioncam.metrics.faithfulness import average_drop
from captum_unioncam.metrics.protocols import PROTOCOLS, protocol_arguments
from tests.networks import TwoInputs, images, of_rank, seeded, vgg_like
from tests.test_metrics_faithfulness import maps, pixel_sum, state_of

METRICS = [insertion, deletion]
TARGETS = [2, 4]


def curves_by_loops(net, start, finish, attr, step, targets):
    """RISE's evaluation, pixel by pixel: `start` becomes `finish` in the map's order."""
    curves = []
    for begin, end, one, c in zip(start, finish, attr, targets, strict=True):
        values = one.flatten().tolist()
        order = sorted(range(len(values)), key=lambda p, values=values: (-values[p], p))
        shown, source = begin.clone().flatten(1), end.flatten(1)
        scores = []
        for done in range(0, len(values) + step, step):
            for pixel in order[max(0, done - step) : done]:
                shown[:, pixel] = source[:, pixel]
            with torch.no_grad():
                out = net(shown.reshape(1, *begin.shape))
            scores.append(float(out.softmax(1)[0, c]))
        curves.append(scores)
    curves = torch.tensor(curves, dtype=torch.float64)
    steps = curves.shape[1] - 1
    return (curves.sum(1) - curves[:, 0] / 2 - curves[:, -1] / 2) / steps, curves


def blurred_by_scipy(x, size, stdev):
    """RISE's blur: a point filtered within the kernel, convolved over zeros."""
    from scipy.ndimage import gaussian_filter

    point = np.zeros([size] * (x.dim() - 2))
    point[(size // 2,) * point.ndim] = 1
    kernel = torch.as_tensor(gaussian_filter(point, stdev))[None, None]
    conv = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[point.ndim]
    channels = [conv(x[:, c : c + 1], kernel, padding=size // 2) for c in range(x.shape[1])]
    return torch.cat(channels, dim=1)


def test_numbers_by_hand():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 0.0], [0.0, 1.0]]]])
    attr = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]], [[[0.0, 3.0], [2.0, 1.0]]]])
    areas, scores = deletion(pixel_sum, x, attr, step=1, return_curve=True)
    assert scores.tolist() == [[10.0, 6.0, 3.0, 1.0, 0.0], [6.0, 6.0, 6.0, 5.0, 0.0]]
    assert areas.tolist() == [(6 + 3 + 1 + 5) / 4, (6 + 6 + 5 + 3) / 4]
    areas, scores = insertion(pixel_sum, x, attr, step=1, start=0, return_curve=True)
    assert scores.tolist() == [[0.0, 4.0, 7.0, 9.0, 10.0], [0.0, 0.0, 0.0, 1.0, 6.0]]
    assert areas.tolist() == [(4 + 7 + 9 + 5) / 4, (0 + 0 + 1 + 3) / 4]


def test_a_last_step_that_is_shorter_counts_like_the_others():
    x = torch.tensor([[[1.0, 2.0, 4.0, 8.0, 16.0]]])
    areas, scores = deletion(pixel_sum, x, x, step=2, return_curve=True)
    assert scores.tolist() == [[31.0, 7.0, 1.0, 0.0]]
    assert areas.item() == pytest.approx((31 / 2 + 7 + 1) / 3)


def test_a_start_and_a_baseline_by_hand():
    x = torch.tensor([[[1.0, 2.0, 3.0]]])
    _, scores = deletion(pixel_sum, x, x, baselines=10, step=1, return_curve=True)
    assert scores.tolist() == [[6.0, 13.0, 21.0, 30.0]]
    start = torch.tensor([[[0.0, 0.0, -5.0]]])
    _, scores = insertion(pixel_sum, x, x, start=start, step=1, return_curve=True)
    assert scores.tolist() == [[-5.0, 3.0, 5.0, 6.0]]
    # `baselines` is for the other metrics.
    assert torch.equal(
        insertion(pixel_sum, x, x, start=start, baselines=7, step=1),
        insertion(pixel_sum, x, x, start=start, step=1),
    )


def test_ties_go_in_scan_order():
    x = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
    for attr in (torch.ones(1, 1, 4), torch.zeros(1, 1, 4)):
        _, scores = deletion(pixel_sum, x, attr, step=1, return_curve=True)
        assert scores.tolist() == [[15.0, 14.0, 12.0, 8.0, 0.0]]
    _, scores = deletion(
        pixel_sum, x, torch.tensor([[[0.0, 1.0, 0.0, 1.0]]]), step=1, return_curve=True
    )
    assert scores.tolist() == [[15.0, 13.0, 5.0, 4.0, 0.0]]


@pytest.mark.parametrize("step", [1, 7, 24, 144, None])
def test_rises_evaluation_in_loops(step):
    net, _, x = vgg_like()
    # Values with many ties.
    attr = (maps(2, 1, 12, 12) * 20).round()
    by_loops = 6 if step is None else step
    baseline = images(1, 3, 12, 12, seed=8)
    expected = curves_by_loops(net, x, baseline.expand(2, -1, -1, -1), attr, by_loops, TARGETS)
    found = deletion(net, x, attr, target=TARGETS, baselines=baseline, step=step, return_curve=True)
    torch.testing.assert_close(found, expected)
    blurred = blurred_by_scipy(x, 11, 5.0)
    expected = curves_by_loops(net, blurred, x, attr, by_loops, TARGETS)
    found = insertion(net, x, attr, target=TARGETS, step=step, return_curve=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("size", "stdev"), [(11, 5.0), (51, 50.0), (1, 2.0), (3, 0.4), (7, 1.0)])
def test_the_kernel_is_that_of_scipy(size, stdev):
    from scipy.ndimage import gaussian_filter

    point = np.zeros((size, size))
    point[size // 2, size // 2] = 1
    kernel = torch.tensor(rise_kernel(size, stdev), dtype=torch.float64)
    theirs = torch.as_tensor(gaussian_filter(point, stdev))
    torch.testing.assert_close(kernel[:, None] * kernel, theirs, atol=1e-15, rtol=1e-12)


def test_rises_kernel_is_nearly_a_box():
    kernel = rise_kernel(11, 5.0)
    assert sum(kernel) == pytest.approx(1, abs=1e-12)
    assert kernel == pytest.approx(kernel[::-1])
    # A Gaussian that is cut off would fall to 0.61 of its peak there.
    assert kernel[0] / kernel[5] == pytest.approx(0.936, abs=1e-3)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("size", "stdev"), [(5, 1.0), (11, 5.0), (31, 3.0)])
def test_insertion_starts_from_the_blurred_input(rank, size, stdev):
    net, _, x = of_rank(rank)
    with torch.no_grad():
        ends = [net(rows).softmax(1)[:, 1] for rows in (blurred_by_scipy(x, size, stdev), x)]
    _, scores = insertion(
        net, x, maps(3, 1, *x.shape[2:]), target=1, blur_size=size, blur_stdev=stdev,
        return_curve=True,
    )  # fmt: skip
    torch.testing.assert_close(scores[:, [0, -1]], torch.stack(ends, dim=1))


def test_deleting_what_shows_the_same_changes_nothing():
    net, _, x = vgg_like()
    with torch.no_grad():
        clean = net(x).softmax(1)[[0, 1], TARGETS]
    areas, scores = deletion(
        net, x, maps(2, 1, 3, 3), target=TARGETS, baselines=x, return_curve=True
    )
    torch.testing.assert_close(areas, clean)
    torch.testing.assert_close(scores, clean[:, None].expand(2, 25))
    areas = insertion(net, x, maps(2, 1, 3, 3), target=TARGETS, start=x)
    torch.testing.assert_close(areas, clean)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_ends_are_the_scores_of_start_and_finish(rank):
    net, _, x = of_rank(rank)
    baseline = images(1, *x.shape[1:], seed=7)
    with torch.no_grad():
        clean = net(x).softmax(1)[:, 1]
        base = net(baseline).softmax(1)[:, 1].expand(3)
    attr = maps(3, 1, *x.shape[2:])
    _, down = deletion(net, x, attr, target=1, baselines=baseline, step=5, return_curve=True)
    _, up = insertion(net, x, attr, target=1, start=baseline, step=5, return_curve=True)
    for scores, first, last in ((down, clean, base), (up, base, clean)):
        torch.testing.assert_close(scores[:, 0], first)
        torch.testing.assert_close(scores[:, -1], last)
    # What one inserts first, the other deletes first: middles differ, the pixels are the same.
    order = attr.flatten(1).argsort(1, descending=True)[:, :5]
    for i, pixels in enumerate(order):
        changed = x[i].clone().flatten(1)
        changed[:, pixels] = baseline[0].flatten(1)[:, pixels]
        with torch.no_grad():
            score = net(changed.reshape(1, *x.shape[1:])).softmax(1)[0, 1]
        torch.testing.assert_close(down[i, 1], score)


def test_the_steps_by_default_are_a_28th():
    size = []
    for pixels in (224 * 224, 28, 27, 100, 1):
        x = torch.ones(1, 1, pixels)
        _, scores = deletion(pixel_sum, x, x, return_curve=True, perturbations_per_eval=32)
        size.append(scores.shape[1] - 1)
    # Of 50176 pixels 1792 each time, of 27 one, of 100 four.
    assert size == [28, 28, 27, 25, 1]


@pytest.mark.parametrize("metric", METRICS)
def test_chunks_and_company_do_not_matter(metric):
    net, _, _ = vgg_like()
    x, attr = images(3, 3, 12, 12, seed=2), maps(3, 2, 6, 6)
    target = [0, 1, 2]
    areas, scores = metric(net, x, attr, target=target, step=40, return_curve=True)
    assert scores.shape == (3, 5)
    assert areas.unique().numel() == 3
    for chunk in (1, 3, 100):
        found = metric(
            net, x, attr, target=target, step=40, return_curve=True, perturbations_per_eval=chunk
        )
        torch.testing.assert_close(found, (areas, scores))
    singles = [metric(net, x[i : i + 1], attr[i : i + 1], target=i, step=40) for i in range(3)]
    torch.testing.assert_close(torch.cat(singles), areas)


def test_only_one_chunk_of_masks_exists_at_a_time():
    x, attr = torch.rand(2, 1, 30), torch.rand(2, 1, 30)
    seen = []

    def forward(rows):
        seen.append(len(rows))
        return pixel_sum(rows)

    deletion(forward, x, attr, step=1, perturbations_per_eval=4)
    # The clean inputs, both ends, then 2 x 29 rows in chunks of 4 x 2.
    assert seen == [2, 2, 2, *[8] * 7, 2]


def test_pictures_of_two_sizes_change_together():
    def both(first, second):
        return first.flatten(1).sum(1) + 100 * second.flatten(1).sum(1)

    first, second = torch.ones(1, 1, 4), torch.ones(1, 1, 2)
    attr = torch.tensor([[[1.0, 0.9, 0.2, 0.1]]])
    _, scores = deletion(both, (first, second), attr, step=2, return_curve=True)
    assert scores.tolist() == [[204.0, 102.0, 0.0]]
    _, scores = insertion(both, (first, second), attr, step=2, start=(0, 5), return_curve=True)
    assert scores.tolist() == [[1000.0, 602.0, 204.0]]


def test_tables_beside_pictures_pass_unchanged():
    net = seeded(TwoInputs())
    image, table, scale = images(2, 2, 6, 6), images(2, 3, seed=1), images(2, seed=2)
    with torch.no_grad():
        ends = [
            net(rows, table, scale, 0.5).softmax(1)[:, 3]
            for rows in (blurred_by_scipy(image, 11, 5.0), image, 0 * image)
        ]
    arguments = {"target": 3, "additional_forward_args": (scale, 0.5), "return_curve": True}
    _, up = insertion(net, (image, table), maps(2, 1, 6, 6), **arguments)
    _, down = deletion(net, (image, table), maps(2, 1, 6, 6), **arguments)
    torch.testing.assert_close(up[:, [0, -1]], torch.stack(ends[:2], dim=1))
    torch.testing.assert_close(down[:, [0, -1]], torch.stack(ends[1:], dim=1))


def test_half_precision_inputs_are_blurred_in_single_precision():
    net, _, x = vgg_like()
    attr = maps(2, 1, 3, 3)
    single = insertion(net.float(), x.float(), attr, target=1, step=36)
    half = insertion(net.bfloat16(), x.bfloat16(), attr, target=1, step=36)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, single, atol=0.02, rtol=0)


BAD = [
    ({"step": 0}, ValueError, "step must be a finite number greater than 0, got 0"),
    ({"step": 2.0}, TypeError, "step must be an int, got float"),
    ({"return_curve": 1}, TypeError, "return_curve must be True or False"),
    ({"show_progress": "yes"}, TypeError, "show_progress must be True or False"),
    ({"score": "probs"}, ValueError, "closest: 'probability'"),
    ({"target": "cat"}, TypeError, "target must be None, an int"),
]
BAD_BLUR = [
    ({"blur_size": 10}, ValueError, "blur_size must be odd, to have a middle, got 10"),
    ({"blur_size": -1}, ValueError, "blur_size must be a finite number greater than 0"),
    ({"blur_size": 11.0}, TypeError, "blur_size must be an int"),
    ({"blur_stdev": 0}, ValueError, "blur_stdev must be a finite number greater than 0"),
    ({"blur_stdev": float("inf")}, ValueError, "blur_stdev must be a finite number"),
    ({"start": torch.ones(5, 5)}, ValueError, "does not fit an input of shape"),
    ({"start": "blur"}, TypeError, "must be a number or a Tensor, got str"),
]


@pytest.mark.parametrize(
    ("metric", "wrong", "error", "message"),
    [(m, *bad) for m in METRICS for bad in BAD] + [(insertion, *bad) for bad in BAD_BLUR],
)
def test_bad_input_is_named_before_any_forward(metric, wrong, error, message):
    def never(*_):
        raise AssertionError("a forward ran")

    x = vgg_like()[2]
    arguments = {"target": 1} | wrong
    with pytest.raises(error, match=message):
        metric(never, x, torch.ones(2, 1, 3, 3), **arguments)


@pytest.mark.parametrize("metric", METRICS)
def test_a_step_of_more_than_there_is(metric):
    net, _, x = vgg_like()
    with pytest.raises(ValueError, match="step=145 is more than the 144 pixels"):
        metric(net, x, maps(2, 1, 3, 3), target=1, step=145)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_users_changes(metric, fails):
    net, _, x = vgg_like()
    net[1].training = True
    x.requires_grad_()
    attr, calls = maps(2, 1, 6, 6).requires_grad_(), []

    def score(output):
        calls.append(len(output))
        if fails and len(calls) == 2:
            raise RuntimeError("broken on purpose")
        return output.softmax(1)

    before = state_of(net, x, attr)
    outcome = pytest.raises(RuntimeError, match="on purpose") if fails else contextlib.nullcontext()
    with pytest.warns(UserWarning, match="training mode") as warned, outcome:
        metric(net, x, attr, target=1, score=score, step=50, perturbations_per_eval=1)
    assert warned[0].filename == __file__
    assert len(calls) == (2 if fails else 4)
    assert state_of(net, x, attr) == before


def test_progress_is_shown_only_when_asked_for(capsys):
    net, _, x = vgg_like()
    insertion(net, x, maps(2, 1, 3, 3), target=1)
    assert capsys.readouterr().err == ""
    insertion(net, x, maps(2, 1, 3, 3), target=1, show_progress=True)
    assert "insertion: 100%" in capsys.readouterr().err


def test_torchcam():
    # It starts insertion from zeros, and its areas are alike where the step divides the pixels.
    # The layer has the input's size: its maps are scaled before they are resized.
    methods = pytest.importorskip("torchcam.methods")
    metrics = pytest.importorskip("torchcam.metrics")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(96, 5),
    ).eval()  # fmt: skip
    x, target = images(3, 3, 16, 16).float() * 2 - 1, [0, 1, 2]
    with methods.GradCAM(net, target_layer=net[1]) as extractor:
        probability = net(x.clone().requires_grad_()).softmax(1)
        attr = extractor(target, probability)[0].detach()[:, None]
        metric = metrics.DeletionInsertionMetric(
            extractor, lambda out: out.softmax(-1), steps=16, batch_size=7
        )
        metric.update(x.clone().requires_grad_(), target)
        theirs = metric.summary()
    down = deletion(net, x, attr, target=target, step=16).mean().item()
    up = insertion(net, x, attr, target=target, step=16, start=0).mean().item()
    assert abs(up - down) > 1e-3
    assert down == pytest.approx(theirs["deletion_auc"], abs=1e-6)
    assert up == pytest.approx(theirs["insertion_auc"], abs=1e-6)


def test_protocols_are_what_the_sources_publish():
    black = torch.full((1, 3, 224, 224), -2.0)
    paper, xplain, scorecam = (protocol_arguments(name, black) for name in PROTOCOLS)
    assert paper.drop["baselines"] is black
    assert paper.deletion["baselines"] is black
    assert (paper.drop["keep"], paper.deletion["step"]) == (None, 8 * 224)
    rise = {"step": 8 * 224, "blur_size": 11, "blur_stdev": 5.0, "start": None}
    assert paper.insertion == rise
    assert xplain.drop == {"baselines": 0, "keep": None}
    assert xplain.deletion == {"baselines": 0, "step": 448}
    assert xplain.insertion == {"step": 448, "blur_size": 51, "blur_stdev": 50.0, "start": None}
    assert scorecam.drop == {"baselines": 0, "keep": 0.5}
    assert (scorecam.deletion["step"], scorecam.insertion["start"]) == (502, 0)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_metrics_take_what_protocols_give(name):
    net, _, x = vgg_like()
    black, attr = torch.full((1, 3, 12, 12), -0.5), maps(2, 1, 3, 3)
    chosen = protocol_arguments(name, black)
    baseline = black if PROTOCOLS[name].baseline == "black" else torch.zeros_like(black)
    with torch.no_grad():
        base = net(baseline.double()).softmax(1)[:, 1].expand(2)
    _, scores = deletion(net, x, attr, target=1, return_curve=True, **chosen.deletion)
    torch.testing.assert_close(scores[:, -1], base)
    _, scores = insertion(net, x, attr, target=1, return_curve=True, **chosen.insertion)
    assert scores.shape[1] - 1 <= PROTOCOLS[name].steps
    drops = {
        other: average_drop(net, x, attr, target=1, **protocol_arguments(other, black).drop)
        for other in PROTOCOLS
    }
    assert not any(
        torch.allclose(drops[name], drops[other]) for other in PROTOCOLS if other != name
    )


def test_wrong_protocols():
    black = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"protocol must be one of 'paper'.*closest: 'xplain'"):
        protocol_arguments("explain", black)
    with pytest.raises(TypeError, match="black must be a floating point Tensor.*got int"):
        protocol_arguments("paper", 0)
    with pytest.raises(TypeError, match="got torch.uint8"):
        protocol_arguments("paper", black.byte())
    for shape in ((3, 8), (1, 3, 1, 1), (1, 3, 0, 8)):
        with pytest.raises(ValueError, match="black must have the inputs' own size"):
            protocol_arguments("paper", torch.zeros(shape))
