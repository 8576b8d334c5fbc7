"""What a speed benchmark was asked for."""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from captum_unioncam.comparison.method_spec import parse_spec
from captum_unioncam.engine.arguments import check_choice, check_number

DTYPES = ("float32", "tf32", "bfloat16")
SCORERS = ("compiled", "bfloat16", "compiled-bfloat16")
REFERENCE = "unioncam"


@dataclass(frozen=True)
class SpeedSettings:
    """What was asked for, checked as far as it can be without the network.

    Attributes:
        model (str): network, as ``--model`` takes it.
        weights (str): weights, as ``--weights`` takes them.
        random_weights (bool): a torchvision architecture without trained weights.
        layer (str): dotted name of the layer, or "auto".
        images (tuple[str, ...]): files of photographs; empty for those of scikit-image.
        n (int, optional): how many of them; None for all.
        size (int, optional): height and width of the inputs; None for the network's own.
        repeats (int): rounds on every batch of photographs.
        methods (tuple[str, ...]): methods of this package, UnionCAM as it is first.
        batches (tuple[int, ...]): photographs in one call.
        dtypes (tuple[str, ...]): "float32", "tf32" or "bfloat16".
        device (str): where the network is.
        steps (bool): also time Score-CAM's masked pass, one optimisation after the other.
        scorers (tuple[str, ...]): also time UnionCAM with these as scorer: "compiled", "bfloat16",
            "compiled-bfloat16".
        peers (bool): also time other libraries, where they are installed.

    Raises:
        ValueError: if a value is out of range, unknown or given twice.
    """

    model: str
    weights: str
    random_weights: bool
    layer: str
    images: tuple[str, ...]
    n: int | None
    size: int | None
    repeats: int
    methods: tuple[str, ...]
    batches: tuple[int, ...]
    dtypes: tuple[str, ...]
    device: str
    steps: bool = False
    scorers: tuple[str, ...] = ()
    peers: bool = True

    def __post_init__(self) -> None:
        optional = {"--n": self.n, "--size": self.size}
        counts = {"--repeats": self.repeats, **{n: v for n, v in optional.items() if v is not None}}
        for name, value in [*counts.items(), *(("--batches", size) for size in self.batches)]:
            check_number(name, value, above=0, whole=True)
        for dtype in self.dtypes:
            check_choice("--dtype", dtype, DTYPES)
            if dtype == "tf32" and torch.device(self.device).type != "cuda":
                raise ValueError(
                    f"--dtype tf32 is arithmetic of CUDA devices, not of {self.device}"
                )
        for scorer in self.scorers:
            check_choice("--scorers", scorer, SCORERS)
        for method in self.methods:
            if parse_spec(method).part:
                raise ValueError(f"{method!r} is timed with all of UnionCAM; give 'unioncam'")
        for name, values in (
            ("--methods", self.methods),
            ("--batches", self.batches),
            ("--dtype", self.dtypes),
            ("--scorers", self.scorers or SCORERS),
        ):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} names {'one twice' if values else 'nothing'}")
        if self.random_weights and self.weights != "DEFAULT":
            raise ValueError("--random-weights and --weights contradict each other; give one")
        if self.methods[0] != REFERENCE:
            others = tuple(method for method in self.methods if method != REFERENCE)
            object.__setattr__(self, "methods", (REFERENCE, *others))

    def command(self, out: Path) -> str:
        """Return the command that measures this again."""
        given: dict[str, Any] = {
            "--model": self.model,
            "--weights": None if self.weights == "DEFAULT" else self.weights,
            "--layer": self.layer,
            "--n": self.n,
            "--size": self.size,
            "--repeats": self.repeats,
            "--methods": ",".join(self.methods),
            "--batches": ",".join(map(str, self.batches)),
            "--dtype": ",".join(self.dtypes),
            "--scorers": ",".join(self.scorers) or None,
            "--device": self.device,
            "--out": out,
        }
        words = [f"{n} {shlex.quote(str(v))}" for n, v in given.items() if v is not None]
        flags = {
            "--random-weights": self.random_weights,
            "--steps": self.steps,
            "--no-peers": not self.peers,
        }
        words += [name for name, is_given in flags.items() if is_given]
        if self.images:
            words.append(f"--images {shlex.join(self.images)}")
        return " ".join(["python -m benchmarks.speed", *words])

    @classmethod
    def of(cls, values: dict[str, Any]) -> "SpeedSettings":
        """Return settings from what `asdict` made of them and JSON kept of that."""
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **lists})

    as_dict = asdict
