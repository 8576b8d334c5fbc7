"""End to end on EfficientNet-Lite0 with its ImageNet weights and real photographs."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from captum_unioncam import LayerUnionCAM, compare, metrics, suggest_layer
from captum_unioncam.commands import main as cli
from captum_unioncam.engine.maps import resize
from captum_unioncam.vision import networks

pytestmark = pytest.mark.network


@pytest.mark.exhaustive
def test_demo(tmp_path, capsys):
    out = tmp_path / "demo.png"
    threads = torch.get_num_threads()
    assert cli.main(["demo", "-o", str(out)]) == 0
    captured = capsys.readouterr()
    assert re.search(
        r"4 photographs, 128 masked copies of each: at most about \d+ seconds", captured.err
    )
    lines = captured.out.splitlines()
    blocks = {lines[i].split()[0]: lines[i : i + 4] for i in range(1, 17, 4)}
    classes = {
        "espresso": "espresso",
        "motorcycle": "moped",
        "cat": "tiger cat",
        "tripod": "tripod",
    }
    assert list(blocks) == list(classes)
    for name, block in blocks.items():
        assert block[0].removeprefix(name).strip().startswith(classes[name])
        assert re.search(r"  (union: β_DR \S+ >|region: β_DR \S+ ≤) β_R \S+$", block[3])
    assert "UnionCAM attribution: 100%" in captured.err
    assert torch.get_num_threads() == threads
    with Image.open(out) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] > 900
    assert pixels.std() > 40


def test_the_map_explains_the_espresso():
    network = networks.demo_network()
    picture = Image.fromarray(data.coffee())
    x, black, _ = network.prepare(picture)
    layer = suggest_layer(network.model, x).layer
    with torch.no_grad():
        probability = network.model(x).softmax(1)
    target = int(probability.argmax())
    assert network.class_name(target) == "espresso"
    attr, details = LayerUnionCAM(network.model, layer).attribute(
        x, target, baselines=black, return_details=True
    )
    mask = resize(attr, (224, 224))
    with torch.no_grad():
        scores = network.model(torch.cat([black + mask * (x - black), black])).softmax(1)
    beta = (scores[0] - scores[1])[target]
    selected = details.beta_union if details.selected_union.item() else details.beta_region
    torch.testing.assert_close(beta, selected[0], atol=1e-5, rtol=0)
    # The cup: a map that missed it would score near zero and peak elsewhere.
    assert beta > 0.5 * probability[0, target]
    row, column = divmod(int(mask.argmax()), 224)
    assert 20 < row < 110
    assert 40 < column < 150
    assert mask[..., 20:110, 40:150].mean() > 2 * mask.mean()


def test_maps_find_their_cell_of_a_mosaic():
    network = networks.demo_network()
    pixels = data.chelsea(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0]
    x = torch.cat([network.prepare(Image.fromarray(p))[0] for p in pixels])
    with torch.no_grad():
        mosaics = metrics.make_mosaics(x, network.model(x).argmax(1))
    targets = mosaics.targets[0].tolist()
    result = compare(
        ["gradcam", "unioncam:max_masks=32", "ones"], mosaics.inputs, {str(c): c for c in targets},
        forward_func=network.model, layer=suggest_layer(network.model).layer, metrics=[],
    )  # fmt: skip
    shares = {
        label: [
            metrics.grid_pointing_game(None, mosaics.inputs, maps[:, [cell]], cell=cell).item()
            for cell in range(4)
        ]
        for label, maps in result.maps.items()
    }
    assert shares["All ones"] == [0.25] * 4
    for label in ("Grad-CAM", "UnionCAM max_masks=32"):
        assert min(shares[label]) > 0.4, shares
