"""Parameter randomisation and branch flips: right numbers, and nothing left behind."""

import itertools

import pytest
import torch
from captum.attr import (
    IntegratedGradients,
    LayerActivation,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from captum_unioncam import LayerScoreCAM, LayerUnionCAM, LayerXGradCAM
from captum_unioncam.metrics.branch_flips import branch_flip_rate
from captum_unioncam.metrics.similarity import mean_ranks, similarities
from captum_unioncam.metrics.stability import parameter_randomisation
from tests.networks import vgg_like

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")


class Net(nn.Module):
    """Layers with and without `reset_parameters`, statistics, a tied and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.scale = nn.Parameter(torch.rand(6, 1, 1) + 1)
        self.body = parametrizations.weight_norm(nn.Conv2d(6, 6, 3, padding=1, bias=False))
        self.head = nn.Linear(6 * 16, 4)
        self.again = nn.Linear(6 * 16, 4, bias=False)
        self.again.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.functional.max_pool2d(self.body(self.stem(x) * self.scale).relu(), 2)
        return self.head(maps.flatten(1)) + self.again(maps.flatten(1))


def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        model(torch.randn(16, 3, 8, 8))
        model.head.weight.mul_(5)
    return model.eval()


def x(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Snapshot:
    """All that may not change: objects, storage, values, gradients, hooks, modes, random state."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.values = {name: t.detach().clone() for name, t in self.held.items()}
        self.pointers = {name: t.data_ptr() for name, t in self.held.items()}
        self.modes = [m.training for m in model.modules()]
        self.hooks = [len(m._forward_hooks) for m in model.modules()]
        self.random = torch.get_rng_state()

    def check(self) -> None:
        held = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        assert list(held) == list(self.held)
        for name, t in held.items():
            assert t is self.held[name], name
            assert t.data_ptr() == self.pointers[name], name
            assert torch.equal(t, self.values[name]), name
            assert t.grad is None, name
        assert [m.training for m in self.model.modules()] == self.modes
        assert [len(m._forward_hooks) for m in self.model.modules()] == self.hooks
        assert torch.equal(torch.get_rng_state(), self.random)


def test_mean_ranks_equal_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = torch.randint(6, (5, 40), generator=torch.Generator().manual_seed(0)).double()
    assert mean_ranks(values).tolist() == (stats.rankdata(values.numpy(), axis=1) - 1).tolist()


@pytest.mark.parametrize("name", ["spearman", "pearson"])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e6])
def test_correlations_equal_scipy(name: str, scale: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(6, 1, 5, 7, generator=generator, dtype=torch.float64)
    b = a.sin() + torch.randn(6, 1, 5, 7, generator=generator, dtype=torch.float64)
    a[:3] = (4 * a[:3]).round()  # equal values
    function = stats.spearmanr if name == "spearman" else stats.pearsonr
    expected = [function(p.flatten(), q.flatten()).statistic for p, q in zip(a, b, strict=True)]
    found = similarities(scale * a - 3 * scale, scale * b, name)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_ssim_equals_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a = torch.rand(3, 1, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = a.roll(1, 3) + 0.3 * a
    unit = [(m - m.amin((1, 2, 3), True)) / (m.amax((1, 2, 3), True) - m.amin((1, 2, 3), True))
            for m in (a, b)]  # fmt: skip
    expected = [
        metrics.structural_similarity(p[0].numpy(), q[0].numpy(), win_size=7, data_range=1.0)
        for p, q in zip(*unit, strict=True)
    ]
    assert similarities(a, b, "ssim").tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="7 x 7"):
        similarities(a[:, :, :6], b[:, :, :6], "ssim")


@pytest.mark.parametrize("name", ["spearman", "pearson", "ssim"])
def test_similarities_of_equal_opposite_and_constant_maps(name: str) -> None:
    a = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    assert similarities(a, 3 * a + 1, name).item() == pytest.approx(1, abs=1e-6)
    assert similarities(a, -a, name).item() < 0
    constant = torch.full_like(a, 0.1)
    assert similarities(a, constant, name).item() == 0
    assert similarities(constant, constant, name).item() == 0


def naive_randomisation(
    model: nn.Module, layer: nn.Module, images: Tensor, names: list[str], mode: str
) -> list[list[float]]:
    """Zero the weights of a plain sequence of modules by hand and correlate."""
    stats = pytest.importorskip("scipy.stats")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    explain = LayerGradCam(model, layer).attribute
    original, rows = explain(images, target=1).detach(), []
    for name in names:
        if mode == "independent":
            model.load_state_dict(before)
        model.get_submodule(name).reset_parameters()
        maps = explain(images, target=1).detach()
        pairs = zip(original.flatten(1), maps.flatten(1), strict=True)
        rows.append([stats.spearmanr(a, b).statistic for a, b in pairs])
    model.load_state_dict(before)
    return rows


class Shift(nn.Linear):
    """A layer whose initialisation does not depend on chance."""

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.copy_(torch.linspace(-1, 2, self.weight.numel()).reshape(self.weight.shape))


class Blur(nn.Conv2d):
    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.copy_(torch.linspace(2, -1, self.weight.numel()).reshape(self.weight.shape))


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_randomisation_by_hand(mode: str) -> None:
    model = nn.Sequential(
        Blur(3, 5, 3, bias=False), nn.Tanh(), Blur(5, 4, 3, bias=False), nn.Tanh(), nn.Flatten(),
        Shift(64, 3, bias=False),
    ).eval()  # fmt: skip
    for p in model.parameters():
        nn.init.normal_(p)
    expected = naive_randomisation(model, model[3], x(), ["5", "2", "0"], mode)
    check = parameter_randomisation(LayerGradCam(model, model[3]), x(), 1, mode=mode)
    assert check.modules == ("5", "2", "0")
    for found, row in zip(check.similarities.tolist(), expected, strict=True):
        assert found == pytest.approx(row, abs=1e-6)
    assert len(set(check.similarities.flatten().tolist())) == 6


def test_every_module_with_parameters_is_randomised_from_the_output_down() -> None:
    model = net()
    seen = []

    def record(module: nn.Module, *_: object) -> None:
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})

    attribution = LayerXGradCAM(model, model.body)
    handle = model.register_forward_hook(record)
    check = parameter_randomisation(attribution, x(), 1)
    handle.remove()
    first = seen[0]
    states = [s for i, s in enumerate(seen) if i == 0 or any(
        not torch.equal(s[n], seen[i - 1][n]) for n in s)]  # fmt: skip
    # The tied weight is drawn twice, by each module that holds it.
    changed = [{n for n in s if not torch.equal(s[n], before[n])}
               for before, s in itertools.pairwise(states)]  # fmt: skip
    assert check.modules == (
        "again", "head", "body.parametrizations.weight", "stem.1", "stem.0", "",
    )  # fmt: skip
    # Batch norm's initial weights are those it has already; its statistics are not parameters.
    assert changed == [
        {"head.weight"},
        {"head.weight", "head.bias"},
        {"body.parametrizations.weight.original0", "body.parametrizations.weight.original1"},
        {"stem.0.weight", "stem.0.bias"},
        {"scale"},
    ]
    last = seen[-1]
    assert last["scale"].mean().item() == pytest.approx(first["scale"].mean().item(), abs=0.5)
    assert last["head.weight"].abs().max() <= 1 / 96**0.5
    assert check.similarities.shape == (6, 2)
    assert check.similarities.dtype == torch.float32


