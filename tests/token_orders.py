"""Tokens in the input's order, and in others that a map must not be made of."""

import torch
from torch import nn


class Ordered(nn.Module):
    """A small vision transformer whose patches (N, C, rows, columns) are put into an order."""

    def __init__(self, order):
        super().__init__()
        self.order = order
        self.cut = nn.Conv2d(3, 16, 4, 4)
        layers = [nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)]
        self.blocks, self.head = nn.Sequential(*layers), nn.Linear(16, 4)

    def forward(self, x):
        maps = self.cut(x)
        return self.head(self.blocks(self.order(maps).flatten(2).mT).mean(1))


def shuffled(maps):
    return maps.flatten(2)[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(1))]


def unrolled(maps):
    return maps.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).movedim((-3, -1), (-4, -3))


# Of 8 x 8 patches.
WRONG_ORDERS = {
    "columns first": lambda maps: maps.mT,
    "mirrored": lambda maps: maps.flip(-1),
    "turned": lambda maps: maps.flip(-2, -1),
    "rolled": lambda maps: maps.roll(4, -1),
    "shuffled": shuffled,
    "unrolled": unrolled,
}
