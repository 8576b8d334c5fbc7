"""Extremal Perturbations: masks of given areas that keep the class (Fong et al., ICCV 2019)."""

import math
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.baselines import blurred, of_each_input
from captum_unioncam.engine import (
    BaselineType,
    Count,
    Forwards,
    InputMap,
    InputOptions,
    Inputs,
    MaskScorer,
    NotNegative,
    Positive,
    Request,
    Source,
    TargetType,
    check_finite,
    check_number,
    measure_inputs,
    resize,
)
from captum_unioncam.engine.areas import Areas, pixels_of
from captum_unioncam.engine.cam import by_name, prepared
from captum_unioncam.engine.mask_gradients import mask_gradients
from captum_unioncam.engine.smooth_masks import SmoothMasks, area_gradients
from captum_unioncam.engine.target_scores import at_least_float32

# Of the authors' code: by how much more the area counts at the end, and momentum.
GROWTH, MOMENTUM = 1.0035**800, 0.9
# The cells that their rate is meant for.
CELLS = 32**2
# Of the blurs that a mask chooses among, how many and the standard deviation of the strongest.
LEVELS, STRONGEST = 8, 20.0


def check_score_or_none(name: str, value: Any) -> None:
    """Raise unless `value` is None or a finite number."""
    if value is not None:
        check_number(name, value)