def test_statistics_of_batch_norms_are_reset_for_the_time_being() -> None:
    model = net()
    seen = []
    handle = model.stem[1].register_forward_hook(
        lambda m, *_: seen.append(m.running_mean.abs().max().item())
    )
    parameter_randomisation(LayerXGradCAM(model, model.body), x(), 1, modules=["stem.1"])
    handle.remove()
    assert seen[0] > 0
    assert seen[-1] == 0
    assert model.stem[1].running_mean.abs().max() > 0


def explanations(model: Net) -> dict[str, tuple[object, dict]]:
    return {
        "unioncam": (LayerUnionCAM(model, model.body), {}),
        "scorecam": (LayerScoreCAM(model, model.stem), {"perturbations_per_eval": 3}),
        "gradcam": (LayerGradCam(model, model.body), {"relu_attributions": True}),
        "saliency": (Saliency(model), {}),
        "integrated": (IntegratedGradients(model), {"n_steps": 4}),
        "occlusion": (Occlusion(model), {"sliding_window_shapes": (3, 4, 4)}),
        "noise": (NoiseTunnel(Saliency(model)), {"nt_samples": 2}),
        "method": (Saliency(model.forward), {}),
    }


@pytest.mark.parametrize("name", list(explanations(net())))
@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_any_attribution_and_nothing_left_behind(name: str, mode: str) -> None:
    model, images = net(), x()
    attribution, options = explanations(model)[name]
    snapshot, before = Snapshot(model), images.clone()
    check = parameter_randomisation(attribution, images, 1, mode=mode, **options)
    snapshot.check()
    assert torch.equal(images, before)
    assert not check.similarities.requires_grad
    assert (check.similarities.abs() <= 1 + 1e-6).all()
    assert (check.similarities.amin(0) < 0.99).all()
    if name not in ("noise", "occlusion"):
        again = parameter_randomisation(attribution, images, 1, mode=mode, **options)
        assert torch.equal(again.similarities, check.similarities)
        for i in range(2):
            alone = parameter_randomisation(attribution, images[i : i + 1], 1, mode=mode, **options)
            torch.testing.assert_close(
                alone.similarities[:, 0], check.similarities[:, i], atol=2e-3, rtol=0
            )


