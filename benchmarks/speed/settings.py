"""What a speed benchmark is asked for: the options of its command, and their checks."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from captum_unioncam.benchmark.options import command_words, option
from captum_unioncam.engine.arguments import check_choice, check_number
from captum_unioncam.methods.method_spec import parse_spec, parts

DTYPES = ("float32", "tf32", "bfloat16")
BESIDE = {
    "grad-cam": "its ScoreCAM",
    "torchcam": "its ScoreCAM",
    "compare": "four methods for three classes",
    "metrics": "the same with four metrics: each measured by itself, together, and with every "
    "scorer that a method names",
    "steps": "Score-CAM's masked pass, one optimisation after the other",
    "limit": "as many plain forwards as there are masks",
    "memory": "what a first call takes and keeps",
}
REFERENCE = "unioncam"


def whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in parts(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes whole numbers, got {text!r}") from None


@dataclass(frozen=True)
class SpeedSettings:
    """What was asked for, checked as far as it can be without the network."""

    model: str = option("--model")
    weights: str = option("--weights")
    layer: str = option("--layer")
    device: str = option("--device")
    random_weights: bool = option(
        "--random-weights",
        action="store_true",
        help="a torchvision architecture without its weights, which need a download",
    )
    images: Sequence[str] = option(
        "--images",
        nargs="+",
        default=[],
        metavar="FILE",
        help="photographs (default: four that scikit-image ships)",
    )
    n: int | None = option("--n", type=int, help="how many of them (default: all)")
    size: int | None = option(
        "--size", type=int, help="height and width of the inputs (default: the network's own)"
    )
    repeats: int = option(
        "--repeats", type=int, default=3, help="rounds on every photograph (default: %(default)s)"
    )
    methods: Sequence[str] = option(
        "--methods",
        type=parts,
        default="unioncam,scorecam,unioncam:max_masks=128",
        help="names that 'unioncam methods' lists, with options after colons, such as "
        "unioncam:scorer=onnxruntime; UnionCAM as it is belongs to every run (%(default)s)",
    )
    batches: Sequence[int] = option(
        "--batches",
        type=whole_numbers,
        help="photographs in a call, one number or several separated by commas (default: 1, on "
        "CUDA 1,8)",
    )
    dtypes: Sequence[str] = option(
        "--dtype",
        dest="dtypes",
        type=parts,
        default="float32",
        help="float32 (default), tf32, bfloat16, or several separated by commas",
    )
    peer_rows: Sequence[int] = option(
        "--peer-rows",
        type=whole_numbers,
        default="16,32",
        help="masked images in a forward of another library's, one number or several separated by "
        "commas (default: %(default)s)",
    )
    beside: Sequence[str] = option(
        "--beside",
        type=parts,
        default="grad-cam,torchcam,compare,limit,memory",
        help="what is measured beside the methods, separated by commas, or 'nothing': "
        + "; ".join(f"{name}: {about}" for name, about in BESIDE.items())
        + " (default: %(default)s)",
    )

    def __post_init__(self) -> None:
        counts = [("--repeats", self.repeats), *(("--batches", size) for size in self.batches)]
        counts += [("--peer-rows", rows) for rows in self.peer_rows]
        counts += [(n, v) for n, v in (("--n", self.n), ("--size", self.size)) if v is not None]
        for name, value in counts:
            check_number(name, value, above=0, whole=True)
        for dtype in self.dtypes:
            check_choice("--dtype", dtype, DTYPES)
            if dtype == "tf32" and torch.device(self.device).type != "cuda":
                raise ValueError(
                    f"--dtype tf32 is arithmetic of CUDA devices, not of {self.device}"
                )
        for name in self.beside:
            check_choice("--beside", name, (*BESIDE, "nothing"))
        for method in self.methods:
            if parse_spec(method).part:
                raise ValueError(f"{method!r} is timed with all of UnionCAM; give 'unioncam'")
        for name, values in (
            ("--methods", self.methods),
            ("--batches", self.batches),
            ("--dtype", self.dtypes),
            ("--beside", self.beside),
            ("--peer-rows", self.peer_rows),
        ):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} names {'one twice' if values else 'nothing'}")
        if self.random_weights and self.weights != "DEFAULT":
            raise ValueError("--random-weights and --weights contradict each other; give one")
        others = [method for method in self.methods if method != REFERENCE]
        object.__setattr__(self, "methods", [REFERENCE, *others])

    def command(self, out: Path) -> str:
        """Return the command that measures this again."""
        words = ["python", "-m", "benchmarks.speed", *command_words(self), "--out", str(out)]
        return shlex.join(words)
