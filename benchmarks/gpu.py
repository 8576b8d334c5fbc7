"""Exact UnionCAM on a GPU in every arithmetic and layout, in one run: ``python -m benchmarks.gpu``.

VGG16 and ResNet-50 with random weights at 224 px, one image and a batch of 16 in a call: float32,
TF32 and bfloat16, in the usual layout and channels-last, eager, compiled and as CUDA graphs. Prints
milliseconds an image, rows a second, the time over that of a plain loop of as many forwards run the
same way at its best number of rows, peak memory, and the smallest correlation with the float32 map.
``--device cpu`` runs a tiny network through the same steps, to see that they work.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from statistics import median
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchvision import models

from benchmarks.speed.settings import whole_numbers
from benchmarks.speed.speed_run import SEED, arithmetic
from captum_unioncam import LayerUnionCAM
from captum_unioncam.comparison.text import formatted, markdown
from captum_unioncam.engine.arguments import check_choice, check_number
from captum_unioncam.engine.cost import measured_cost
from captum_unioncam.metrics.similarity import correlation
from captum_unioncam.scorers.scorer import in_blocks

NETWORKS = {"vgg16": "features.29", "resnet50": "layer4"}
DTYPES = {"float32": torch.float32, "TF32": torch.float32, "bfloat16": torch.bfloat16}
EAGER, COMPILED, GRAPHS = "eager", "compiled", "CUDA graphs"
PLAIN_ROWS = (32, 64, 128, 256)
PLAIN_CALLS = 4


class Way(NamedTuple):
    """How masked images are run: arithmetic, layout of the weights, and by what."""

    dtype: str
    channels_last: bool
    by: str

    def __str__(self) -> str:
        layout = ["channels-last"] if self.channels_last else []
        return ", ".join([self.dtype, *layout, *([] if self.by == EAGER else [self.by])])


WAYS = [Way(dtype, last, by) for dtype in DTYPES for by in (EAGER, COMPILED, GRAPHS)
        for last in (False, True) if last or by == EAGER]  # fmt: skip


class Blocks(nn.Module):
    """A network that runs blocks of so many rows; fewer are filled up."""

    def __init__(self, model: nn.Module, run: Callable[..., Tensor], rows: int) -> None:
        super().__init__()
        self.model, self.run, self.rows = model, run, rows

    def forward(self, x: Tensor) -> Tensor:
        return in_blocks(self.run, self.rows, (x,), (True,))


class Graph:
    """A forward recorded once and replayed on other images of the same shape."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.images = images.clone()
        aside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(aside):
            for _ in range(3):
                model(self.images)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self.graph):
            self.output: Tensor = model(self.images)

    def __call__(self, images: Tensor) -> Tensor:
        self.images.copy_(images)
        self.graph.replay()
        # The next replay writes into the same memory.
        return self.output.clone()


def scorer_of(way: Way, model: nn.Module, x: Tensor, rows: int) -> nn.Module:
    """Return a copy of a network that runs masked images in a way."""
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    copied: nn.Module = deepcopy(model).to(DTYPES[way.dtype], memory_format=layout)  # type: ignore[call-overload]
    if way.by == EAGER:
        return copied
    example = x[:1].to(DTYPES[way.dtype]).repeat(rows, 1, 1, 1).contiguous(memory_format=layout)
    if way.by == GRAPHS:
        # Where there is no CUDA the steps are the same, and nothing is recorded.
        return Blocks(copied, Graph(copied, example) if x.is_cuda else copied, rows)
    mode: dict[str, Any] = {"mode": "reduce-overhead"} if x.is_cuda else {"backend": "eager"}
    run: Any = torch.compile(copied, dynamic=False, **mode)
    # The compiler's own graph writes its next output into the same memory, too.
    return Blocks(copied, lambda images: run(images.contiguous(memory_format=layout)).clone(), rows)


def plain_seconds(scorer: nn.Module, x: Tensor, sizes: Sequence[int]) -> float:
    """Return seconds per row of a loop of forwards, at the number of rows that is fastest."""
    dtype = next(p.dtype for p in scorer.parameters())
    found = []
    for rows in sizes:
        images = x[:1].to(dtype).repeat(rows, 1, 1, 1)
        try:
            with torch.inference_mode():
                scorer(images)
                with measured_cost([], x.device) as cost:
                    for _ in range(PLAIN_CALLS):
                        scorer(images)
        except torch.OutOfMemoryError:
            continue
        found.append(cost.seconds / PLAIN_CALLS / rows)
    return min(found)


