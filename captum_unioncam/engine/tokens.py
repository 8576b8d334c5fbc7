"""Layers of vision transformers: a row of tokens read as a grid of maps, or channels last."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# How many tokens may lead the patches, and whether the last pixels may belong to none. Two and
# five are a distillation token and four registers beside the class token; they are told from a
# grid that is cut off only by patches that fit exactly.
LEADING_TOKENS = ((0, False), (1, False), (0, True), (1, True), (2, False), (5, False))


class TokenGrid(NamedTuple):
    """How the tokens of a layer lie on the image.

    Attributes:
        leading_tokens (int): tokens that belong to no patch: a class token, a distillation
            token or registers.
        size (tuple[int, int]): rows and columns of patches.
    """

    leading_tokens: int
    size: tuple[int, int]

    def to_maps(self, tokens: Tensor) -> Tensor:
        """Return tokens (N, T, D) as maps (N, D, rows, columns), without those that lead."""
        patches = tokens[:, self.leading_tokens :].mT
        return patches.reshape(*patches.shape[:2], *self.size)

    def to_tokens(self, maps: Tensor, tokens: Tensor) -> Tensor:
        """Return maps (R, D, rows, columns) as tokens (R, T, D), led by those of `tokens`.

        Args:
            maps (Tensor): maps to lay out.
            tokens (Tensor): the layer's own tokens of one example, (1, T, D).
        """
        leading_tokens = tokens[:, : self.leading_tokens].expand(len(maps), -1, -1)
        return torch.cat([leading_tokens, maps.flatten(2).mT.to(leading_tokens)], dim=1)


def find_grid(layer_output: Tensor, inputs: tuple[Tensor, ...]) -> TokenGrid | None:
    """Return the grid of a token layer (N, T, D) over image inputs, or None for any other layer.

    Raises:
        ValueError: if the layer gives tokens that form no grid over the image.
    """
    size = image_size(inputs)
    sequences = [x for x in inputs if x.is_floating_point() and x.dim() == 3]
    if layer_output.dim() != 3 or size is None or sequences:
        return None
    count = layer_output.shape[1]
    height, width = size
    for leading_tokens, cut_off in LEADING_TOKENS:
        patches = _square_patches(count - leading_tokens, height, width, cut_off=cut_off)
        if patches is not None:
            return TokenGrid(leading_tokens, patches)
    raise ValueError(
        f"the layer gives shape {tuple(layer_output.shape)}: {count} tokens, with or without a "
        "class token in front, form no grid of square patches over an image of "
        f"{height} x {width}"
    )


def channels_seem_last(layer_output: Tensor, size: tuple[int, int]) -> bool:
    """Say whether a layer's output over images of that size looks like (N, H, W, C).

    Maps have the proportions of the image; where other dimensions have them, they are the maps'.
    """
    if layer_output.dim() != 4:
        return False
    (height, width), (_, rows, columns, last) = size, layer_output.shape
    return rows * width == columns * height and columns * width != last * height and last > columns


def image_size(inputs: Sequence[Tensor]) -> tuple[int, int] | None:
    """Return height and width of the first image among the inputs, if there is one."""
    images = (x for x in inputs if x.is_floating_point() and x.dim() == 4)
    return next(((x.shape[2], x.shape[3]) for x in images), None)


def _square_patches(
    count: int, height: int, width: int, *, cut_off: bool
) -> tuple[int, int] | None:
    """Return how many rows and columns `count` square patches make on an image, if they do.

    With `cut_off` patches of a whole number of pixels need not divide the image.
    """
    for rows in range(1, count + 1):
        columns = count // rows
        patch = min(height // rows, width // max(columns, 1))
        fits = height * columns == width * rows
        if cut_off:
            fits = patch > 0 and (height // patch, width // patch) == (rows, columns)
        if fits and rows * columns == count:
            return rows, columns
    return None
