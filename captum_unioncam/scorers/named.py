"""Scorers by name."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

from captum_unioncam.scorers.exported import onnxruntime, openvino
from captum_unioncam.scorers.scorer import Scorer
from captum_unioncam.scorers.torch_copies import compiled, half

# Build a scorer from a model, its inputs and further arguments.
BUILDERS: dict[str, Callable[[Any, Any, Any], Scorer]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino-bfloat16": partial(openvino, precision="bfloat16"),
    "compiled": compiled,
    "half": lambda model, example, extra: half(model),
}
# What "auto" tries, the fastest first. Those in half precision are not the same map, and
# compiling takes longer than most maps.
AUTO = ("onnxruntime", "openvino")


def packages_of(name: str) -> tuple[str, ...]:
    """Return the packages that a scorer needs besides torch.

    Examples::

        >>> packages_of("openvino-bfloat16"), packages_of("half")
        (('openvino', 'onnx', 'onnxscript'), ())
    """
    runtime = name.partition("-")[0]
    return (runtime, "onnx", "onnxscript") if runtime in ("onnxruntime", "openvino") else ()


def is_installed(name: str) -> bool:
    """Return whether the packages that a scorer needs are installed."""
    return all(importlib.util.find_spec(package) is not None for package in packages_of(name))
