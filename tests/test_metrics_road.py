"""ROAD against dense solves, hand-computed numbers and pytorch-grad-cam."""

import sys

import pytest
import torch
from torch import Tensor, nn

from captum_unioncam.metrics.imputation import linear_imputation
from captum_unioncam.metrics.remove_and_debias import road

OFFSETS = {(i, j): 1 / 6 if 0 in (i, j) else 1 / 12 for i in (-1, 0, 1) for j in (-1, 0, 1)}
OFFSETS.pop((0, 0))


def dense(image: Tensor, known: Tensor) -> Tensor:
    """Solve one channel (H, W) pixel by pixel in float64."""
    height, width = image.shape
    A, b = torch.eye(height * width).double(), image.double().flatten().clone()
    for y in range(height):
        for x in range(width):
            if known[y, x]:
                continue
            near = {(y + i, x + j): w for (i, j), w in OFFSETS.items()}
            near = {p: w for p, w in near.items() if 0 <= p[0] < height and 0 <= p[1] < width}
            b[y * width + x] = 0
            for (v, u), w in near.items():
                A[y * width + x, v * width + u] = -w / sum(near.values())
    return torch.linalg.solve(A, b).reshape(height, width)


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def few(count: int, height: int, width: int, share: float, seed: int = 1) -> Tensor:
    known = picture(count, 1, height, width, seed=seed) < share
    known[:, :, height // 2, 0] = True
    return known


class Mean(nn.Module):
    """Two outputs: the mean of the image, and its negative."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([mean, -mean], 1)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    ).eval()


@pytest.mark.parametrize("size", [(1, 7), (9, 1), (2, 2), (5, 8), (17, 16), (3, 40), (31, 33)])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_imputation_solves_the_dense_system(size: tuple[int, int], share: float) -> None:
    images, known = 5 * picture(2, 3, *size) - 90, few(2, *size, share)
    filled = linear_imputation(images, known)
    for i in range(2):
        for c in range(3):
            expected = dense(images[i, c], known[i, 0])
            torch.testing.assert_close(filled[i, c], expected, atol=5e-5, rtol=0)
    assert torch.equal(filled[known.expand_as(filled)], images[known.expand_as(filled)])


def test_imputation_of_regions_that_a_line_separates() -> None:
    known = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
    known[..., 9] = True
    known[0, 0, 3, 15] = True
    image = picture(1, 1, 20, 20)
    expected = dense(image[0, 0], known[0, 0])
    torch.testing.assert_close(linear_imputation(image, known)[0, 0], expected, atol=1e-5, rtol=0)


def test_imputation_continues_a_constant_and_ignores_what_is_removed() -> None:
    image, known = torch.full((1, 2, 12, 12), -3.25), few(1, 12, 12, 0.1)
    hidden = torch.where(known, image, picture(1, 2, 12, 12).float() * 1e6)
    assert torch.equal(linear_imputation(hidden, known), image.double())


def test_imputation_of_a_corner_by_hand() -> None:
    image = torch.tensor([[[[99.0, 2.0], [4.0, 12.0]]]])
    filled = linear_imputation(image, image < 99)[0, 0, 0, 0].item()
    assert filled == pytest.approx((2 / 6 + 4 / 6 + 12 / 12) / (5 / 12), abs=1e-4)


def test_imputation_does_not_depend_on_what_else_is_filled() -> None:
    images, known = picture(3, 3, 30, 26), torch.cat([few(1, 30, 26, s) for s in (0.9, 0.02, 1.1)])
    shared = linear_imputation(images, known)
    for i in range(3):
        for c in range(3):
            alone = linear_imputation(images[i, None, c, None], known[i, None])
            torch.testing.assert_close(shared[i, c], alone[0, 0], atol=1e-12, rtol=0)
    assert torch.equal(shared[2], images[2])


def test_imputation_needs_a_known_pixel_and_fitting_shapes() -> None:
    images, known = picture(2, 3, 4, 4), torch.ones(2, 1, 4, 4, dtype=torch.bool)
    known[1] = False
    with pytest.raises(ValueError, match="known pixel"):
        linear_imputation(images, known)
    with pytest.raises(ValueError, match=r"\(2, 4, 4\)"):
        linear_imputation(images, known[:, 0])


def test_road_by_hand() -> None:
    # One bright pixel in the middle of a dark image: filled from its neighbours it is dark.
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 9
    options = {"target": 0, "score": "logit", "noise": 0, "percentages": (100 / 9,)}
    assert road(Mean().eval(), x, x, order="morf", **options).item() == pytest.approx(0, abs=1e-6)
    # The least relevant pixel is a dark corner; its neighbours' mean is 9 / 12 over 5 / 12.
    ranked = torch.tensor([[[[0.0, 1, 1], [1, 2, 1], [1, 1, 1]]]])
    lerf = road(Mean().eval(), x, ranked, order="lerf", **options).item()
    assert lerf == pytest.approx((9 + 9 / 5) / 9, abs=1e-4)
    combined, curve = road(Mean().eval(), x, ranked, return_curve=True, **options)
    assert combined.item() == pytest.approx(lerf / 2, abs=1e-5)
    assert torch.equal(curve[:, 0], combined)


def naive_road(model: nn.Module, x: Tensor, cam: Tensor, target: int, percentages: list) -> dict:
    """Remove, fill and score one image (C, H, W) at a time, for maps without equal values."""
    found: dict = {"morf": [], "lerf": []}
    for p in percentages:
        for order, values in found.items():
            relevance = cam.flatten() if order == "lerf" else -cam.flatten()
            removed = relevance.sort().indices[: round(p / 100 * cam.numel())]
            known = torch.ones(cam.numel(), dtype=torch.bool)
            known[removed] = False
            known = known.reshape(cam.shape)
            filled = torch.stack([dense(channel, known) for channel in x])
            values.append(model(filled[None].to(x)).softmax(1)[0, target].item())
    return found


def test_road_equals_the_loop() -> None:
    model, x, cams = net(), picture(2, 3, 11, 9).float(), picture(2, 1, 11, 9, seed=3).float()
    percentages = [0, 7, 50, 93.5]
    options = {"target": [1, 3], "noise": 0, "percentages": percentages, "return_curve": True}
    curves = {o: road(model, x, cams, order=o, **options) for o in ("morf", "lerf", "combined")}
    for i, target in enumerate([1, 3]):
        expected = naive_road(model, x[i], cams[i, 0], target, percentages)
        for order in ("morf", "lerf"):
            value, curve = curves[order]
            assert curve[i].tolist() == pytest.approx(expected[order], abs=1e-5)
            assert value[i].item() == pytest.approx(sum(expected[order]) / 4, abs=1e-5)
    both = (curves["lerf"][1] - curves["morf"][1]) / 2
    torch.testing.assert_close(curves["combined"][1], both, atol=1e-7, rtol=0)


def test_noise_is_added_to_removed_pixels_alone() -> None:
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x.flatten(1)[:, :2]

    x, cam = torch.full((1, 3, 40, 40), 5.0), picture(1, 1, 40, 40).float()
    options = {"target": 0, "order": "morf", "percentages": (30,)}
    road(model, x, cam, noise=0.5, **options)
    changed = seen[-1] != x
    assert torch.equal(changed[0, 0], cam[0, 0] > cam.flatten().sort().values[-481])
    assert torch.equal(changed[:, 0], changed[:, 2])
    drawn = (seen[-1] - x)[changed]
    assert drawn.std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(drawn.mean().item()) < 0.05
    road(model, x, cam, noise=0.5, seed=1, **options)
    assert not torch.equal(seen[-1], seen[1])


def test_a_constant_map_scores_zero_in_expectation() -> None:
    # I15: which pixels go is chance; a stable order would remove the bright upper half first.
    x = torch.zeros(1, 1, 16, 16)
    x[:, :, :8] = 1
    maps = torch.full((1, 1, 16, 16), 0.3)
    options = {"target": 0, "score": "logit", "percentages": (30, 60)}
    values = torch.stack([road(Mean().eval(), x, maps, seed=s, **options) for s in range(60)])
    assert values.std() > 1e-4
    assert abs(values.mean()) < 4 * values.std() / 60**0.5
    informed = road(Mean().eval(), x, x, **options)
    assert informed > 20 * values.std()


def test_equal_values_are_broken_at_random_within_their_level() -> None:
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x.flatten(1)[:, :2]

    # The upper half is relevant; 25 % of the pixels are chance among it.
    cam = torch.zeros(1, 1, 20, 20)
    cam[:, :, :10] = 1
    for seed in (0, 1):
        road(model, torch.ones(1, 1, 20, 20), cam, target=0, order="morf", percentages=(25,),
             seed=seed)  # fmt: skip
    first, second = (seen[i][0, 0] != 1 for i in (1, 3))
    for removed in (first, second):
        assert removed.sum() == 100
        assert not removed[10:].any()
        assert 20 < removed[:5].sum() < 80
    assert not torch.equal(first, second)


@pytest.mark.parametrize("order", ["combined", "morf", "lerf"])
def test_batch_equals_singles_and_chunks_change_nothing(order: str) -> None:
    model, x, cams = net(), picture(3, 3, 14, 14).float(), picture(3, 1, 7, 7, seed=2).float()
    cams[1] = 0.5
    whole = road(model, x, cams, target=[0, 1, 2], order=order)
    for size in (1, 2, 5):
        chunked = road(model, x, cams, target=[0, 1, 2], order=order, perturbations_per_eval=size)
        torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=0)
    for i in range(3):
        alone = road(model, x[i : i + 1], cams[i : i + 1], target=i, order=order)
        torch.testing.assert_close(alone[0], whole[i], atol=1e-6, rtol=0)


def test_images_are_filled_in_parts_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, cams = net(), picture(3, 3, 14, 14).float(), picture(3, 1, 14, 14, seed=2).float()
    whole = road(model, x, cams, target=1)
    # By its name, since the package exports the function under the module's own.
    module = sys.modules[road.__module__]
    monkeypatch.setattr(module, "ELEMENTS_AT_ONCE", 4 * 3 * 14 * 14)
    torch.testing.assert_close(road(model, x, cams, target=1), whole, atol=1e-6, rtol=0)


def test_random_state_inputs_and_modes_are_untouched() -> None:
    model, x, cams = net().train(), picture(2, 3, 12, 12).float(), picture(2, 1, 6, 6).float()
    before, state = x.clone(), torch.get_rng_state()
    with pytest.warns(UserWarning, match="training mode"):
        first = road(model, x, cams, target=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)
    assert all(m.training for m in model.modules())
    assert not first.requires_grad
    assert first.dtype == torch.float32
    model.eval()
    assert torch.equal(road(model, x, cams, target=1), first)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(road(model, x, cams, target=1, seed=generator), first)
    assert not torch.equal(road(model, x, cams, target=1, seed=generator), first)


def test_beside_the_image_other_inputs_and_arguments_follow_their_example() -> None:
    def model(x: Tensor, table: Tensor, scale: Tensor) -> Tensor:
        return torch.stack([x.flatten(1).mean(1) * scale + table[:, 0], table[:, 1]], 1)

    x, table = picture(2, 3, 10, 10), torch.tensor([[1.0, 0.0], [5.0, 0.0]]).double()
    scale = torch.tensor([2.0, 3.0]).double()
    options = {"target": 0, "score": "logit", "order": "morf", "noise": 0}
    found = road(model, (x, table), x, additional_forward_args=scale, **options)
    alone = [road(Mean().eval(), x[i : i + 1], x[i : i + 1], **options).item() for i in range(2)]
    assert found.tolist() == pytest.approx([2 * alone[0] + 1, 3 * alone[1] + 5], abs=1e-6)
    assert found.dtype == torch.float64


def test_half_precision_images() -> None:
    x = picture(1, 3, 12, 12).to(torch.bfloat16)
    value = road(net().to(torch.bfloat16), x, x, target=1)
    assert value.dtype == torch.float32
    assert value.isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"percentages": (100,)}, ValueError, "below 100"),
        ({"percentages": (-1,)}, ValueError, "from 0"),
        ({"percentages": (99.9,)}, ValueError, "leaves none"),
        ({"percentages": ()}, TypeError, "sequence"),
        ({"percentages": 50}, TypeError, "sequence"),
        ({"percentages": ("ten",)}, TypeError, "percentage"),
        ({"order": "mrof"}, ValueError, "closest: 'morf'"),
        ({"noise": -0.1}, ValueError, "noise"),
        ({"seed": 0.5}, TypeError, "seed"),
        ({"return_curve": 1}, TypeError, "return_curve"),
        ({"target": 9}, ValueError, "out of range"),
    ],
)
def test_bad_arguments(options: dict, error: type[Exception], match: str) -> None:
    x = picture(1, 3, 8, 8).float()
    with pytest.raises(error, match=match):
        road(net(), x, x, **{"target": 0, **options})


def test_inputs_without_one_image_are_refused() -> None:
    line = torch.rand(1, 2, 8)
    with pytest.raises(ValueError, match="one input of images"):
        road(lambda x: x.flatten(1), line, line, target=0)
    x = torch.rand(1, 2, 8, 8)
    with pytest.raises(ValueError, match="one input of images"):
        road(lambda a, b: (a + b).flatten(1), (x, x), x, target=0)
    with pytest.raises(ValueError, match="imputed images"):
        road(lambda x: x.flatten(1) if x[0, 0, 0, 0] == 1 else x.flatten(1) * torch.nan,
             torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8), target=0, score="logit", noise=1,
             percentages=(90,))  # fmt: skip


def test_agrees_with_pytorch_grad_cam() -> None:
    theirs = pytest.importorskip("pytorch_grad_cam.metrics.road")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model, x, cams = net(), picture(2, 3, 24, 20).float(), picture(2, 1, 24, 20, seed=4).float()
    names = {
        "morf": theirs.ROADMostRelevantFirst,
        "lerf": theirs.ROADLeastRelevantFirst,
    }
    for order, metric in names.items():
        for p in (10, 50, 90):
            # Their percentile is what is kept; of their noise only the scale can be chosen.
            measure = metric(percentile=100 - p)
            measure.perturbation.imputer.noise = 0
            chosen = [targets.ClassifierOutputSoftmaxTarget(c) for c in (1, 2)]
            expected = measure(x, cams[:, 0].numpy(), chosen, model, return_diff=False)
            ours = road(model, x, cams, target=[1, 2], order=order, percentages=(p,), noise=0)
            assert ours.tolist() == pytest.approx(expected.tolist(), abs=2e-5), (order, p)
