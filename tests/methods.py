"""The registry as the contract tests see it: our own methods, with options that are quick."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from captum_unioncam.methods.registry import METHODS
from tests.networks import NETWORKS

# Fewer samples than the defaults: the contract does not depend on how many there are.
QUICK = {
    "smoothgradcam++": {"n_samples": 2},
    "augmentedgradcam": {"n_augmentations": 3, "aggregation": "average"},
    "integratedgradcam": {"n_steps": 3},
    "rise": {"n_masks": 12, "cells": 3},
    "extremalperturbations": {"steps": 2, "areas": (0.1, 0.4), "cells": 4, "sigma": 1.0},
    "sscam": {"n_samples": 2},
    "iscam": {"n_steps": 2},
    "groupcam": {"groups": 3},
    "opticam": {"steps": 3},
    "refinedcam": {"steps": 2, "grid": 1},
}
# Methods that are defined for some networks only; each refusal has a test of its own.
ONLY = {"cam": {"gap_head"}, "vitreciprocam": set(), "legrad": set()}
IMAGES_ONLY = {"augmentedgradcam", "featurecam"}


class Made:
    """Makes a method for a network, and skips what its definition does not cover."""

    def __init__(self, name):
        self.name = name
        self.method = METHODS[name]

    def __call__(self, forward_func, layer, device_ids=None):
        if not self.method.needs_layer:
            return Quick(self.method.cls(forward_func), QUICK[self.name])
        extra = () if device_ids is None else (device_ids,)
        return Quick(self.method.cls(forward_func, layer, *extra), QUICK.get(self.name, {}))

    def needs(self, *options):
        for option in options:
            if option not in self.method.options:
                pytest.skip(f"{self.name} has no {option}")

    def accepts(self, network="vgg_like"):
        if not self.is_defined_on(network):
            pytest.skip(f"{self.name} is not defined on {network}")

    def is_defined_on(self, network="vgg_like", rank=2):
        return network in ONLY.get(self.name, {network}) and (
            rank == 2 or self.name not in IMAGES_ONLY
        )

    @property
    def gives_layer_maps(self):
        return self.method.needs_layer and self.name not in IMAGES_ONLY


class Quick:
    """A method with quick options as defaults."""

    def __init__(self, method, options):
        self.method, self.options = method, options

    def attribute(self, inputs, *args, **options):
        return self.method.attribute(inputs, *args, **self.options, **options)


OURS = [Made(name) for name in METHODS if name != "gradcam"]
everywhere = pytest.mark.parametrize("cls", OURS, ids=lambda made: made.name)


def in_turn(
    rows: Iterable[tuple],
    columns: Sequence[tuple],
    allowed: Callable[..., bool] = lambda *values: True,
) -> list:
    """Pair every row with every column that it allows, as parameters of a test.

    A plain run of pytest takes one pair of each row, the columns in turn; the others are
    exhaustive.
    """
    cases = []
    for number, row in enumerate(rows):
        pairs = [(*row, *column) for column in columns if allowed(*row, *column)]
        for position, pair in enumerate(pairs):
            marks = () if position == number % len(pairs) else pytest.mark.exhaustive
            cases.append(pytest.param(*pair, marks=marks, id="-".join(map(_named, pair))))
    return cases


def _named(value: Any) -> str:
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    return name or str(value)


def matrix(names: Sequence[str], columns: Sequence[tuple], allowed=lambda made, *values: True):
    """Parametrize a test by every method and by columns of further arguments."""
    return pytest.mark.parametrize(
        ("cls", *names), in_turn([(made,) for made in OURS], columns, allowed)
    )


def on_networks(names: Sequence[str] = (), columns: Sequence[tuple] = ((),)):
    """Parametrize a test by every method, the networks it is defined on, and further arguments."""
    return matrix(
        ("network", *names),
        [(network, *column) for network in NETWORKS for column in columns],
        lambda made, network, *values: made.is_defined_on(network),
    )
