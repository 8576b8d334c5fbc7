"""What the documentation shows runs, and the errors it explains are those that come."""

import doctest
import re
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision import models

import captum_unioncam
from captum_unioncam import (
    METHODS,
    LayerOriginalCAM,
    LayerScoreCAM,
    LayerUnionCAM,
    as_explanation_func,
    scorers,
    suggest_layer,
)
from captum_unioncam.commands import demo
from captum_unioncam.commands import main as cli
from captum_unioncam.metrics import METRICS, PROTOCOLS
from captum_unioncam.vision import networks

sys.path.append(str(Path(__file__).parents[1] / "docs"))

import method_pages
import metric_tables

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
# Its code is run where its packages are, by test_trackers.py.
RUN_ELSEWHERE = {"trackers.md"}
BLOCK = re.compile(r"^( *)```(python|pycon)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("ignore:HiResCAM is blank")
@pytest.mark.parametrize("page", [page for page in PAGES if page not in RUN_ELSEWHERE])
def test_code_blocks_run(page):
    text = (DOCS / page).read_text()
    names = {}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for match in BLOCK.finditer(text):
        kind, block = match[2], textwrap.dedent(match[3])
        line = text[: match.start()].count("\n")
        if kind == "python":
            exec(compile("\n" * (line + 1) + block, page, "exec"), names)
        else:
            test = doctest.DocTestParser().get_doctest(block, names, page, page, line)
            # Examples see what those of the blocks before have defined.
            test.globs = names
            report = []
            runner.run(test, out=report.append, clear_globs=False)
            assert not runner.failures, "".join(report)


def test_no_code_block_is_overlooked():
    for page in PAGES:
        text = (DOCS / page).read_text()
        assert text.count("```py") == len(BLOCK.findall(text))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_picture_or_a_reason(name):
    path = DOCS / "pictures" / f"{method_pages.file_name(name)}.png"
    assert path.is_file() != (name in method_pages.WITHOUT_PICTURE)
    assert not path.is_file() or path.stat().st_size < 80_000


def test_every_picture_is_of_a_method():
    pictures = {path.stem for path in (DOCS / "pictures").iterdir()}
    assert pictures <= {method_pages.file_name(name) for name in METHODS}
    assert len({method_pages.file_name(name) for name in METHODS}) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_method_pages_say_what_the_registry_says(name):
    method = METHODS[name]
    page = method_pages.page(name, method)
    assert page.startswith(f"# {method.title}\n")
    assert method.source.link in page
    assert f"| definition from | {method.source.certainty} |" in page
    assert f"| rows per example | {method.forwards.text}" in page
    assert all(f"`{option}=" in page for option in method.options)
    assert re.search(rf"autoclass:: (captum_unioncam|captum\.attr)\.{method.cls.__name__}\n", page)


@pytest.mark.parametrize(
    ("title", "name"),
    {"VGG16": "vgg16", "EfficientNet-B0": "efficientnet_b0", "ResNet-50": "resnet50"}.items(),
)
def test_layers_whose_rows_are_shown(title, name):
    channels, positions = method_pages.LAYERS[title]
    layer = suggest_layer(models.get_model(name))
    side = int(positions**0.5)
    assert layer.why.endswith(f"{channels} channels of {side} x {side}")


def test_every_metric_and_protocol_is_listed():
    text = metric_tables.tables()
    assert re.findall(r"^\| \[`(\w+)`\]", text, re.MULTILINE) == list(METRICS)
    assert re.findall(r"^\| `(\w+)`", text, re.MULTILINE) == list(PROTOCOLS)
    assert "| Average drop | lower | 0 to 100 % | – | [paper](https://arxiv.org/abs/1710" in text
    assert "| best 50% of pixels | 100 | zero |" in text


def test_every_public_name_has_its_place_in_the_reference():
    page = (DOCS / "api.md").read_text()
    have_pages = {method.cls.__name__ for method in METHODS.values()} - {"LayerUnionCAM"}
    wanted = set(captum_unioncam.__all__) - have_pages
    assert {name for name in wanted if f"captum_unioncam.{name}\n" not in page} == set()
    assert page.index("captum_unioncam.LayerUnionCAM") < page.index("captum_unioncam.METHODS")


def test_architecture_names_files_that_are_there():
    text = (DOCS.parent / "ARCHITECTURE.md").read_text()
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    named = [DOCS.parent / "captum_unioncam" / name for c in cells for name in c.split("`")[1::2]]
    assert len(named) > 30
    assert [path for path in named if not path.exists()] == []
    # What has neither a row of its own nor a folder's.
    listed = {path for path in named if path.is_file()}
    listed |= {one for folder in named if folder.is_dir() for one in folder.rglob("*.py")}
    package = set((DOCS.parent / "captum_unioncam").rglob("*.py"))
    assert {path.name for path in package - listed} <= {"__init__.py", "__main__.py"}


def test_formulas_are_mathml():
    pytest.importorskip("docutils", minversion="0.21", reason="the extra docs is not installed")
    from formulas import mathml

    lines = mathml(r"a &= \Big(\frac{1}{2}\Big) \\ b &= \lVert u \rVert", as_block=True)
    assert lines.startswith('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">')
    assert lines.count("<mtr>") == 2
    assert lines.count("<mtd>") == 4
    assert lines.count('<mo stretchy="false">‖</mo>') == 2
    assert 'display="block"' not in mathml("x", as_block=False)
    assert "*" not in mathml(r"\operatorname*{fuse}_l L_l", as_block=True)


def test_adding_a_method_fits_on_a_page_and_its_example_works():
    page = (DOCS / "contributing.md").read_text()
    assert len(page.splitlines()) <= 40
    names = {}
    exec(textwrap.dedent(BLOCK.search(page)[3]), names)
    method = names["LayerMyCAM"](net, net[1])
    A = net[:2](x).detach()
    W = torch.autograd.grad(net[2:](A.requires_grad_())[:, 1].sum(), A)[0]
    expected = sum(W[:, k].amax((1, 2))[:, None, None].relu() ** 2 * A[:, k] for k in range(4))
    torch.testing.assert_close(method.attribute(x, 1, power=2.0)[:, 0], expected.detach())
    with pytest.raises(ValueError, match="power must be a finite number greater than 0"):
        method.attribute(x, 1, power=0)


def small():
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4 * 15 * 15, 5)),
    ).eval()


