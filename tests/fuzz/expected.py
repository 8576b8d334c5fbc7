"""What the oracles expect of a case, example by example."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.cases import Case, is_defined
from tests.fuzz.networks import Subject, Tokens
from tests.oracles import features, gradient, masks, searched
from tests.oracles.common import activations, activations_and_gradients
from tests.oracles.extremal_perturbations import extremal_perturbations
from tests.oracles.union_cam import union_cam

ORACLES = {
    name: oracle.naive
    for name, oracle in (
        gradient.ORACLES | masks.ORACLES | features.ORACLES | searched.ORACLES
    ).items()
}
# They forward changed inputs: a second image is changed too, which oracles have not.
CHANGE_INPUTS = {
    *("rise", "scorecam", "sscam", "iscam", "groupcam", "grad++scorecam", "unioncam"),
    *("fusioncam", "opticam", "regressioncam", "refinedcam", "selectedcam"),
    "extremalperturbations",
}
CHANGE_ALL_INPUTS = {"smoothgradcam++", "augmentedgradcam", "integratedgradcam"}
# Their oracles take the softmax themselves, whatever the network ends in.
SOFTMAX_ALWAYS = {"opticam", "regressioncam", "refinedcam", "selectedcam"}


class Alone:
    """The network as a function of one example's image: scores (1, classes, ...)."""

    def __init__(self, case: Case, row: int) -> None:
        self.case, self.row = case, row

    def __call__(self, image: Tensor) -> Tensor:
        subject, own = self.case.subject, slice(self.row, self.row + 1)
        others = [x[own].detach() for x in subject.inputs[1:]]
        extra = [e[own].detach() if isinstance(e, Tensor) else e for e in subject.extra]
        returned = subject.net(image, *others, *extra)
        if self.case.indices[self.row] is None:
            return self.case.single[self.row](returned)[:, None]
        scores = subject.net.scores_of(returned)
        return scores if scores.dim() > 1 else scores[:, None]

    @property
    def index(self) -> tuple[int, ...]:
        """The target's index in these scores."""
        return self.case.indices[self.row] or (0,)


class AsMaps:
    """A layer whose hooks see maps, (1, C, *spatial), however its tensor lies on the input."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def register_forward_hook(self, hook: Callable[..., Any]) -> Any:
        """Register a hook of an oracle's."""

        def on(module: Any, args: Any, output: Tensor) -> Tensor | None:
            made = hook(module, args, self.subject.there(output))
            return None if made is None else self.subject.back(made, output)

        return self.subject.layer.register_forward_hook(on)


def has_oracle(case: Case) -> bool:
    """Return whether what a case expects is written down."""
    subject, name = case.subject, case.name
    images = [x for x in subject.inputs if x.dim() > 2]
    if name in CHANGE_INPUTS and len(images) > 1:
        return False
    if name in CHANGE_ALL_INPUTS and len(subject.inputs) > 1:
        return False
    if name == "cam":
        return is_defined(name, subject)
    has_classes = subject.head not in ("one value", "scalar", "softmax")
    is_probability = case.options.get("score", "logit" if name == "opticam" else "") != "logit"
    if name in SOFTMAX_ALWAYS and is_probability:
        return has_classes and case.indices[0] is not None
    # A member of the pool keeps its own default score, unless the pool's differs.
    of_logits = name == "selectedcam" and not is_probability
    return not (of_logits and "scorecam" in case.options.get("pool", ()))


def expected(case: Case, row: int) -> dict[str, Any]:
    """Return the map that an example must have, and UnionCAM's details."""
    subject, net = case.subject, Alone(case, row)
    layer, x, target = AsMaps(subject), subject.inputs[0][row : row + 1].detach(), net.index
    options = dict(case.options)
    if case.name == "unioncam":
        options["baseline"] = options.pop("baselines", 0.0)
        return union_cam(net, layer, x, target, **options)
    if case.name == "rise":
        options["baseline"] = options.pop("baselines", 0.0)
        return {"map": masks.rise(net, x, target, **{"cells": 8, "keep": 0.1, **options})}
    if case.name == "extremalperturbations":
        return {"map": extremal_perturbations(net, x, target, **options)}
    if case.name == "cam":
        return {"map": _cam(case, net, layer, x)}
    if case.name in OWN:
        return {"map": OWN[case.name](case, net, layer, x, **options)}
    return {"map": ORACLES[case.name](net, layer, x, target, **options)}


def _cam(case: Case, net: Alone, layer: AsMaps, x: Tensor) -> Tensor:
    A, weight = activations(net, layer, x), case.subject.net.head[-1].weight
    return sum(weight[net.index[0], k].item() * a for k, a in enumerate(A))


def _grad_cam(case: Case, net: Alone, layer: AsMaps, x: Tensor) -> Tensor:
    return gradient.grad_cam(*activations_and_gradients(net, layer, x, net.index))


