"""Mosaics of images of different classes, and how well maps find the right cell."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_unioncam.engine import Seed, check_flag, check_number, check_seed, generator_of
from captum_unioncam.engine.areas import masks_at_area
from captum_unioncam.metrics.boxes import energy_maps, energy_share, image_size
from captum_unioncam.metrics.common import prepared_maps
from captum_unioncam.metrics.options import Forward, Inputs, Maps, metric


class Mosaics(NamedTuple):
    """Mosaics, and what their cells show; cells are numbered row by row.

    Attributes:
        inputs (Tensor): the mosaics, (M, C, H, W).
        targets (Tensor): the class in every cell, (M, cells * cells).
        sources (Tensor): which of the images is in every cell, (M, cells * cells).
    """

    inputs: Tensor
    targets: Tensor
    sources: Tensor


def make_mosaics(
    inputs: Tensor,
    targets: Tensor | Sequence[int],
    cells: int = 2,
    *,
    shrink: bool = True,
    seed: Seed = 0,
) -> Mosaics:
    """Lay images of different classes out as mosaics of cells x cells.

    As many mosaics are made as the images give, each image being used at most once: classes with
    the most images left come first, chance decides between equal ones, on the images within a
    class, and on their cells. Use images that the network classifies well, as the papers do:
    a class that it does not see in its own image will not be found in a mosaic either.

    With ``shrink=True`` a mosaic has the images' size: each is resized to its cell (bilinear,
    antialiased). Cells are as equal as whole pixels allow: cell i of n begins at the
    pixel ``i * H // n``. The papers put images of full size side by side instead, which gives
    larger inputs; ``shrink=False`` does so, for networks that take inputs of any size.

    Source: Böhle, Fritz, Schiele: Convolutional Dynamic Alignment Networks for Interpretable
    Classifications. CVPR, 2021. https://arxiv.org/abs/2104.00032 (3 x 3); Rao, Böhle, Schiele:
    Towards Better Understanding Attribution Methods. CVPR, 2022.
    https://arxiv.org/abs/2205.10435 (2 x 2 and 3 x 3).

    Args:
        inputs (Tensor): images (N, C, H, W), as the model takes them.
        targets (Tensor or Sequence[int]): class of every image, (N,).
        cells (int, optional): cells along each side. Default: 2
        shrink (bool, optional): keep the images' size. Default: True
        seed (int or torch.Generator, optional): seed of the choice; the random state of torch
            is not touched. Default: 0

    Returns:
        *Mosaics*: the mosaics, and class and image of every cell.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if shapes do not fit, cells would be smaller than a pixel, or there are not
            enough classes for one mosaic.

    Examples::

        >>> images, classes = torch.rand(9, 3, 32, 32), [0, 0, 1, 1, 2, 2, 3, 3, 3]
        >>> mosaics = make_mosaics(images, classes)
        >>> mosaics.inputs.shape, mosaics.targets.shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 4]))
        >>> # One map per cell: repeat the mosaics, and score all their classes at once.
        >>> x = mosaics.inputs.repeat_interleave(4, dim=0)
        >>> cell = torch.arange(4).repeat(len(mosaics.inputs))
        >>> maps = torch.rand(8, 1, 7, 7)  # attribute(x, target=mosaics.targets.flatten())
        >>> grid_pointing_game(None, x, maps, cell=cell).shape
        torch.Size([8])
    """
    check_flag("shrink", shrink)
    check_seed("seed", seed)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.dim() != 4:
        kind = (tuple(inputs.shape), inputs.dtype) if isinstance(inputs, Tensor) else type(inputs)
        raise TypeError(f"inputs must be floating point images (N, C, H, W), got {kind}")
    count, _, height, width = inputs.shape
    _check_cells(cells, height, width)
    classes = torch.as_tensor(targets)
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise TypeError(f"targets must be class indices, got {classes.dtype}")
    if tuple(classes.shape) != (count,):
        raise ValueError(f"targets must have shape ({count},), got {tuple(classes.shape)}")
    sources = chosen_sources(classes.tolist(), cells * cells, generator_of(seed))
    x = inputs.detach()
    mosaics = torch.stack([laid_out(x[row], cells, shrink) for row in sources.to(x.device)])
    return Mosaics(mosaics, classes.cpu()[sources].long().to(x.device), sources.to(x.device))


@metric
def grid_pointing_game(
    forward_func: Forward | None, inputs: Inputs, attributions: Maps, *,
    cell: int | Sequence[int] | Tensor, cells: int = 2,
) -> Tensor:  # fmt: skip
    r"""Measure the share of each map's energy in the cell that shows the map's class.

    .. math::
        \frac{\sum_{(i, j) \in cell} \mathrm{ReLU}(L)_{ij}}{\sum_{ij} \mathrm{ReLU}(L)_{ij}}

    on mosaics of images of different classes, which :func:`make_mosaics` makes; no boxes are
    needed. Higher is better; in [0, 1]. A map of ones scores :math:`1 / cells^2` (the cell's
    share of the pixels), a map without positive values 0. Maps of another size than the mosaics
    are resized bilinearly before they are clipped. No network is run.

    Source: Böhle, Fritz, Schiele: Convolutional Dynamic Alignment Networks for Interpretable
    Classifications. CVPR, 2021. https://arxiv.org/abs/2104.00032; Rao, Böhle, Schiele: Towards
    Better Understanding Attribution Methods. CVPR, 2022. https://arxiv.org/abs/2205.10435

    Args:
        cell (int, Sequence[int] or Tensor): the cell that shows the class of each map, counted
            row by row from 0: one for all, or (N,).
        cells (int, optional): cells along each side. Default: 2

    Returns:
        *Tensor* of shares, (N,).

    Examples::

        >>> L = torch.tensor([[[[3.0, 0.0], [0.0, 1.0]]]])
        >>> grid_pointing_game(None, torch.rand(1, 3, 2, 2), L, cell=0)
        tensor([0.7500])
    """
    count, *_ = size = image_size(inputs)
    inside = _pixels_of_cell(cell, cells, size)
    energy = energy_maps(attributions, count, size[1:])
    return energy_share(energy, inside.to(energy.device))


@metric
def grid_pointing_at_area(
    forward_func: Forward | None, inputs: Inputs, attributions: Maps, *,
    cell: int | Sequence[int] | Tensor, cells: int = 2, area: float = 0.1, seed: Seed = 0,
) -> Tensor:  # fmt: skip
    r"""Measure the share of each map's most important pixels in the cell of the map's class.

    .. math:: \frac{|\{\text{the } a \text{ largest values}\} \cap cell|}{a \cdot pixels}

    on mosaics as in :func:`grid_pointing_game`, where energy rewards a map for what it leaves at
    zero. Here every map points with equally many pixels, and only their order counts. Higher is
    better; in [0, 1], where 1 needs an area of at most a cell's, :math:`1 / cells^2`. A map of ones
    scores about the cell's share of the pixels: equal values are ordered by one random permutation,
    which `seed` fixes. No network is run.

    Source: ours, of the grid pointing game: Böhle, Fritz, Schiele: Convolutional Dynamic Alignment
    Networks for Interpretable Classifications. CVPR, 2021. https://arxiv.org/abs/2104.00032

    Args:
        cell (int, Sequence[int] or Tensor): the cell that shows the class of each map, counted
            row by row from 0: one for all, or (N,).
        cells (int, optional): cells along each side. Default: 2
        area (float, optional): share of the pixels that a map points with, between 0 and 1; exactly
            round(area * pixels) of them. Default: 0.1

    Returns:
        *Tensor* of shares, (N,).

    Examples::

        >>> L = torch.tensor([[[[4.0, 1.0], [3.0, 2.0]]]])
        >>> grid_pointing_at_area(None, torch.rand(1, 3, 2, 2), L, cell=0, area=0.5)
        tensor([0.5000])
    """
    check_seed("seed", seed)
    count, *_ = size = image_size(inputs)
    inside = _pixels_of_cell(cell, cells, size)
    maps = prepared_maps(attributions, count, size[1:])
    top = masks_at_area(maps, [area], seed)[:, 0, 0]
    return (top * inside.to(top)).sum((1, 2)) / top.sum((1, 2))


def _pixels_of_cell(
    cell: int | Sequence[int] | Tensor, cells: int, size: tuple[int, int, int]
) -> Tensor:
    """Return which pixels of each mosaic are its cell's, (N, H, W) bool."""
    count, height, width = size
    _check_cells(cells, height, width)
    number = torch.as_tensor(cell)
    if number.is_floating_point() or number.dtype == torch.bool:
        raise TypeError(f"cell must hold integers, got {number.dtype}")
    if tuple(number.shape) not in ((), (count,)):
        raise ValueError(
            f"cell must be one int or have shape ({count},), got {tuple(number.shape)}"
        )
    if not bool(((number >= 0) & (number < cells * cells)).all()):
        raise ValueError(f"cell must be from 0 to {cells * cells - 1}, got {number.tolist()}")
    rows, columns = (_cell_of(length, cells) for length in (height, width))
    of_pixel = rows[:, None] * cells + columns
    return of_pixel == number.cpu().expand(count)[:, None, None]


