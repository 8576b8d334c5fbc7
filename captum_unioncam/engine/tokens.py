"""Layers of vision transformers: a row of tokens read as a grid of maps."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class TokenGrid(NamedTuple):
    """How the tokens of a layer lie on the image.

    Attributes:
        prefix (int): leading tokens that belong to no patch: 1 for a class token, or 0.
        size (tuple[int, int]): rows and columns of patches.

    """

    prefix: int
    size: tuple[int, int]

    def to_maps(self, tokens: Tensor) -> Tensor:
        """Return tokens (N, T, D) as maps (N, D, rows, columns), without the class token."""
        patches = tokens[:, self.prefix :].mT
        return patches.reshape(*patches.shape[:2], *self.size)

    def to_tokens(self, maps: Tensor, tokens: Tensor) -> Tensor:
        """Return maps (R, D, rows, columns) as tokens (R, T, D), with the class token of `tokens`.

        Args:
            maps (Tensor): maps to lay out.
            tokens (Tensor): the layer's own tokens of one example, (1, T, D).

        """
        prefix = tokens[:, : self.prefix].expand(len(maps), -1, -1)
        return torch.cat([prefix, maps.flatten(2).mT.to(prefix)], dim=1)


def find_grid(layer_output: Tensor, inputs: tuple[Tensor, ...]) -> TokenGrid | None:
    """Return the grid of a token layer (N, T, D) over image inputs, or None for any other layer.

    Raises:
        ValueError: if the layer gives tokens that form no grid over the image.

    """
    images = [x for x in inputs if x.is_floating_point() and x.dim() == 4]
    sequences = [x for x in inputs if x.is_floating_point() and x.dim() == 3]
    if layer_output.dim() != 3 or not images or sequences:
        return None
    count = layer_output.shape[1]
    height, width = images[0].shape[2:]
    for prefix in (0, 1):
        rows = math.sqrt((count - prefix) * height / width)
        size = round(rows), round(rows * width / height)
        if size[0] * size[1] == count - prefix and min(size) > 0:
            return TokenGrid(prefix, size)
    raise ValueError(
        f"the layer gives shape {tuple(layer_output.shape)}: {count} tokens, with or without a "
        f"class token, form no grid of patches over an image of {height} x {width}"
    )
