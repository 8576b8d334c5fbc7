"""What holds for gradient methods beyond the formula: identities between them, noise, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import nn

from captum_unioncam.methods import augmented_grad_cam as augmented
from captum_unioncam.methods.augmented_grad_cam import (
    LayerAugmentedGradCAM,
    moved,
    rigid_motions,
)
from captum_unioncam.methods.grad_cam_plus_plus import LayerGradCAMPlusPlus
from captum_unioncam.methods.hires_cam import LayerHiResCAM
from captum_unioncam.methods.integrated_grad_cam import LayerIntegratedGradCAM
from captum_unioncam.methods.layer_cam import LayerCAM, fuse_layer_cams
from captum_unioncam.methods.original_cam import LayerOriginalCAM
from captum_unioncam.methods.smooth_grad_cam_plus_plus import LayerSmoothGradCAMPlusPlus
from captum_unioncam.methods.union_cam import denoise
from captum_unioncam.methods.xgrad_cam import LayerXGradCAM
from tests.networks import NETWORKS, TARGETS, images, of_rank, seeded
from tests.oracles.gradient import augmented_grad_cam

pytestmark = pytest.mark.filterwarnings("ignore:.*is blank for example")
networks = pytest.mark.parametrize("network", NETWORKS)
NOISY = [
    pytest.param(LayerSmoothGradCAMPlusPlus, {}, id="smooth"),
    pytest.param(
        LayerAugmentedGradCAM, {"n_augmentations": 4, "aggregation": "average"}, id="average"
    ),
    pytest.param(LayerAugmentedGradCAM, {"n_augmentations": 4, "aggregation": "max"}, id="max"),
]
SUPER_RESOLUTION = pytest.param(
    LayerAugmentedGradCAM,
    {"n_augmentations": 4, "aggregation": "super_resolution"},
    id="super_resolution",
)
FITS = [
    {"n_augmentations": 3},
    {"n_augmentations": 4},
    {"n_augmentations": 6, "max_translation": 0.5, "seed": 1},
]
# On these networks the Grad-CAM of the targets that other tests share is negative.
POSITIVE = [
    *(("gap_head", (0,)), ("gap_head", (3,))),
    *(("convolutional", (0, 3, 4)), ("convolutional", (3, 1, 2))),
]


@pytest.fixture
def paths(monkeypatch):
    """Where every fit by Adam began and where each of its steps led."""
    made = []

    class Recorded(torch.optim.Adam):
        def __init__(self, parameters, **options):
            self.point = parameters[0]
            self.path = [self.point[0, 0].detach().clone()]
            made.append(self.path)
            super().__init__(parameters, **options)

        def step(self):
            super().step()
            self.path.append(self.point[0, 0].detach().clone())

    monkeypatch.setattr(torch.optim, "Adam", Recorded)
    return made


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def on_gap_head(target):
    """Activations, gradients, and the classifier's weights and bias for the target."""
    net, layer, x = NETWORKS["gap_head"]()
    with torch.no_grad():
        A = net[:4](x)
        w, b = net[-1].weight[target], net[-1].bias[target]
    W = (w / A[0, 0].numel()).reshape(1, -1, 1, 1).expand_as(A)
    return net, layer, x, A, W, w, b


@pytest.mark.parametrize("target", range(4))
def test_cam_gradcam_hirescam_and_xgradcam_are_one_before_average_pooling(target):
    net, layer, x, A, _, _, b = on_gap_head(target)
    cam = LayerOriginalCAM(net, layer).attribute(x, target)
    close(cam.mean((1, 2, 3)) + b, net(x)[:, target].detach())
    for cls in (LayerGradCam, LayerHiResCAM, LayerXGradCAM):
        same = cls(net, layer).attribute(x, target).detach()
        close(same * A[0, 0].numel(), cam)


