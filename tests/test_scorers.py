"""Scorers: the same maps by other runtimes, which follow the weights or are not used."""

import copy
import gc
import pickle
import shutil
import sys
import warnings
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from captum_unioncam import LayerScoreCAM, LayerUnionCAM, scorers
from captum_unioncam.scorers import ScorerError
from captum_unioncam.scorers.scorer import in_blocks

EXACT = ("onnxruntime", "openvino")


def network():
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 10, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5)),
    ).eval()
    return net, net[4], torch.rand(3, 3, 16, 16)


def needs(name):
    if not scorers.is_installed(name):
        pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("given", ["by name", "built"])
def test_exact_runtimes_give_the_models_map(name, given):
    needs(name)
    net, layer, x = network()
    before = copy.deepcopy(net.state_dict())
    cam = LayerUnionCAM(net, layer)
    scorer = name if given == "by name" else getattr(scorers, name)(net, x[:1])
    attr, details = cam.attribute(x, [1, 2, 3], scorer=scorer, return_details=True)
    expected, exact = cam.attribute(x, [1, 2, 3], return_details=True)
    torch.testing.assert_close(attr, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(details.beta_union, exact.beta_union, atol=1e-5, rtol=1e-4)
    # One example alone, and another number of rows than it was built with.
    alone = cam.attribute(x[1:2], 2, scorer=scorer)
    torch.testing.assert_close(alone, attr[1:2], atol=1e-4, rtol=1e-4)
    after = net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not net.training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_half_is_near():
    net, layer, x = network()
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    attr = LayerScoreCAM(net, layer).attribute(x, 1, scorer="half")
    assert not torch.equal(attr, expected)
    torch.testing.assert_close(attr, expected, atol=0.02 * float(expected.abs().max()), rtol=0)


def test_a_named_scorer_is_built_once_and_follows_the_weights(monkeypatch):
    net, layer, x = network()
    made = []
    half = scorers.BUILDERS["half"]
    monkeypatch.setitem(
        scorers.BUILDERS, "half", lambda *given: made.append(half(*given)) or made[-1]
    )
    cam = LayerScoreCAM(net, layer)
    first = cam.attribute(x, 1, scorer="half")
    assert torch.equal(cam.attribute(x, 1, scorer="half"), first)
    assert len(made) == 1, "kept with the method's object"
    with torch.no_grad():
        net[7].weight.mul_(-1)
    changed = cam.attribute(x, 1, scorer="half")
    assert len(made) == 1
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    torch.testing.assert_close(changed, expected, atol=0.02 * float(expected.abs().max()), rtol=0)
    assert not torch.allclose(changed, first, atol=0.02 * float(expected.abs().max()))


def test_weights_are_seen_however_they_change():
    net, _, x = network()
    scorer = scorers.half(net)
    assert not scorer.refresh()
    net[0].weight.data[0, 0, 0, 0] += 1
    assert scorer.refresh()
    net[7].bias = nn.Parameter(net[7].bias.detach() + 1)
    assert scorer.refresh()
    assert not scorer.refresh()
    close = scorer(x).float(), net(x).detach()
    torch.testing.assert_close(*close, atol=0.05, rtol=0.05)


def test_a_scorer_that_is_too_far_off_is_not_used():
    net, layer, x = network()
    scorer = scorers.half(net, tolerance=0)
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    with pytest.warns(UserWarning, match="scorer 'half' is not used: on masked inputs"):
        attr = LayerScoreCAM(net, layer).attribute(x, 1, scorer=scorer)
    assert torch.equal(attr, expected)
    assert scorer.deviation > 0


def test_objects_with_named_scorers_are_copied_and_pickled():
    net, layer, x = network()
    cam = LayerScoreCAM(net, layer)
    first = cam.attribute(x, 1, scorer="half")
    for other in (copy.deepcopy(cam), pickle.loads(pickle.dumps(cam))):
        assert other.layer is other.forward_func[4]
        assert torch.equal(other.attribute(x, 1, scorer="half"), first)


def test_auto_is_the_model_where_nothing_is_installed(monkeypatch):
    net, layer, x = network()
    monkeypatch.setattr("captum_unioncam.engine.scorer_choice.is_installed", lambda name: False)
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    assert torch.equal(LayerScoreCAM(net, layer).attribute(x, 1, scorer="auto"), expected)


def test_auto_takes_an_installed_runtime():
    needs("onnxruntime")
    net, layer, x = network()
    cam = LayerScoreCAM(net, layer)
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attr = cam.attribute(x, 1, scorer="auto")
    used = cam.named_scorers["auto"].used
    assert used.name == "onnxruntime"
    assert used.deviation <= used.tolerance
    torch.testing.assert_close(attr, expected, atol=1e-4, rtol=1e-4)


def test_bad_scorers():
    net, layer, x = network()
    cam = LayerScoreCAM(net, layer)
    with pytest.raises(ValueError, match="scorer must be one of .*; closest: 'onnxruntime'"):
        cam.attribute(x, 1, scorer="onnxruntim")
    with pytest.raises(TypeError, match="scorer must be callable, a name or None, got int"):
        cam.attribute(x, 1, scorer=3)
    assert torch.equal(
        LayerScoreCAM(lambda images: net(images), layer).attribute(x, 1), cam.attribute(x, 1)
    ), "maps behind a function that hides the model"
    with pytest.raises(TypeError, match=r"half copies a torch\.nn\.Module, got function"):
        LayerScoreCAM(lambda images: net(images), layer).attribute(x, 1, scorer="half")

    class Stubborn(nn.Sequential):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    with pytest.raises(ScorerError, match="half cannot copy Stubborn: no copies"):
        scorers.half(Stubborn(nn.Linear(2, 2)))


class Several(nn.Module):
    """Two inputs, a further tensor with a row for each of theirs, one without, and an option."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6 + 4, 5)

    def forward(self, images, values, gain, classes, mode="plain"):
        seen = self.conv(images).relu().mean((2, 3)) * gain
        scores = self.head(torch.cat([seen, values], dim=1)) * classes
        return -scores if mode == "turned" else scores


def several():
    net = Several().eval()
    inputs = torch.rand(2, 3, 9, 9), torch.rand(2, 4)
    further = torch.rand(2, 1) + 1, torch.rand(5) + 1, "turned"
    return net, inputs, further


@pytest.mark.parametrize("name", EXACT)
def test_several_inputs_and_further_arguments(name):
    needs(name)
    net, inputs, further = several()
    cam = LayerScoreCAM(net, net.conv)
    expected = cam.attribute(inputs, 1, further)
    attr = cam.attribute(inputs, 1, further, scorer=name)
    torch.testing.assert_close(attr, expected, atol=1e-5, rtol=1e-4)
    # Another option is another network.
    plain = cam.attribute(inputs, 1, (*further[:2], "plain"), scorer=name)
    expected = cam.attribute(inputs, 1, (*further[:2], "plain"))
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=1e-4)
    assert cam.named_scorers[name].used.deviation < 1e-3


@pytest.mark.parametrize("name", EXACT)
def test_any_number_of_rows_in_any_layout(name):
    needs(name)
    net, _, x = network()
    scorer = getattr(scorers, name)(net, x[:1])
    first = scorer(x)
    kept = first.clone()
    for rows in (1, 2, 7):
        images = torch.rand(rows, 3, 16, 16).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(scorer(images), net(images).detach(), atol=1e-5, rtol=1e-5)
    assert torch.equal(first, kept), "outputs are not written over by later runs"


def test_arguments_that_a_scorer_was_not_built_for():
    needs("onnxruntime")
    net, (images, values), further = several()
    scorer = scorers.onnxruntime(net, (images, values), further)
    assert scorer(images, values, *further).shape == (2, 5)
    wrong = [
        (images[:, :, 1:], values, *further),
        (images.double(), values, *further),
        (images, values, *further[:2], "plain"),
        (images, values),
    ]
    for arguments in wrong:
        with pytest.raises(
            ScorerError, match=r"was built for torch\.float32 \(rows, 3, 9, 9\), .*'turned', got"
        ):
            scorer(*arguments)
    with pytest.raises(TypeError, match="onnxruntime needs an example"):
        scorers.onnxruntime(net, None)
    with pytest.raises(ScorerError, match="takes tensors, numbers, text and None as further"):
        scorers.onnxruntime(net, images, {"mode": "plain"})


class Branching(nn.Module):
    """A network whose path depends on values, which cannot be exported."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        seen = self.conv(x).relu().mean((2, 3))
        return self.head(seen * 2 if bool(seen.sum() > 1e6) else seen)


def test_a_model_that_cannot_be_exported(monkeypatch):
    needs("onnxruntime")
    net, x = Branching().eval(), torch.rand(2, 3, 9, 9)
    cam = LayerScoreCAM(net, net.conv)
    expected = cam.attribute(x, 1)
    with pytest.raises(ScorerError, match=r"onnxruntime cannot export Branching .*: use compiled"):
        cam.attribute(x, 1, scorer="onnxruntime")
    monkeypatch.setattr("captum_unioncam.engine.scorer_choice.AUTO", ("onnxruntime",))
    with pytest.warns(UserWarning, match="scorer='auto' leaves out a runtime: .*cannot export"):
        attr = cam.attribute(x, 1, scorer="auto")
    assert torch.equal(attr, expected)
    with warnings.catch_warnings():
        # It is neither tried nor told again.
        warnings.simplefilter("error")
        assert torch.equal(cam.attribute(x, 1, scorer="auto"), expected)
    assert cam.named_scorers["auto"].used is None


def test_models_that_runtimes_refuse():
    needs("onnxruntime")
    net, _, x = network()
    with pytest.raises(ScorerError, match=r"this one is in bfloat16"):
        scorers.onnxruntime(copy.deepcopy(net).bfloat16(), x.bfloat16())

    class Pair(nn.Module):
        def forward(self, images):
            return images.mean((1, 2, 3)), images.amax((1, 2, 3))

    with pytest.raises(ScorerError, match="that return one tensor, this one returns 2"):
        scorers.onnxruntime(Pair().eval(), x)
    with pytest.raises(ValueError, match="precision must be 'float32' or 'bfloat16', got 'int8'"):
        scorers.openvino(net, x, precision="int8")
    with pytest.raises(ValueError, match="tolerance must not be negative"):
        scorers.half(net, tolerance=-1)
    with pytest.raises(ValueError, match="rows must be at least 1, got -2"):
        scorers.compiled(net, rows=-2)


def test_a_package_that_is_missing(monkeypatch):
    net, layer, x = network()
    monkeypatch.setitem(sys.modules, "openvino", None)
    message = r"openvino needs openvino: pip install 'captum-unioncam\[runtimes\]'"
    with pytest.raises(ScorerError, match=message):
        LayerScoreCAM(net, layer).attribute(x, 1, scorer="openvino")


def test_threads_are_torchs_and_do_not_spin(monkeypatch):
    needs("onnxruntime")
    import onnxruntime

    seen, session = [], onnxruntime.InferenceSession

    def watched(model, options, **further):
        key = "session.intra_op.allow_spinning"
        seen.append((options.intra_op_num_threads, options.get_session_config_entry(key)))
        return session(model, options, **further)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    net, _, x = network()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        scorer = scorers.onnxruntime(net, x)
        torch.set_num_threads(2)
        assert scorer.refresh()
    finally:
        torch.set_num_threads(before)
    assert seen == [(1, "0"), (2, "0")]


@pytest.mark.parametrize("name", [*EXACT, "half"])
def test_the_model_is_left_as_it_was(name):
    needs(name)
    net, layer, x = network()
    net.insert(0, nn.ReLU(inplace=True))
    net.insert(1, nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)))
    net.train()
    net[7].eval()
    net[2].weight.requires_grad_(False)
    net[9].weight.grad = torch.ones_like(net[9].weight)
    state, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    inputs, random = x.clone(), torch.get_rng_state()
    with pytest.warns(UserWarning, match="training mode"):
        attr = LayerScoreCAM(net, layer).attribute(x, 1, scorer=name)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, inputs)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["2.weight"]
    assert [n for n, p in net.named_parameters() if p.grad is not None] == ["9.weight"]
    expected = LayerScoreCAM(net.eval(), layer).attribute(x, 1)
    torch.testing.assert_close(attr, expected, atol=0.02 * float(expected.abs().max()), rtol=0)


