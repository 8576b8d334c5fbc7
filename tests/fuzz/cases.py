"""What a case explains of its network: a method with options, and a target."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_unioncam.methods.registry import METHODS
from tests.fuzz.draws import Draws
from tests.fuzz.networks import Subject
from tests.oracles.masks import spread

SCORES = ["probability", "logit"]
BASELINES = [None, None, 0.0, -0.5, 0.25]
SEEDS = [0, 7]
# Options by method, each with the values to draw from; few samples, since more change nothing.
OPTIONS: dict[str, dict[str, list[Any]]] = {
    "gradcam++": {"normalize_alpha": [False, True]},
    "smoothgradcam++": {"n_samples": [1, 2, 3], "stdev": [0.05, 0.3], "seed": SEEDS},
    "augmentedgradcam": {
        "aggregation": ["average", "max"],
        "n_augmentations": [1, 3],
        "max_rotation": [0, 0.5, 3.0],
        "max_translation": [0, 0.13, 0.4],
        "seed": SEEDS,
    },
    "integratedgradcam": {
        "variant": ["official", "paper"],
        "n_steps": [1, 3, 5],
        "baselines": BASELINES,
    },
    "legrad": {"blocks": [None, 1, 2], "pooling": ["mean", "own"]},
    "rise": {
        "n_masks": [1, 5, 12],
        "cells": [1, 2, 3],
        "keep": [0.1, 0.5, 1.0],
        "seed": SEEDS,
        "baselines": BASELINES,
    },
    "extremalperturbations": {
        "areas": [(0.5,), (0.25, 0.6)],
        "steps": [1, 2],
        "rate": [0.08, 1.0],
        "cells": [1, 3, 32],
        "sigma": [0.4, 1.0],
        "smooth": [0.0, 0.09],
        "mirror": [False, True],
        "least_score": [None, 0.0, 100.0],
        "baselines": BASELINES,
    },
    "scorecam": {"weights": ["score", "softmax"], "baselines": BASELINES},
    "sscam": {
        "noise_on": ["activations", "mask", "input"],
        "n_samples": [1, 2],
        "stdev": [0.0, 0.5, 2.0],
        "weights": ["score", "softmax"],
        "seed": SEEDS,
        "baselines": BASELINES,
        "score": SCORES,
    },
    "iscam": {
        "n_steps": [1, 2, 3],
        "cumulative": [False, True],
        "weights": ["score", "softmax"],
        "baselines": BASELINES,
    },
    "groupcam": {"groups": [1, 2, 3, 32], "theta": [0, 10, 70, 100], "baselines": BASELINES},
    "ablationcam++": {"tau": [0, 0.02, 0.3], "clusters": [1, 2, 8]},
    "reciprocam": {"gaussian": [False, True]},
    "vitreciprocam": {"gaussian": [False, True], "keep_class_token": [False, True]},
    "fdcam": {"q": [0, 0.4, 0.95, 1]},
    "featurecam": {"edges": ["sobel", spread], "strength": [0, 0.4, 1]},
    "grad++scorecam": {
        "combine": ["masks", "product", "sum"],
        "weights": ["score", "softmax"],
        "baselines": BASELINES,
    },
    "unioncam": {
        "theta": [0, 10, 60, 100],
        "denoise_on": ["all", "positive"],
        "alpha": ["sum", "count"],
        "region_weights": ["score", "softmax"],
        "score": [*SCORES, torch.sigmoid],
        "baselines": BASELINES,
    },
    "fusioncam": {
        "theta": [0, 10, 60, 100],
        "region_weights": ["score", "softmax"],
        "baselines": BASELINES,
    },
    "opticam": {
        "steps": [1, 3, 6],
        "rate": [0.1, 0.5],
        "baselines": BASELINES,
        "score": SCORES,
    },
    "regressioncam": {
        "pairs": [1, 3, 128],
        "prior": ["denoised", None],
        "penalties": [(8.0,), (2.0, 50.0)],
        "select": [False, True],
        "baselines": BASELINES,
        "score": SCORES,
    },
    "refinedcam": {
        "start": ["regression", "denoised"],
        "pairs": [3, 128],
        "grid": [1, 5, 14],
        "steps": [1, 2],
        "backgrounds": [("black",), ("blur", "noise", "black")],
        "seed": SEEDS,
        "baselines": BASELINES,
        "score": SCORES,
    },
    "selectedcam": {
        "pool": [
            ("gradcam", "layercam", "regressioncam:select=False"),
            ("unioncam.region", "unioncam.denoised"),
            ("layercam", "scorecam"),
            ("gradcam", "unioncam"),
        ],
        "unions": [False, True],
        "criterion": ["keep_less_drop_at_area", "keep_at_area", "drop_at_area", "beta"],
        "areas": [(0.1, 0.3, 0.5), (0.25,)],
        "backgrounds": [("black",), ("black", "blur"), ("noise",)],
        "baselines": BASELINES,
        "score": SCORES,
    },
    "random": {"seed": SEEDS},
    "center": {"stdev": [0.2, 0.5]},
}
# Methods that only images have, and those that only tokens have.
IMAGES_ONLY = {"augmentedgradcam", "featurecam"}
TOKENS_ONLY = {"legrad", "vitreciprocam"}


class Picked:
    """A callable target: a class of whatever the network returns, less a part of another."""

    def __init__(self, net: Any, index: tuple[int, ...], part: float) -> None:
        self.net, self.index, self.part = net, index, part

    def __call__(self, returned: Any) -> Tensor:
        scores = self.net.scores_of(returned)
        if scores.dim() == 1:
            return scores
        return scores[(slice(None), *self.index)] - self.part * scores.flatten(1)[:, 0]


@dataclass
class Case:
    """A method with its options, and a target, in the form that is passed and example by example.

    Attributes:
        seed (int): what repeats it.
        name (str): the method in the registry.
        options (dict): keywords of `attribute` that the oracle takes too.
        further (dict): those that it does not take; they change nothing.
        target (Any): for the batch, in whatever form Captum allows.
        single (list): for each example alone.
        indices (list): the indices of each, or None where the target is a callable.
    """

    seed: int
    name: str
    subject: Subject
    options: dict[str, Any]
    further: dict[str, Any]
    target: Any
    single: list[Any]
    indices: list[tuple[int, ...] | None]

    def method(self) -> Any:
        """Return the method's object, of Captum's kind."""
        made, subject = METHODS[self.name], self.subject
        return made.cls(subject.net, subject.layer) if made.needs_layer else made.cls(subject.net)

    @property
    def keywords(self) -> dict[str, Any]:
        """All keywords of `attribute`."""
        keywords = {**self.options, **self.further}
        if "baselines" in keywords and len(self.subject.inputs) > 1:
            keywords["baselines"] = (keywords["baselines"],) * len(self.subject.inputs)
        return keywords

    def __str__(self) -> str:
        subject = self.subject
        shapes = [tuple(x.shape) for x in subject.inputs]
        target = self.target if self.indices[0] is not None else "callable"
        return (
            f"{self.name} {self.keywords} target={target!r} inputs={shapes} head={subject.head!r} "
            f"output={subject.net.output!r} extra={len(subject.extra)} "
            f"layer={' '.join(str(subject.layer).split())} "
            f"body={' '.join(str(subject.net.body).split())}"
        )


def _method(draws: Draws, subject: Subject) -> str:
    """Return a method, of those that are defined on the network more often."""
    # What Captum's own Grad-CAM does elsewhere is Captum's.
    names = [name for name in METHODS if name != "gradcam" or is_defined(name, subject)]
    fitting = [name for name in names if is_defined(name, subject)]
    among = fitting if draws.chance("fitting", 0.93) else names
    # A method that is added takes its own share of the seeds, and no other changes.
    return max(among, key=lambda name: draws.of(f"method {name}").random())


def _options(draws: Draws, name: str) -> dict[str, Any]:
    options = {}
    for option, values in OPTIONS.get(name, {}).items():
        if draws.chance(f"give {option}", 0.7):
            options[option] = draws.choice(f"option {option}", values)
    # Defaults that are meant for a hundred channels or samples, not for a test.
    for option in ("n_masks", "n_samples", "n_augmentations", "n_steps", "steps"):
        if option in OPTIONS.get(name, {}) and option not in options:
            options[option] = OPTIONS[name][option][-1]
    if name == "extremalperturbations":
        # Those of the defaults hold no pixel of few.
        options.setdefault("areas", (0.5,))
        options.setdefault("sigma", 1.0)
    if options.get("baselines", 0) is None:
        del options["baselines"]
    return options


def is_defined(name: str, subject: Subject) -> bool:
    """Return whether a method's definition covers the network."""
    if name in IMAGES_ONLY:
        return subject.rank == 2
    if name in TOKENS_ONLY:
        return subject.is_tokens
    is_plain = len(subject.inputs) == 1 and not subject.extra
    if name == "cam":
        return subject.head == "gap linear" and subject.layer_is_last and is_plain
    # Captum's own, which takes every layer's tensor for maps and every output for a tensor.
    return name != "gradcam" or (subject.layout == "maps" and subject.net.output == "tensor")


