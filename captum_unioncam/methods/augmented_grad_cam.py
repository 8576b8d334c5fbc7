"""Augmented Grad-CAM: one fine map from many augmented images (Morbidelli et al., ICASSP 2020)."""

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    Count,
    Forwards,
    GradKwargs,
    Inputs,
    LayerOptions,
    LayerState,
    Number,
    Seed,
    Source,
    TargetType,
    generator_of,
    resize,
    spatial_mean,
    weighted_sum,
)
from captum_unioncam.engine.arguments import maskable
from captum_unioncam.engine.target_scores import at_least_float32

Aggregation = Literal["super_resolution", "average", "max"]

# The authors' settings; the two weights are per augmentation.
TOTAL_VARIATION, ENERGY = 0.002, 0.0001
LEARNING_RATE, ITERATIONS = 1e-3, 200


def rigid_motions(draws: Tensor, size: Sequence[int]) -> Tensor:
    """Return rotations with translations as `affine_grid` reads them, (L, 3, 3) in float64.

    Args:
        draws (Tensor): angle in radians, shifts right and down as fractions of width and height,
            (L, 3).
        size (Sequence[int]): height and width of the image, which keep its rotation rigid.
    """
    angle, shift = draws[:, 0], draws[:, 1:]
    aspect = size[0] / size[1]
    motion = torch.eye(3, dtype=draws.dtype).repeat(len(draws), 1, 1)
    motion[:, 0, 0] = motion[:, 1, 1] = angle.cos()
    motion[:, 0, 1], motion[:, 1, 0] = -angle.sin() * aspect, angle.sin() / aspect
    # An image is two units wide and high there.
    motion[:, :2, 2] = 2 * shift
    return motion


def moved(images: Tensor, motion: Tensor) -> Tensor:
    """Move images (N, C, H, W) by one motion (3, 3), with zeros from beyond their borders."""
    wide = at_least_float32(images)
    theta = motion[:2].to(wide).expand(len(wide), -1, -1)
    grid = F.affine_grid(theta, list(wide.shape), align_corners=False)
    return F.grid_sample(wide, grid, align_corners=False).to(images.dtype)


def super_resolved(maps: Tensor, motions: Tensor, size: Sequence[int]) -> Tensor:
    """Fit one map of an image's size, (1, 1, *size), to maps of its motions, (L, 1, h, w)."""
    grid = F.affine_grid(motions[:, :2].to(maps), list(maps.shape), align_corners=False)
    with torch.enable_grad():
        h = maps.new_zeros(1, 1, *size, requires_grad=True)
        adam = torch.optim.Adam([h], lr=LEARNING_RATE)
        for _ in range(ITERATIONS):
            # All maps' positions in one row of samples: h itself is never repeated.
            seen = F.grid_sample(h, grid.flatten(0, 1)[None], align_corners=False)
            misfit = (seen.reshape(maps.shape) - maps).square().sum()
            variation = h.diff(dim=2).abs().sum() + h.diff(dim=3).abs().sum()
            loss = misfit + len(maps) * (TOTAL_VARIATION * variation + ENERGY * h.square().sum())
            (h.grad,) = torch.autograd.grad(loss, h)
            adam.step()
    return h.detach()


