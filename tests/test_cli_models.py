"""Models of timm by name and of transformers in local folders, small and random."""

import json
import shutil
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from captum_unioncam import LayerCAM, LayerUnionCAM, suggest_layer
from captum_unioncam.commands import main as cli
from captum_unioncam.vision.geometry import box_steps, boxes_after
from captum_unioncam.vision.networks import NetworkError, load_network
from captum_unioncam.vision.weights import load_state

NAMES = ["tench, Tinca tinca", "tiger, Panthera tigris", "tiger cat", "espresso"]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((120, 90)).save(path)
    return path


def run(capsys, *arguments):
    capsys.readouterr()  # of saving the models
    status = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def timm_file(folder, name, classes, **options):
    from safetensors.torch import save_file

    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes, **options)
    path = folder / f"{name}.safetensors"
    save_file(model.state_dict(), path)
    return path, model.eval()


def hf_folder(folder, kind):
    transformers = pytest.importorskip("transformers")
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    size = {"height": 64, "width": 64}
    kinds = {
        "ViT": {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "image_size": 64, "patch_size": 8,
        },
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
                   "layer_type": "basic"},
        "Swin": {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1],
                 "num_heads": [1, 2], "window_size": 4},
    }  # fmt: skip
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**kinds[kind], **labels)
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    model.save_pretrained(folder)
    processor = transformers.ViTImageProcessor(
        size=size, image_mean=[0.3, 0.4, 0.5], image_std=[0.2, 0.25, 0.3]
    )
    processor.save_pretrained(folder)
    return model, processor


@pytest.mark.parametrize("kind", ["ViT", "ResNet", "Swin"])
def test_a_folder_of_transformers_is_explained_as_in_python(kind, picture, tmp_path, capsys):
    model, processor = hf_folder(tmp_path / "model", kind)
    given = ["explain", picture, "--model", f"hf:{tmp_path / 'model'}", "--quiet"]
    status, table, err = run(
        capsys, *given, "-o", tmp_path / "out.png", "--save-maps", tmp_path, "--target", "tiger"
    )
    assert (status, err) == (0, "")
    assert "tiger, Panthera tigris" in table
    assert np.asarray(Image.open(tmp_path / "out.png")).std() > 10

    def pixels(color):
        shown = Image.new("RGB", (120, 90), color) if color else Image.open(picture)
        return processor(shown.convert("RGB"), return_tensors="pt")["pixel_values"]

    x = pixels(None)
    expected = LayerUnionCAM(model, suggest_layer(model, x).layer).attribute(
        x, target=1, baselines=pixels("black")
    )
    (saved,) = tmp_path.glob("photo.*.unioncam.tiger.npy")
    np.testing.assert_allclose(np.load(saved), expected[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10t", {}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("mobilenetv3_small_050", {}),
    ],
)
def test_timm_is_explained_as_in_python(name, options, picture, tmp_path, capsys):
    timm = pytest.importorskip("timm")
    file, model = timm_file(tmp_path, name, 5, **options)
    given = ["explain", picture, "--model", f"timm:{name}", "--weights", file, "--quiet"]
    layercam = ["--method", "layercam", "--target", "2", "--metrics", ""]
    status, _, err = run(
        capsys, *given, *layercam, "-o", tmp_path / "o.png", "--save-maps", tmp_path
    )
    assert (status, err) == (0, "")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    x = transform(Image.open(picture).convert("RGB"))[None]
    expected = LayerCAM(model, suggest_layer(model, x).layer).attribute(
        x, target=2, relu_attributions=True
    )
    (saved,) = tmp_path.glob("photo.*.layercam.2.npy")
    np.testing.assert_allclose(np.load(saved), expected[0, 0].numpy(), atol=1e-6)


