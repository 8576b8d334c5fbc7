"""timm's classifiers by name, with the preprocessing and the class names that they carry."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from captum_unioncam.engine.arguments import closest
from captum_unioncam.vision.network import Network, NetworkError
from captum_unioncam.vision.weights import fill, load_state


def timm_network(name: str, weights: str = "DEFAULT") -> Network:
    """Return a classifier of timm.

    Args:
        name (str): one of ``timm.list_models()``, with or without the tag of its weights.
        weights (str, optional): a file with a state dict, whose classes may be of any number;
            "DEFAULT" downloads timm's own. Default: "DEFAULT"

    Raises:
        NetworkError: if timm, the model or its weights cannot be had, or it is no classifier of
            RGB pictures.
    """
    try:
        import timm
    except ImportError as error:
        raise NetworkError(f"--model timm:{name} needs timm: pip install timm") from error
    # Of timm's own models only: its factory also takes folders and repositories by prefix.
    architecture, _, tag = name.partition(".")
    tags = timm.list_models(f"{architecture}.*", pretrained=True)
    if not timm.is_model(architecture):
        raise NetworkError(
            f"timm has no model {name!r}{closest(architecture, timm.list_models())}; "
            "timm.list_models() lists all"
        )
    if tag and name not in tags:
        raise NetworkError(
            f"timm's {architecture} has no weights {tag!r}; it has "
            f"{', '.join(t.partition('.')[2] for t in tags) or 'none'}"
        )
    if weights == "DEFAULT":
        model: Any = _with_own_weights(name)
    else:
        state = load_state(Path(weights), "or drop --weights, and timm's own are downloaded")
        heads = timm.get_pretrained_cfg(name).classifier or ()
        heads = [heads] if isinstance(heads, str) else heads
        found = [state[f"{one}.weight"] for one in heads if f"{one}.weight" in state]
        sizes = [len(weight) for weight in found if weight.dim() and weight.numel()]
        model = timm.create_model(name, pretrained=False, num_classes=(*sizes, None)[0])
        fill(model, state, weights)
    classes, channels = model.num_classes, model.pretrained_cfg["input_size"][0]
    if not classes or channels != 3:
        raise NetworkError(
            f"timm's {name} is no classifier of RGB pictures: it has {classes} classes and takes "
            f"{channels} channels; take one that has some, or give its head with --weights FILE"
        )
    config = timm.data.resolve_model_data_config(model)
    preprocess = timm.data.create_transform(**config, is_training=False)
    return Network(f"timm's {name}", model.eval(), preprocess, _class_names(model))


def _with_own_weights(name: str) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(name, pretrained=True)
    # A download fails in as many ways as there are servers.
    except Exception as error:
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise NetworkError(
            f"timm's weights of {name} could not be had ({reason or type(error).__name__}); give a "
            "file with --weights FILE, or explain with --model demo, which needs no network"
        ) from error
    return model


def _class_names(model: Any) -> Sequence[str]:
    """Return the names that come with the weights, or those of the ImageNet that timm infers."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    names = model.pretrained_cfg.get("label_names") or ()
    described = model.pretrained_cfg.get("label_descriptions") or {}
    if len(names) == model.num_classes:
        return [described.get(one, one) for one in names]
    subset = infer_imagenet_subset(model)
    return ImageNetInfo(subset).label_descriptions() if subset else ()
