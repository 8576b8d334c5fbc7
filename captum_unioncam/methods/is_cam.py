"""IS-CAM: Score-CAM integrated along each mask (Naidu et al., 2020)."""

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
    MaskScores,
    Source,
    TargetType,
    weighted_sum,
)
from captum_unioncam.engine.mask_scoring import min_max_together
from captum_unioncam.methods.score_cam import Weights, channel_weights
from captum_unioncam.methods.ss_cam import average


class LayerISCAM(ClassActivationMap):
    r"""IS-CAM: Score-CAM with scores averaged over masks that fade in.

    .. math::
        L = \sum_k w_k A_k, \qquad
        w_k = \mathrm{softmax}_k\Big(\frac{1}{N} \sum_{i=1}^{N}
        f_c\big(I_b + \tfrac{i}{N} H_k \odot (I_0 - I_b)\big)\Big), \qquad
        H_k = \mathrm{minmax}(\mathrm{Up}(A_k))

    with A the layer's activations, Up linear resizing to the input and f_c the target's raw
    output. Flat channels are skipped. (The paper's subtraction of :math:`f_c(I_b)` changes
    nothing under softmax.)

    The steps i / N are our reading of the paper's idea, with N = 10 from torch-cam.
    ``cumulative=True`` gives torch-cam's steps, the partial sums :math:`\sum_{p \le i} p / N`:
    0.1, 0.3, 0.6 up to 5.5, which overexpose the input.

    Cost: N forwards per distinct channel that is not flat.

    Source: Naidu, Ghosh, Maurya, Nayak K, Kundu: IS-CAM: Integrated Score-CAM for axiomatic-based
    explanations. 2020. https://arxiv.org/abs/2010.03023

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerISCAM(net.eval(), net[1]).attribute(x, target=1, n_steps=5).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "IS-CAM"
    source = Source("Naidu et al.", 2020, "https://arxiv.org/abs/2010.03023", "our reading")
    forwards = Forwards("steps × C + 2", 2, per_channel=10)
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
        n_steps: Count = 10,
        cumulative: bool = False,
        weights: Weights = "softmax",
        **options: Unpack[MaskOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            n_steps (int, optional): steps from the baseline to the mask, N. Default: 10
            cumulative (bool, optional): multiply masks by partial sums of the steps, as torch-cam
                does. Default: False
            weights (str, optional): a channel's weight: the average "score" f_c, or the "softmax"
                of these averages over the channels that are not flat. Default: "softmax"
        """
        return self.explain(locals())

    def cam(self, state: LayerState, n_steps: Count, cumulative: bool, weights: Weights) -> Tensor:
        A = state.activations
        steps = range(1, n_steps + 1)
        factors = [(i * (i + 1) / 2 if cumulative else i) / n_steps for i in steps]
        passes = (_faded_scores(state, factor) for factor in factors)
        return weighted_sum(channel_weights(average(state, passes, n_steps), weights), A)


def _faded_scores(state: LayerState, factor: float) -> MaskScores:
    def faded(resized: list[Tensor]) -> list[Tensor]:
        return [factor * H for H in min_max_together(resized)]

    return state.masks.score(state.activations, finish=faded)