def test_noise_of_an_attribution_is_the_same_each_time() -> None:
    # Nothing but dropping a dead parameter happens, so that maps differ by their noise alone.
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(72, 2)).eval()
    model.unused = nn.Linear(2, 2)
    model.forward = lambda x: model[3](model[2](model[1](model[0](x))))
    noisy = NoiseTunnel(Saliency(model))
    check = parameter_randomisation(noisy, x(), 1, modules=["unused"], nt_samples=3, stdevs=5.0)
    assert check.similarities.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_the_model_is_put_back_after_errors(error: type[BaseException], at: int) -> None:
    model = net()
    snapshot = Snapshot(model)
    calls = []

    class Fails(Saliency):
        def attribute(self, *args: object, **kwargs: object) -> Tensor:
            calls.append(1)
            if len(calls) > at:
                raise error("stop")
            return super().attribute(*args, **kwargs)

    with pytest.raises(error, match="stop"):
        parameter_randomisation(Fails(model), x(), 1)
    snapshot.check()
    assert len(calls) == at + 1


def test_the_model_is_put_back_after_a_broken_reset() -> None:
    class Broken(nn.Linear):
        fails = False

        def reset_parameters(self) -> None:
            super().reset_parameters()
            if self.fails:
                self.weight = nn.Parameter(torch.zeros(1))
                raise RuntimeError("broken")

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), Broken(144, 3)).eval()
    snapshot = Snapshot(model)
    Broken.fails = True
    with pytest.raises(RuntimeError, match="broken"):
        parameter_randomisation(Saliency(model), x(), 1)
    snapshot.check()


def test_a_reset_that_replaces_its_parameter_is_understood() -> None:
    class Replaces(nn.Linear):
        def reset_parameters(self) -> None:
            self.weight = nn.Parameter(torch.full((3, 144), 2.0))

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), Replaces(144, 3, bias=False)).eval()
    with torch.no_grad():
        nn.init.normal_(model[2].weight)
    snapshot, seen = Snapshot(model), []
    handle = model[2].register_forward_hook(lambda m, *_: seen.append(m.weight.unique().numel()))
    parameter_randomisation(Saliency(model), x(), 1, modules=["2"])
    handle.remove()
    snapshot.check()
    assert seen == [432, 1]


