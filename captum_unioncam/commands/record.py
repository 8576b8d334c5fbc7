"""Everything that is needed to make the same maps again, as data for JSON."""

import argparse
import hashlib
import importlib.metadata
import json
import platform
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from captum_unioncam import __version__
from captum_unioncam.commands.session import Session
from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.methods.registry import METHODS

if TYPE_CHECKING:
    from captum_unioncam.comparison.figure import Shown

PACKAGES = ("captum", "torch", "torchvision", "timm", "transformers", "numpy", "pillow")
# What the command line says of a run, beside what is to be explained and where it is written.
ARGUMENTS = (
    *("model", "weights", "baseline", "scorer", "against", "region", "layers", "fuse"),
    "best_by",
)


def record_of_run(
    session: Session, arguments: argparse.Namespace, specs: dict[str, str]
) -> dict[str, Any]:
    """Return what holds for all pictures of a run.

    Args:
        session (Session): the network at hand.
        arguments (Namespace): what `add_pictures` adds.
        specs (dict[str, str]): the methods as they were named, by their labels.
    """
    network = session.network
    return {
        "versions": {"captum-unioncam": __version__, "python": platform.python_version()}
        | {name: found for name in PACKAGES if (found := _version(name))},
        "network": network.name,
        # An address of this run would differ in the next.
        "preprocess": re.sub(r" at 0x[0-9a-f]+", "", repr(network.preprocess)),
        "weights_sha256": weights_sha256(network.model),
        "layer": session.layer_name,
        "device": str(session.device),
        "methods": {label: {"spec": spec, **_options(spec)} for label, spec in specs.items()},
        "metrics": list(session.metrics),
        "command": {
            name: value if value is None else str(value)
            for name in ARGUMENTS
            if (value := getattr(arguments, name, None)) is not None
        },
    }


def record_of_picture(
    session: Session, shown: "Shown", name: str, content: bytes, size: tuple[int, int], wanted: str
) -> dict[str, Any]:
    """Return what holds for one picture: its name, its classes, and every number of its maps.

    Args:
        session (Session): the network at hand.
        shown (Shown): the comparison of that picture.
        name (str): the picture's name.
        content (bytes): what is in its file.
        size (tuple[int, int]): its width and height, upright.
        wanted (str): the classes as they were named.
    """
    comparison = shown.comparison
    return {
        "picture": name,
        "picture_sha256": hashlib.sha256(content).hexdigest(),
        "picture_size": list(size),
        "target": wanted,
        "classes": {label: session.class_name(label) for label in comparison.classes[0]},
        comparison.quantity: comparison.probabilities[0].tolist(),
        "rows": comparison.rows,
    }


def weights_sha256(model: nn.Module) -> str:
    """Return a hash of all parameters and buffers: names, dtypes, shapes and bytes, in order.

    It is the same wherever the weights come from, and on every device.

    Examples::

        >>> first, second = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> weights_sha256(first) == weights_sha256(second)
        False
        >>> _ = second.load_state_dict(first.state_dict())
        >>> weights_sha256(first) == weights_sha256(second)
        True
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            digest.update(f"{name} {value!r}".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        # NumPy has no bfloat16; bytes are bytes.
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def as_json(record: dict[str, Any]) -> str:
    """Return a record as text; what JSON does not know is written as Python shows it."""
    return json.dumps(record, indent=2, ensure_ascii=False, default=str)


def _options(spec: str) -> dict[str, Any]:
    name, _, given = parse_spec(spec)
    return {"options": {**METHODS[name].options, **given}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
