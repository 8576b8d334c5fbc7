"""What the command line explains beside a class: a class against others, over a region, layers."""

import csv

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from captum_unioncam import LayerCAM, LayerUnionCAM, suggest_layer
from captum_unioncam.commands import main as cli
from captum_unioncam.layer_fusion import MultiLayer, fuse_maps
from captum_unioncam.targets import ClassContrast, ClassOverRegion, similar_classes
from captum_unioncam.vision.geometry import box_steps, boxes_after
from captum_unioncam.vision.networks import load_network

NAMES = ["tabby cat", "tiger cat", "espresso", "car, auto", "tree 2"]


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a = nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(6, 5, 2, stride=2), nn.ReLU())
        self.head = nn.Linear(5 * 14 * 14, 5)

    def forward(self, x):
        return self.head(self.b(self.a(x)).flatten(1))


class Segmentation(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.a = nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.ReLU())
        self.b = nn.Conv2d(6, 5, 3, padding=1)

    def forward(self, x):
        return {"out": self.b(self.a(x)), "aux": None}


def classifier():
    return Classifier().eval(), None, NAMES


def segmentation():
    return Segmentation().eval(), None, NAMES


def single():
    return nn.Sequential(nn.Conv2d(3, 1, 8, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(784, 1))


OWN = ["--model", "tests.test_cli_targets:classifier", "--quiet"]
SEGMENTS = ["--model", "tests.test_cli_targets:segmentation", "--quiet"]
FAST = ["--method", "layercam", "--metrics", ""]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((320, 240)).save(path)
    return path


def mask_of(folder, box, value=255, size=(320, 240)):
    path = folder / f"mask{value}.png"
    mask = Image.new("L", size)
    mask.paste(value, box)
    mask.save(path)
    return path


def run(capsys, *arguments):
    status = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def explained(capsys, tmp_path, *arguments):
    """Return the maps by the ends of their names, and the rows."""
    given = [
        "-o",
        tmp_path / "o.png",
        "--save-maps",
        tmp_path / "maps",
        "--csv",
        tmp_path / "o.csv",
    ]
    status, _, err = run(capsys, *arguments, *given)
    assert (status, err) == (0, "")
    assert np.asarray(Image.open(tmp_path / "o.png")).std() > 10
    maps = {p.stem.split(".auto.")[-1]: np.load(p) for p in (tmp_path / "maps").glob("*.npy")}
    with (tmp_path / "o.csv").open() as file:
        return maps, list(csv.DictReader(file))


def test_a_class_against_others(picture, tmp_path, capsys):
    given = ["explain", picture, *OWN, *FAST, "--target", "espresso", "--against", "tabby, tree 2"]
    maps, rows = explained(capsys, tmp_path, *given)
    model = Classifier().eval()
    x, _, _ = load_network(OWN[1]).prepare(Image.open(picture).convert("RGB"))
    expected = LayerCAM(model, suggest_layer(model, x).layer).attribute(
        x, ClassContrast(2, [0, 4]), relu_attributions=True
    )
    found = maps["layercam.espresso against tabby, tree 2"]
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-6)
    y = model(x)[0]
    for row in rows:
        assert row["class"] == "2 against 0, 4"
        assert row["class_name"] == "espresso against tabby cat, tree 2"
        value = float(row["output"] if "output" in row else row["probability"])
        assert value == pytest.approx(float(y[2] - (y[0] + y[4]) / 2), abs=1e-5)


def test_every_class_against_those_of_similar_scores(picture, tmp_path, capsys):
    given = ["compare", picture, *OWN, "--methods", "unioncam", "--metrics", "beta"]
    maps, rows = explained(capsys, tmp_path, *given, "--classes", "top2", "--against", "similar")
    model = Classifier().eval()
    x, black, _ = load_network(OWN[1]).prepare(Image.open(picture).convert("RGB"))
    best = model(x)[0].topk(2).indices.tolist()
    for n, number in enumerate(best):
        target = ClassContrast(number, similar_classes(model(x), number, 3)[0])
        expected = LayerUnionCAM(model, suggest_layer(model, x).layer).attribute(
            x, target, baselines=black
        )
        found = maps[f"unioncam.top{n + 1} against similar"]
        np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-5)
        others = ", ".join(map(str, target.references))
        assert rows[n]["class"] == f"{number} against {others}"