class ExtremalPerturbations(InputMap):
    r"""Extremal Perturbations: for each area, the smooth mask that keeps the score highest.

    .. math::
        L &= \operatorname*{mean}_a m_a, \qquad
        m_a = \arg\max_m f_c(m \otimes I_0) - \frac{\lambda}{|\Omega|}
        \lVert \mathrm{vecsort}(m) - r_a \rVert^2 \\
        m(u) &= \operatorname*{smax}_i\, k\Big(\frac{\lVert u - u_i \rVert}{\sigma}\Big)\, p_i,
        \qquad k(z) = e^{-2 \max(0, z - 1/2)^2}

    with :math:`r_a` ones for the share a of the pixels :math:`\Omega` and zeros before them, so
    that the mask is drawn to its own ranking: its largest values to one, all others to zero.
    A mask is made of values p in [0, 1] on a grid of `cells` cells a side, of which smax takes
    the smooth maximum :math:`\sum v\, e^{20 v} / \sum e^{20 v}` over those near a pixel u, no
    more than :math:`\lceil \sigma \rceil + 1` cells away along a side, nor than the grid is long.
    :math:`m \otimes I_0` is the input blurred the more the smaller the mask, between itself at 1
    and a Gaussian of 20 pixels at 0, linearly between eight blurs; with `baselines` it is
    :math:`I_b + m \odot (I_0 - I_b)`. f_c is the target's raw output. Gradient ascent with a
    momentum of 0.9 starts at p = 1, and :math:`\lambda` grows from `area_weight` by the factor
    :math:`1.0035^{800}`.

    **It optimises what faithfulness metrics measure**, the score of a kept area: judge it on
    backgrounds other than blur. **And it climbs from where the whole input is visible**: what ranks
    highest then tends to stay, so that where the first gradients are rough, masks miss the object,
    as with EfficientNet-Lite0 in this guide's picture. Look at what the mask scores.

    It explains the input, not a layer, as :class:`RISE` does, and needs gradients at the input.
    The map is the mean of the masks, each pixel's share of the areas that show it, smoothed as in
    the authors' pointing game. The paper's answer to "how little suffices?" is the mask of the
    smallest area whose score reaches a threshold: pass `least_score`. A single area gives its mask.

    Deviations: 100 steps at a rate of 0.08 for the authors' 800 at 0.01 (``steps=800,
    rate=0.01``); areas of 5 to 40 % for their pointing game's 2.5, 5, 10 and 20 %; the area is
    that of the picture alone, theirs counts a margin around it; grid points lie in the middles of
    cells, a thirty-second of a side here and seven pixels there, equal at 224 pixels; on a grid of
    fewer cells steps are shorter in proportion, since each weighs more; equal values share the
    ones of their ranks; blurs are reflected at the borders, where theirs fade to zero; inputs are
    not mirrored in turn unless `mirror` asks for it. Inputs may have one to three spatial
    dimensions.

    Cost: one forward for the clean input, and one with backward for each step and area, through
    the model itself; with `least_score`, one more for each area.

    Source: Fong, Patrick, Vedaldi: Understanding Deep Networks via Extremal Perturbations and
    Smooth Masks. ICCV, 2019. https://arxiv.org/abs/1910.08485 Code:
    https://github.com/facebookresearch/TorchRay

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> ExtremalPerturbations(net.eval()).attribute(x, target=1, steps=5).shape
        torch.Size([2, 1, 8, 8])
    """

    name = "Extremal Perturbations"
    source = Source("Fong et al., ICCV", 2019, "https://arxiv.org/abs/1910.08485", "authors' code")
    forwards = Forwards("1 + steps × areas", 401)
    needs_gradients = True
    default_score = "logit"
    brings_baselines = True

    def default_baselines(self, inputs: Any) -> BaselineType:
        return of_each_input(lambda x: gaussian(x, STRONGEST), inputs)

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        areas: Areas = (0.05, 0.1, 0.2, 0.4),
        steps: Count = 100,
        rate: Positive = 0.08,
        area_weight: Positive = 300.0,
        cells: Count = 32,
        sigma: Positive = 3.0,
        smooth: NotNegative = 0.09,
        mirror: bool = False,
        least_score: Annotated[float | None, check_score_or_none] = None,
        **options: Unpack[InputOptions],
    ) -> Tensor:
        """Compute the map.

        Args:
            inputs (Tensor or tuple[Tensor, ...]): inputs, dimension 0 being the examples.
                Floating point inputs of the first one's rank are masked, the others pass.
            areas (Sequence[float], optional): shares of the pixels, a mask for each.
                Default: (0.05, 0.1, 0.2, 0.4)
            steps (int, optional): steps of gradient ascent. Default: 100
            rate (float, optional): length of a step on a grid of 32 x 32 cells. Default: 0.08
            area_weight (float, optional): what the area counts for at the beginning, against the
                score; for scores on another scale than raw outputs, such as probabilities, take
                another. Default: 300.0
            cells (int, optional): cells of the grid along each dimension, at most one a pixel.
                Default: 32
            sigma (float, optional): reach of a grid point, in cells. Default: 3.0
            smooth (float, optional): standard deviation of the Gaussian that smooths the map, as
                a share of its shortest side; 0 leaves the masks as they are. Default: 0.09
            mirror (bool, optional): show the masked inputs mirrored along their last dimension
                in every other step, as the authors do (their jitter). Not where mirrored inputs
                mean something else: signals, writing, targets at a position. Default: False
            least_score (float, optional): return the mask of the smallest area that scores so
                much, or of the largest area where none does; None returns the mean of all masks.
                Default: None

        Returns:
            *Tensor* of **attributions**: maps of shape (N, 1, *spatial of the first masked
            input), between 0 and 1, in its dtype, detached.

        Raises:
            TypeError: if an argument is of the wrong kind.
            ValueError: if an argument is out of range or of the wrong shape, an area holds no
                pixel, no input can be masked, no gradients flow to the inputs, or values are not
                finite.
        """
        request, own, _ = prepared(self, None, by_name(locals()))
        return self.map(request, blurs=options.get("baselines") is None, **own)

    def map(
        self, request: Request, *, blurs: bool, areas: Areas, steps: Count, rate: Positive,
        area_weight: Positive, cells: Count, sigma: Positive, smooth: NotNegative, mirror: bool,
        least_score: float | None,
    ) -> Tensor:  # fmt: skip
        with measure_inputs(request) as plain:
            scorer = PerturbedInputs(plain, blurs)
            x = at_least_float32(request.inputs[plain.masked.index(True)])
            size, areas = x.shape[2:], sorted(areas)
            counts = torch.tensor(pixels_of(areas, size.numel()), device=x.device).repeat(len(x))
            rows = torch.arange(len(x), device=x.device).repeat_interleave(len(areas))
            made = SmoothMasks(size, cells, sigma, x)
            p = x.new_ones(len(rows), 1, *made.grid)
            length = rate * p[0].numel() / CELLS
            sgd = torch.optim.SGD([p], lr=length, momentum=MOMENTUM, dampening=MOMENTUM)
            with scorer.bar(steps * len(rows), show=True) as bar:
                for step in range(steps):
                    scorer.mirrored = mirror and step % 2 == 0
                    m, weight = made.masks(p), area_weight * GROWTH ** (step / steps)
                    g = score_gradients(scorer, rows, m) - weight * area_gradients(m, counts)
                    p.grad = -made.gradients(p, g)
                    sgd.step()
                    p.clamp_(0, 1)
                    bar.update(len(rows))
            scorer.mirrored = False
            L = made.masks(p).reshape(len(x), len(areas), *size)
            if least_score is None:
                L = L.mean(1, keepdim=True)
            else:
                L = smallest(scorer, rows, L, least_score)
            stdev = smooth * min(size)
            return (gaussian(L, stdev) if stdev else L).to(request.inputs[0].dtype)


