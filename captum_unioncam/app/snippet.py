"""The few lines of Python that make a map again."""

import inspect
from typing import Any

from captum_unioncam.app.work import Result
from captum_unioncam.engine import ClassActivationMap
from captum_unioncam.methods.compared_methods import compared_methods_of
from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.methods.registry import METHODS


def code_of(result: Result, method: str, number: int) -> str:
    """Return code whose variable ``cam`` is a method's map for the class of that number.

    It reads the picture from the working folder, by its name.

    Args:
        result (Result): what is shown.
        method (str): the method's label.
        number (int): which of the classes.
    """
    choice = result.choice
    spec = dict(zip(result.methods, choice.specs, strict=True))[method]
    name, part, options = parse_spec(spec)
    cls = METHODS[name].cls
    module, made = cls.__module__, cls.__name__
    if name == "gradcam":
        module = "captum.attr"
        # Captum's reads tokens and channels last as if they were maps.
        if not _is_captums(result, method, number):
            module, made = "captum_unioncam.methods.grad_cam", "LaidOutGradCAM"
    elif module.startswith("captum_unioncam."):
        module = "captum_unioncam"
    imports = [f"from {module} import {made}"]
    if choice.baseline != "black":
        imports.append("from captum_unioncam.baselines import named_baseline")
    imports.append("from captum_unioncam.vision.networks import load_network")
    if result.picture.sample:
        imports += ["from PIL import Image", "from skimage import data"]
        read = f"Image.fromarray(data.{result.picture.sample}()).convert('RGB')"
    else:
        imports += ["from pathlib import Path"]
        imports.append("from captum_unioncam.vision.pictures import load_picture")
        read = f"load_picture(Path({result.picture.name!r}))"
    weights = "" if choice.weights == "DEFAULT" else f", {choice.weights!r}"
    lines = [
        f"network = load_network({choice.model!r}{weights})",
        f"x, black, _ = network.prepare({read})",
    ]
    if result.session.device.type != "cpu":
        device = repr(str(result.session.device))
        lines.append(f"network.model.to({device}); x, black = x.to({device}), black.to({device})")
    place = "network.model"
    if METHODS[name].needs_layer:
        lines.append(f"layer = network.model.get_submodule({choice.layer!r})")
        place += ", layer"
    arguments = ["x", *_arguments(result, spec, number, options)]
    call = f"{made}({place}).attribute({', '.join(arguments)})"
    lines.append(f"_, details = {call}" if part else f"cam = {call}")
    if part:
        lines.append(f"cam = details.{part}")
    return "\n".join([*sorted(imports), "", *lines, ""])


def _arguments(result: Result, spec: str, number: int, options: dict[str, Any]) -> list[str]:
    """Return the keywords of `attribute`, as `compare` gives them."""
    choice = result.choice
    [entry] = compared_methods_of([spec], result.session.network.model, result.session.layer)
    method = entry.attribution
    known = (
        method.options()
        if isinstance(method, ClassActivationMap)
        else inspect.signature(method.attribute).parameters
    )
    given = [f"target={choice.classes[number]}"] if choice.classes else []
    if "baselines" in known and not getattr(method, "brings_baselines", False):
        kind = choice.baseline
        baseline = "black" if kind == "black" else f"named_baseline({kind!r}, x, black)"
        given.append(f"baselines={baseline}")
    is_relu = "relu_attributions" in inspect.signature(method.attribute).parameters
    if is_relu and not getattr(method, "is_scaled", False):
        given.append("relu_attributions=True")
    ran = result.shown.comparison.scorer
    if ran not in ("", "model") and "scorer" in known and "scorer" not in options:
        given.append(f"scorer={ran!r}")
    given += [f"{name}={value!r}" for name, value in options.items()]
    if entry.part:
        given.append("return_details=True")
    return given


def _is_captums(result: Result, method: str, number: int) -> bool:
    """Return whether Captum's Grad-CAM made the map, which it does of plain maps alone."""
    return tuple(result.map_of(method, number).shape) == result.layer_shape[2:]
