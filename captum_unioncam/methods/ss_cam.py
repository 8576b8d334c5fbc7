"""SS-CAM: Score-CAM smoothed over noise (Wang, Naidu, Michael, Kundu, 2020)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    Count,
    Forwards,
    GradKwargs,
    Inputs,
    LayerState,
    MaskOptions,
    MaskScorer,
    MaskScores,
    NotNegative,
    Seed,
    Source,
    TargetType,
    generator_of,
    weighted_sum,
)
from captum_unioncam.engine.captum_compat import NullProgress, progress
from captum_unioncam.engine.maps import extrema
from captum_unioncam.engine.mask_scoring import min_max_together
from captum_unioncam.methods.score_cam import Weights, channel_weights

NoiseOn = Literal["activations", "mask", "input"]
Draw = Callable[[Sequence[int]], Tensor]


def average(state: LayerState, passes: Iterable[MaskScores], number: int) -> MaskScores:
    """Return the mean scores of several passes over the same channels, as both of their scores."""
    bar = progress if state.request.description else NullProgress
    with bar(desc=state.request.description, total=number, unit="pass") as shown:
        done = []
        for masked in passes:
            done.append(masked)
            shown.update()
    mean = torch.stack([masked.scores for masked in done]).mean(0)
    none = torch.zeros_like(mean)
    return MaskScores(mean, mean, done[0].live, none, none, done[0].spent)


class LayerSSCAM(ClassActivationMap):
    r"""SS-CAM: Score-CAM with scores averaged over noisy versions of every mask.

    .. math::
        L = \sum_k w_k A_k, \qquad
        w_k = \mathrm{softmax}_k\Big(\frac{1}{N} \sum_{s=1}^{N}
        f_c(I_b + H_k^s \odot (I_0 - I_b))\Big), \qquad
        H_k^s = \mathrm{minmax}(\mathrm{Up}(A_k) + \delta_s), \quad
        \delta_s \sim \mathcal{N}(0, \sigma^2)

    with A the layer's activations, Up linear resizing to the input, f_c the target's raw output,
    and one noise field per sample, shared by all channels and examples. Flat channels are
    skipped. (The paper's subtraction of :math:`f_c(I_b)` changes nothing under softmax.)

    Where the noise goes was taken from secondary sources, which differ. The default adds it to
    the activations before they are scaled, the one place where :math:`\sigma = 2` leaves masks
    in [0, 1]. ``noise_on="mask"`` is torch-cam's reading, :math:`H_k + \delta_s`, mostly noise
    at that :math:`\sigma`; ``noise_on="input"`` is the paper's second variant,
    :math:`H_k \odot I_0 + \delta_s`. N = 35 and :math:`\sigma = 2` are torch-cam's.

    Cost: N forwards per distinct channel that is not flat.

    Source: Wang, Naidu, Michael, Kundu: SS-CAM: Smoothed Score-CAM for Sharper Visual Feature
    Localization. 2020. https://arxiv.org/abs/2006.14255

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerSSCAM(net.eval(), net[1]).attribute(x, target=1, n_samples=5).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "SS-CAM"
    source = Source("Wang et al.", 2020, "https://arxiv.org/abs/2006.14255", "our reading")
    forwards = Forwards("samples × C + 2", 2, per_channel=35)
    needs_gradients = False
    default_score = "logit"

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        noise_on: NoiseOn = "activations",
        n_samples: Count = 35,
        stdev: NotNegative = 2.0,
        weights: Weights = "softmax",
        seed: Seed = 0,
        **options: Unpack[MaskOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            noise_on (str, optional): add noise to the resized "activations" before they are
                scaled to [0, 1], to the scaled "mask", or to the masked "input".
                Default: "activations"
            n_samples (int, optional): noise fields, N. Default: 35
            stdev (float, optional): standard deviation of the noise, in units of what it is
                added to. Default: 2.0
            weights (str, optional): a channel's weight: the average "score" f_c, or the "softmax"
                of these averages over the channels that are not flat. Default: "softmax"
        """
        return self.explain(locals())

    def cam(
        self,
        state: LayerState,
        noise_on: NoiseOn,
        n_samples: Count,
        stdev: NotNegative,
        weights: Weights,
        seed: Seed,
    ) -> Tensor:
        generator = generator_of(seed)

        def draw(shape: Sequence[int]) -> Tensor:
            return stdev * torch.randn(tuple(shape), generator=generator, dtype=torch.float64)

        passes = (noisy_scores(state, noise_on, draw) for _ in range(n_samples))
        masked = average(state, passes, n_samples)
        return weighted_sum(channel_weights(masked, weights), state.activations)


def noisy_scores(state: LayerState, noise_on: NoiseOn, draw: Draw) -> MaskScores:
    """Score every channel as a mask under one draw of noise."""
    A, masks = state.activations, state.masks
    if noise_on == "input":
        return _on_noisy_inputs(state, draw).score(A)
    noise = [draw(size).to(masks.device, A.dtype) for size in masks.sizes]

    def noisy(maps: list[Tensor]) -> list[Tensor]:
        return [M + delta for M, delta in zip(maps, noise, strict=True)]

    if noise_on == "mask":
        return masks.score(A, finish=lambda resized: noisy(min_max_together(resized)))
    low, high = extrema(A)
    # A flat channel would make a mask of nothing but noise.
    live = A.where(high > low, 0)
    return masks.score_prepared(live, finish=lambda resized: min_max_together(noisy(resized)))


def _on_noisy_inputs(state: LayerState, draw: Draw) -> MaskScorer:
    """Return a scorer that adds noise to masked inputs: I_b + H (I_0 - I_b) + delta."""
    request, masked = state.request, state.masks.masked
    inputs, baselines = list(request.inputs), list(request.baselines)
    for i, x in enumerate(request.inputs):
        if masked[i]:
            # Noise on input and baseline alike is noise on whatever lies between them.
            delta, baseline = draw((1, *x.shape[1:])).to(x), baselines[i]
            inputs[i] = x + delta
            baselines[i] = delta + (baseline.to(x) if isinstance(baseline, Tensor) else baseline)
    return MaskScorer(
        replace(request, inputs=tuple(inputs)), masked, tuple(baselines), state.target
    )
