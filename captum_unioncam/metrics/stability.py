"""Whether maps depend on what the network learned."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_unioncam.engine import (
    Seed,
    TargetType,
    check_choice,
    check_finite,
    check_flag,
    check_seed,
    generator_of,
)
from captum_unioncam.engine.arguments import closest, parse_inputs
from captum_unioncam.engine.locks import exclusive_use
from captum_unioncam.engine.modules import evaluating, model_behind
from captum_unioncam.metrics.similarity import Similarity, similarities


class ParameterRandomisation(NamedTuple):
    """How similar maps stay to the original ones while a network forgets.

    Attributes:
        modules (tuple[str, ...]): the modules, in the order in which they were randomised.
        similarities (Tensor): similarity to the original map after each of them,
            (modules, N).
    """

    modules: tuple[str, ...]
    similarities: Tensor


def parameter_randomisation(
    attribution: Attribution,
    inputs: Tensor | tuple[Tensor, ...],
    target: TargetType = None,
    *,
    model: nn.Module | None = None,
    mode: Literal["cascading", "independent"] = "cascading",
    modules: Sequence[str | nn.Module] | None = None,
    similarity: Similarity = "spearman",
    absolute: bool = False,
    seed: Seed = 0,
    **attribute_kwargs: Any,
) -> ParameterRandomisation:
    r"""Compare maps before and after parts of the network lose their weights.

    A map that explains what a network has learned must change when its weights are drawn anew;
    one that stays is a picture of the input. From the output to the input, one module after the
    other is initialised again, keeping those before ("cascading") or putting them back
    ("independent"), and the same target is explained again. Lower is better, early in the
    cascade above all; in [-1, 1].

    A module that has `reset_parameters` is initialised by it, statistics of batch norms
    included; the parameters of any other are drawn from the normal distribution with their own
    mean and standard deviation. Weights are drawn on the CPU, so that they are the same wherever
    the model runs. The model ends as it was, bit for bit, whatever happens in between, and is held
    in evaluation mode; every explanation starts from the same random state, which is not moved.

    Maps of several channels are summed over them. Two maps are compared at their own resolution
    by Spearman's rank correlation (equal values share their mean rank), by Pearson's
    correlation, or by SSIM of the min-max scaled maps (windows of 7 x 7; maps of that size at
    least). None of them depends on a map's scale. A constant map is similar to nothing: 0. Look
    at the maps where the similarity falls to 0 at once: random weights beside a batch norm that
    keeps its statistics, because `modules` leaves it out, can blank a map for good.
    Maps that sum up a layer's activations are made of what lies before that layer, so expect
    them to stay similar until the cascade has passed it.

    Deviations: the paper randomises blocks of layers (pass them as `modules`), and also
    correlates histograms of oriented gradients.

    Cost: one attribution, and one per module.

    Source: Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim: Sanity Checks for Saliency Maps.
    NeurIPS, 2018. https://arxiv.org/abs/1810.03292

    Args:
        attribution (Attribution): any attribution object of Captum or of this package.
        inputs (Tensor or tuple[Tensor, ...]): inputs of the model.
        target (int, tuple, Tensor or list, optional): output to explain. Default: None
        model (nn.Module, optional): the network to randomise; None takes the module that
            `attribution` was given. Default: None
        mode (str, optional): "cascading" or "independent". Default: "cascading"
        modules (Sequence[str or nn.Module], optional): names or modules to randomise, in this
            order; one that contains others is randomised as a whole. None takes every module
            with parameters of its own, the last registered first. Default: None
        similarity (str, optional): "spearman", "pearson" or "ssim". Default: "spearman"
        absolute (bool, optional): compare absolute values, as the paper does beside the signed
            ones. Default: False
        seed (int or torch.Generator, optional): seed of the weights; the random state of torch
            is not touched. Default: 0
        **attribute_kwargs (Any, optional): passed to ``attribution.attribute``.

    Returns:
        *ParameterRandomisation*: names of the modules, and similarities (modules, N).

    Raises:
        TypeError: if an argument is of the wrong kind, or the attribution gives something other
            than one Tensor.
        ValueError: if an argument is out of range, no module can be found or none has
            parameters, or maps are not finite.

    Examples::

        >>> from captum_unioncam import LayerUnionCAM
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
        ... ).eval()
        >>> check = parameter_randomisation(
        ...     LayerUnionCAM(net, net[1]), torch.rand(2, 3, 8, 8), target=1
        ... )
        >>> check.modules, check.similarities.shape
        (('3', '0'), torch.Size([2, 2]))
    """
    check_choice("mode", mode, ("cascading", "independent"))
    check_choice("similarity", similarity, ("spearman", "pearson", "ssim"))
    check_flag("absolute", absolute)
    check_seed("seed", seed)
    if not isinstance(attribution, Attribution):
        kind = type(attribution).__name__
        raise TypeError(f"attribution must be a captum.attr.Attribution object, got {kind}")
    if attribute_kwargs.get("scorer") is not None:
        raise ValueError("scorer is a copy of the model that would keep its weights; leave it out")
    network = _network(attribution, model)
    groups = _groups(network, modules)
    count = len(parse_inputs(inputs)[0])
    seeds = torch.randint(2**62, (len(groups),), generator=generator_of(seed)).tolist()
    # Not every attribution takes a target.
    asked = attribute_kwargs if target is None else {"target": target, **attribute_kwargs}
    cuda = sorted({p.device.index for p in network.parameters() if p.is_cuda})

    def maps() -> Tensor:
        # Forked, so that noise of the attribution's own is the same each time.
        with torch.random.fork_rng(devices=cuda):
            found = attribution.attribute(inputs, **asked)
        return _summed(found, count, absolute)

    found = []
    # The random state is one for all threads.
    alone = exclusive_use(network, attribution, torch.default_generator)
    with alone, _kept(network) as put_back, evaluating(network):
        original = maps()
        for (_, group), number in zip(groups, seeds, strict=True):
            if mode == "independent":
                put_back()
            _randomise(group, number)
            with warnings.catch_warnings():
                # A network without its weights gives blank maps; similarity 0 says so.
                warnings.filterwarnings("ignore", ".*is blank for example")
                found.append(similarities(original, maps(), similarity))
    return ParameterRandomisation(tuple(name for name, _ in groups), torch.stack(found))


def _network(attribution: Attribution, model: nn.Module | None) -> nn.Module:
    """Return the module to randomise."""
    network: Any = model_behind(attribution.forward_func) if model is None else model
    if network is None:
        raise ValueError("the attribution was given a function, not a module: pass model=")
    if not isinstance(network, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(network).__name__}")
    return network


def _groups(
    network: nn.Module, modules: Sequence[str | nn.Module] | None
) -> list[tuple[str, list[nn.Module]]]:
    """Return the names and modules with parameters that are randomised at each step."""
    named = dict(network.named_modules())
    if modules is None:
        groups = [(name, [m]) for name, m in reversed(named.items()) if _own(m)]
    else:
        if isinstance(modules, str | nn.Module):
            raise TypeError(f"modules must be a sequence of names or modules, got {modules!r}")
        groups = [_group(named, module) for module in modules]
    if not groups:
        raise ValueError("there is nothing to randomise: no module has floating point parameters")
    return groups


def _group(named: dict[str, nn.Module], module: Any) -> tuple[str, list[nn.Module]]:
    if isinstance(module, str):
        if module not in named:
            raise ValueError(f"the model has no module {module!r}{closest(module, named)}")
        name = module
    elif isinstance(module, nn.Module):
        found = [name for name, m in named.items() if m is module]
        if not found:
            raise ValueError(f"{type(module).__name__} is not a module of the model")
        name = found[0]
    else:
        raise TypeError(f"a module must be a name or a Module, got {type(module).__name__}")
    within = [m for m in named[name].modules() if _own(m)]
    if not within:
        raise ValueError(f"module {name!r} has no floating point parameters to randomise")
    return name, within


def _own(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the floating point parameters that a module holds itself."""
    own = module.named_parameters(recurse=False)
    return {name: p for name, p in own if p.is_floating_point()}


