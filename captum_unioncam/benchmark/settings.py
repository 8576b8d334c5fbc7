"""What decides the numbers of a run, kept beside its rows so that none are mixed."""

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam import __version__
from captum_unioncam.benchmark.options import command_words, in_words, option
from captum_unioncam.files import written_whole
from captum_unioncam.metrics.protocols import PROTOCOLS
from captum_unioncam.scorers import packages_of

SETTINGS_FILE = "settings.json"
PACKAGES = ("torch", "torchvision", "captum", "numpy", "pillow")
# All others are repeated in every row, to reproduce it.
ONLY_OF_THE_RUN = (
    *("data", "year", "image_set", "n", "methods", "metrics", "alone"),
    *("dataset", "images", "images_sha256"),
)


@dataclass(frozen=True)
class Settings:
    """Everything that a number depends on: options of the command, and what was found."""

    dataset: str
    images: int
    images_sha256: str
    weights_sha256: str
    versions: dict[str, str]
    tolerance: float | None
    data: str = option(
        "data",
        nargs="?",
        metavar="DATA",
        help="folder of pictures: one folder per class (ImageNet), a VOC devkit, pictures with "
        "labels.csv (columns file, class_index), or pictures alone",
    )
    model: str = option("--model")
    weights: str = option("--weights")
    layer: str = option("--layer")
    methods: Mapping[str, str] = option(
        "--methods",
        help="names that 'unioncam methods' lists, separated by commas, with options after "
        "colons: unioncam:theta=30; unioncam.denoised, .region and .union are its modules",
    )
    metrics: Sequence[str] = option(
        "--metrics", help="metrics separated by commas, instead of the preset's"
    )
    protocol: str = option(
        "--protocol",
        label="Protocol",
        default="paper",
        choices={name: f"`{name}`, {protocol.title}" for name, protocol in PROTOCOLS.items()},
        help="whose settings the metrics use (%(default)s)",
    )
    preprocess: str = option(
        "--preprocess",
        label="Pictures",
        default="own",
        choices={
            "own": "the preprocessing of the network's weights",
            "paper": "resized to 224 x 224, values in [0, 1]",
        },
        help="the weights' own preprocessing (default), or the paper's: 224 x 224 in [0, 1]",
    )
    target: str = option(
        "--target",
        label="Class explained",
        default="predicted",
        choices={
            "predicted": "the most probable class",
            "truth": "every class that the picture is labelled with",
        },
        help="explain the most probable class (default), or the classes a picture is labelled with",
    )
    year: str | None = option("--year", help="of a VOC devkit that holds several")
    image_set: str | None = option(
        "--image-set", help="of a VOC devkit (default: test, or else val)"
    )
    # torchrun takes "--n" for an abbreviation of its own options, wherever it stands.
    n: int | None = option(
        "--n",
        "--pictures",
        type=int,
        metavar="N",
        help="how many pictures, chosen at random (default: all); under torchrun say --pictures",
    )
    seed: int = option(
        "--seed",
        type=int,
        default=0,
        help="of that choice, and of methods that draw, for each picture (%(default)s)",
    )
    mosaics: int = option(
        "--mosaics",
        type=int,
        default=2,
        metavar="CELLS",
        help="cells along each side of the mosaics on which metrics point at a cell (%(default)s)",
    )
    alone: bool = option(
        "--alone",
        action="store_true",
        help="run every method on its own, so that rows forwarded and times can be compared; "
        "slower, since methods then share no masked forwards",
    )
    device: str = option("--device")
    scorer: str = option("--scorer")

    def for_rows(self) -> dict[str, Any]:
        """Return what every row repeats of how it was measured."""
        return {n: value for n, value in asdict(self).items() if n not in ONLY_OF_THE_RUN}

    def command(self, out: Path) -> str:
        """Return the command that makes this run, and goes on with it."""
        return shlex.join(["unioncam", "benchmark", *command_words(self), "--out", str(out)])

    def in_words(self) -> list[str]:
        """Return lines that say what was measured how."""
        is_black = PROTOCOLS[self.protocol].baseline == "black"
        hidden = "black" if is_black else "zeros in the network's input space"
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return [
            f"Data: {self.images} pictures from {self.data} ({self.dataset}), seed {self.seed}.",
            f"Network: {self.model}, weights {self.weights} (sha256 {self.weights_sha256[:12]}).",
            f"Layer: `{self.layer}`.",
            *in_words(self),
            f"Masked-out parts show {hidden}, unless a method or metric brings its own.",
            *self._scorer_in_words(),
            f"Device: {self.device}. {versions}.",
        ]

    def _scorer_in_words(self) -> list[str]:
        if self.scorer == "model":
            return []
        limit = f"where a score is more than {self.tolerance:g} of the largest off"
        return [f"Masked pictures are run by {self.scorer}, and by the network itself {limit}."]


def versions(scorer: str = "model") -> dict[str, str]:
    """Return versions of Python and of every package that a number may depend on."""
    own = {"python": platform.python_version(), "captum_unioncam": __version__}
    return own | {name: version(name) for name in (*PACKAGES, *packages_of(scorer))}


def weights_sha256(model: nn.Module) -> str:
    """Return a digest of the names, dtypes and values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            value = value.detach().cpu().contiguous().flatten()
            digest.update(f"{name} {value.dtype} {len(value)}".encode())
            digest.update(value.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def keep(settings: Settings, folder: Path) -> None:
    """Write the settings of a new run, or check that a run to go on with has the same.

    Raises:
        ValueError: if it has others, naming them, or rows of unknown settings.
    """
    path = folder / SETTINGS_FILE
    if path.exists():
        # The same pictures may lie elsewhere by now; their digest is compared.
        changed = differences(asdict(load(folder)) | {"data": settings.data}, asdict(settings))
        if changed:
            raise ValueError(
                f"{folder} was begun with other settings, and tables of mixed rows say nothing: "
                f"{'; '.join(changed)}. Go on as it was begun, or choose another --out"
            )
        return
    if any(folder.glob("rows-*.jsonl")):
        raise ValueError(
            f"{folder} holds rows but no {SETTINGS_FILE} that says how they were measured; choose "
            "another --out"
        )
    with written_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        json.dump(asdict(settings), file, indent=2)
        file.flush()
        # Rows are on disk as soon as they are made; without their settings they were lost.
        os.fsync(file.fileno())


def load(folder: Path) -> Settings:
    """Return the settings that a folder was begun with.

    Raises:
        ValueError: if there are none that can be read.
    """
    path = folder / SETTINGS_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        # Older runs had no mosaics, and the network itself ran everything.
        return Settings(**{"scorer": "model", "tolerance": None, "mosaics": 2, **found})
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no benchmark: no {SETTINGS_FILE}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is not what this version of the package writes: {error}"
        ) from error


def differences(old: dict[str, Any], new: dict[str, Any], within: str = "") -> list[str]:
    """Return what differs, in the words of the settings.

    Examples::

        >>> differences({"seed": 0, "versions": {"torch": "2.3"}},
        ...             {"seed": 0, "versions": {"torch": "2.4"}})
        ["versions torch was '2.3', now '2.4'"]
    """
    found = []
    for name in [*old, *(name for name in new if name not in old)]:
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict) and was != now:
            found += differences(was, now, f"{within}{name} ")
        elif was != now:
            found.append(f"{within}{name} was {was!r}, now {now!r}")
    return found
