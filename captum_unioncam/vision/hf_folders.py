"""Models of transformers in local folders, read without running anything from them."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_unioncam.vision.network import Network, NetworkError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
# What holds pickles, or another framework's weights.
OTHER_WEIGHTS = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx"}
# The end of an architecture's name, and the class of transformers that loads it.
KINDS = {
    "ForImageClassification": "AutoModelForImageClassification",
    "ForImageClassificationWithTeacher": "AutoModelForImageClassification",
    "ForSemanticSegmentation": "AutoModelForSemanticSegmentation",
}
# Names of a configuration: of models, where no address or path may stand, and of what is fetched.
SOURCES = ("architecture", "backbone")
FETCHED = ("checkpoint_path", "use_pretrained_backbone")


@dataclass(frozen=True)
class Preprocess:
    """What an image processor of transformers makes of a picture."""

    processor: Any

    def __call__(self, picture: Any) -> Tensor:
        """Return the input that a picture becomes, (C, H, W)."""
        pixels: Tensor = self.processor(images=picture, return_tensors="pt")["pixel_values"][0]
        return pixels

    @property
    def transforms(self) -> list[Any]:
        """The steps that move pixels as torchvision names them; itself where they are unknown."""
        from torchvision.transforms import v2

        own = self.processor
        size, crop = getattr(own, "size", None) or {}, getattr(own, "crop_size", None) or {}
        unknown = [
            name
            for name, value in vars(own).items()
            if name in ("crop_pct", "do_pad", "do_thumbnail", "do_align_long_axis") and value
        ]
        steps: list[Any] = []
        if getattr(own, "do_resize", False):
            sides = [size[name] for name in ("height", "width") if name in size]
            if size.get("longest_edge") or not (len(sides) == 2 or size.get("shortest_edge")):
                unknown.append("size")
            else:
                steps.append(v2.Resize(sides or size["shortest_edge"]))
        if getattr(own, "do_center_crop", False):
            steps.append(v2.CenterCrop((crop["height"], crop["width"])))
        return [self] if unknown else steps


def hf_network(folder: str) -> Network:
    """Return the model in a folder that transformers wrote.

    Its configuration says which of transformers' own classes it is; code in the folder is not run,
    pickles are not opened, and what it names lies in it. Its preprocessing and the names of its
    classes come from it too.

    Args:
        folder (str): a folder with config.json, model.safetensors (or its parts with their index)
            and preprocessor_config.json.

    Raises:
        NetworkError: if there is no such folder, something is missing in it, or it is neither an
            image classifier nor a network of semantic segmentation.
    """
    try:
        import transformers
    except ImportError as error:
        raise NetworkError(
            f"--model hf:{folder} needs transformers: pip install transformers"
        ) from error
    if not folder:
        raise NetworkError("--model hf: names no folder; give it after the colon, hf:FOLDER")
    path = Path(folder).expanduser()
    auto = getattr(transformers, KINDS[_kind(path)])
    _check_weights(path)
    try:
        with _quiet_transformers():
            local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
            processor = transformers.AutoImageProcessor.from_pretrained(str(path), **local)
            # Eager attention is every model's, and loads no kernel that a configuration may name.
            model, told = auto.from_pretrained(
                str(path), use_safetensors=True, dtype=torch.float32, attn_implementation="eager",
                output_loading_info=True, **local,
            )  # fmt: skip
    # A broken or hostile folder fails in many ways; none of them runs anything.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise NetworkError(f"--model hf:{folder} cannot be loaded: {reason}") from error
    if missing := sorted(told["missing_keys"]):
        raise NetworkError(
            f"--model hf:{folder}: its weights lack {len(missing)} tensors that "
            f"{type(model).__name__} has, {missing[:2]}, which would be random; save the whole "
            "model with model.save_pretrained(folder)"
        )
    labels = model.config.id2label
    is_whole = {*labels} == {*range(len(labels))} and {*map(type, labels.values())} == {str}
    names = [labels[n] for n in range(len(labels))] if is_whole else ()
    return Network(path.resolve().name, model.eval(), Preprocess(processor), names)


def _kind(path: Path) -> str:
    """Return the end of the architecture's name in a folder where everything else is there."""
    if not path.is_dir():
        what = "a file, not a folder" if path.exists() else "no such folder, and none is downloaded"
        raise NetworkError(
            f"--model hf:{path}: {what}; give a local folder with {CONFIG} and {WEIGHTS}, as "
            "model.save_pretrained(folder) writes them"
        )
    for needed, writer in ((CONFIG, "model"), (PREPROCESSOR, "image_processor")):
        if (path / needed).is_file():
            continue
        inner = sorted(found.parent.name for found in path.glob(f"*/{needed}"))
        hint = f"; {path / inner[0]} has one" if inner else ""
        if needed == PREPROCESSOR and "pretrained_cfg" in (own := _read(path / CONFIG)):
            raise NetworkError(
                f"--model hf:{path} is of timm: give --model timm:{own.get('architecture')} "
                f"--weights {path / WEIGHTS}"
            )
        raise NetworkError(
            f"--model hf:{path} has no {needed}, but {_listed(path)}{hint}; "
            f"{writer}.save_pretrained(folder) writes it"
        )
    config = _read(path / CONFIG)
    listed = config.get("architectures")
    architecture = listed[0] if isinstance(listed, list) and listed else "none"
    kinds = [kind for kind in KINDS if str(architecture).endswith(kind)]
    if not kinds:
        raise NetworkError(
            f"--model hf:{path}: its architecture is {architecture}; explained are image "
            f"classifiers (...{next(iter(KINDS))}) and semantic segmentation"
        )
    if elsewhere := _elsewhere(config):
        raise NetworkError(
            f"--model hf:{path}: its {CONFIG} names {elsewhere}, which is not in the folder, and "
            "nothing is looked up elsewhere; model.save_pretrained(folder) writes the whole model"
        )
    return kinds[0]


