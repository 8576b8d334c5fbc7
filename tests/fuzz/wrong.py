"""Calls that are wrong in one argument, of every kind that a user may get wrong."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from captum_unioncam.engine import Layout
from captum_unioncam.methods.registry import METHODS
from tests.fuzz.cases import Case
from tests.fuzz.draws import Draws

NONSENSE: list[Any] = [
    *(-1, 0, 2.5, math.nan, math.inf, True, None, "nonsense", (), [1], object(), torch.ones(2)),
    *(10**9, {}, (0.5, "x"), b"bytes"),
]
# Their values decide how long a call takes, so that large ones are no mistake but a wait.
COUNTS = {"n_masks", "n_samples", "n_augmentations", "n_steps", "steps", "grid", "cells"}


def wrong_calls(case: Case, draws: Draws) -> dict[str, Callable[[], Any]]:
    """Return wrong calls by name."""
    subject, known = case.subject, METHODS[case.name].options
    inputs, image = subject.inputs, subject.inputs[0]
    count, method = len(image), case.method()

    def call(
        images: Any = None, target: Any = case.target, extra: Any = None, **keywords: Any
    ) -> Any:
        given = images if images is not None else inputs if len(inputs) > 1 else image
        further = subject.extra or None if extra is None else extra
        return method.attribute(given, target, further, **{**case.keywords, **keywords})

    def spoiled(value: float) -> Any:
        bad = image.detach().clone()
        bad[(0,) * bad.dim()] = value
        return (bad, *inputs[1:]) if len(inputs) > 1 else bad

    calls: dict[str, Callable[[], Any]] = {
        "an unknown keyword": lambda: call(thetta=3),
        "inputs as a list": lambda: call(list(inputs)),
        "inputs as an array": lambda: call(image.detach().numpy()),
        "no inputs": lambda: call(()),
        "an empty batch": lambda: call(
            tuple(x[:0] for x in inputs) if len(inputs) > 1 else image[:0]
        ),
        "NaN in the inputs": lambda: call(spoiled(math.nan)),
        "infinity in the inputs": lambda: call(spoiled(math.inf)),
        "inputs of several lengths": lambda: call((image, torch.cat([image, image]).detach())),
        "a class out of range": lambda: call(target=10**6),
        "a class as a float": lambda: call(target=1.0),
        "a class by name": lambda: call(target="cat"),
        "a class as a flag": lambda: call(target=True),
        "too many classes": lambda: call(target=[0] * (count + 1)),
        "too deep an index": lambda: call(target=(0,) * (len(subject.outputs) + 1)),
        "classes as a table": lambda: call(target=torch.zeros(count + 1, 2, dtype=torch.long)),
        "a target that returns no tensor": lambda: call(target=lambda out: 3.0),
        "a target of another shape": lambda: call(
            target=lambda out: subject.net.scores_of(out).sum()
        ),
        "a target that is NaN": lambda: call(
            target=lambda out: subject.net.scores_of(out).reshape(count, -1).sum(1) * math.nan
        ),
    }
    if METHODS[case.name].needs_layer:
        foreign = nn.ReLU()
        made = METHODS[case.name].cls

        def on(layer: Any) -> Any:
            return made(subject.net, layer).attribute(
                inputs if len(inputs) > 1 else image, case.target, subject.extra or None,
                **case.keywords,
            )  # fmt: skip

        calls["a layer of another model"] = lambda: on(foreign)
        calls["a layer by name"] = lambda: on("body")
        calls["no layer"] = lambda: on(None)
        calls["a layer without positions"] = lambda: on(subject.net.head)
        calls["a flag as text"] = lambda: call(relu_attributions="yes")
        calls["a flag as a number"] = lambda: call(attribute_to_layer_input=2)
        calls["a dict as text"] = lambda: call(grad_kwargs="retain")
    if "layout" in known:
        for value in ("token", 3, Layout((7, 9), 4), lambda o: o.sum(), lambda o: None, (1, 2)):
            calls[f"layout={value!r:.30}"] = lambda value=value: call(layout=value)
    if "baselines" in known:
        wrong_baselines: list[Any] = [
            *(math.nan, "black", torch.zeros(7, 9), (0, 0, 0, 0), image.detach()[0], [0], True),
        ]
        for number, value in enumerate(wrong_baselines):
            calls[f"baselines {number}"] = lambda value=value: call(baselines=value)
    if "score" in known:
        for number, score in enumerate(
            ["prob", 3, None, lambda out: 3, lambda out: out.sum(), lambda out: out * math.nan]
        ):
            calls[f"score {number}"] = lambda score=score: call(score=score)
    if "scorer" in known:
        if case.indices[0] is not None:
            # A callable target would fail by itself on what it is not made for.
            calls["a scorer of other outputs"] = lambda: call(scorer=_Other(subject.net))
            calls["a scorer that is NaN"] = lambda: call(scorer=_NotANumber(subject.net))
        calls["a scorer that is none"] = lambda: call(scorer=3)
        calls["a scorer by a wrong name"] = lambda: call(scorer="fastest")
    if "perturbations_per_eval" in known:
        for rows in (0, -3, 1.5, True, "all"):
            calls[f"perturbations_per_eval={rows!r}"] = lambda rows=rows: call(
                perturbations_per_eval=rows
            )
    others = "baselines", "score", "scorer", "layout", "show_progress"
    own = [name for name in known if name not in others]
    for name in own:
        value = draws.choice(f"nonsense for {name}", NONSENSE)
        if not (name in COUNTS and isinstance(value, int) and value == 10**9):
            calls[f"{name}={value!r:.30}"] = lambda name=name, value=value: call(**{name: value})
    if not METHODS[case.name].needs_layer:
        calls = {name: one for name, one in calls.items() if "relu" not in name}
    return calls


class _Changed(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)


class _Other(_Changed):
    def forward(self, *arguments: Any) -> Any:
        scores = self.net.scores_of(self.net(*arguments))
        return torch.stack([scores, scores], dim=-1)


class _NotANumber(_Changed):
    def forward(self, *arguments: Any) -> Any:
        return self.net.scores_of(self.net(*arguments)) * math.nan