net = small()
x = torch.rand(2, 3, 32, 32)


def explain(inputs=x, target=1, model=net, layer=None, **options):
    return LayerUnionCAM(model, net[1] if layer is None else layer).attribute(
        inputs, target, **options
    )


def vit():
    return models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()


class Beside(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.aside = small(), nn.Conv2d(3, 2, 3)

    def forward(self, images):
        self.aside(images)
        return self.net(images)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.LayerNorm(3), nn.Linear(3, 5)

    def forward(self, images):
        return self.head(self.norm(images.flatten(2).mT[:, :19]).mean(1))


class Merged(Tokens):
    def forward(self, images):
        return self.head(self.norm(images.flatten(2).mT[:, :19])).mean(1)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.coarse, self.fine = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(3, 4, 4, 4)
        self.heads = nn.ModuleList([nn.Linear(4, 5), nn.Linear(4, 5)])

    def forward(self, images):
        fine = self.heads[0](self.fine(images).amax((2, 3)))
        return fine + self.heads[1](self.coarse(images).amax((2, 3)))


class Mirrored(nn.Module):
    def __init__(self):
        super().__init__()
        self.cut, self.maps = nn.Conv2d(3, 4, 4, 4), nn.Identity()
        self.head = nn.Linear(4, 5)

    def forward(self, images):
        return self.head(self.maps(self.cut(images).flip(2, 3)).mean((2, 3)))


class TwoReadings(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.maps = nn.Linear(3, 32), nn.Identity()

    def forward(self, images):
        return self.maps(self.blocks(images.permute(0, 2, 3, 1))).mean((1, 2))


class Flattening(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 30 * 30, 5)

    def forward(self, images):
        return self.head(self.conv(images).view(len(images), -1))


def without_gradients(images):
    with torch.no_grad():
        return net(images)


def with_bias(value):
    model = small()
    with torch.no_grad():
        model[0].bias.fill_(value)
    return model


def small_memory(images):
    if len(images) > 3:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return net(images)


def token_ids():
    embed, conv = nn.Embedding(10, 4), nn.Conv1d(4, 3, 3)
    forward = lambda ids: conv(embed(ids).mT).mean(-1)  # noqa: E731
    return explain(torch.zeros(2, 7, dtype=torch.long), model=forward, layer=conv)


def compiled():
    torch._dynamo.reset()
    model = torch.compile(small(), backend="eager")
    model(x)
    return explain(model=model, layer=model._orig_mod[1])


def parts(cls, layer_of):
    module = cls()
    return lambda: explain(model=module.eval(), layer=layer_of(module))


def quantised():
    model = torch.ao.quantization.quantize_dynamic(small(), {nn.Linear})
    explain(model=model, layer=model[1])


def checkpointed():
    model = small()

    def forward(images):
        return model[4:](checkpoint(model[:4], images, use_reentrant=True))

    explain(model=forward, layer=model[1])


def waveforms():
    conv = nn.Conv1d(1, 5, 4)
    explain(torch.rand(2, 40), model=lambda waves: conv(waves[:, None]).mean(2), layer=conv)


def normalized_by_nothing():
    from captum.attr import visualization

    blank = torch.zeros(8, 8, 1).numpy()
    visualization.visualize_image_attr(blank, blank, "heat_map", "positive", use_pyplot=False)


def missing_extra(monkeypatch):
    def missing(arguments):
        raise ModuleNotFoundError("No module named 'matplotlib'")

    monkeypatch.setattr(demo, "run", missing)
    raise RuntimeError(cli.main(["demo"]))


def no_network(monkeypatch):
    def fails(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(models, "get_model", fails)
    networks.load_network("resnet18")


def sensitivity():
    from captum.metrics import sensitivity_max

    method = LayerUnionCAM(net, net[1])
    assert sensitivity_max(as_explanation_func(method), x, target=1).shape == (2,)
    sensitivity_max(method.attribute, x, target=1)


def attention():
    model = vit()
    explain(model=model, layer=model.encoder.layers[-1].self_attention)


def numpy_of_captums_map():
    from captum.attr import LayerGradCam

    assert explain().numpy().shape == (2, 1, 30, 30)
    LayerGradCam(net, net[1]).attribute(x, 1).numpy()


# What brings up each error or warning that heads an entry of the page on troubleshooting.
PROVOKED = {
    "layer … was never called by forward_func": compiled,
    "… gives shape …, which has no spatial dimensions": lambda: explain(layer=net[4]),
    "layer must be a torch.nn.Module, got the name …": lambda: explain(layer="1"),
    "the target does not depend on layer …": parts(Beside, lambda m: m.aside),
    "no gradients flow from the output to layer …": lambda: explain(model=without_gradients),
    "dynamically quantised layer": quantised,
    "torch.utils.checkpoint with use_reentrant=True": checkpointed,
    "is a meta tensor": lambda: explain(model=(model := small().to("meta")), layer=model[1]),
    "layer … returns torch.float32, NoneType; a map needs a floating point Tensor": attention,
    "the model goes on with tokens of shape …": lambda: suggest_layer(Merged(), x),
    "the model goes on in branches that meet at its output alone": lambda: suggest_layer(Two(), x),
    "are not in the input's order": lambda: suggest_layer(Mirrored(), x),
    "form no grid of square patches over an image": parts(Tokens, lambda m: m.norm),
    "CAM needs global average pooling and one linear layer after the layer": lambda: (
        LayerOriginalCAM(net, net[1]).attribute(x, 1)
    ),
    "two readings fit": parts(TwoReadings, lambda m: m.maps),
    "UnionCAM is blank for example(s) …": lambda: explain(
        model=(model := with_bias(-100.0)), layer=model[1]
    ),
    "UnionCAM explains nothing where …": lambda: explain(
        score="logit", scorer=lambda images: images.new_ones(len(images), 5)
    ),
    "inputs hold NaN or infinity": lambda: explain(x * torch.nan),
    "activations of layer … hold NaN or infinity": lambda: explain(
        model=(model := with_bias(torch.nan)), layer=model[1]
    ),
    "Cannot normalize by scale factor = 0": normalized_by_nothing,
    "Can't call numpy() on Tensor that requires grad": numpy_of_captums_map,
    "target is missing": lambda: explain(target=None),
    "target index … is out of range": lambda: explain(target=5),
    "target has … entries for … examples": lambda: explain(target=[1, 2, 3]),
    "forward_func must return one Tensor, got …": lambda: explain(
        model=lambda images: {"scores": net(images)}
    ),
    "target loses the gradient": lambda: explain(target=lambda output: output[:, 1].detach()),
    "inputs must be a Tensor, got list": lambda: explain(list(x)),
    "mat1 and mat2 shapes cannot be multiplied": lambda: explain(x[0]),
    "Input type (…) and … type (…) should be the same": lambda: explain((x * 255).byte()),
    "no input can be masked": token_ids,
    "has no dimension of channels beside its positions": waveforms,
    "a baseline of shape … does not fit an input of shape …": lambda: explain(
        baselines=torch.zeros(3, 1, 1)
    ),
    "has no parameter …": lambda: LayerScoreCAM(net, net[1]).attribute(x, 1, weight="softmax"),
    "the model is in training mode": lambda: explain(
        model=(model := small().train()), layer=model[1]
    ),
    "view size is not compatible with input tensor's size and stride": lambda: explain(
        x.contiguous(memory_format=torch.channels_last),
        model=(model := Flattening()),
        layer=model.conv,
    ),
    "rows in a forward do not fit the device's memory": lambda: explain(
        scorer=small_memory, perturbations_per_eval=2
    ),
    "is not used: on masked inputs its scores are up to …": lambda: explain(
        scorer=scorers.half(net, tolerance=0)
    ),
    "The size of tensor a (…) must match the size of tensor b (…)": sensitivity,
    "the command line needs the extra 'demo'": missing_extra,
    "the weights of … could not be downloaded": no_network,
}
ENTRIES = re.findall(r"^### `(.*)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)


def test_every_error_explained_is_provoked():
    assert set(ENTRIES) == set(PROVOKED)


@pytest.mark.parametrize("entry", ENTRIES)
def test_errors_explained_are_those_that_come(entry, monkeypatch, capsys):
    action = PROVOKED[entry]
    takes_patch = action.__code__.co_argcount
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            action(monkeypatch) if takes_patch else action()
        except Exception as error:
            said.append(str(error))
    said += [str(warning.message) for warning in caught]
    text = "\n".join([*said, capsys.readouterr().err])
    assert re.search(".*".join(map(re.escape, entry.split("…"))), text), text