def test_class_names_and_preprocessing_of_timm(tmp_path):
    pytest.importorskip("timm")
    file, _ = timm_file(tmp_path, "resnet10t", 1000)
    network = load_network("timm:resnet10t.c3_in1k", str(file))
    assert network.class_name(0) == "tench, Tinca tinca"
    file, _ = timm_file(tmp_path, "resnet10t", 7)
    assert load_network("timm:resnet10t", str(file)).class_name(3) == "class 3"
    x, black, shown = network.prepare(Image.new("RGB", (300, 400), (255, 0, 128)))
    assert x.shape == (1, 3, 176, 176)
    torch.testing.assert_close(shown[0, :, 0, 0], torch.tensor([1, 0, 128 / 255]))
    assert black.amax() < 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet10", "timm has no model 'resnet10'; closest: 'resnet10t'"),
        ("timm:resnet10t.c4_in1k", "timm's resnet10t has no weights 'c4_in1k'; it has c3_in1k"),
        ("timm:local-dir:model", "timm has no model 'local-dir:model'"),
        ("timm:hf-hub:timm/resnet10t", "timm has no model 'hf-hub:timm/resnet10t'"),
        ("timm:", "timm has no model ''"),
        ("timm:resnet18", "does not fit the model"),
        ("timm:vit_small_patch14_dinov2", "does not fit the model"),
    ],
)
def test_models_that_timm_does_not_have(name, message, picture, tmp_path, capsys):
    file, _ = timm_file(tmp_path, "resnet10t", 5)
    given = ["explain", picture, "--model", name, "--weights", file]
    status, _, err = run(capsys, *given)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_timm_without_a_network(picture, capsys, monkeypatch):
    timm = pytest.importorskip("timm")

    def unreachable(name, pretrained):
        raise OSError("no way to the hub. Please check your connection")

    monkeypatch.setattr(timm, "create_model", unreachable)
    status, _, err = run(capsys, "explain", picture, "--model", "timm:resnet10t")
    assert status == 2
    assert err == (
        "unioncam: timm's weights of resnet10t could not be had (no way to the hub); give a file "
        "with --weights FILE, or explain with --model demo, which needs no network\n"
    )


def test_a_network_of_features_is_no_classifier(tmp_path):
    file, _ = timm_file(tmp_path, "resnet10t", 0)
    with pytest.raises(NetworkError, match="does not fit the model: 2 tensors missing"):
        load_network("timm:resnet10t", str(file))
    file, _ = timm_file(tmp_path, "vit_small_patch14_dinov2", 0, img_size=518)
    with pytest.raises(NetworkError, match="is no classifier of RGB pictures: it has 0 classes"):
        load_network("timm:vit_small_patch14_dinov2", str(file))


def spoiled(folder, change):
    """Return the folder of a model with one thing changed in it."""
    hf_folder(folder, "ResNet")
    change(folder)
    return folder


def pickled(folder):
    torch.save(load_state(folder / "model.safetensors", ""), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def edited(name, **changes):
    def change(folder):
        read = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**read, **changes}))

    return change


def without_head(folder):
    from safetensors.torch import save_file

    state = load_state(folder / "model.safetensors", "")
    kept = {k: v for k, v in state.items() if "classifier" not in k}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def indexed(name):
    def change(folder):
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        index = {"metadata": {}, "weight_map": {"classifier.1.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


# Configurations that would have something fetched, or read from anywhere.
ELSEWHERE = [
    {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"],
     "architecture": "hf-hub:someone/model"},
    {"architecture": "local-dir:/tmp/model"},
    {"model_args": {"checkpoint_path": "evil.pth"}},
    {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:someone/model"}},
    {"backbone": "someone/model"},
    {"parts": [{"backbone": "..\\model"}]},
    {"backbone": "resnet50", "use_pretrained_backbone": True},
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            shutil.rmtree,
            "no such folder, and none is downloaded; give a local folder with config.json",
        ),
        (lambda f: (f / "config.json").unlink(), "has no config.json, but model.safetensors, prep"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors, but config.json"),
        (
            lambda f: (f / "model.safetensors").rename(f / "weights.safetensors"),
            "rename weights.safetensors",
        ),
        (pickled, "pytorch_model.bin may hold pickled code and is never opened: load it where"),
        (without_head, "its weights lack 2 tensors that ResNetForImageClassification has"),
        (indexed("../outside.safetensors"), "names '../outside.safetensors', which is no file in"),
        (indexed("..\\outside.safetensors"), "which is no file in the folder"),
        (indexed("part.safetensors"), "lacks part.safetensors, which its model.safetensors.index"),
        (indexed(3), "names 3, which is no file in the folder"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not readable JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json holds list, not an object"),
        (edited("config.json", architectures=["BertModel"]), "its architecture is BertModel"),
        (edited("config.json", architectures=None), "its architecture is none"),
        (edited("config.json", architectures={"0": "ResNet"}), "its architecture is none"),
        (edited("config.json", architectures=[[]]), "its architecture is []"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "is not readable JSON"),
        *(
            (edited("config.json", **more), "which is not in the folder, and not")
            for more in ELSEWHERE
        ),
        (edited("config.json", model_type="unheard-of"), "cannot be loaded: "),
        (edited("config.json", hidden_sizes=[8, 24]), "cannot be loaded: "),
        (lambda f: (f / "model.safetensors").write_bytes(b"torn"), "cannot be loaded: "),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "is an adapter of another model"),
    ],
)
def test_folders_that_hold_no_model(change, message, picture, tmp_path, capsys):
    folder = spoiled(tmp_path / "model", change)
    status, _, err = run(capsys, "explain", picture, "--model", f"hf:{folder}")
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_nothing_of_a_folder_is_run(picture, tmp_path, capsys):
    folder = spoiled(tmp_path / "model", lambda folder: None)
    (folder / "evil.py").write_text(
        f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Evil: pass\n"
    )
    own = {"AutoConfig": "evil.Evil", "AutoModelForImageClassification": "evil.Evil"}
    edited("config.json", auto_map=own)(folder)
    edited("preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"})(folder)
    # transformers knows the architecture, and its own classes are taken.
    assert load_network(f"hf:{folder}").class_names == NAMES
    edited("config.json", model_type="evil")(folder)
    status, _, err = run(capsys, "explain", picture, "--model", f"hf:{folder}")
    assert (status, "cannot be loaded" in err) == (2, True)
    assert not (tmp_path / "executed").exists()


def test_nothing_is_asked_of_a_network(tmp_path, monkeypatch):
    """Not even of one that would answer."""
    import socket

    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: asked.append(given))
    monkeypatch.setattr(socket.socket, "connect", lambda *given: asked.append(given))
    hf_folder(tmp_path, "ResNet")
    load_network(f"hf:{tmp_path}")
    written = (tmp_path / "config.json").read_text()
    for changes in ELSEWHERE:
        (tmp_path / "config.json").write_text(written)
        edited("config.json", **changes)(tmp_path)
        with pytest.raises(NetworkError):
            load_network(f"hf:{tmp_path}")
    assert asked == []


