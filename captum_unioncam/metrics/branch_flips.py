"""Whether UnionCAM's choice between its maps holds still under noise."""

from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor

from captum_unioncam.engine import Seed, TargetType, check_number, check_seed, generator_of
from captum_unioncam.engine.arguments import parse_inputs
from captum_unioncam.methods.union_cam import LayerUnionCAM, UnionCAMDetails
from captum_unioncam.metrics.options import Inputs


def branch_flip_rate(
    union_cam: Attribution,
    inputs: Inputs,
    target: TargetType = None,
    *,
    radius: float = 0.02,
    n_perturb_samples: int = 10,
    seed: Seed = 0,
    **attribute_kwargs: Any,
) -> Tensor:
    r"""Measure how often small noise makes UnionCAM return its other map.

    .. math::
        \frac{1}{n} \sum_{k=1}^{n} 1\big[s(I_0 + \epsilon_k) \ne s(I_0)\big], \qquad
        \epsilon_k \sim U(-radius, radius)

    where s is whether AMS selected the union DR or the region map R. The selection is a hard
    one, so that a flip makes the map jump: report the rate beside
    ``captum.metrics.sensitivity_max``, whose defaults for radius and samples these are. Lower is
    better; in [0, 1].

    All examples share the noise, which is added to every floating point input, so that a rate
    does not depend on the batch.

    Cost: n + 1 attributions.

    Args:
        union_cam (LayerUnionCAM): the method, with its model and layer.
        inputs (Tensor or tuple[Tensor, ...]): inputs of the model.
        target (int, tuple, Tensor or list, optional): output to explain. Default: None
        radius (float, optional): largest change of a value, in units of the inputs.
            Default: 0.02
        n_perturb_samples (int, optional): number of noisy copies, n. Default: 10
        seed (int or torch.Generator, optional): seed of the noise; the random state of torch
            is not touched. Default: 0
        **attribute_kwargs (Any, optional): passed to ``union_cam.attribute``.

    Returns:
        *Tensor* of rates, (N,).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range, or the layer gives several tensors.

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
        ... ).eval()
        >>> x = torch.rand(2, 3, 8, 8)
        >>> branch_flip_rate(LayerUnionCAM(net, net[1]), x, target=1, radius=0.0)
        tensor([0., 0.])
    """
    if not isinstance(union_cam, LayerUnionCAM):
        kind = type(union_cam).__name__
        raise TypeError(f"union_cam must be a LayerUnionCAM, got {kind}: only it has branches")
    check_number("radius", radius)
    if radius < 0:
        raise ValueError(f"radius must be 0 or more, got {radius}")
    check_number("n_perturb_samples", n_perturb_samples, above=0, whole=True)
    check_seed("seed", seed)
    parsed, generator = parse_inputs(inputs), generator_of(seed)

    def selected(changed: tuple[Tensor, ...]) -> Tensor:
        _, details = union_cam.attribute(changed, target, return_details=True, **attribute_kwargs)
        if not isinstance(details, UnionCAMDetails):
            raise ValueError("the layer gives several tensors; choose one that gives a single one")
        return details.selected_union

    def noisy(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        unit = torch.rand((1, *x.shape[1:]), generator=generator, dtype=torch.float64)
        return x.detach() + (radius * (2 * unit - 1)).to(x)

    clean = selected(parsed)
    flips = [selected(tuple(map(noisy, parsed))) != clean for _ in range(n_perturb_samples)]
    return torch.stack(flips).float().mean(0)