@pytest.mark.parametrize("target", range(4))
def test_layercam_and_unioncams_denoised_map_before_average_pooling(target):
    net, layer, x, A, W, w, _ = on_gap_head(target)
    positions = A[0, 0].numel()
    cam = LayerCAM(net, layer).attribute(x, target)
    close(cam, (w.relu()[:, None, None] * A).sum(1, keepdim=True) / positions)
    for theta in (0.0, 10.0, 50.0):
        close(denoise(A, W, theta, alpha="count"), cam / positions)
        equal = A[:, w > 0].sum(1, keepdim=True) / positions
        close(denoise(A, W, theta, alpha="sum"), equal)


@networks
@pytest.mark.parametrize("relu", [False, True])
def test_hirescam_is_captums_gradient_times_activation_summed(network, relu):
    net, layer, x = NETWORKS[network]()
    theirs = LayerGradientXActivation(net, layer).attribute(x, TARGETS[network]).detach()
    ours = LayerHiResCAM(net, layer).attribute(x, TARGETS[network], relu_attributions=relu)
    summed = theirs.sum(1, keepdim=True)
    close(ours, summed.relu() if relu else summed)


@networks
def test_captums_gradcam_is_augmented_and_integrated_gradcam_where_nothing_changes(network):
    net, layer, x = NETWORKS[network]()
    target = TARGETS[network]
    gradcam = LayerGradCam(net, layer).attribute(x, target, relu_attributions=True).detach()
    integrated = LayerIntegratedGradCAM(net, layer)
    close(integrated.attribute(x, target, n_steps=1, baselines=x), gradcam)
    paper = integrated.attribute(x, target, variant="paper", baselines=x)
    close(paper, torch.zeros_like(gradcam))
    still = {"n_augmentations": 1, "aggregation": "average"}
    augmented = LayerAugmentedGradCAM(net, layer).attribute(x, target, **still)
    close(augmented, F.interpolate(gradcam, x.shape[2:], mode="bilinear"))


class TestGradCAMPlusPlus:
    def test_alpha_is_at_most_one_half_after_a_relu(self):
        one_channel = nn.Conv2d(3, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
        net, x = seeded(nn.Sequential(*one_channel), 1), images(4, 3, 8, 8)
        A = net[:2](x).detach().requires_grad_()
        (W,) = torch.autograd.grad(net[2:](A)[:, 1].sum(), A)
        weighted = LayerGradCAMPlusPlus(net, net[1]).attribute(x, 1).sum((1, 2, 3))
        bound = A.detach().sum((1, 2, 3)) * W.relu().sum((1, 2, 3)) / 2
        assert (weighted > 0).all()
        assert (weighted < bound).all()

    @pytest.mark.parametrize(("gradient", "expected"), [(0.25, -1.0), (0.5, 0.0), (1.0, 0.0)])
    def test_channels_that_sum_to_a_negative_value(self, gradient, expected):
        net = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(4, 1, bias=False)).double()
        nn.init.constant_(net[2].weight, gradient)
        x = -torch.ones(1, 1, 2, 2, dtype=torch.float64)
        attr = LayerGradCAMPlusPlus(net.eval(), net[0]).attribute(x, 0)
        assert torch.equal(attr, torch.full_like(x, expected))

    @pytest.mark.parametrize("normalize_alpha", [False, True])
    def test_tiny_gradients_count(self, normalize_alpha):
        net, layer, x = NETWORKS["vgg_like"]()
        option = {"normalize_alpha": normalize_alpha}
        net.float()
        with torch.no_grad():
            net[-1].weight.mul_(1e-12)
            tiny = LayerGradCAMPlusPlus(net, layer).attribute(x.float(), 2, **option)
            # With vanishing gradients every alpha is 1/2.
            W = net[-1].weight[2].reshape(1, 7, 3, 3)
            pooled = F.max_pool2d(net[:5](x.float()), 2, return_indices=True)[1]
            W = F.max_unpool2d(W.expand(2, -1, -1, -1), pooled, 2)
            weight = W.relu().sum((2, 3), keepdim=True) / 2
            if normalize_alpha:
                weight = 2 * weight / (W > 0).sum((2, 3), keepdim=True).clamp(min=1)
            expected = (weight * net[:5](x.float())).sum(1, keepdim=True)
        torch.testing.assert_close(tiny * 1e12, expected * 1e12)

    def test_large_logits_do_not_overflow(self):
        net, layer, x = NETWORKS["gap_head"]()
        net.float()
        with torch.no_grad():
            net[-1].bias += 200
        assert LayerGradCAMPlusPlus(net, layer).attribute(x.float(), 1).isfinite().all()