def test_built_in_inference_mode():
    needs("onnxruntime")
    net, _, x = network()
    with torch.inference_mode():
        scorer = scorers.onnxruntime(net, x.clone())
    torch.testing.assert_close(scorer(x), net(x).detach(), atol=1e-5, rtol=1e-5)


def test_no_tensor_of_a_call_is_held():
    net, layer, x = network()
    cam = LayerScoreCAM(net, layer)

    def score(output, scale=x):
        return output * scale.mean()

    cam.attribute(x, 1, score=score, scorer="half")
    storage = x.untyped_storage().data_ptr()
    gc.collect()
    # The test's own `x`, and the score's, which are the same tensor.
    assert sum(_is_of(one, storage) for one in gc.get_objects()) == 1
    held = weakref.ref(score)
    del score
    gc.collect()
    assert held() is None


def _is_of(one, storage):
    return type(one) is torch.Tensor and one.untyped_storage().data_ptr() == storage


def test_rows_that_are_compared(monkeypatch):
    net, layer, x = network()
    seen = []
    net.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    scorer = scorers.half(net)
    scorer._run = lambda images: copied(images).float()
    copied = copy.deepcopy(net)
    copied._forward_pre_hooks.clear()
    cam = LayerScoreCAM(net, layer)
    for inputs, rows in [
        (x[:1], [1, 4]),  # the clean pass, and four masked rows before the first use
        (x[:1], [1]),  # the same inputs
        (x[1:], [2, 2]),  # others: a row of each
    ]:
        seen.clear()
        cam.attribute(inputs, 1, scorer=scorer)
        assert seen == rows
    scorer._run = lambda images: copied(images) * torch.nan
    expected = cam.attribute(x, 1)
    with pytest.warns(UserWarning, match="scorer 'half' is not used: .* up to nan of the largest"):
        assert torch.equal(cam.attribute(x, 1, scorer=scorer), expected)