class PerturbedInputs(MaskScorer):
    """Masks inputs by blurring them the more the smaller the mask, or with baselines.

    Args:
        plain (MaskScorer): masks the same inputs with their baselines.
        blurs (bool): blur them; leave masking to the baselines otherwise.
    """

    def __init__(self, plain: MaskScorer, blurs: bool) -> None:
        request = plain.request
        super().__init__(request, plain.masked, request.baselines, plain.target, plain.stream)
        self.mirrored = False
        self.blurs = [
            pyramid(x) if blurs and is_masked else None
            for x, is_masked in zip(request.inputs, self.masked, strict=True)
        ]

    def masked_inputs(self, masks: list[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """Return the network's inputs: examples `rows`, each perturbed by its mask."""
        shown, ready = list(super().masked_inputs(masks, rows)), iter(masks)
        for i, (levels, is_masked) in enumerate(zip(self.blurs, self.masked, strict=True)):
            if levels is not None:
                shown[i] = between(levels[:, rows.to(levels.device)], next(ready)).to(shown[i])
            if is_masked and self.mirrored:
                shown[i] = shown[i].flip(-1)
        return tuple(shown)


def gaussian(x: Tensor, stdev: float) -> Tensor:
    """Blur by a Gaussian that ends four standard deviations away."""
    return blurred(x, 2 * math.ceil(4 * stdev) + 1, stdev)


def pyramid(x: Tensor) -> Tensor:
    """Return an input from its strongest blur to itself, (levels, N, C, *spatial)."""
    stdevs = [STRONGEST * (1 - level / (LEVELS - 1)) for level in range(LEVELS - 1)]
    return torch.stack([*(gaussian(x, stdev) for stdev in stdevs), at_least_float32(x)])


def between(levels: Tensor, masks: Tensor) -> Tensor:
    """Return each pixel at the level of its mask, linearly between two of them.

    Examples::

        >>> levels = torch.tensor([0.0, 10.0, 30.0]).reshape(3, 1, 1, 1).expand(3, 1, 1, 5)
        >>> between(levels, torch.tensor([[[0.0, 0.25, 0.5, 0.75, 1.0]]]))
        tensor([[[ 0.,  5., 10., 20., 30.]]])
    """
    places = masks.to(levels) * (len(levels) - 1)
    below = places.detach().floor().clamp(0, len(levels) - 2)
    at = below.long()[None].expand(1, *levels.shape[1:])
    return torch.lerp(levels.gather(0, at)[0], levels.gather(0, at + 1)[0], places - below)


def score_gradients(scorer: MaskScorer, rows: Tensor, masks: Tensor) -> Tensor:
    """Return the gradients of the scores at masks of the first masked input's size."""
    with torch.enable_grad():
        leaf = masks.detach().requires_grad_()
        shown = [resize(leaf, size) for size in scorer.sizes]
        gains = mask_gradients(scorer, rows, shown, lambda raw, scores, chunk: scores)
        (found,) = torch.autograd.grad(shown, leaf, gains)
    return found


def smallest(scorer: MaskScorer, rows: Tensor, masks: Tensor, least_score: float) -> Tensor:
    """Return of masks (N, K, *spatial), by area, the first that scores enough, or the last."""
    flat = masks.flatten(0, 1)[:, None]

    def shown(chunk: slice) -> list[Tensor]:
        return [resize(flat[chunk], size) for size in scorer.sizes]

    ((_, scores),) = scorer.score_rows(rows, shown)
    check_finite("scores of masked inputs", scores, "a callable score returns such values")
    enough = scores.reshape(masks.shape[:2]) >= least_score
    enough[:, -1] = True
    first = enough.int().argmax(1).to(masks.device)
    return masks[torch.arange(len(masks), device=masks.device), first][:, None]