class TestNoise:
    @pytest.mark.parametrize(("cls", "options"), NOISY)
    @networks
    def test_a_batch_equals_single_calls(self, cls, options, network):
        net, layer, x = NETWORKS[network]()
        x = torch.cat([x, x.flip(-1) * 1.5])
        for target in {TARGETS[network], TARGETS["convolutional"] if "conv" in network else 0}:
            batch = cls(net, layer).attribute(x, target, **options)
            for i in range(len(x)):
                single = cls(net, layer).attribute(x[i : i + 1], target, **options)
                close(batch[i : i + 1], single)

    @pytest.mark.parametrize(("cls", "options"), [*NOISY, SUPER_RESOLUTION])
    def test_repeatable_by_seed_and_the_global_state_untouched(self, cls, options):
        net, layer, x = NETWORKS["vgg_like"]()
        method = cls(net, layer)
        before = torch.get_rng_state()
        first = method.attribute(x, 2, **options)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(123)
        assert torch.equal(method.attribute(x, 2, **options), first)
        assert torch.equal(method.attribute(x, 2, seed=0, **options), first)
        assert not torch.equal(method.attribute(x, 2, seed=1, **options), first)

    def test_without_noise_smooth_is_plain(self):
        for network in NETWORKS:
            net, layer, x = NETWORKS[network]()
            plain = LayerGradCAMPlusPlus(net, layer).attribute(x, TARGETS[network])
            smooth = LayerSmoothGradCAMPlusPlus(net, layer)
            close(smooth.attribute(x, TARGETS[network], stdev=0, n_samples=3), plain)

    @pytest.mark.parametrize(
        ("cls", "options"),
        [
            (LayerSmoothGradCAMPlusPlus, {}),
            (LayerIntegratedGradCAM, {"n_steps": 3}),
            (LayerIntegratedGradCAM, {"n_steps": 3, "variant": "paper"}),
            (LayerAugmentedGradCAM, {"n_augmentations": 3, "aggregation": "average"}),
        ],
    )
    def test_inputs_that_are_no_images_stay(self, cls, options):
        class Conditioned(nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.layer, _ = NETWORKS["vgg_like"]()

            def forward(self, table, image, index):
                assert table.dtype == torch.float64
                assert index.dtype == torch.long
                return self.net(image) * table + index[:, None]

        both = Conditioned().eval()
        table, index = torch.full((2, 5), 2.0, dtype=torch.float64), torch.tensor([1, 3])
        x = NETWORKS["vgg_like"]()[2]
        attr = cls(both, both.layer).attribute((table, x, index), 2, **options)
        net, layer, _ = NETWORKS["vgg_like"]()
        doubled = cls(lambda i: 2 * net(i), layer).attribute(x, 2, **options)
        close(attr, doubled)


class TestAugmented:
    def test_motions_of_an_image(self):
        x = images(1, 2, 6, 6)
        turned, shifted = rigid_motions(
            torch.tensor([[math.pi / 2, 0, 0], [0, 1 / 6, 2 / 6]], dtype=torch.float64), (6, 6)
        )
        close(moved(x, turned), torch.rot90(x, 1, (2, 3)))
        close(moved(x, shifted), F.pad(x[:, :, 2:, 1:], (0, 1, 0, 2)))

    def test_motions_keep_distances_whatever_the_shape(self):
        draws = torch.tensor([[0.7, 0.1, -0.2]], dtype=torch.float64)
        motion = rigid_motions(draws, (20, 50))[0]
        pixels = torch.diag(torch.tensor([25.0, 10.0], dtype=torch.float64))
        rotation = pixels @ motion[:2, :2] @ torch.linalg.inv(pixels)
        close(rotation @ rotation.T, torch.eye(2, dtype=torch.float64))
        close(pixels @ motion[:2, 2], torch.tensor([5.0, -4.0], dtype=torch.float64))

    @pytest.mark.parametrize("aggregation", ["average", "max"])
    @pytest.mark.parametrize(("network", "target"), POSITIVE)
    def test_targets_with_positive_maps(self, network, target, aggregation):
        net, layer, x = NETWORKS[network]()
        options = {"n_augmentations": 3, "aggregation": aggregation}
        attr = LayerAugmentedGradCAM(net, layer).attribute(x, target, **options)
        assert attr.flatten(1).any(1).all()
        for i in range(len(x)):
            expected = augmented_grad_cam(net, layer, x[i : i + 1], target, **options)
            close(attr[i, 0], expected, 1e-9)

    @pytest.mark.parametrize("options", FITS)
    @pytest.mark.parametrize(("network", "target"), [*TARGETS.items(), *POSITIVE])
    def test_every_step_of_the_fit(self, network, target, options, paths):
        net, layer, x = NETWORKS[network]()
        options = {**options, "aggregation": "super_resolution"}
        attr = LayerAugmentedGradCAM(net, layer).attribute(x, target, **options)
        index = target if isinstance(target, tuple) else (target,)
        for i, fit in enumerate(attr[:, 0]):
            path = torch.stack(paths.pop(0)) if fit.any() else None
            start = None if path is None else path[:-1]
            steps = augmented_grad_cam(net, layer, x[i : i + 1], index, **options, path=start)
            if path is None:
                assert steps is None, "there are maps to fit"
                continue
            assert len(steps) == 200
            assert not path[0].any()
            close(path[1:], steps, 1e-9)
            assert torch.equal(fit, path[-1])
        assert not paths

    @pytest.mark.parametrize(
        ("network", "target"), [("vgg_like", 2), ("signed", 1), ("signed", 2), *POSITIVE]
    )
    def test_a_batch_is_fitted_as_single_examples(self, network, target, monkeypatch):
        fits = []

        def super_resolved(maps, motions, size):
            fits.append((maps, motions))
            return maps.new_ones(1, 1, *size)

        monkeypatch.setattr(augmented, "super_resolved", super_resolved)
        net, layer, x = NETWORKS[network]()
        x = torch.cat([x, x.flip(-1) * 1.5])
        method = LayerAugmentedGradCAM(net, layer)
        options = {"n_augmentations": 4, "aggregation": "super_resolution"}
        method.attribute(x, target, **options)
        for example in x:
            method.attribute(example[None], target, **options)
        assert len(fits) > 2
        half = len(fits) // 2
        for ours, theirs in zip(fits[:half], fits[half:], strict=True):
            close(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])

    def test_the_fit_resembles_the_maps_it_was_made_of(self):
        net, layer, x = NETWORKS["vgg_like"]()
        method = LayerAugmentedGradCAM(net, layer)
        fit = method.attribute(x, 2, n_augmentations=40, aggregation="super_resolution")
        average = method.attribute(x, 2, n_augmentations=40, aggregation="average")
        for pair in zip(fit, average, strict=True):
            assert torch.corrcoef(torch.stack([m.flatten() for m in pair]))[0, 1] > 0.8

    @pytest.mark.parametrize("rank", [1, 3])
    def test_only_images(self, rank):
        net, layer, x = of_rank(rank)
        with pytest.raises(ValueError, match=r"rotates images: layer '2' .* got \(3, 4, "):
            LayerAugmentedGradCAM(net, layer).attribute(x, 1)