def networks(names: Sequence[str], device: torch.device) -> Iterator[tuple[str, Any, Any, Tensor]]:
    """Yield name, network, layer and images; on a CPU those of a tiny network."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        if device.type == "cpu":
            tiny = nn.Sequential(
                *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
                *(nn.Flatten(), nn.Linear(128, 10)),
            )
            yield "tiny", tiny.eval(), tiny[1], torch.rand(16, 3, 32, 32)
            return
        for name in names:
            model = models.get_model(name, weights=None).eval().to(device)
            layer = model.get_submodule(NETWORKS[name])
            yield name, model, layer, torch.rand(16, 3, 224, 224, device=device)


def lines(
    name: str, model: nn.Module, layer: nn.Module, images: Tensor, counts: Sequence[int],
    rows: int, rounds: int,
) -> Iterator[list[str]]:  # fmt: skip
    """Yield a line of the table for every way and number of images."""
    union_cam = LayerUnionCAM(model, layer)
    sizes = PLAIN_ROWS if images.is_cuda else (2, 4)
    exact: dict[int, Tensor] = {}
    for way in WAYS:
        with arithmetic(way.dtype.lower()):
            try:
                scorer = scorer_of(way, model, images, rows)
                # What runs blocks runs no others.
                plain = plain_seconds(scorer, images, sizes if way.by == EAGER else (rows,))
                for count in counts:
                    x = images[:count]
                    target = model(x).argmax(1).tolist()
                    seconds, peaks = [], []
                    # The first call chooses kernels.
                    for _ in range(rounds + 1):
                        with measured_cost([model, scorer], x.device) as cost:
                            cam = union_cam.attribute(
                                x, target, scorer=scorer,
                                perturbations_per_eval=max(1, rows // count),
                            )  # fmt: skip
                        seconds.append(cost.seconds)
                        peaks.append(cost.peak_bytes)
                    took, forwarded = median(seconds[1:]), cost.forwards or 0
                    cam = cast(Tensor, cam)
                    own = exact.setdefault(count, cam)
                    yield [
                        name,
                        str(way),
                        str(count),
                        formatted(1000 * took / count),
                        formatted(forwarded / took),
                        formatted(took / (plain * forwarded)),
                        formatted(peaks[-1] and peaks[-1] / 2**20),
                        f"{correlation(cam, own).min():.5f}",
                    ]
            # A way that a device lacks leaves the others.
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:80]
                yield [name, str(way), reason, *["–"] * 5]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table; 2 if it cannot run as it was given."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Time exact UnionCAM on a GPU, in every arithmetic and layout.",
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, ...; or cpu")
    parser.add_argument(
        "--networks", default=",".join(NETWORKS), help="separated by commas (default: %(default)s)"
    )
    parser.add_argument(
        "--images",
        type=whole_numbers,
        default="1,16",
        help="in a call, at most 16, separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--rows", type=int, default=128, help="rows of a forward (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="calls that are timed (default: %(default)s)"
    )
    given = parser.parse_args(argv)
    try:
        for option in ("rows", "rounds"):
            check_number(f"--{option}", getattr(given, option), above=0, whole=True)
        for count in given.images:
            check_number("--images", count, above=0, most=16, whole=True)
        for network in given.networks.split(","):
            check_choice("--networks", network, tuple(NETWORKS))
        device = torch.device(given.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "torch sees no CUDA device here; --device cpu runs a tiny network through the same "
                "steps"
            )
    except (ValueError, RuntimeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU, tiny network"
    print(f"UnionCAM, all masks, {where}, torch {torch.__version__}\n")
    header = ["network", "masked images run in", "images in a call", "ms an image"]
    header += ["rows a second", "time / plain loop", "peak MiB", "correlation"]
    table = []
    for name, model, layer, images in networks(given.networks.split(","), device):
        for line in lines(name, model, layer, images, given.images, given.rows, given.rounds):
            print(f"{line[0]}, {line[1]}, {line[2]}", file=sys.stderr)
            table.append(line)
    print("\n".join(markdown(header, table, left=2)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