def test_a_model_in_training_is_explained_in_evaluation_and_put_back() -> None:
    model = net().train()
    model.stem[2].eval()
    snapshot = Snapshot(model)
    check = parameter_randomisation(Saliency(model), x(), 1)
    snapshot.check()
    model.eval()
    assert torch.equal(parameter_randomisation(Saliency(model), x(), 1)[1], check.similarities)


def test_modules_are_chosen_by_name_or_object_and_whole_blocks_count_as_one() -> None:
    model = net()
    attribution = Saliency(model)
    by_name = parameter_randomisation(attribution, x(), 1, modules=["head", "stem"])
    by_object = parameter_randomisation(attribution, x(), 1, modules=[model.head, model.stem])
    assert by_name.modules == by_object.modules == ("head", "stem")
    assert torch.equal(by_name.similarities, by_object.similarities)
    single = parameter_randomisation(attribution, x(), 1, modules=["stem"])
    other = parameter_randomisation(attribution, x(), 1, modules=["stem"], seed=5)
    assert not torch.equal(single.similarities, other.similarities)
    generator = torch.Generator().manual_seed(5)
    given = parameter_randomisation(attribution, x(), 1, modules=["stem"], seed=generator)
    assert torch.equal(given.similarities, other.similarities)


def test_the_first_step_is_the_same_in_both_modes() -> None:
    model = net()
    a, b = (parameter_randomisation(Saliency(model), x(), 1, mode=m, modules=["head", "stem.0"])
            for m in ("cascading", "independent"))  # fmt: skip
    assert torch.equal(a.similarities[0], b.similarities[0])
    assert not torch.equal(a.similarities[1], b.similarities[1])


def test_absolute_values_forget_the_sign() -> None:
    class Negated(nn.Linear):
        def reset_parameters(self) -> None:
            with torch.no_grad():
                self.weight.neg_()

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), Negated(144, 3, bias=False)).eval()
    # The constructor negated memory that nothing had been written to.
    nn.init.normal_(model[2].weight)
    attribution = Saliency(model)
    options = {"modules": ["2"], "abs": False}
    signed = parameter_randomisation(attribution, x(), 1, **options)
    assert signed.similarities.flatten().tolist() == pytest.approx([-1, -1])
    forgot = parameter_randomisation(attribution, x(), 1, absolute=True, **options)
    assert forgot.similarities.flatten().tolist() == pytest.approx([1, 1])


def test_blank_maps_of_a_network_without_weights_are_similar_to_nothing() -> None:
    class Dead(nn.Conv2d):
        def reset_parameters(self) -> None:
            with torch.no_grad():
                self.weight.zero_()
                self.bias.fill_(-1)

    model = nn.Sequential(Dead(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    with torch.no_grad():
        nn.init.normal_(model[0].weight)
        model[0].bias.zero_()
    check = parameter_randomisation(LayerUnionCAM(model, model[1]), x(), 1, modules=["0"])
    assert check.similarities.tolist() == [[0.0, 0.0]]


def test_an_attribution_without_a_target_of_a_function_of_a_model() -> None:
    model = net()
    attribution = LayerActivation(lambda x: model(x), model.body)
    with pytest.raises(ValueError, match="model="):
        parameter_randomisation(attribution, x())
    check = parameter_randomisation(attribution, x(), model=model, modules=["head", "stem"])
    assert check.similarities[0].tolist() == [1.0, 1.0]  # the head lies after the layer
    assert (check.similarities[1] < 0.99).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"mode": "cascade"}, ValueError, "closest: 'cascading'"),
        ({"similarity": "kendall"}, ValueError, "similarity"),
        ({"absolute": "yes"}, TypeError, "absolute"),
        ({"seed": "0"}, TypeError, "seed"),
        ({"modules": "head"}, TypeError, "sequence"),
        ({"modules": ["hed"]}, ValueError, "closest: 'head'"),
        ({"modules": ["stem.2"]}, ValueError, "no floating point parameters"),
        ({"modules": []}, ValueError, "nothing to randomise"),
        ({"modules": [nn.Linear(2, 2)]}, ValueError, "not a module of the model"),
        ({"modules": [3]}, TypeError, "name or a Module"),
        ({"model": "net"}, TypeError, "nn.Module"),
        ({"scorer": net()}, ValueError, "scorer"),
        ({"inputs": [x()]}, TypeError, "inputs must be a Tensor"),
        ({"similarity": "ssim", "modules": ["head"], "inputs": x()[..., :4]}, Exception, "7 x 7"),
    ],
)
def test_bad_arguments(options: dict, error: type[Exception], match: str) -> None:
    model = net()
    if "7 x 7" in match:
        model = nn.Sequential(nn.Flatten(), nn.Linear(96, 2))
        options["modules"] = ["1"]
    snapshot = Snapshot(model)
    with pytest.raises(error, match=match):
        parameter_randomisation(Saliency(model), **{"inputs": x(), "target": 1, **options})
    snapshot.check()


