"""The command line, on a network small enough to run in moments."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captum_unioncam import black_baseline, cli, networks, pictures


def small_model():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 5, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 28 * 28, 3)
    return nn.Sequential(*layers)


def small_network():
    return small_model(), None, ["tabby cat", "tiger cat", "espresso"]


def not_a_network():
    return "resnet"


OWN = ["--model", "tests.test_cli:small_network", "--quiet"]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.png"
    gradient = np.linspace(0, 255, 300 * 260 * 3).reshape(260, 300, 3).astype(np.uint8)
    Image.fromarray(gradient).save(path)
    return path


def run(capsys, *arguments):
    status = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_explain(picture, tmp_path, capsys):
    out, maps = tmp_path / "out.png", tmp_path / "maps"
    status, table, err = run(
        capsys, "explain", picture, picture, *OWN, "-o", out, "--save-maps", maps
    )
    assert status == 0
    assert err == ""
    assert table.splitlines()[0].split() == (
        ["image", "class", "probability", "β", "Grad-CAM", "β_D", "β_R", "β_DR", "chosen"]
    )
    assert table.splitlines()[1].startswith("photo.png")
    assert table.splitlines()[-1] == f"picture written to {out}"
    with Image.open(out) as image:
        assert image.size[0] > 800
    saved = [np.load(maps / name) for name in ("photo.npy", "photo-2.npy")]
    assert saved[0].shape == (28, 28)
    assert np.array_equal(*saved)


def test_explain_into_a_folder_and_again(picture, tmp_path, capsys):
    folder = tmp_path / "pictures"
    arguments = ["explain", picture, *OWN, "-o", folder, "--target", "espresso"]
    assert run(capsys, *arguments)[0] == 0
    made = (folder / "photo.png").stat().st_mtime_ns
    status, table, _ = run(capsys, *arguments, "--resume")
    assert (status, table) == (0, "")
    assert (folder / "photo.png").stat().st_mtime_ns == made
    assert [p.name for p in folder.iterdir()] == ["photo.png"]


def test_other_images_are_still_done(picture, tmp_path, capsys):
    broken, text = tmp_path / "broken.png", tmp_path / "notes.txt"
    broken.write_bytes(picture.read_bytes()[:500])
    text.write_text("no picture")
    images = [tmp_path / "missing.jpg", broken, text, tmp_path, picture]
    status, table, err = run(capsys, "explain", *images, *OWN, "-o", tmp_path / "out.png")
    assert status == 1
    lines = err.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"unioncam: {tmp_path / 'missing.jpg'}: no such file"
    assert "broken.png: not a readable picture (" in lines[1]
    assert "notes.txt: not a readable picture (cannot identify image file" in lines[2]
    assert "photo.png" in table


def test_huge_images_are_refused_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    Image.new("1", (400, 300)).save(path)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100_000)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(pictures.PictureError, match=r"huge.png: 400 x 300 pixels is more than"):
        pictures.load_picture(path)


def test_pictures_are_upright_and_rgb(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (40, 20)).save(path, exif=exif)
    picture = pictures.load_picture(path)
    assert (picture.mode, picture.size) == ("RGB", (20, 40))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--theta", "120"], "--theta must be from 0 to 100, got 120.0"),
        (["--theta", "nan"], "--theta must be from 0 to 100"),
        (["-o", "out.xyz"], "--output out.xyz: end it in one of"),
        (["-o", "no/such/folder/out.png"], "there is no folder"),
        (["--layer", "11"], "no layer '11'; closest: '1'"),
        (["--target", "3"], "no class 3: tests.test_cli:small_network has classes 0 to 2"),
        (["--target", "-1"], "no class -1"),
        (["--target", "cat"], "'cat' may be class 0 (tabby cat), 1 (tiger cat); give the number"),
        (["--target", "expresso"], "has no class 'expresso'; closest: 'espresso'"),
        (["--model", "resnet51"], "no model 'resnet51'; closest: 'resnet50'"),
        (["--model", "no_such_module:f"], "--model no_such_module:f: No module named"),
        (["--model", "tests.test_cli:nothing"], "has no attribute 'nothing'"),
        (["--model", "tests.test_cli:not_a_network"], "must return a torch.nn.Module"),
        (["--device", "tpu"], "no device 'tpu' (Expected one of cpu, cuda"),
        (["--device", "cuda:77"], "no device 'cuda:77' ("),
        (["--weights", "none.pth"], "no file of weights at none.pth"),
        (["--model", "demo", "--weights", "x.pth"], "brings its own weights"),
        (["--model", "resnet18", "--weights", "x.pth"], "give a file, or one of IMAGENET1K_V1"),
    ],
)
def test_wrong_arguments(picture, capsys, changes, message):
    status, out, err = run(capsys, "explain", picture, *OWN, *changes)
    assert status == 2
    assert out == ""
    assert err.startswith("unioncam: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["compare {}", "benchmark {} --out rows", "benchmark speed"])
def test_devices_that_are_not_there(picture, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    words = command.format(picture.parent if "rows" in command else picture).split()
    status, _, err = run(capsys, *words, *OWN[:2], "--device", "tpu")
    assert status == 2
    assert err.splitlines()[-1].startswith("unioncam: no device 'tpu'")


def test_weights_of_a_file(picture, tmp_path, capsys):
    from safetensors.torch import save_file

    other = small_model()
    with torch.no_grad():
        other[3].bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    plain, wrapped, safe = (tmp_path / n for n in ("a.pth", "b.pth", "c.safetensors"))
    torch.save(other.state_dict(), plain)
    torch.save({"state_dict": {f"module.{k}": v for k, v in other.state_dict().items()}}, wrapped)
    save_file(other.state_dict(), safe)
    for file in (plain, wrapped, safe):
        network = networks.load_network(OWN[1], str(file))
        assert torch.equal(network.model[3].bias, other[3].bias)
        assert not network.model.training


def test_weights_that_cannot_be_trusted_or_do_not_fit(picture, tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    cases = {
        "pickled.pth": ({"weight": Evil()}, "is not a plain state dict"),
        "model.pth": (small_model(), "is not a plain state dict"),
        "list.pth": ([1, 2], "holds list, not a state dict"),
        "empty.pth": ({}, "holds an empty state dict"),
        "other.pth": (nn.Linear(2, 2).state_dict(), "does not fit the model: 4 tensors missing"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / name)
        status, out, err = run(capsys, "explain", picture, *OWN, "--weights", tmp_path / name)
        assert status == 2
        assert message in err
        assert "executed" not in out + err
    (tmp_path / "torn.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:100])
    status, _, err = run(capsys, "explain", picture, *OWN, "--weights", tmp_path / "torn.pth")
    assert (status, "is not a plain state dict" in err) == (2, True)


def test_torchvision_weights_of_a_file(tmp_path):
    from torchvision import models

    model = models.get_model("squeezenet1_1", weights=None, num_classes=7)
    torch.save(model.state_dict(), tmp_path / "seven.pth")
    network = networks.load_network("squeezenet1_1", str(tmp_path / "seven.pth"))
    assert network.class_name(3) == "class 3"
    x, black, shown = network.prepare(Image.new("RGB", (300, 400), (255, 0, 128)))
    assert network.model(x).shape == (1, 7)
    preset = models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    torch.testing.assert_close(black, black_baseline(preset.mean, preset.std, x))
    torch.testing.assert_close(
        shown[0, :, 0, 0], torch.tensor([1, 0, 128 / 255]), atol=1e-6, rtol=0
    )


def test_no_network_and_no_weights(picture, capsys, monkeypatch):
    def unreachable(*args, **kwargs):
        raise networks.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(picture.parent))
    status, _, err = run(capsys, "explain", picture, "--model", "resnet18")
    assert status == 2
    assert "weights of resnet18 could not be downloaded" in err
    assert "--weights FILE" in err
    assert "--model demo" in err


def test_too_many_rows_for_one_picture(picture, capsys):
    status, _, err = run(capsys, "explain", *[picture] * 21, *OWN, "-o", "out.png")
    assert status == 2
    assert "give a folder" in err


def test_a_run_that_is_killed_leaves_what_it_finished(picture, tmp_path):
    script = textwrap.dedent(
        """
        import sys
        from captum_unioncam import cli, figure
        explain, done = figure.explain, []
        def dying(*args, **kwargs):
            done.append(1)
            if len(done) == 3:
                import os; os._exit(9)
            return explain(*args, **kwargs)
        figure.explain = dying
        cli.main(sys.argv[1:])
        """
    )
    out, folder = tmp_path / "out.png", tmp_path / "folder"
    for target in (out, folder):
        arguments = ["explain", *[str(picture)] * 3, *OWN, "-o", str(target)]
        done = subprocess.run([sys.executable, "-c", script, *arguments], check=False)
        assert done.returncode == 9
    with Image.open(out) as image:
        assert image.size[1] > 500  # two rows
    assert sorted(p.name for p in folder.iterdir()) == ["photo-2.png", "photo.png"]


def test_interrupted(picture, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "load_picture", interrupt)
    status, _, err = run(capsys, "explain", picture, *OWN)
    assert (status, err) == (130, "unioncam: interrupted\n")


def test_missing_extra(picture, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "captum_unioncam.figure", raising=False)
    monkeypatch.delattr("captum_unioncam.figure", raising=False)
    status, _, err = run(capsys, "explain", picture, *OWN)
    assert status == 2
    assert 'pip install "captum-unioncam[demo]"' in err


def test_import_needs_no_extra():
    code = (
        "import sys; import captum_unioncam; "
        "print([m for m in ('torchvision', 'skimage', 'PIL.Image', 'safetensors', "
        "'matplotlib.pyplot') if m in sys.modules and m not in before])"
    )
    code = "import sys, captum.attr; before = set(sys.modules); " + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    blocked = (
        "import sys\n"
        "for name in ('torchvision', 'skimage', 'safetensors'): sys.modules[name] = None\n"
        "import captum_unioncam"
    )
    subprocess.run([sys.executable, "-c", blocked], check=True)
    version = subprocess.run(
        [sys.executable, "-m", "captum_unioncam", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert version.stdout.startswith("unioncam 0.")
