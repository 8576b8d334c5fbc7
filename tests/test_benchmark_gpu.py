"""The benchmark on a GPU: its steps on a CPU, and what it says where there is no GPU."""

import pytest
import torch
from torch import nn

from benchmarks import gpu
from benchmarks.gpu import GRAPHS, WAYS, Blocks, Way, main, plain_seconds, scorer_of


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_one_line_says_so(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "python -m benchmarks.gpu: torch sees no CUDA device here; --device cpu runs a tiny "
        "network through the same steps\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "0"], "--rows must be a finite number greater than 0"),
        (["--images", "1,17"], "--images must be"),
        (["--networks", "vgg11"], "--networks must be one of 'vgg16', 'resnet50'"),
        (["--device", "gpu"], "gpu"),
    ],
)
def test_bad_options_are_one_line(words, message, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_every_way_runs_on_a_cpu(monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    assert main(["--device", "cpu", "--rows", "4", "--rounds", "1", "--images", "1,3"]) == 0
    title, _, _, _, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("UnionCAM, all masks, a CPU, tiny network, torch ")
    table = cells("\n".join(lines))
    assert [row[1:3] for row in table] == [[str(way), n] for way in WAYS for n in "13"]
    for row in table:
        assert all(float(cell) > 0 for cell in row[3:6])
        assert float(row[7]) > (0.99 if "bfloat16" in row[1] else 0.99999)
    assert {way.dtype for way in WAYS} == {"float32", "TF32", "bfloat16"}


def test_ways_that_fail_leave_the_others(monkeypatch, capsys):
    def compiling(model, **options):
        raise RuntimeError("no\ncompiler")

    monkeypatch.setattr(torch, "compile", compiling)
    monkeypatch.setattr(gpu, "WAYS", [Way("float32", True, by) for by in ("compiled", "eager")])
    assert main(["--device", "cpu", "--rows", "4", "--rounds", "1", "--images", "1"]) == 0
    failed, ran = cells("\n".join(capsys.readouterr().out.splitlines()[4:]))
    assert failed[2:] == ["no compiler", *"–––––"]
    assert float(ran[3]) > 0


def test_blocks_are_full_and_give_the_networks_output():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    x, seen = torch.rand(7, 3, 4, 4), []
    blocks = Blocks(net, lambda images: seen.append(len(images)) or net(images), 4)
    torch.testing.assert_close(blocks(x), net(x))
    assert seen == [4, 4]
    scorer = scorer_of(Way("bfloat16", True, GRAPHS), net, x, 4)
    assert next(scorer.parameters()).dtype == torch.bfloat16
    assert next(net.parameters()).dtype == torch.float32
    torch.testing.assert_close(scorer(x.bfloat16()).float(), net(x), rtol=0.1, atol=0.05)


def test_plain_loops_take_the_best_number_of_rows():
    def forward(images):
        seen.append(len(images))
        if len(images) > 4:
            raise torch.OutOfMemoryError
        return images

    seen = []
    net = nn.Conv2d(3, 1, 1)
    net.forward = forward
    assert plain_seconds(net, torch.rand(1, 3, 4, 4), (2, 4, 8)) > 0
    assert seen == [*[2] * 5, *[4] * 5, 8]