def _elsewhere(config: dict[str, Any]) -> str:
    """Return what a configuration would have fetched or read from elsewhere; empty if nothing."""
    # Not by recursion: it may be nested as deeply as its author likes.
    parts: list[Any] = [config]
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts += part
        if not isinstance(part, dict):
            continue
        for name, value in part.items():
            parts.append(value)
            is_source = isinstance(value, str) and not {*value}.isdisjoint("/\\:")
            if (name in SOURCES and is_source) or (name in FETCHED and value):
                return f"{name} {value!r}"
    return ""


def _check_weights(path: Path) -> None:
    if (path / "adapter_config.json").exists():
        raise NetworkError(
            f"--model hf:{path} is an adapter of another model; merge both "
            "(model.merge_and_unload()) and save that"
        )
    if (path / WEIGHTS).is_file():
        return
    if (path / INDEX).is_file():
        shards = _read(path / INDEX).get("weight_map")
        for name in sorted({*shards.values()}) if isinstance(shards, Mapping) else [None]:
            if not isinstance(name, str) or Path(name).name != name or "\\" in name:
                raise NetworkError(
                    f"--model hf:{path}: its {INDEX} names {name!r}, which is no file in the folder"
                )
            if not (path / name).is_file():
                raise NetworkError(f"--model hf:{path} lacks {name}, which its {INDEX} names")
        return
    others = sorted(file.name for file in path.iterdir() if file.suffix in OTHER_WEIGHTS)
    safe = sorted(file.name for file in path.glob("*.safetensors"))
    if safe:
        hint = f"rename {safe[0]}"
    elif others:
        hint = (
            f"{others[0]} may hold pickled code and is never opened: load it where you trust it, "
            "and model.save_pretrained(folder) writes safetensors"
        )
    else:
        hint = "model.save_pretrained(folder) writes it"
    raise NetworkError(f"--model hf:{path} has no {WEIGHTS}, but {_listed(path)}; {hint}")


def _read(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise NetworkError(f"{file} is not readable JSON ({error})") from error
    if not isinstance(read, dict):
        raise NetworkError(f"{file} holds {type(read).__name__}, not an object")
    return read


def _listed(path: Path) -> str:
    names = sorted(file.name for file in path.iterdir())
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}" if names else "nothing"


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Show no progress bar and no report of transformers; what it says is said by us."""
    from transformers.utils import logging as own

    level, bars = own.get_verbosity(), own.is_progress_bar_enabled()
    own.set_verbosity(logging.CRITICAL)
    own.disable_progress_bar()
    try:
        yield
    finally:
        own.set_verbosity(level)
        if bars:
            own.enable_progress_bar()