def case_of(seed: int, subject: Subject, name: str | None = None) -> Case:
    """Return the case of a seed on its network, of a given method or of the one that is drawn."""
    draws = Draws(seed)
    name = name or _method(draws, subject)
    options = _options(draws, name)
    further: dict[str, Any] = {}
    known = METHODS[name].options
    if "layout" in known and draws.chance("say the layout", 0.6):
        further["layout"] = subject.layout
    if "max_masks" in known and draws.chance("max_masks", 0.15):
        # As many as there are channels: nothing is left to prediction.
        further["max_masks"] = 64
    if "perturbations_per_eval" in known and draws.chance("rows given", 0.3):
        further["perturbations_per_eval"] = draws.choice("rows", [1, 2, 5, 64])
    target, single, indices = _target(draws, name, subject)
    # A callable is the score itself: beside it there is no other.
    if indices[0] is None and callable(options.get("score")):
        del options["score"]
    return Case(seed, name, subject, options, further, target, single, indices)


def _target(
    draws: Draws, name: str, subject: Subject
) -> tuple[Any, list[Any], list[tuple[int, ...] | None]]:
    count, shape = len(subject.inputs[0]), subject.outputs
    one = tuple(draws.whole(f"target {i}", 0, n - 1) for i, n in enumerate(shape))
    each = [
        tuple(draws.whole(f"target {row} {i}", 0, n - 1) for i, n in enumerate(shape))
        for row in range(count)
    ]
    if name not in ("cam", "gradcam") and draws.chance("callable", 0.12):
        parts = [draws.choice(f"part {row}", [0.0, 0.5]) for row in range(count)]
        functions = [Picked(subject.net, one, part) for part in parts]
        if draws.chance("a callable each", 0.3):
            return functions, list(functions), [None] * count
        return functions[0], [functions[0]] * count, [None] * count
    if not shape:
        return None, [None] * count, [()] * count
    if shape == (1,) and draws.chance("no target", 0.5):
        return None, [None] * count, [(0,)] * count
    kinds: dict[str, Callable[[], Any]] = {"tuple": lambda: one, "tuples": lambda: list(each)}
    if len(shape) == 1:
        kinds |= {
            "int": lambda: one[0],
            "negative": lambda: one[0] - shape[0],
            "numpy": lambda: np.int64(one[0]),
            "tensor of one": lambda: torch.tensor([one[0]]),
            "ints": lambda: [index[0] for index in each],
            "tensor": lambda: torch.tensor([index[0] for index in each]),
        }
    # Captum's own Grad-CAM takes fewer kinds.
    taken = [kind for kind in kinds if name != "gradcam" or kind != "numpy"]
    kind = draws.choice("kind of target", taken)
    # A tensor of a single class counts for all, as in Captum.
    own = kind in ("tuples", "ints", "tensor")
    indices = each if own else [one] * count
    singles = [i if len(shape) > 1 else i[0] for i in indices]
    return kinds[kind](), list(singles), list(indices)
