"""Maps that the user gives: what another method returned, or a map of their own."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from captum_unioncam.engine.arguments import check_choice, check_finite
from captum_unioncam.engine.maps import resize


def check_map(name: str, value: Any, choices: tuple[str, ...], *, or_none: bool = False) -> None:
    """Raise unless `value` is one of `choices` or a tensor of maps, or None where that may be.

    Raises:
        TypeError: if it is neither.
        ValueError: if it is no such choice, or a tensor that holds no maps.
    """
    if isinstance(value, str):
        check_choice(name, value, choices)
    elif isinstance(value, Tensor):
        if not value.is_floating_point() or not 3 <= value.dim() <= 5 or value.shape[1] != 1:
            raise ValueError(
                f"{name} must be floating point maps of shape (N, 1, *spatial), got shape "
                f"{tuple(value.shape)}, {value.dtype}"
            )
        check_finite(name, value, "clean them first")
    elif value is not None or not or_none:
        words = ", ".join(map(repr, (*choices, None) if or_none else choices))
        raise TypeError(
            f"{name} must be {words} or a Tensor of maps (N, 1, *spatial), such as another "
            f"method's attribute returns; got {type(value).__name__}"
        )


def given_maps(name: str, maps: Tensor, like: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps resized, of the dtype and device of a layer's activations.

    Raises:
        ValueError: if there is not one for each example, of the layer's rank.
    """
    if len(maps) != len(like) or maps.dim() != like.dim():
        raise ValueError(
            f"{name} must hold one map for each example, ({len(like)}, 1, *spatial) with "
            f"{like.dim() - 2} spatial dimensions, got shape {tuple(maps.shape)}"
        )
    maps = maps.detach().to(like)
    return maps if maps.shape[2:] == tuple(size) else resize(maps, size)
