"""The registry as the contract tests see it: our own methods, with options that are quick."""

import pytest

from captum_unioncam.methods.registry import METHODS

# Fewer samples than the defaults: the contract does not depend on how many there are.
QUICK = {
    "smoothgradcam++": {"n_samples": 2},
    "augmentedgradcam": {"n_augmentations": 3, "aggregation": "average"},
    "integratedgradcam": {"n_steps": 3},
    "rise": {"n_masks": 12, "cells": 3},
    "sscam": {"n_samples": 2},
    "iscam": {"n_steps": 2},
    "groupcam": {"groups": 3},
}
# Methods that are defined for some networks only; each refusal has a test of its own.
ONLY = {"cam": {"gap_head"}, "vitreciprocam": set()}
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

    def accepts(self, network="vgg_like", rank=2):
        if network not in ONLY.get(self.name, {network}):
            pytest.skip(f"{self.name} is not defined on {network}")
        if rank != 2 and self.name in IMAGES_ONLY:
            pytest.skip(f"{self.name} is defined on images")

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
