"""What a command names of a network, found: its device, a layer, classes."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.engine.arguments import closest
from captum_unioncam.suggest import SuggestedLayer, suggest_layer
from captum_unioncam.vision.network import Network, NetworkError


def find_device(name: str | None) -> torch.device:
    """Return the device of that name; without one, CUDA's first where there is one, or the CPU.

    Raises:
        NetworkError: if torch does not know the device or it is not there.
    """
    known = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name or known).device
    # Builds without CUDA fail an assertion.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise NetworkError(f"no device {name!r} ({reason}); here is {known!r}") from error


def find_layer(model: nn.Module, name: str, x: Tensor) -> SuggestedLayer:
    """Return the layer called `name`, or the suggested one for "auto".

    Raises:
        NetworkError: if there is no such layer, naming the closest ones, or none to suggest.
    """
    if name == "auto":
        try:
            return suggest_layer(model, x)
        except ValueError as error:
            raise NetworkError(f"--layer auto: {error}") from error
    layers = dict(model.named_modules())
    if name not in layers:
        tops = ", ".join(layer for layer, _ in model.named_children())
        hint = closest(name, layers) or f"; the outermost ones are {tops}"
        raise NetworkError(f"no layer {name!r}{hint}; --layer auto suggests one")
    return SuggestedLayer(name, layers[name], "named by the user")


def find_target(network: Network, wanted: str, x: Tensor, *, of_region: bool = False) -> Any:
    """Return what `compare` takes for the classes that a command names.

    Args:
        network (Network): the classifier.
        wanted (str): "top1", "top3", ..., or numbers and names separated by commas.
        x (Tensor): an input, from which the number of classes is seen.
        of_region (bool, optional): the classes are of a segmentation network. Default: False

    Returns:
        *None* for the one output of a network with one value per picture, "top1", ... as it is, or
        a dict from numbers, as text, to numbers.

    Raises:
        NetworkError: if there is no such class, or several of that name, or the network is no
            classifier.
    """
    output = network.outputs(x)
    shape = tuple(output.shape)
    if of_region and output.dim() != 4:
        raise NetworkError(
            "--region is for networks of segmentation, whose output is (N, classes, height, "
            f"width); {network.name} gives {shape}: drop it"
        )
    if output.dim() > 2 and not of_region:
        hint = "; name what to explain of a segmentation with --region MASK" * (output.dim() == 4)
        raise NetworkError(
            "a picture is explained by a classifier, whose output is (N, classes) or (N,); got "
            f"{shape}{hint}"
        )
    count = output.shape[1] if output.dim() > 1 else 1
    if re.fullmatch(r"top\d+", wanted):
        if 1 <= int(wanted[3:]) <= count:
            return wanted if output.dim() > 1 else None
        raise NetworkError(f"no {wanted}: {network.name} has {count} class{'es' * (count > 1)}")
    is_one = wanted.lower() in (name.lower() for name in network.class_names)
    texts = [wanted] if is_one else [text.strip() for text in wanted.split(",") if text.strip()]
    if not texts:
        raise NetworkError("no class is named; give top1, a number or a name")
    numbers = [_class_number(network, text, count) for text in texts]
    return {str(number): number for number in numbers} if output.dim() > 1 else None


def find_class(network: Network, target: str, x: Tensor) -> int | None:
    """Return the class of that number or name, or None for "top1".

    Raises:
        NetworkError: if there is no such class, or several of that name.
    """
    output = network.outputs(x)
    count = output.shape[1] if output.dim() > 1 else 1
    return None if target == "top1" else _class_number(network, target, count)


def _class_number(network: Network, wanted: str, count: int) -> int:
    if wanted.lstrip("-").isdecimal():
        if 0 <= int(wanted) < count:
            return int(wanted)
        raise NetworkError(f"no class {wanted}: {network.name} has classes 0 to {count - 1}")
    names = [name.lower() for name in network.class_names]
    exact = [i for i, name in enumerate(names) if name == wanted.lower()]
    # ImageNet's names may be lists of synonyms: "tiger, Panthera tigris" beside "tiger cat".
    whole = [i for i, name in enumerate(names) if wanted.lower() in name.split(", ")]
    found = exact or whole or [i for i, name in enumerate(names) if wanted.lower() in name]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(f"{i} ({network.class_names[i]})" for i in found[:6])
        raise NetworkError(f"{wanted!r} may be class {listed}; give the number")
    hint = closest(wanted.lower(), names) if names else "; it has no class names, give a number"
    raise NetworkError(f"{network.name} has no class {wanted!r}{hint}")