def _ones(case: Case, net: Alone, layer: AsMaps, x: Tensor) -> Tensor:
    return torch.ones_like(activations(net, layer, x)[0])


def _random(case: Case, net: Alone, layer: AsMaps, x: Tensor, seed: int = 0) -> Tensor:
    like = activations(net, layer, x)[0]
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((1, 1, *like.shape), generator=generator, dtype=like.dtype)[0, 0]


def _center(case: Case, net: Alone, layer: AsMaps, x: Tensor, stdev: float = 0.5) -> Tensor:
    L = _ones(case, net, layer, x)
    for at in itertools.product(*map(range, L.shape)):
        u = [(2 * i + 1 - n) / n for i, n in zip(at, L.shape, strict=True)]
        L[at] = math.exp(-sum(v * v for v in u) / (2 * stdev**2))
    return L


def _window(size: tuple[int, ...], at: tuple[int, ...], *, gaussian: bool) -> Tensor:
    """Return the weights of all positions where one alone is seen."""
    weights = torch.zeros(size, dtype=torch.float64)
    if not gaussian:
        weights[at] = 1
        return weights
    for step in itertools.product((-1, 0, 1), repeat=len(size)):
        near = tuple(i + d for i, d in zip(at, step, strict=True))
        if all(0 <= i < n for i, n in zip(near, size, strict=True)):
            weights[near] = math.prod(0.25 if d else 0.5 for d in step)
    return weights


def _recipro(case: Case, net: Alone, layer: AsMaps, x: Tensor, gaussian: bool = False) -> Tensor:
    A = activations(net, layer, x)
    L = torch.zeros_like(A[0])
    for at in itertools.product(*map(range, L.shape)):
        alone = A[(slice(None), *at)].reshape(-1, *[1] * L.dim())
        seen = alone * _window(tuple(L.shape), at, gaussian=gaussian)
        L[at] = features.probability_with(net, layer, x, net.index, seen)
    return L


def _vit_recipro(
    case: Case, net: Alone, layer: AsMaps, x: Tensor, gaussian: bool = True,
    keep_class_token: bool = True,
) -> Tensor:  # fmt: skip
    A, leading = activations(net, layer, x), case.subject.net.body.leading
    L = torch.zeros_like(A[0])
    for at in itertools.product(*map(range, L.shape)):
        seen = A * _window(tuple(L.shape), at, gaussian=gaussian)

        def replace(module: Any, args: Any, output: Tensor, seen: Tensor = seen) -> Tensor:
            first = output[:, :leading] * (1 if keep_class_token else 0)
            return torch.cat([first, seen[None].flatten(2).mT], dim=1)

        handle = case.subject.layer.register_forward_hook(replace)
        L[at] = masks.probability(net, x, net.index)
        handle.remove()
    return L


def _legrad(
    case: Case, net: Alone, layer: AsMaps, x: Tensor, blocks: int | None = None,
    pooling: str = "mean",
) -> Tensor:  # fmt: skip
    body: Tokens = case.subject.net.body
    chain = list(body.blocks)
    last = next(n for n, b in enumerate(chain) if case.subject.layer in list(b.modules()))
    entering: list[Tensor] = []
    handle = chain[0].register_forward_pre_hook(lambda m, args: entering.append(args[0].detach()))
    with torch.no_grad():
        net(x)
    handle.remove()
    tokens, found = entering[0][0], []
    for block in chain:
        heads = block.attn.qkv(block.norm1(tokens)).reshape(len(tokens), 3, 2, -1)
        maps, attended = [], []
        for h in range(2):
            q, k, v = (heads[:, part, h] for part in range(3))
            a = (q @ k.T / math.sqrt(q.shape[1])).softmax(1).detach().requires_grad_()
            maps.append(a)
            attended.append(a @ v)
        after = tokens + block.attn.proj(torch.cat(attended, dim=1))
        z = after + block.mlp(block.norm2(after))
        shown = z.mean(0).expand_as(z) if pooling == "mean" else z
        handle = chain[-1].register_forward_hook(lambda m, args, out, shown=shown: shown[None])
        score = net(x)[(0, *net.index)]
        handle.remove()
        gradients = torch.autograd.grad(score, maps)
        found.append(sum(g.clamp(min=0).mean(0) for g in gradients) / len(gradients))
        tokens = z.detach()
    first = 0 if blocks is None else max(0, last + 1 - blocks)
    kept = found[first : last + 1]
    return (sum(kept) / len(kept))[body.leading :].reshape(case.subject.layout.size)


OWN: dict[str, Callable[..., Tensor]] = {
    "gradcam": _grad_cam,
    "ones": _ones,
    "random": _random,
    "center": _center,
    "reciprocam": _recipro,
    "vitreciprocam": _vit_recipro,
    "legrad": _legrad,
}
