"""Weights from files, of which nothing is ever executed."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.vision.network import NetworkError


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
            _check_container(path)
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
    for key, value in state.items():
        # A few bytes that are said to be a tensor of any size: the model made for it would be.
        if value.numel() > _held(value):
            raise NetworkError(
                f"{path} holds {_held(value)} of the {value.numel()} values of {key}; save "
                "tensors dense and in whole, with contiguous()"
            )
    return {key.removeprefix("module."): value for key, value in state.items()}


def _held(value: Tensor) -> int:
    """Return how many values of a tensor are there; none of what is sparse or has no memory."""
    if value.is_meta or value.layout is not torch.strided:
        return 0
    return value.untyped_storage().nbytes() // value.element_size()


def _check_container(path: Path) -> None:
    """Raise ValueError for what torch below 2.6 unpacks or runs in spite of weights_only."""
    if tarfile.is_tarfile(path):
        raise ValueError("a tar file")
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    # By torch's own reader, so that both see the same files in it.
    if is_zip and "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
        raise ValueError("TorchScript, which is a program")


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