def test_deviation_is_that_of_the_score():
    net, layer, x = network()
    scorer = scorers.half(net, tolerance=1)
    exact = copy.deepcopy(net)
    scorer._run = lambda images: exact(images) * 1.25
    LayerScoreCAM(net, layer).attribute(x, 1, score="logit", scorer=scorer)
    assert scorer.deviation == pytest.approx(0.25)


def test_blocks_of_a_fixed_number_of_rows():
    x, shared = torch.rand(7, 3, 4, 4), torch.rand(7)
    x = x.contiguous(memory_format=torch.channels_last)
    seen = []

    def run(images, weights, option):
        seen.append((images.shape, images.is_contiguous(memory_format=torch.channels_last)))
        return images.mean((1, 2, 3))[:, None] * weights + option

    output = in_blocks(run, 4, (x, shared, 2), (True, False, False))
    torch.testing.assert_close(output, x.mean((1, 2, 3))[:, None] * shared + 2)
    assert seen == [((4, 3, 4, 4), True)] * 2


def test_compiled_runs_full_chunks(monkeypatch):
    asked, rows = [], []

    def compiling(net, **options):
        asked.append(options)
        return lambda *given: rows.append(len(given[0])) or net(*given)

    monkeypatch.setattr(torch, "compile", compiling)
    net, layer, x = network()
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    attr = LayerScoreCAM(net, layer).attribute(x, 1, scorer=scorers.compiled(net, rows=4))
    torch.testing.assert_close(attr, expected, atol=1e-6, rtol=1e-5)
    assert asked == [{"dynamic": False, "options": {"freezing": True}}]
    assert set(rows) == {4}


@pytest.mark.exhaustive
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_and_frozen():
    net, layer, x = network()
    expected = LayerScoreCAM(net, layer).attribute(x, 1)
    attr = LayerScoreCAM(net, layer).attribute(x, 1, scorer="compiled")
    torch.testing.assert_close(attr, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("fails", [False, True])
def test_torch_is_quiet_beside_threads_of_a_runtime(fails):
    net, layer, x = network()
    seen = []

    class Runtime:
        has_threads = True

        def __call__(self, rows):
            seen.append(torch.get_num_threads())
            if fails and len(seen) > 1:
                raise KeyError("the runtime")
            return net(rows)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyError) if fails else nullcontext():
            LayerScoreCAM(net, layer).attribute(x, 1, scorer=Runtime(), perturbations_per_eval=4)
        assert set(seen) == {1}
        assert len(seen) > 1
        assert torch.get_num_threads() == 2
        seen.clear()
        Runtime.has_threads, fails = False, False
        LayerScoreCAM(net, layer).attribute(x, 1, scorer=Runtime())
        assert set(seen) == {2}
    finally:
        torch.set_num_threads(before)
