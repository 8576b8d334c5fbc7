"""Noise that leaves the user's random state alone."""

import numbers
from typing import Any

import torch

Seed = int | torch.Generator


def check_seed(name: str, seed: Any) -> None:
    """Raise unless `seed` is an int that torch takes as a seed, or a generator on the CPU.

    Raises:
        TypeError: if it is neither an int nor a generator.
        ValueError: if it is out of range, or a generator of another device.
    """
    if isinstance(seed, torch.Generator):
        # Noise is drawn on the CPU, so that it is the same wherever the model runs.
        if seed.device.type != "cpu":
            raise ValueError(f"a generator given as {name} must be on the cpu, got {seed.device}")
    elif isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"{name} must be an int or a torch.Generator, got {type(seed).__name__}")
    elif not -(2**63) <= int(seed) < 2**64:
        raise ValueError(f"{name} must be from -2**63 to 2**64 - 1, got {seed}")


def generator_of(seed: Seed) -> torch.Generator:
    """Return the generator that was given, which drawing advances, or a new one of that seed."""
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