@contextmanager
def _kept(network: nn.Module) -> Iterator[Any]:
    """Let parameters and buffers be written to, and put the user's own storage back at the end.

    Yields a function that undoes what was written so far.
    """
    tensors = [*network.parameters(), *network.buffers()]
    owned = [t.data for t in tensors]

    def put_back() -> None:
        for t, data in zip(tensors, owned, strict=True):
            t.data = data.clone()

    try:
        put_back()
        yield put_back
    finally:
        for t, data in zip(tensors, owned, strict=True):
            t.data = data


def _randomise(modules: list[nn.Module], seed: int) -> None:
    """Initialise modules again, drawing on the CPU."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module in modules:
            if hasattr(module, "reset_parameters"):
                _reset(module)
            else:
                for p in _own(module).values():
                    wide = p.double()
                    drawn = torch.randn(p.shape, dtype=torch.float64).to(p.device)
                    p.copy_(wide.mean() + wide.std(correction=0) * drawn)


def _reset(module: nn.Module) -> None:
    """Call the module's `reset_parameters` on copies on the CPU and take over the values."""
    own = dict(module._parameters), dict(module._buffers)
    try:
        for name, p in own[0].items():
            if p is not None:
                module._parameters[name] = nn.Parameter(p.cpu().clone(), p.requires_grad)
        for name, b in own[1].items():
            module._buffers[name] = None if b is None else b.cpu().clone()
        module.reset_parameters()  # type: ignore[operator]
        fresh: dict[str, Any] = {**module._parameters, **module._buffers}
    finally:
        module._parameters.update(own[0])
        module._buffers.update(own[1])
    for name, tensor in {**own[0], **own[1]}.items():
        if tensor is not None:
            tensor.copy_(fresh[name])


def _summed(found: Any, count: int, absolute: bool) -> Tensor:
    """Return attributions as one map per example, (N, 1, *spatial), in float64."""
    maps = found[0] if isinstance(found, tuple) and len(found) == 1 else found
    if not isinstance(maps, Tensor) or maps.dim() < 3 or len(maps) != count:
        kind = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise TypeError(f"the attribution must give one Tensor ({count}, C, *spatial), got {kind}")
    check_finite("attributions", maps, "the network overflows")
    summed = maps.detach().double().sum(1, keepdim=True)
    return summed.abs() if absolute else summed
