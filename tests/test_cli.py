"""The command line, on a network small enough to run in moments."""

import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captum_unioncam import black_baseline
from captum_unioncam.commands import main as cli
from captum_unioncam.comparison.text import formatted
from captum_unioncam.vision import networks, pictures


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
    lines = table.splitlines()
    header = "image class method probability β ↑ forwards seconds peak MiB chosen"
    assert lines[0].split() == header.split()
    assert lines[1].startswith("photo.png")
    assert ["Grad-CAM" in lines[1], "map D" in lines[2], "map R" in lines[3]] == [True] * 3
    assert lines[4].endswith("region: the union adds nothing")
    assert lines[-1] == f"picture written to {out}"
    with Image.open(out) as image:
        assert image.size[0] > 800
    names = [f"{name}.tests.test_cli-small_network.auto" for name in ("photo.png", "photo.png-2")]
    saved = [np.load(maps / f"{name}.unioncam.top1.npy") for name in names]
    assert saved[0].shape == (28, 28)
    assert np.array_equal(*saved)
    assert len(list(maps.iterdir())) == 2 * 4


def test_a_column_of_the_best(picture, tmp_path, capsys):
    out, maps = tmp_path / "out.png", tmp_path / "maps"
    status, table, err = run(
        capsys, "compare", picture, *OWN, "--methods", "scorecam,selectedcam:pool=scorecam/ones",
        "--best-by", "drop_at_area", "-o", out, "--save-maps", maps, "--metrics", "deletion",
    )  # fmt: skip
    assert (status, err) == (0, "")
    lines = table.splitlines()
    assert "best by drop_at_area" in lines[3]
    # All three are Score-CAM's map, the first of them.
    assert lines[3].endswith("Score-CAM")
    assert "means" not in table
    names = sorted(path.name for path in maps.iterdir())
    assert len(names) == 3
    assert any("best by drop_at_area" in name for name in names)


def test_explain_into_a_folder_and_again(picture, tmp_path, capsys):
    folder = tmp_path / "pictures"
    arguments = ["explain", picture, *OWN, "-o", folder, "--target", "espresso"]
    assert run(capsys, *arguments)[0] == 0
    made = (folder / "photo.png").stat().st_mtime_ns
    status, table, _ = run(capsys, *arguments, "--resume")
    assert (status, table) == (0, "1 of 1 were there already and are left as they are\n")
    assert (folder / "photo.png").stat().st_mtime_ns == made
    assert [p.name for p in folder.iterdir()] == ["photo.png"]


def test_other_images_are_still_done(picture, tmp_path, capsys):
    broken, text = tmp_path / "broken.png", tmp_path / "notes.txt"
    broken.write_bytes(picture.read_bytes()[:500])
    text.write_text("no picture")
    (tmp_path / "empty.png").touch()
    images = [tmp_path / "missing.jpg", broken, text, tmp_path / "empty.png", picture]
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
        (["-o", "no/such/folder/out.png"], "--output no/such/folder/out.png: give a file in a"),
        (["-o", "out.png", "--resume"], "--resume needs a folder as --output"),
        (["-o", "out.png", "--overlay", "--target", "top2"], "an overlay shows one class"),
        (["-o", "out.svg", "--overlay"], "--output out.svg: end it in one of"),
        (["--metrics", "betta"], "no metric 'betta'; closest: 'beta'"),
        (["--metrics", "iou"], "--metrics iou needs boxes or masks, given in Python only"),
        (["--method", "unioncamm"], "no method 'unioncamm'; closest: 'unioncam'"),
        (["--method", "unioncam:max_masks=0"], "max_masks"),
        (["--method", "layercam", "--theta", "3"], "--method layercam has no theta"),
        (["--target", "top4"], "no top4: tests.test_cli:small_network has 3 classes"),
        (["--target", ","], "no class is named"),
        (["--layer", "features"], "no layer 'features'; the outermost ones are 0, 1, 2, 3"),
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


@pytest.mark.parametrize("command", ["compare {}", "benchmark {} --out rows"])
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


