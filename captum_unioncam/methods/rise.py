"""RISE: randomised input sampling for explanation (Petsiuk, Das, Saenko, BMVC 2018)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Count,
    Forwards,
    InputMap,
    InputOptions,
    Inputs,
    Request,
    Seed,
    Source,
    TargetType,
    check_finite,
    check_number,
    generator_of,
    measure_inputs,
    resize,
)

Probability = Annotated[float, partial(check_number, above=0, most=1)]
# Elements of masks that are held at once when they are summed: 32 masks of 224 x 224.
SLICE_ELEMENTS = 32 * 224 * 224


class RISE(InputMap):
    r"""RISE: random masks of the input, averaged with the scores of what they leave visible.

    .. math::
        S = \frac{1}{N p} \sum_{i=1}^{N} f_c\big(I_b + m_i \odot (I_0 - I_b)\big)\, m_i

    with f_c the softmax probability. A mask :math:`m_i` is a grid of `cells` cells a side, each
    1 with probability p (`keep`), resized linearly to one cell more than the input and cropped
    at a random offset below a cell. All examples of a batch share the masks.

    It explains the input, not a layer: any function of floating point inputs of shape
    (N, C, L), (N, C, H, W) or (N, C, D, H, W) will do. Cost: one forward per mask, and one for
    the clean input.

    Defaults are those of the authors' notebook: 6000 masks, 8 cells, p = 0.1 (secondary sources
    give the paper's as 4000 to 8000 masks, 7 cells, p = 0.5). A baseline of 0 is the authors':
    they multiply the normalised image.

    Deviation: inputs with other than two spatial dimensions are covered by the same formula.

    Source: Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box
    Models. BMVC, 2018. https://arxiv.org/abs/1806.07421

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> RISE(net.eval()).attribute(x, target=1, n_masks=50, cells=4).shape
        torch.Size([2, 1, 8, 8])
    """

    name = "RISE"
    source = Source(
        "Petsiuk et al., BMVC", 2018, "https://arxiv.org/abs/1806.07421", "authors' code"
    )
    forwards = Forwards("1 + masks", 6001)

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        n_masks: Count = 6000,
        cells: Count = 8,
        keep: Probability = 0.1,
        seed: Seed = 0,
        **options: Unpack[InputOptions],
    ) -> Tensor:
        """Compute the map.

        Args:
            inputs (Tensor or tuple[Tensor, ...]): inputs, dimension 0 being the examples.
                Floating point inputs of the first one's rank are masked, the others pass.
            n_masks (int, optional): number of masks, N. Default: 6000
            cells (int, optional): cells of a mask's grid along each dimension. Default: 8
            keep (float, optional): probability of a cell to be visible, p, in (0, 1].
                Default: 0.1

        Returns:
            *Tensor* of **attributions**: maps of shape (N, 1, *spatial of the first masked
            input), in its dtype, detached.

        Raises:
            TypeError: if an argument is of the wrong kind.
            ValueError: if an argument is out of range or of the wrong shape, no input can be
                masked, or values are not finite.
        """
        return self.explain(locals())

    def map(
        self, request: Request, n_masks: Count, cells: Count, keep: Probability, seed: Seed
    ) -> Tensor:
        with measure_inputs(request) as scorer:
            x = request.inputs[scorer.masked.index(True)]
            size = x.shape[2:]
            drawn = _draw(n_masks, cells, keep, len(size), seed).to(x)
            every = torch.arange(n_masks, device=x.device)
            rows = torch.arange(len(x), device=x.device).repeat_interleave(n_masks)
            numbers = every.repeat(len(x))

            def masks(chunk: slice) -> list[Tensor]:
                return [drawn.masks(numbers[chunk], each) for each in scorer.sizes]

            _, scores = scorer.score_rows(rows, masks, show=True)[0]
            cause = "the network overflows on them, or a callable score returns such values"
            scores = scores.reshape(len(x), n_masks).to(x.device)
            check_finite("scores of masked inputs", scores, cause)
            S = drawn.grids.new_zeros(len(x), size.numel())
            # Products of matrices would run in half precision under a caller's autocast.
            with torch.autocast(x.device.type, enabled=False):
                for which in torch.split(every, max(1, SLICE_ELEMENTS // size.numel())):
                    S += scores[:, which].to(S.dtype) @ drawn.masks(which, size).flatten(1)
            return (S / (n_masks * keep)).reshape(len(x), 1, *size).to(x.dtype)


class _Drawn(NamedTuple):
    """What makes the masks: grids (N, 1, cells, ...) and offsets (N, dims) in cells."""

    grids: Tensor
    offsets: Tensor

    def to(self, x: Tensor) -> "_Drawn":
        wide = torch.promote_types(x.dtype, torch.float32)
        return _Drawn(self.grids.to(x.device, wide), self.offsets)

    def masks(self, which: Tensor, size: Sequence[int]) -> Tensor:
        """Return the masks of these numbers at an input's size, (K, 1, *size)."""
        cell = [math.ceil(s / n) for s, n in zip(size, self.grids.shape[2:], strict=True)]
        full = [(n + 1) * c for n, c in zip(self.grids.shape[2:], cell, strict=True)]
        resized = resize(self.grids[which], full)
        # An offset is below one cell, so that every crop lies within the resized grid.
        first = (self.offsets[which.cpu()] * torch.tensor(cell)).long().tolist()
        crops = []
        for mask, start in zip(resized, first, strict=True):
            crop = [slice(a, a + s) for a, s in zip(start, size, strict=True)]
            crops.append(mask[0][tuple(crop)])
        return torch.stack(crops)[:, None]


def _draw(n_masks: int, cells: int, keep: float, dims: int, seed: Seed) -> _Drawn:
    """Draw every grid and offset at once, so that no slicing changes them."""
    generator = generator_of(seed)
    shape = n_masks, 1, *[cells] * dims
    grids = torch.rand(shape, generator=generator, dtype=torch.float64) < keep
    offsets = torch.rand((n_masks, dims), generator=generator, dtype=torch.float64)
    return _Drawn(grids, offsets)