def test_what_is_not_an_attribution_or_not_a_map_is_named() -> None:
    with pytest.raises(TypeError, match=r"captum\.attr\.Attribution"):
        parameter_randomisation(net(), x(), 1)
    table = nn.Sequential(nn.Linear(3, 2)).eval()
    with pytest.raises(TypeError, match=r"\(2, C, \*spatial\), got \(2, 3\)"):
        parameter_randomisation(Saliency(table), torch.rand(2, 3), 1)
    model = net()
    with pytest.raises(TypeError, match="got tuple"):
        parameter_randomisation(LayerUnionCAM(model, model.body), x(), 1, return_details=True)


def test_branch_flip_rate_equals_the_loop() -> None:
    model, layer, _ = vgg_like()
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(2)).double()
    union_cam = LayerUnionCAM(model, layer)
    rates = branch_flip_rate(union_cam, images, 2, radius=0.4, n_perturb_samples=8, seed=3)
    generator = torch.Generator().manual_seed(3)

    def selected(changed: Tensor) -> Tensor:
        return union_cam.attribute(changed, target=2, return_details=True)[1].selected_union

    clean, flips = selected(images), torch.zeros(6)
    for _ in range(8):
        noise = torch.rand(1, 3, 12, 12, generator=generator, dtype=torch.float64)
        flips += selected(images + 0.4 * (2 * noise - 1)) != clean
    assert rates.tolist() == (flips / 8).tolist()
    assert 0 < rates.mean() < 1


def test_branch_flip_rate_does_not_depend_on_the_batch_and_leaves_nothing_behind() -> None:
    model, layer, images = vgg_like()
    union_cam, state = LayerUnionCAM(model, layer), torch.get_rng_state()
    options = {"target": 2, "radius": 0.5, "n_perturb_samples": 6, "theta": 20.0}
    before = images.clone()
    rates = branch_flip_rate(union_cam, images, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)
    assert rates.shape == (2,)
    for i in range(2):
        assert torch.equal(
            branch_flip_rate(union_cam, images[i : i + 1], **options), rates[i, None]
        )
    assert branch_flip_rate(union_cam, images, 2, radius=0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"radius": -1}, ValueError, "radius"),
        ({"radius": None}, TypeError, "radius"),
        ({"n_perturb_samples": 0}, ValueError, "n_perturb_samples"),
        ({"seed": None}, TypeError, "seed"),
        ({"thta": 1}, TypeError, "thta"),
    ],
)
def test_branch_flip_rate_bad_arguments(options: dict, error: type[Exception], match: str) -> None:
    model, layer, images = vgg_like()
    with pytest.raises(error, match=match):
        branch_flip_rate(LayerUnionCAM(model, layer), images, 2, **options)


def test_only_unioncam_has_branches() -> None:
    model, layer, images = vgg_like()
    with pytest.raises(TypeError, match="LayerXGradCAM"):
        branch_flip_rate(LayerXGradCAM(model, layer), images, 2)
