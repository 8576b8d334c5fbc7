"""How a layer's tensor lies on the input: maps, channels last, or tokens in a row."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_choice

There = Callable[[Tensor], Tensor]
Back = Callable[[Tensor, Tensor], Tensor]
Name = Literal["maps", "channels_first", "channels_last", "tokens"]
NAMES = ("maps", "channels_first", "channels_last", "tokens")


@dataclass(frozen=True)
class Layout:
    r"""How a layer's tensor lies on the input.

    Attributes:
        size (tuple[int, ...]): positions of its maps: (length,), (rows, columns) or (time, rows,
            columns).
        leading_tokens (int): tokens before those of the input: a class token, a distillation
            token or registers. Maps leave them out. Default: 0
        channels (str): where the channels are: ``"last"`` in (N, positions, C) and
            (N, \*size, C), ``"first"`` in (N, C, \*size). Default: ``"last"``

    Examples::

        >>> layout = Layout((4, 6), leading_tokens=1)
        >>> tokens = torch.rand(2, 25, 8)
        >>> maps = layout.to_maps(tokens)
        >>> maps.shape
        torch.Size([2, 8, 4, 6])
        >>> torch.equal(layout.to_layer(maps, tokens), tokens)
        True
    """

    size: tuple[int, ...]
    leading_tokens: int = 0
    channels: Literal["first", "last"] = "last"

    def to_maps(self, tensor: Tensor) -> Tensor:
        """Return the layer's tensor as maps (N, C, *size), without the tokens that lead."""
        tensor = self._channels_first(tensor)
        if tensor.shape[2:] == self.size and not self.leading_tokens:
            return tensor
        patches = tensor.flatten(2)[:, :, self.leading_tokens :]
        return patches.reshape(*patches.shape[:2], *self.size)

    def to_layer(self, maps: Tensor, own: Tensor) -> Tensor:
        """Return maps (R, C, *size) as the layer's tensor, led by the tokens of `own`.

        Args:
            maps (Tensor): maps to lay out.
            own (Tensor): the layer's own tensor of one example, or of R.
        """
        positions = self._channels_first(own).shape[2:]
        if self.leading_tokens:
            leading = self._channels_first(own)[:, :, : self.leading_tokens].to(maps)
            maps = torch.cat([leading.expand(len(maps), -1, -1), maps.flatten(2)], dim=2)
        elif maps.shape[2:] != positions:
            maps = maps.reshape(*maps.shape[:2], *positions)
        return maps.movedim(1, -1) if self.channels == "last" else maps

    def check(self, tensor: Tensor) -> None:
        """Raise ValueError unless the layer's tensor has the layout's positions."""
        positions = self._channels_first(tensor).shape[2:]
        count = torch.Size(self.size).numel() + self.leading_tokens
        if positions.numel() != count or (len(positions) > 1 and self.leading_tokens):
            raise ValueError(
                f"{self} has {count} positions, but the layer gives shape {tuple(tensor.shape)}"
            )

    def _channels_first(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(-1, 1) if self.channels == "last" else tensor


@dataclass(frozen=True)
class OwnLayout:
    """A layout in the user's own functions.

    Attributes:
        there (Callable): takes the layer's tensor, returns maps (N, C, *size).
        back (Callable, optional): takes maps (R, C, *size) and the layer's own tensor of one
            example, returns R rows of the layer's tensor. Only methods that change the layer's
            features need it.
    """

    there: There
    back: Back | None = None

    def to_maps(self, tensor: Tensor) -> Tensor:
        """Return the layer's tensor as maps, (N, C, *size)."""
        maps = self.there(tensor)
        if not isinstance(maps, Tensor) or not 3 <= maps.dim() <= 5 or len(maps) != len(tensor):
            got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise ValueError(
                f"layout must return maps (N, C, *size) of a layer's tensor of shape "
                f"{tuple(tensor.shape)}, with one to three dimensions of positions, got {got}"
            )
        return maps

    def to_layer(self, maps: Tensor, own: Tensor) -> Tensor:
        """Return maps (R, C, *size) as R rows of the layer's tensor."""
        if self.back is None:
            raise ValueError(
                "this method changes the layer's features, so layout must also say the way back: "
                "layout=(there, back), where back takes maps (R, C, *size) and the layer's own "
                "tensor of one example, and returns (R, ...) in the layer's layout"
            )
        tensor = self.back(maps, own)
        if not isinstance(tensor, Tensor) or tensor.shape != (len(maps), *own.shape[1:]):
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(
                f"layout's way back must return shape {(len(maps), *own.shape[1:])} for maps of "
                f"shape {tuple(maps.shape)}, got {got}"
            )
        return tensor

    def check(self, tensor: Tensor) -> None:
        """Raise ValueError unless the way there gives maps, which the way back undoes."""
        own = tensor[:1]
        maps = self.to_maps(own)
        if self.back is not None and not torch.equal(self.to_layer(maps, own), own):
            raise ValueError(
                "layout's way back does not undo its way there: back(there(tensor), tensor) must "
                "be the layer's tensor"
            )


Layouts = Layout | OwnLayout
LayoutOption = Name | Layout | There | tuple[There, Back] | None


def parse_layout(value: Any) -> Name | Layouts | None:
    """Check the option `layout` and return it in one of four forms.

    Args:
        value (Any): None, "maps" or "channels_first", "channels_last", "tokens", a Layout, a
            callable that returns maps, or a pair of callables there and back.

    Raises:
        TypeError: if it is none of these.
        ValueError: if it is an unknown name.
    """
    if value is None or isinstance(value, Layout | OwnLayout):
        return value
    if isinstance(value, str):
        check_choice("layout", value, NAMES)
        return "maps" if value in ("maps", "channels_first") else value  # type: ignore[return-value]
    if callable(value):
        return OwnLayout(value)
    if isinstance(value, tuple) and len(value) == 2 and all(map(callable, value)):
        return OwnLayout(*value)
    raise TypeError(
        f"layout must be None, one of {', '.join(map(repr, NAMES))}, a Layout, a callable that "
        "turns the layer's tensor into maps (N, C, *size), or a pair of callables there and "
        f"back, got {type(value).__name__}"
    )
