"""Maps as an order of pixels: masks of equal area, and ranks in place of values."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_number
from captum_unioncam.engine.randomness import Seed, generator_of


def pixel_order(maps: Tensor, seed: Seed = 0) -> Tensor:
    """Return every pixel's place when each map is sorted from its largest value to its smallest.

    Equal values are ordered by one random permutation of the pixels, the same for all maps of a
    size: a constant map is chance, and gains nothing from where pixels lie in memory.

    Args:
        maps (Tensor): (N, K, *spatial).
        seed (int or torch.Generator, optional): of the permutation; the random state of torch is
            not touched. Default: 0

    Returns:
        *Tensor* of integers from 0, (N, K, pixels).

    Examples::

        >>> pixel_order(torch.tensor([[[0.2, 0.9, 0.5, 1.0]]]))
        tensor([[[3, 1, 2, 0]]])
    """
    flat = maps.detach().flatten(2)
    mixed = torch.randperm(flat.shape[2], generator=generator_of(seed)).to(flat.device)
    order = mixed[flat[..., mixed].argsort(dim=2, descending=True, stable=True)]
    places = torch.arange(flat.shape[2], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(2, order, places)


def masks_at_area(maps: Tensor, areas: Sequence[float], seed: Seed = 0) -> Tensor:
    """Return masks of the largest values of each map, one for each area.

    A mask holds exactly ``round(area * pixels)`` ones, whatever the map, so that no map gains by
    covering more. Resize maps to the inputs first: an area of few pixels is a coarse one.

    Args:
        maps (Tensor): (N, K, *spatial).
        areas (Sequence[float]): shares of the pixels, between 0 and 1.
        seed (int or torch.Generator, optional): of the order of equal values, see
            :func:`pixel_order`. Default: 0

    Returns:
        *Tensor* of ones and zeros, (N, K, areas, *spatial), of the maps' dtype.

    Raises:
        TypeError: if `areas` is no sequence of numbers.
        ValueError: if an area is out of range, or holds no pixel or all of them.

    Examples::

        >>> masks_at_area(torch.tensor([[[0.2, 0.9, 0.5, 1.0]]]), [0.25, 0.5])
        tensor([[[[0., 0., 0., 1.],
                  [0., 1., 0., 1.]]]])
    """
    pixels = maps[0, 0].numel()
    counts = torch.tensor(pixels_of(areas, pixels), device=maps.device)
    shown = pixel_order(maps, seed)[:, :, None] < counts[:, None]
    return shown.to(maps.dtype).reshape(*shown.shape[:3], *maps.shape[2:])


def pixels_of(areas: Any, pixels: int) -> list[int]:
    """Return how many of so many pixels each area holds.

    Raises:
        TypeError: if `areas` is no sequence of numbers.
        ValueError: if an area is out of range, or holds no pixel or all of them.

    Examples::

        >>> pixels_of([0.1, 0.5], 49)
        [5, 24]
    """
    if isinstance(areas, str) or not isinstance(areas, Sequence) or not areas:
        raise TypeError(f"areas must be a sequence of numbers, such as (0.1, 0.25), got {areas!r}")
    counts = []
    for area in areas:
        check_number("an area", area)
        if not 0 < area < 1:
            raise ValueError(
                f"an area is a share of the pixels, between 0 and 1, got {area}"
                + f"; {area} percent are {area / 100:g}" * (1 <= area < 100)
            )
        count = round(area * pixels)
        if not 0 < count < pixels:
            raise ValueError(
                f"an area of {area} holds {count} of {pixels} pixels, whatever the map; give at "
                f"least {1 / pixels:.2g} and at most {1 - 1 / pixels:.2g}"
            )
        counts.append(count)
    return counts


def check_areas(name: str, areas: Any) -> None:
    """Raise unless `areas` are shares of the pixels; of how many the inputs tell later."""
    pixels_of(areas, 10**9)


Areas = Annotated[Sequence[float], check_areas]


def rank_maps(maps: Tensor, seed: Seed = 0) -> Tensor:
    """Return maps with ranks in place of values: 1 for the largest, 0 for the smallest.

    All maps then have the same values, evenly spread, and differ in nothing but their order.

    Args:
        maps (Tensor): (N, K, *spatial), of at least two pixels.
        seed (int or torch.Generator, optional): of the order of equal values, see
            :func:`pixel_order`. Default: 0

    Returns:
        *Tensor* of ranks, of the maps' shape and dtype.

    Examples::

        >>> rank_maps(torch.tensor([[[0.2, 0.9, 0.5]]]))
        tensor([[[0.0000, 1.0000, 0.5000]]])
    """
    order = pixel_order(maps, seed).to(maps.dtype)
    return (1 - order / (order.shape[2] - 1)).reshape(maps.shape)