class LayerAugmentedGradCAM(ClassActivationMap):
    r"""Augmented Grad-CAM: Grad-CAM maps of rotated and shifted images make one of image size.

    .. math::
        L = \frac{1}{N} \sum_l T_l^{-1}\big(\mathrm{Up}(G_l)\big), \qquad
        G_l = \mathrm{ReLU}(\mathrm{GradCAM}(T_l x))

    with :math:`T_l` a rotation and translation, :math:`T_1` the identity, Up bilinear resizing and
    Grad-CAM with the target's raw output. ``aggregation="max"`` takes the maximum over l instead,
    and ``aggregation="super_resolution"`` fits one fine map to all of them, the authors' proposal:

    .. math::
        L = \arg\min_h \sum_l \Big( \| D(T_l h) - G_l / \max G_l \|_2^2
        + \lambda_{tv} \sum_{ij} |\nabla h_{ij}|_1 + \lambda_f \|h\|_2^2 \Big)

    with D bilinear sampling at the layer's resolution and the authors' solver: 200 steps of Adam
    from zero, learning rate 1e-3, :math:`\lambda_{tv} = 0.002`, :math:`\lambda_f = 0.0001`. Such a
    fit stops short of the minimum, so that only relative values mean something, and its steps
    turn rounding errors into about a percent of the map's maximum. It samples
    N times as many pixels as the layer has positions: made for the 14 x 14 of VGG16's last
    convolution, it leaves speckles on layers of 7 x 7, which is why it is not the default.

    **Maps have the spatial size of the input**, not of the layer, and are never negative. Images
    only. What a motion moves in from beyond the border is zero. Motions are the same for every
    example of a batch and leave the global random state as it is.

    Deviations from the authors' code, whose default is super-resolution: motions are inverted
    exactly, :math:`D(T_l h)` is one interpolation rather than two, an augmentation whose map is
    zero is left out of the fit (theirs divides by zero), and translations are fractions of the
    image's sides (theirs: 30 of 224 pixels).

    Source: Morbidelli, Carrera, Rossi, Fragneto, Boracchi: Augmented Grad-CAM: Heat-Maps
    Super Resolution Through Augmentation. ICASSP, 2020.
    https://github.com/diegocarrera89/AugmentedGradCAM

    Examples::

        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerAugmentedGradCAM(net.eval(), net[1]).attribute(x, 1, n_augmentations=5).shape
        torch.Size([2, 1, 8, 8])
    """

    name = "Augmented Grad-CAM"
    source = Source(
        "Morbidelli et al., ICASSP",
        2020,
        "https://github.com/diegocarrera89/AugmentedGradCAM",
        "authors' code",
    )
    forwards = Forwards("augmentations", 100)

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        aggregation: Aggregation = "average",
        n_augmentations: Count = 100,
        max_rotation: Number = 0.5,
        max_translation: Number = 30 / 224,
        seed: Seed = 0,
        **options: Unpack[LayerOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            aggregation (str, optional): how maps become one: "average", "max" or
                "super_resolution". Default: "average"
            n_augmentations (int, optional): how many motions, the identity among them.
                Default: 100
            max_rotation (float, optional): largest rotation either way, in radians. Default: 0.5
            max_translation (float, optional): largest translation along each side, as a fraction
                of that side. Default: 30 / 224
        """
        return self.explain(locals())

    def cam(
        self,
        state: LayerState,
        aggregation: Aggregation,
        n_augmentations: Count,
        max_rotation: Number,
        max_translation: Number,
        seed: Seed,
    ) -> Tensor:
        A, W, inputs = state.activations, state.gradients, state.request.inputs
        if A.dim() != 4:
            raise ValueError(
                f"{self.name} rotates images: {state.request.layer_name} must give maps "
                f"(N, C, H, W), got {tuple(A.shape)}"
            )
        moves = maskable(inputs, A)
        size = next(x for x, m in zip(inputs, moves, strict=True) if m).shape[2:]
        generator = generator_of(seed)
        limits = torch.tensor([max_rotation, max_translation, max_translation], dtype=torch.float64)
        draws = torch.rand((n_augmentations, 3), generator=generator, dtype=torch.float64)
        draws = (2 * draws - 1) * limits
        draws[0] = 0
        motions = rigid_motions(draws, size)

        def grad_cam(A: Tensor, W: Tensor) -> Tensor:
            return weighted_sum(spatial_mean(W), A).relu()

        cams = [grad_cam(A, W)]
        for motion in motions[1:]:
            augmented = (moved(x, motion) if m else x for x, m in zip(inputs, moves, strict=True))
            cams.append(grad_cam(*state.measured_at(tuple(augmented))))
        if aggregation == "super_resolution":
            return torch.cat([_fitted(g, motions, size) for g in torch.stack(cams, 1)])
        back = torch.linalg.inv(motions)
        aligned = (moved(resize(g, size), t) for g, t in zip(cams, back, strict=True))
        if aggregation == "max":
            return reduce(torch.maximum, aligned)
        return reduce(torch.add, aligned) / n_augmentations


def _fitted(cams: Tensor, motions: Tensor, size: Sequence[int]) -> Tensor:
    """Fit one example's Grad-CAM maps, (L, 1, h, w), those that are zero left out."""
    peak = cams.amax((1, 2, 3), keepdim=True)
    kept = (peak > 0).flatten()
    if not bool(kept.any()):
        return cams.new_zeros(1, 1, *size)
    return super_resolved(cams[kept] / peak[kept], motions[kept.cpu()], size)