def test_names_that_are_no_text_are_no_names(tmp_path):
    hf_folder(tmp_path, "ResNet")
    edited("config.json", id2label={"0": 1, "1": None, "2": "c", "3": "d"})(tmp_path)
    # transformers may refuse them.
    with suppress(NetworkError):
        assert load_network(f"hf:{tmp_path}").class_names == ()


def test_a_folder_within_a_folder_is_named(picture, tmp_path, capsys):
    hf_folder(tmp_path / "run" / "checkpoint-5", "ResNet")
    status, _, err = run(capsys, "explain", picture, "--model", f"hf:{tmp_path / 'run'}")
    assert (status, f"{tmp_path / 'run' / 'checkpoint-5'} has one" in err) == (2, True)
    given = ["--model", f"hf:{tmp_path / 'run' / 'checkpoint-5'}", "--weights", "more.pth"]
    status, _, err = run(capsys, "explain", picture, *given)
    assert (status, "brings its own weights; drop --weights" in err) == (2, True)


@pytest.mark.parametrize(
    "options",
    [
        {"size": {"height": 64, "width": 48}},
        {"size": {"shortest_edge": 80}, "do_center_crop": True,
         "crop_size": {"height": 64, "width": 64}},
    ],
)  # fmt: skip
def test_pixels_go_where_the_steps_of_a_processor_say(options, tmp_path):
    pytest.importorskip("transformers")
    hf_folder(tmp_path, "ResNet")
    edited("preprocessor_config.json", **options)(tmp_path)
    edited("preprocessor_config.json", image_processor_type="CLIPImageProcessor")(tmp_path)
    network = load_network(f"hf:{tmp_path}")
    picture = Image.new("RGB", (240, 160))
    box = (100, 60, 160, 120)
    picture.paste("white", box)
    shown = network.prepare(picture)[2][0, 0] > 0.5
    rows, columns = shown.any(1).nonzero(), shown.any(0).nonzero()
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    ((x0, y0, x1, y1),) = boxes_after([box], picture.size, box_steps(network.preprocess))
    assert np.abs(np.array([x0, y0, x1, y1]) - np.array([int(n) for n in found])).max() <= 1


def test_steps_that_are_not_known_are_not_guessed(tmp_path):
    transformers = pytest.importorskip("transformers")
    hf_folder(tmp_path, "ResNet")
    transformers.ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    network = load_network(f"hf:{tmp_path}")
    with pytest.raises(ValueError, match="cannot follow the step Preprocess"):
        box_steps(network.preprocess)


def test_a_folder_that_timm_wrote_is_for_timm(picture, tmp_path, capsys):
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", num_classes=4)
    timm.models.save_for_hf(model, tmp_path / "model", safe_serialization=True)
    status, _, err = run(capsys, "explain", picture, "--model", f"hf:{tmp_path / 'model'}")
    words = f"--model timm:resnet10t --weights {tmp_path / 'model' / 'model.safetensors'}"
    said = f"unioncam: --model hf:{tmp_path / 'model'} is of timm: give {words}\n"
    assert (status, err) == (2, said)
    given = [*words.split(), "--quiet", "--method", "layercam", "-o", tmp_path / "o.png"]
    assert run(capsys, "explain", picture, *given)[0] == 0