def test_many_pictures_fill_pages(picture, tmp_path, capsys):
    given = ["explain", *[picture] * 6, *OWN, "--method", "layercam"]
    status, table, _ = run(capsys, *given, "-o", tmp_path / "out.pdf", "--csv", tmp_path / "a.csv")
    assert status == 0
    assert {p.name for p in tmp_path.glob("*.pdf")} == {"out-1.pdf", "out-2.pdf"}
    first, last = tmp_path / "out-1.pdf", tmp_path / "out-2.pdf"
    assert table.splitlines()[-1] == f"picture written to {first}, the last to {last}"
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + 6 * 2


def test_a_folder(picture, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("b.png", "a.JPG", ".hidden.png"):
        with Image.open(picture) as image:
            image.save(folder / name)
    (folder / "inner.png").mkdir()
    (folder / "notes.txt").write_text("no picture")
    (folder / "c.png").write_bytes(b"broken")
    given = ["explain", folder, *OWN, "--method", "layercam", "-o", tmp_path / "out"]
    status, table, err = run(capsys, *given)
    assert status == 1
    assert err.startswith(f"unioncam: {folder / 'c.png'}: not a readable picture")
    assert table.index("a.JPG") < table.index("b.png")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.png", "b.png"}
    status, _, err = run(capsys, "explain", tmp_path / "out" / "none", *OWN, "-o", tmp_path / "p")
    assert (status, "none: no such file" in err) == (1, True)
    status, _, err = run(capsys, "explain", folder, *OWN, "-o", folder)
    assert (status, "its pictures are to be explained" in err) == (2, True)
    (tmp_path / "nothing").mkdir()
    status, _, err = run(capsys, "compare", tmp_path / "nothing", *OWN)
    assert (status, err) == (2, f"unioncam: {tmp_path / 'nothing'}: no picture in this folder\n")


@pytest.mark.exhaustive
def test_a_run_that_is_killed_leaves_what_it_finished(picture, tmp_path, capsys):
    script = textwrap.dedent(
        """
        import sys
        from captum_unioncam.commands import compare, main as cli
        load, done = compare.load_picture, []
        def dying(path):
            done.append(1)
            if len(done) == 3:
                import os; os._exit(9)
            return load(path)
        compare.load_picture = dying
        cli.main(sys.argv[1:])
        """
    )
    out, folder = tmp_path / "out.png", tmp_path / "folder"
    more = ["--csv", str(tmp_path / "rows.csv"), "--save-maps", str(tmp_path / "maps")]
    for target in (out, folder):
        arguments = ["explain", *[str(picture)] * 3, *OWN, "-o", str(target), *more]
        done = subprocess.run([sys.executable, "-c", script, *arguments], check=False)
        assert done.returncode == 9
    with Image.open(out) as image:
        assert image.size[1] > 500  # two rows
    assert sorted(p.name for p in folder.iterdir()) == ["photo.png-2.png", "photo.png.png"]
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 2 * 4
    assert len(list((tmp_path / "maps").iterdir())) == 2 * 4


def test_resuming_keeps_the_rows(picture, tmp_path, capsys):
    other = tmp_path / "other.png"
    other.write_bytes(picture.read_bytes())
    rows = tmp_path / "rows.csv"
    more = [*OWN, "-o", tmp_path / "out", "--csv", rows, "--method", "layercam"]
    assert run(capsys, "explain", picture, *more)[0] == 0
    first = rows.read_text().splitlines()
    status, table, _ = run(capsys, "explain", picture, other, *more, "--resume")
    assert (status, table.splitlines()[0][:12]) == (0, "1 of 2 were ")
    assert rows.read_text().splitlines()[: len(first)] == first
    assert len(rows.read_text().splitlines()) == 1 + 2 * 2
    # Its rows are gone, though its figure is there.
    rows.unlink()
    assert not run(capsys, "explain", picture, *more, "--resume")[1].startswith("1 of 1")


def test_interrupted(picture, capsys, monkeypatch, tmp_path):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("captum_unioncam.commands.compare.load_picture", interrupt)
    status, _, err = run(capsys, "explain", picture, *OWN, "-o", tmp_path / "o.png")
    assert (status, err) == (130, "unioncam: interrupted\n")


def test_missing_extra(picture, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "captum_unioncam.comparison.drawing", raising=False)
    monkeypatch.delattr("captum_unioncam.comparison.drawing", raising=False)
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


def test_names_of_what_is_written_never_collide(picture, tmp_path, capsys):
    with Image.open(picture) as image:
        image.save(tmp_path / "a.bmp")
        image.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "a.png")
        image.save(tmp_path / "a-2.png")
    given = [tmp_path / name for name in ("a.bmp", "a.png", "a-2.png", "a.png")]
    folder, maps = tmp_path / "out", tmp_path / "maps"
    status, _, _ = run(capsys, "explain", *given, *OWN, "-o", folder, "--save-maps", maps)
    assert status == 0
    names = ["a-2", "a.bmp", "a.png", "a.png-2"]
    assert {path.name for path in folder.iterdir()} == {f"{name}.png" for name in names}
    files = {n: maps / f"{n}.tests.test_cli-small_network.auto.unioncam.top1.npy" for n in names}
    saved = {name: np.load(file) for name, file in files.items()}
    assert np.array_equal(saved["a.bmp"], saved["a-2"])
    assert not np.array_equal(saved["a.bmp"], saved["a.png"])
    # A map that is missing is made again.
    files["a-2"].unlink()
    again = run(capsys, "explain", *given, *OWN, "-o", folder, "--save-maps", maps, "--resume")
    assert again[1].startswith("3 of 4 were there already")
    assert files["a-2"].exists()


