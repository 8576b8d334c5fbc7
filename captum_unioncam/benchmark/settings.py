"""What decides the numbers of a run, kept beside its rows so that none are mixed."""

import hashlib
import json
import os
import platform
import shlex
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam import __version__
from captum_unioncam.metrics.protocols import PROTOCOLS

SETTINGS_FILE = "settings.json"
PACKAGES = ("torch", "torchvision", "captum", "numpy", "pillow")
# Said in every row, with which it can be measured again.
IN_ROWS = (
    *("model", "weights", "weights_sha256", "layer", "preprocess", "protocol", "target", "seed"),
    *("device", "versions"),
)


@dataclass(frozen=True)
class Settings:
    """Everything that a number depends on.

    Attributes:
        data (str): folder of the data set.
        dataset (str): what was found there.
        images (int): how many pictures were chosen.
        images_sha256 (str): digest of which ones.
        year (str, optional): of a VOC devkit, as it was given.
        image_set (str, optional): of a VOC devkit, as it was given.
        model (str): the network.
        weights (str): its weights.
        weights_sha256 (str): digest of their values.
        layer (str): dotted name of the layer.
        methods (dict[str, str]): methods by label.
        metrics (list[str]): metrics.
        protocol (str): named options of the metrics.
        preprocess (str): "own" or "paper".
        target (str): "predicted" or "truth".
        alone (bool): whether methods share no work.
        n (int, optional): how many pictures were asked for.
        seed (int): of the choice of pictures, and of methods that draw, for each picture.
        device (str): kind of device.
        versions (dict[str, str]): of Python and the packages.
    """

    data: str
    dataset: str
    images: int
    images_sha256: str
    year: str | None
    image_set: str | None
    model: str
    weights: str
    weights_sha256: str
    layer: str
    methods: dict[str, str]
    metrics: list[str]
    protocol: str
    preprocess: str
    target: str
    alone: bool
    n: int | None
    seed: int
    device: str
    versions: dict[str, str]

    def for_rows(self) -> dict[str, Any]:
        """Return what every row says of how it was measured."""
        return {name: getattr(self, name) for name in IN_ROWS}

    def command(self, out: Path) -> str:
        """Return the command that makes this run, and goes on with it."""
        given = {
            "--model": self.model,
            "--weights": self.weights,
            "--layer": self.layer,
            "--methods": ",".join(self.methods.values()),
            "--metrics": ",".join(self.metrics),
            "--protocol": self.protocol,
            "--preprocess": self.preprocess,
            "--target": self.target,
            "--year": self.year,
            "--image-set": self.image_set,
            "--pictures": self.n,
            "--seed": self.seed,
            "--device": self.device,
            "--out": out,
        }
        words = [f"{n} {shlex.quote(str(v))}" for n, v in given.items() if v is not None]
        alone = ["--alone"] if self.alone else []
        return " ".join(["unioncam benchmark", shlex.quote(self.data), *words, *alone])

    def in_words(self) -> list[str]:
        """Return lines that say what was measured how."""
        of = {
            "own": "the preprocessing of the network's weights",
            "paper": "resized to 224 x 224, values in [0, 1]",
            "predicted": "the most probable class",
            "truth": "every class that the picture is labelled with",
        }
        protocol = PROTOCOLS[self.protocol]
        hidden = "black" if protocol.baseline == "black" else "zeros in the network's input space"
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return [
            f"Data: {self.images} pictures from {self.data} ({self.dataset}), seed {self.seed}.",
            f"Network: {self.model}, weights {self.weights} (sha256 {self.weights_sha256[:12]}).",
            f"Layer: `{self.layer}`.",
            f"Pictures: {of[self.preprocess]}.",
            f"Class explained: {of[self.target]}.",
            f"Protocol `{self.protocol}`: {protocol.title}.",
            f"Masked-out parts show {hidden}, unless a method or metric brings its own.",
            f"Device: {self.device}. {versions}.",
        ]


def versions() -> dict[str, str]:
    """Return versions of Python and of every package that a number may depend on."""
    own = {"python": platform.python_version(), "captum_unioncam": __version__}
    return own | {name: version(name) for name in PACKAGES}


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
    new = asdict(settings)
    if path.exists():
        # The same pictures may lie elsewhere by now; their digest is compared.
        changed = differences(asdict(load(folder)) | {"data": settings.data}, new)
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
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(new, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(folder: Path) -> Settings:
    """Return the settings that a folder was begun with.

    Raises:
        ValueError: if there are none that can be read.
    """
    path = folder / SETTINGS_FILE
    try:
        return Settings(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no benchmark: no {SETTINGS_FILE}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is not what this version of the package writes: {error}"
        ) from error


def differences(old: dict[str, Any], new: dict[str, Any], within: str = "") -> list[str]:
    """Say what differs, in the words of the settings.

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