@pytest.mark.parametrize("value", [255, 1])
def test_a_class_over_a_region(value, picture, tmp_path, capsys):
    mask = mask_of(tmp_path, (150, 60, 260, 200), value)
    maps, rows = explained(
        capsys, tmp_path, "compare", picture, *SEGMENTS, "--methods", "gradcam,layercam",
        "--metrics", "", "--classes", "top2", "--region", mask, "--layer", "a",
    )  # fmt: skip
    model = Segmentation().eval()
    x, _, _ = load_network(SEGMENTS[1]).prepare(Image.open(picture).convert("RGB"))
    steps = v2.Compose([v2.PILToTensor(), v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    white = Image.new("L", (320, 240))
    white.paste(255, (150, 60, 260, 200))
    region = nn.functional.avg_pool2d(steps(white)[None].float() / 255, 8)[0, 0]
    means = [float((y * region).sum() / region.sum()) for y in model(x)["out"][0]]
    best = sorted(range(5), key=lambda n: -means[n])[:2]
    for n, number in enumerate(best):
        assert rows[2 * n]["class"] == f"{number} over the region"
        assert rows[2 * n]["class_name"] == f"{NAMES[number]} over the region"
        expected = LayerCAM(model, model.a).attribute(
            x, ClassOverRegion(number, region), relu_attributions=True
        )
        (found,) = [m for name, m in maps.items() if f"layercam.top{n + 1} over" in name]
        np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-5)


def test_maps_of_several_layers(picture, tmp_path, capsys):
    given = ["explain", picture, *OWN, *FAST, "--layers", "a,b.1", "--fuse", "product"]
    _, rows = explained(capsys, tmp_path, *given, "--target", "1")
    model = Classifier().eval()
    x, _, _ = load_network(OWN[1]).prepare(Image.open(picture).convert("RGB"))
    layers = [model.a, model.b[1]]
    ours = MultiLayer(LayerCAM, model, layers, "product").attribute(x, 1, relu_attributions=True)
    captums = [LayerGradCam(model, layer).attribute(x, 1).detach().relu() for layer in layers]
    for method, expected in (("gradcam", fuse_maps(captums, "product")), ("layercam", ours)):
        name = f"photo.tests.test_cli_targets-classifier.a,b.1 product.{method}.1.npy"
        found = np.load(tmp_path / "maps" / name)
        np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-5)
    assert [row["method"] for row in rows] == ["Grad-CAM", "LayerCAM"]


def test_union_cam_of_several_layers_leaves_its_modules_out(picture, tmp_path, capsys):
    given = ["explain", picture, *OWN, "--layers", "a.1,b.1"]
    maps, rows = explained(capsys, tmp_path, *given)
    assert [row["method"] for row in rows] == ["Grad-CAM", "UnionCAM"]
    assert len(maps) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--against", "top2"], "--against top2: give numbers or names of classes, or 'similar'"),
        (["--against", "dog"], "has no class 'dog'"),
        (["--against", "cat"], "'cat' may be class 0 (tabby cat), 1 (tiger cat); give the number"),
        (["--against", ","], "no class is named"),
        (["--target", "1", "--against", "0,1"], "tiger cat is the class to explain; name others"),
        (["--against", "0", "--region", "m.png"], "drop it, or --region"),
        (["--region", "m.png"], "--region is for networks of segmentation"),
        (["--layers", "a,a"], "layers must be different modules"),
        (["--layers", "a,c"], "no layer 'c'"),
        (["--layers", ","], "--layers names no layer"),
        (["--layers", "a", "--layer", "b"], "--layer names one layer and --layers several"),
        (["--fuse", "max"], "--fuse fuses the maps of several layers: name them with --layers"),
        (["--layers", "a", "--method", "rise"], "rise has no layer; drop it there"),
        (["--layers", "a", "--method", "unioncam.region"], "unioncam.region is a part of a method"),
        (["--layers", "a", "--method", "unioncam:max_masks=0"], "max_masks"),
        (["--target", "0,0", "--save-maps", "."], "give each class once"),
        (["--target", "car, auto", "--save-maps", ".", "--against", "0,1"], "give each class once"),
    ],
)
def test_targets_that_make_no_sense(changes, message, picture, tmp_path, capsys):
    given = ["explain", picture, *OWN, "-o", tmp_path / "o.png", *changes]
    status, _, err = run(capsys, *given)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err