def _check_cells(cells: Any, height: int, width: int) -> None:
    check_number("cells", cells, above=0, whole=True)
    if cells > min(height, width):
        raise ValueError(f"{cells} cells a side do not fit images of {height} x {width} pixels")


def _edges(length: int, cells: int) -> list[int]:
    return [i * length // cells for i in range(cells + 1)]


def _cell_of(length: int, cells: int) -> Tensor:
    """Return the cell of every pixel along one side."""
    edges = torch.tensor(_edges(length, cells)[1:-1], dtype=torch.long)
    return torch.searchsorted(edges, torch.arange(length), right=True)


def chosen_sources(classes: list[int], size: int, generator: torch.Generator) -> Tensor:
    """Return which images make every mosaic, (M, size), in the order of the cells.

    Args:
        classes (list[int]): class of every image.
        size (int): cells of a mosaic.
        generator (torch.Generator): decides between equal ones.

    Raises:
        ValueError: if there are fewer classes than cells.
    """
    left: dict[int, list[int]] = {}
    for image in torch.randperm(len(classes), generator=generator).tolist():
        left.setdefault(classes[image], []).append(image)
    if len(left) < size:
        raise ValueError(
            f"a mosaic of {size} cells needs {size} different classes, got {len(left)}; add "
            "images or take fewer cells"
        )
    chosen = []
    while len(left) >= size:
        names = sorted(left)
        mixed = [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]
        # Sorting is stable, so that chance decides between classes with as many images left.
        fullest = sorted(mixed, key=lambda name: -len(left[name]))[:size]
        order = torch.randperm(size, generator=generator).tolist()
        chosen.append([left[fullest[i]].pop() for i in order])
        left = {name: images for name, images in left.items() if images}
    return torch.tensor(chosen)


def laid_out(images: Tensor, cells: int, shrink: bool) -> Tensor:
    """Lay cells x cells images, (cells * cells, C, H, W), out as one, (C, H, W)."""
    _, _, height, width = images.shape
    if not shrink:
        grid = images.reshape(cells, cells, -1, height, width)
        return grid.permute(2, 0, 3, 1, 4).reshape(-1, cells * height, cells * width)
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    tall, broad = (_edges(length, cells) for length in (height, width))
    rows = []
    for i in range(cells):
        row = []
        for j in range(cells):
            size = tall[i + 1] - tall[i], broad[j + 1] - broad[j]
            picture = wide[i * cells + j, None]
            row.append(F.interpolate(picture, size, mode="bilinear", antialias=True)[0])
        rows.append(torch.cat(row, dim=2))
    return torch.cat(rows, dim=1).to(images.dtype)
