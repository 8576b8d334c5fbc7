"""The lines of the page on troubleshooting for models that exist as ONNX only."""

import importlib.util
import re
import shutil
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from captum_unioncam import LayerUnionCAM, suggest_layer

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"


def small():
    """A network with what exporters write in several ways: biases of zero, squeeze and reshape."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip
    for conv in (net[0], net[3], net[6]):
        nn.init.zeros_(conv.bias)
    net[1].running_mean.normal_()
    return net.eval()


def resnet18():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    return models.resnet18(weights=None, num_classes=4).eval()


def export(net, x, dynamo):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            rows = ({0: torch.export.Dim("rows", min=1)},)
            options = {"dynamic_shapes": rows, "external_data": False, "verbose": False}
        else:
            options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "rows"}}}
        torch.onnx.export(net, (x,), "model.onnx", dynamo=dynamo, **options)


def run_the_page():
    """Return the model that the page makes of model.onnx in this folder."""
    for package in ("onnx", "onnxscript", "onnx2torch"):
        pytest.importorskip(package)
    entry = PAGE.read_text().partition("### A model that exists as ONNX only")[2]
    lines = re.search(r"^    import onnx\n(?:    .*\n|\n)*", entry, re.MULTILINE)[0]
    names = {}
    exec(textwrap.dedent(lines), names)
    return names["model"]


@pytest.mark.parametrize("dynamo", [True, False], ids=["exporter", "old exporter"])
@pytest.mark.parametrize("make", [small, resnet18])
def test_maps_of_an_onnx_file_are_those_of_its_model(make, dynamo, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    net, x = make(), torch.rand(2, 3, 48, 48)
    export(net, x, dynamo)
    model = run_the_page()
    torch.testing.assert_close(model(x), net(x), atol=1e-5, rtol=1e-5)
    assert model(torch.rand(3, 3, 48, 48)).shape == (3, 4)
    ours = LayerUnionCAM(net, suggest_layer(net, x).layer).attribute(x, 1)
    found = LayerUnionCAM(model, suggest_layer(model, x).layer).attribute(x, 1)
    assert ours.any()
    torch.testing.assert_close(found, ours, atol=1e-4, rtol=1e-4)


def test_a_file_of_another_framework(tmp_path, monkeypatch):
    """The direction of text, upright or upside down, by a model of PaddlePaddle's."""
    runtime = pytest.importorskip("onnxruntime")
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is None:
        pytest.skip("rapidocr-onnxruntime is not installed")
    # Its file alone: the package needs others that are not.
    (file,) = Path(package.origin).parent.glob("models/*cls*.onnx")
    shutil.copy(file, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    picture = Image.new("L", (192, 48), "white")
    ImageDraw.Draw(picture).text((6, 8), "Grad 42", fill="black", font=ImageFont.load_default(34))
    upright = torch.from_numpy(np.array(picture)).float().div(127.5).sub(1).expand(3, -1, -1)
    x = torch.stack([upright, upright.flip(1, 2)])
    model, session = run_the_page(), runtime.InferenceSession("model.onnx")
    expected = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(model(x).detach(), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)
    assert model(x).argmax(1).tolist() == [0, 1]
    layer = suggest_layer(model, x).layer
    _, details = LayerUnionCAM(model, layer).attribute(
        x, [0, 1], baselines=1.0, max_masks=64, return_details=True
    )
    assert (torch.maximum(details.beta_region, details.beta_denoised) > 0.1).all()