def test_regions_that_make_no_sense(picture, tmp_path, capsys):
    given = ["explain", picture, *SEGMENTS, *FAST, "-o", tmp_path / "o.png"]
    status, _, err = run(capsys, *given)
    assert (status, "name what to explain of a segmentation with --region MASK" in err) == (2, True)
    cases = {
        mask_of(tmp_path, (0, 0, 9, 9), 250, (100, 50)): (
            1, "--region is 100 x 50 pixels, but the picture 320 x 240"
        ),
        mask_of(tmp_path, (0, 0, 9, 9), 251): (1, "--region lies where the network does not look"),
        mask_of(tmp_path, (0, 0, 9, 9), 0): (2, "mask0.png is black: paint white what is to be"),
        tmp_path / "none.png": (2, f"--region {tmp_path / 'none.png'}: no such file"),
    }  # fmt: skip
    for mask, (expected, message) in cases.items():
        status, _, err = run(capsys, *given, "--region", mask)
        assert status == expected
        assert message in err
        assert err.count("\n") == 1


def test_a_top_class_that_is_one_of_the_others_fails_that_picture(picture, tmp_path, capsys):
    given = ["explain", picture, *OWN, *FAST, "-o", tmp_path / "o.png", "--against", "0,1,2,3,4"]
    status, _, err = run(capsys, *given)
    assert status == 1
    assert "is the class to explain and one of --against; name others there" in err


def test_a_single_output_is_against_nothing(picture, capsys):
    given = ["--model", "tests.test_cli_targets:single", "--layer", "1", "--against", "similar"]
    status, _, err = run(capsys, "explain", picture, *given)
    assert (status, "has a single class, which has nothing to be against" in err) == (2, True)


def test_segmentation_of_torchvision_by_name(picture, tmp_path, capsys):
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4
    )
    torch.save(model.state_dict(), tmp_path / "four.pth")
    maps, rows = explained(
        capsys, tmp_path, "explain", picture, "--model", "lraspp_mobilenet_v3_large", "--quiet",
        "--weights", tmp_path / "four.pth", "--region", mask_of(tmp_path, (0, 0, 160, 120)),
        "--target", "2", "--layer", "classifier.cbr", *FAST,
    )  # fmt: skip
    assert rows[0]["class_name"] == "class 2 over the region"
    assert all(cam.shape[0] > 10 for cam in maps.values())
    network = load_network("lraspp_mobilenet_v3_large", str(tmp_path / "four.pth"))
    box = boxes_after([(0, 0, 160, 120)], (320, 240), box_steps(network.preprocess))
    assert network.prepare(Image.open(picture))[0].shape == (1, 3, 520, 693)
    assert box[0] == pytest.approx((0, 0, 346.5, 260))


def test_weights_of_segmentation_with_an_auxiliary_head(tmp_path):
    from torchvision import models

    name = "deeplabv3_mobilenet_v3_large"
    for aux in (True, None):
        model = models.get_model(
            name, weights=None, weights_backbone=None, num_classes=3, aux_loss=aux
        )
        torch.save(model.state_dict(), tmp_path / "three.pth")
        network = load_network(name, str(tmp_path / "three.pth"))
        assert network.outputs(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_segmentation_of_transformers(picture, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16],
        num_attention_heads=[1, 2], patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2],
        decoder_hidden_size=8, id2label={0: "road", 1: "car", 2: "tree"},
    )  # fmt: skip
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "model")
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 96})
    processor.save_pretrained(tmp_path / "model")
    capsys.readouterr()
    _, rows = explained(
        capsys, tmp_path, "explain", picture, "--model", f"hf:{tmp_path / 'model'}", "--quiet",
        "--region", mask_of(tmp_path, (0, 0, 160, 120)), "--target", "car", *FAST,
    )  # fmt: skip
    assert rows[0]["class_name"] == "car over the region"