def failing_on_black():
    model = small_model()

    def fail(module, args):
        if not args[0].any():
            raise RuntimeError("no\nlight")

    model.register_forward_pre_hook(fail)
    return model, None, ["a", "b", "c"]


@pytest.mark.filterwarnings("ignore:LayerCAM is blank")
def test_a_picture_that_the_network_fails_on(picture, tmp_path, capsys, monkeypatch):
    def dark(image):
        return torch.zeros(3, 224, 224) if image.size == (8, 9) else torch.ones(3, 224, 224)

    monkeypatch.setattr(networks, "standard_preprocess", lambda *_: dark)
    Image.new("RGB", (8, 9)).save(tmp_path / "dark.png")
    given = [tmp_path / "dark.png", picture, "--model", "tests.test_cli:failing_on_black"]
    out = tmp_path / "out.png"
    status, table, err = run(
        capsys, "explain", *given, "--quiet", "-o", out, "--method", "layercam"
    )
    assert status == 1
    assert err == f"unioncam: {tmp_path / 'dark.png'}: no light\n"
    assert "photo.png" in table


def softmax_network():
    return nn.Sequential(small_model(), nn.Softmax(1)), None, ["a", "b", "c"]


def one_output_network():
    model = small_model()
    return nn.Sequential(*model[:3], nn.Linear(4 * 28 * 28, 1), nn.Flatten(0)), None


def blank_network():
    return nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Flatten(), OfSize()), None


class OfSize(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3] * 0 + x.mean()


def test_warnings_are_lines(picture, tmp_path):
    words = ["--model", "tests.test_cli:blank_network", "--layer", "1", "--quiet"]
    given = ["explain", str(picture), *words, "-o", str(tmp_path / "o.png")]
    command = [sys.executable, "-m", "captum_unioncam", *given]
    err = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert re.fullmatch(
        "(unioncam: photo.png: UnionCAM (is blank for|explains nothing where) .*\n)+", err
    ), err


def test_probabilities_are_not_softmaxed_again(picture, tmp_path, capsys):
    numbers = []
    for name in ("small_network", "softmax_network"):
        layer = ["--layer", "0.1" if "softmax" in name else "1"]
        words = ["--model", f"tests.test_cli:{name}", "--method", "hirescam", *layer]
        status, table, _ = run(capsys, "explain", picture, "--quiet", "-o", tmp_path / "o", *words)
        assert status == 0
        numbers.append(float(re.search(r"0\.\d{3}", table)[0]))
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-3)
    assert 1 / 3 < numbers[0] < 1


