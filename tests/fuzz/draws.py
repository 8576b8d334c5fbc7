"""Random choices of one case, each from a stream of its own name."""

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Draws:
    """Choices of one case: a pure function of its seed and of a choice's name.

    A choice that is added to the fuzz leaves all others of a seed as they are.
    """

    def __init__(self, seed: Any) -> None:
        self.seed = seed

    def of(self, name: str) -> random.Random:
        """Return the stream of a name."""
        return random.Random(f"{self.seed} {name}")

    def choice(self, name: str, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely."""
        return self.of(name).choice(options)

    def chance(self, name: str, share: float) -> bool:
        """Return True in that share of the cases."""
        return self.of(name).random() < share

    def whole(self, name: str, low: int, high: int) -> int:
        """Return an integer from `low` to `high`."""
        return self.of(name).randint(low, high)

    def generator(self, name: str) -> torch.Generator:
        """Return a generator of torch, seeded by the name's stream."""
        return torch.Generator().manual_seed(self.of(name).getrandbits(31))

    def normal(self, name: str, *shape: int) -> Tensor:
        """Return normal values in float64."""
        return torch.randn(shape, generator=self.generator(name), dtype=torch.float64)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Return uniform values in float64."""
        return torch.rand(shape, generator=self.generator(name), dtype=torch.float64)