class TestCAM:
    def test_a_target_per_example_and_tuples(self):
        net, layer, x = NETWORKS["gap_head"]()
        attr = LayerOriginalCAM(net, layer).attribute(x, [3, 0])
        for i, target in enumerate([3, 0]):
            close(attr[i : i + 1], LayerOriginalCAM(net, layer).attribute(x[i : i + 1], (target,)))

    @pytest.mark.parametrize("relu", [False, True])
    def test_a_convolutional_head(self, relu):
        net = nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Dropout(), nn.Conv2d(6, 4, 1)),
            *(nn.ReLU() if relu else nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        net, x = seeded(net), images(2, 3, 7, 8)
        attr = LayerOriginalCAM(net, net[1]).attribute(x, 2)
        head = net[3](net[1](net[0](x)))[:, 2:3] - net[3].bias[2]
        close(attr, head.detach())

    def test_a_relu_between_layer_and_pooling(self):
        net, _, x = NETWORKS["gap_head"]()
        before = LayerOriginalCAM(net, net[2]).attribute(x, 1)
        assert (net[:3](x) < 0).any()
        close(before, LayerOriginalCAM(net, net[3]).attribute(x, 1))

    def test_one_value_per_example(self):
        pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        net = seeded(nn.Sequential(nn.Conv2d(3, 6, 3), *pool, nn.Linear(6, 1), nn.Flatten(0)))
        x = images(2, 3, 6, 6)
        attr = LayerOriginalCAM(net, net[0]).attribute(x)
        close(attr.mean((1, 2, 3)) + net[3].bias.detach(), net(x).detach())

    def test_input_of_the_pooling_and_a_bound_method(self):
        net, layer, x = NETWORKS["gap_head"]()
        expected = LayerOriginalCAM(net, layer).attribute(x, 1)
        pooled = LayerOriginalCAM(net.forward, net[4])
        close(pooled.attribute(x, 1, attribute_to_layer_input=True), expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_rounding_is_no_reason_to_refuse(self, dtype):
        pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        net = nn.Sequential(nn.Conv2d(3, 512, 3), nn.ReLU(), *pool, nn.Linear(512, 50))
        net, x = seeded(net).to(dtype), images(4, 3, 30, 30).to(dtype)
        for target in range(50):
            assert LayerOriginalCAM(net, net[1]).attribute(x, target).any()

    def test_networks_without_such_a_head(self):
        net, layer, x = NETWORKS["vgg_like"]()
        refused = (
            r"global average pooling and one linear layer .* layer '4' \(ReLU\): nothing linear "
            r"takes its 7 channels; the last linear layer is '7', Linear\(.* use LayerGradCam"
        )
        with pytest.raises(ValueError, match=refused):
            LayerOriginalCAM(net, layer).attribute(x, 1)
        net, layer, x = NETWORKS["gap_head"]()
        net[4] = nn.AdaptiveMaxPool2d(1).eval()
        with pytest.raises(ValueError, match=r"'6' would take its 6 channels, but mean\(L\) \+ b"):
            LayerOriginalCAM(net, layer).attribute(x, 1)
        net, layer, x = NETWORKS["convolutional"]()
        with pytest.raises(ValueError, match="global average pooling"):
            LayerOriginalCAM(net, layer).attribute(x, (2, 3, 4))
        two = nn.Sequential(*NETWORKS["gap_head"]()[0], nn.Linear(4, 5))
        with pytest.raises(ValueError, match="'6' would take its 6 channels"):
            LayerOriginalCAM(seeded(two), two[3]).attribute(images(2, 3, 10, 14), 1)
        with pytest.raises(ValueError, match="'6' would take its 6 channels"):
            LayerOriginalCAM(seeded(two), two[3]).attribute(images(2, 3, 10, 14), 4)

    def test_probabilities_and_hidden_models(self):
        net, layer, x = NETWORKS["gap_head"]()
        softmax = nn.Sequential(*net, nn.Softmax(1)).eval()
        with pytest.raises(ValueError, match="pass the model without its softmax"):
            LayerOriginalCAM(softmax, layer).attribute(x, 1)
        with pytest.raises(ValueError, match="hides the model: pass the model itself"):
            LayerOriginalCAM(lambda i: net(i), layer).attribute(x, 1)


class TestFusion:
    def test_by_hand(self):
        maps = [images(2, 1, 8, 8) - 0.3, images(2, 1, 4, 4, seed=1) - 0.2]
        fused = fuse_layer_cams(maps, (16, 12), gamma=1.5)
        for i in range(2):
            expected = torch.zeros(16, 12, dtype=torch.float64)
            for cam in maps:
                up = F.interpolate(cam[i : i + 1].relu(), (16, 12), mode="bilinear")[0, 0]
                expected = torch.maximum(expected, torch.tanh(1.5 * up / up.max()))
            close(fused[i, 0], expected)

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_scale_does_not_matter_and_empty_maps_add_nothing(self, dims):
        cam = images(2, 1, *[4] * dims) - 0.5
        fused = fuse_layer_cams([cam], [8] * dims)
        close(fuse_layer_cams([cam * 1e-9, -cam.abs()], [8] * dims), fused)
        close(fused.flatten(1).amax(1), torch.full((2,), math.tanh(2), dtype=torch.float64))
        assert not fuse_layer_cams([-cam.abs()], [8] * dims).any()

    def test_of_a_network(self):
        net, _, x = NETWORKS["vgg_like"]()
        maps = [LayerCAM(net, layer).attribute(x, 2) for layer in (net[1], net[4])]
        fused = fuse_layer_cams(maps, x.shape[2:])
        assert fused.shape == (2, 1, 12, 12)
        assert (fused >= 0).all()

    @pytest.mark.parametrize(
        ("maps", "size", "gamma", "error", "match"),
        [
            ([], (4, 4), 2.0, ValueError, "got none"),
            ([images(1, 1, 4)], (4, 4), 2.0, ValueError, r"the 2 spatial .* got \(1, 1, 4\)"),
            ([images(1, 1, 4, 4), images(2, 1, 4, 4)], (4, 4), 2.0, ValueError, "the same N"),
            ([images(1, 1, 4, 4)], (4, 4), 0.0, ValueError, "gamma must be .* greater than 0"),
            ([images(1, 1, 4, 4)], (4, 4), "2", TypeError, "gamma must be a number"),
        ],
    )
    def test_refusals(self, maps, size, gamma, error, match):
        with pytest.raises(error, match=match):
            fuse_layer_cams(maps, size, gamma)


@pytest.mark.parametrize(
    ("cls", "options", "error", "match"),
    [
        (LayerGradCAMPlusPlus, {"normalize_alpha": 1}, TypeError, "normalize_alpha must be True"),
        (LayerSmoothGradCAMPlusPlus, {"n_samples": 0}, ValueError, "n_samples must be"),
        (LayerSmoothGradCAMPlusPlus, {"n_samples": 2.5}, TypeError, "n_samples must be an int"),
        (
            LayerSmoothGradCAMPlusPlus,
            {"stdev": -1},
            ValueError,
            "stdev must be a finite number at least 0, got -1",
        ),
        (LayerSmoothGradCAMPlusPlus, {"seed": None}, TypeError, "seed must be an int"),
        (LayerIntegratedGradCAM, {"variant": "papr"}, ValueError, "closest: 'paper'"),
        (LayerIntegratedGradCAM, {"n_steps": 0}, ValueError, "n_steps must be"),
        (LayerIntegratedGradCAM, {"baselines": (0, 0)}, ValueError, "one entry per input"),
        (LayerIntegratedGradCAM, {"baselines": "black"}, TypeError, "a baseline must be"),
        (LayerAugmentedGradCAM, {"aggregation": "mean"}, ValueError, "aggregation must be one of"),
        (LayerAugmentedGradCAM, {"n_augmentations": 0}, ValueError, "n_augmentations must be"),
        (LayerAugmentedGradCAM, {"max_rotation": "0.5"}, TypeError, "max_rotation must be"),
        (LayerAugmentedGradCAM, {"max_translation": math.inf}, ValueError, "max_translation must"),
    ],
)
def test_wrong_options(cls, options, error, match):
    net, layer, x = NETWORKS["vgg_like"]()
    with pytest.raises(error, match=match):
        cls(net, layer).attribute(x, 1, **options)