def test_one_output_is_its_own_score(picture, tmp_path, capsys):
    words = ["--model", "tests.test_cli:one_output_network", "--layer", "1", "--quiet"]
    status, table, err = run(capsys, "explain", picture, *words, "-o", tmp_path / "o.png")
    assert (status, err) == (0, "")
    model = one_output_network()[0]
    x = networks.Network(
        "", model, networks.standard_preprocess([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    ).prepare(pictures.load_picture(picture))[0]
    assert formatted(model(x).item()) in table.splitlines()[1]
    assert table.split()[:4] == ["image", "class", "method", "output"]
    words += ["-o", tmp_path / "o.png", "--method", "layercam"]
    assert run(capsys, "explain", picture, *words, "--target", "0")[0] == 0
    status, _, err = run(capsys, "explain", picture, *words, "--target", "1")
    assert (status, "has classes 0 to 0" in err) == (2, True)


@pytest.mark.parametrize("command", ["explain", "compare"])
def test_names_that_look_like_formulas(picture, tmp_path, capsys, command):
    odd = picture.rename(tmp_path / "$x^{_$.png")
    more = ["--methods", "layercam"] if command == "compare" else ["--method", "layercam"]
    out = tmp_path / "o.png"
    assert run(capsys, command, odd, *OWN, *more, "-o", out)[0] == 0
    assert out.exists()


@pytest.mark.parametrize("command", ["explain", "compare"])
def test_pictures_are_not_written_over(picture, capsys, command):
    before = picture.read_bytes()
    for output in (picture, picture.parent):
        status, _, err = run(capsys, command, picture, *OWN, "-o", output)
        assert status == 2
        assert err.startswith(f"unioncam: this would write over the picture {picture}")
    status, _, err = run(capsys, command, picture, *OWN, "--csv", picture)
    assert (status, "write over" in err) == (2, True)
    assert picture.read_bytes() == before


def test_where_no_csv_can_be_written(picture, tmp_path, capsys):
    for path in (tmp_path, tmp_path / "none" / "a.csv"):
        status, table, err = run(capsys, "compare", picture, *OWN, "--csv", path)
        assert (status, table) == (2, "")
        assert err == f"unioncam: --csv {path}: give a file in a folder that exists\n"


def test_pictures_of_more_than_eight_bits(tmp_path):
    shades = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(shades).save(tmp_path / "deep.png")
    Image.fromarray(shades).save(tmp_path / "deep.tif")
    (tmp_path / "deep.pgm").write_bytes(b"P5 16 16 65535\n" + shades.astype(">u2").tobytes())
    wanted = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name in ("deep.png", "deep.tif", "deep.pgm"):
        found = np.asarray(pictures.load_picture(tmp_path / name))
        assert np.array_equal(found, np.repeat(wanted[..., None], 3, axis=2))
    for name, dtype in (("whole.tif", np.int32), ("real.tif", np.float32)):
        Image.fromarray(shades.astype(dtype)).save(tmp_path / name)
        with pytest.raises(pictures.PictureError, match="numbers of 32 bits"):
            pictures.load_picture(tmp_path / name)


def test_transparent_pictures_lie_on_white(tmp_path):
    shade, alpha = (np.full((4, 5), value, dtype=np.uint8) for value in (100, 255))
    alpha[:, :2], alpha[:, 2] = 0, 51
    clear, half = (slice(None), slice(0, 2)), (slice(None), 2)
    rgba = Image.merge("RGBA", [Image.fromarray(a) for a in (shade, shade, shade, alpha)])
    grey = Image.merge("LA", [Image.fromarray(shade), Image.fromarray(alpha)])
    rgba.save(tmp_path / "rgba.png")
    grey.save(tmp_path / "la.png")
    grey.save(tmp_path / "la.tif")
    colors = rgba.convert("RGB").quantize(2)
    indices = np.asarray(colors).copy()
    indices[clear] = 1
    image = Image.fromarray(indices, mode="P")
    image.putpalette([100] * 3 + [7] * 3)
    image.save(tmp_path / "p.png", transparency=1)
    image.save(tmp_path / "p.gif", transparency=1)
    keyed = np.full((4, 5, 3), 100, dtype=np.uint8)
    keyed[clear] = 7
    Image.fromarray(keyed).save(tmp_path / "rgb.png", transparency=(7, 7, 7))
    Image.fromarray(keyed[..., 0]).save(tmp_path / "l.png", transparency=7)
    for name in ("rgba.png", "la.png", "la.tif", "p.png", "p.gif", "rgb.png", "l.png"):
        found = pictures.load_picture(tmp_path / name)
        assert found.mode == "RGB", name
        found = np.asarray(found)
        assert (found[clear] == 255).all(), name
        assert (found[:, 3:] == 100).all(), name
        # A fifth of the shade and four of white.
        assert (found[half] == (224 if "a" in name[1:4] else 100)).all(), name


def test_pictures_much_longer_than_wide_are_refused(tmp_path):
    Image.new("RGB", (4, 401)).save(tmp_path / "thin.png")
    Image.new("RGB", (400, 4)).save(tmp_path / "long.png")
    with pytest.raises(pictures.PictureError, match="4 x 401 pixels is more than 100 times"):
        pictures.load_picture(tmp_path / "thin.png")
    assert pictures.load_picture(tmp_path / "long.png").size == (400, 4)


def test_an_overlay_is_the_picture_at_its_size(tmp_path, capsys):
    grey = tmp_path / "grey.png"
    Image.new("RGB", (500, 300), (128, 128, 128)).save(grey)
    out = tmp_path / "over.png"
    status, table, _ = run(
        capsys, "explain", grey, *OWN, "--overlay", "-o", out, "--method", "ones"
    )
    assert status == 0
    assert "Grad-CAM" not in table
    with Image.open(out) as image:
        assert (image.mode, image.size) == ("RGB", (500, 300))
        pixels = np.asarray(image).astype(int)
    # Resized by 256 / 300, and of that the middle 224: 262.5 pixels of the picture.
    inside = (pixels != 128).any(axis=2)
    wanted = np.zeros((300, 500), dtype=bool)
    wanted[19:281, 119:381] = True
    assert (inside == wanted).all()
    assert (pixels[wanted] == pixels[150, 250]).all()


def test_an_overlay_of_ones_own_preprocessing(picture, tmp_path, capsys, monkeypatch):
    def squeezed(image):
        return torch.from_numpy(np.array(image.resize((224, 224)))).permute(2, 0, 1) / 255

    monkeypatch.setattr(networks, "standard_preprocess", lambda *_: squeezed)
    out = tmp_path / "over.jpg"
    words = ["--overlay", "--method", "layercam", "-o", out]
    assert run(capsys, "explain", picture, *OWN, *words)[0] == 0
    with Image.open(out) as image:
        assert image.size == (224, 224)


def test_names_in_any_script(picture, tmp_path, capsys):
    names = ["猫.png", "قطة.png", "кот 🐱.png", "\U0001d538\ufe0f.png", "a\nb.png"]
    for name in names:
        (tmp_path / name).write_bytes(picture.read_bytes())
    given = [tmp_path / name for name in names]
    out = tmp_path / "out.png"
    command = [sys.executable, "-W", "error", "-m", "captum_unioncam", "explain", *given, *OWN]
    command += ["--method", "layercam", "-o", out]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert out.exists()


def test_letters_that_no_font_has(monkeypatch):
    from matplotlib import font_manager

    from captum_unioncam.comparison import drawing

    own = [f for f in font_manager.fontManager.ttflist if "mpl-data" in f.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    families, written = drawing.lettering(["a猫\U000e0020 b", "\n🐱"])
    assert families == ["sans-serif"]
    assert written("a猫\U000e0020\nb") == r"a\u732b b"
    # Bold capitals of the STIX fonts, which the default font lacks.
    letters = drawing.letters_of(font_manager.findfont("STIXGeneral"))
    lacking = letters - drawing.letters_of(font_manager.findfont("DejaVu Sans"))
    letter = next(
        chr(code) for code in sorted(lacking) if code > 0x2000 and chr(code).isprintable()
    )
    families, written = drawing.lettering([f"猫{letter}"])
    assert families[0] == "sans-serif"
    assert len(families) == 2
    assert written(f"猫{letter}") == rf"\u732b{letter}"


@pytest.mark.parametrize("names", [{"cat": 0}, [1, 2, 3], "cat"])
def test_class_names_that_are_none(monkeypatch, names):
    monkeypatch.setattr(
        sys.modules[__name__], "small_network", lambda: (small_model(), None, names)
    )
    with pytest.raises(networks.NetworkError, match="class_names must be a sequence of str"):
        networks.load_network("tests.test_cli:small_network")
