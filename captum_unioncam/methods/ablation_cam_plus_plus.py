"""Ablation-CAM++: similar channels ablated together, and apart where it matters (ICIP 2022)."""

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    Count,
    FeatureOptions,
    Forwards,
    GradKwargs,
    Inputs,
    LayerState,
    NotNegative,
    Source,
    TargetType,
    weighted_sum,
)
from captum_unioncam.methods.ablation_cam import relative_drop
from captum_unioncam.methods.fd_cam import directions

Group = list[int]


class LayerAblationCAMPlusPlus(ClassActivationMap):
    r"""Ablation-CAM++: groups of similar channels share the drop of the score without them.

    .. math::
        L = \sum_k w_k A_k, \qquad
        w_k = \frac{d_S}{|S|} \text{ for the group } S \ni k, \qquad
        d_S = \frac{y - y^{(S)}}{|y|}

    with A the layer's activations, y the target's raw output, and :math:`y^{(S)}` the same with
    all channels of S set to zero. Groups come from splitting: two channels that point apart,
    the one farthest from the group's mean direction and the one farthest from that, are the seeds
    of a k-means with two means and cosine similarity. The largest group is split until there are
    ``clusters``. From then on a group is ablated, and split further if :math:`|d_S|` is above
    ``tau``. ``tau=0`` gives Ablation-CAM, by more forwards. Channels that are zero everywhere have
    weight zero. Everything is deterministic and per example. Cost: one forward per ablated group,
    of the part of the network after the layer; fewer than Ablation-CAM's where few groups matter.

    A reading: the paper's abstract is the source, which says that activation maps are clustered,
    clusters split recursively, and parts of little effect left whole. How that is done is our own
    design. The divisor is guarded as in
    :class:`captum_unioncam.methods.ablation_cam.LayerAblationCAM`.

    Source: Salama, Adly, Torki: Ablation-CAM++: Grouped Recursive Visual Explanations from Deep
    Convolutional Networks. ICIP, 2022. https://doi.org/10.1109/ICIP46576.2022.9897617

    Examples::

        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> LayerAblationCAMPlusPlus(net.eval(), net[1]).attribute(x, target=1, clusters=2).shape
        torch.Size([2, 1, 6, 6])
    """

    name = "Ablation-CAM++"
    source = Source(
        "Salama et al., ICIP", 2022, "https://doi.org/10.1109/ICIP46576.2022.9897617", "our reading"
    )
    forwards = Forwards("2C suffixes + 9", 9, per_channel=2)
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
        tau: NotNegative = 0.02,
        clusters: Count = 8,
        **options: Unpack[FeatureOptions],
    ) -> Attributions:
        """Compute the map.

        Args:
            tau (float, optional): part of the score that a group must be worth to be split.
                Default: 0.02
            clusters (int, optional): how many groups to begin with. Default: 8
        """
        return self.explain(locals())

    def cam(self, state: LayerState, tau: NotNegative, clusters: Count) -> Tensor:
        A = state.activations
        D = directions(A)
        w = A.new_zeros(A.shape[:2])
        level = [clustered(vectors, clusters) for vectors in D]
        while any(level):
            drops = self._drops(state, level)
            below: list[list[Group]] = [[] for _ in level]
            for example, groups in enumerate(level):
                for group, drop in zip(groups, drops[example].tolist(), strict=False):
                    if len(group) == 1 or abs(drop) <= tau:
                        w[example, group] = drop / len(group)
                    else:
                        below[example] += split(D[example], group)
            level = below
        return weighted_sum(w, A)

    def _drops(self, state: LayerState, level: list[list[Group]]) -> Tensor:
        """Return the relative drop of every example's groups, (N, most groups)."""
        A = state.activations
        most = max(map(len, level))
        counts = torch.tensor([len(groups) for groups in level], device=A.device)
        live = torch.arange(most, device=A.device) < counts[:, None]
        kept = torch.ones(len(A), most, A.shape[1], device=A.device, dtype=torch.bool)
        for example, groups in enumerate(level):
            for number, group in enumerate(groups):
                kept[example, number, group] = False

        def without(example: int, ids: Tensor) -> Tensor:
            mask = kept[example, ids]
            return A[example] * mask.reshape(*mask.shape, *[1] * (A.dim() - 2))

        return relative_drop(state.scores, state.features.score(most, without, live).scores)


def clustered(vectors: Tensor, clusters: int) -> list[Group]:
    """Split the channels that are not zero, given as directions (C, P), into groups."""
    live = vectors.any(1).nonzero()[:, 0].tolist()
    groups = [live] if live else []
    while len(groups) < min(clusters, len(live)):
        largest = max(groups, key=lambda group: (len(group), -group[0]))
        groups.remove(largest)
        groups += split(vectors, largest)
    return groups


def split(vectors: Tensor, group: Group) -> list[Group]:
    """Split a group of at least two channels in two by the directions (C, P) of its channels."""
    # A caller's autocast would round the products, and with them the sides.
    with torch.autocast(vectors.device.type, enabled=False):
        V = vectors[group]
        first = V[int((V @ V.sum(0)).argmin())]
        second = V[int((V @ first).argmin())]
        is_first = torch.zeros(len(V), dtype=torch.bool, device=V.device)
        # Ten rounds settle all but a few channels, which may then be on either side.
        for _ in range(10):
            before, is_first = is_first, V @ first >= V @ second
            if bool(is_first.all()):
                # Channels of one direction have no two sides; halves are as good as any.
                is_first = torch.arange(len(V), device=V.device) < len(V) // 2
                break
            if torch.equal(before, is_first):
                break
            first, second = (_mean_direction(V[side]) for side in (is_first, ~is_first))
    sides = is_first.tolist()
    return [[k for k, s in zip(group, sides, strict=True) if s == side] for side in (True, False)]


def _mean_direction(vectors: Tensor) -> Tensor:
    total = vectors.sum(0)
    length = total.norm()
    return total / length if length > 0 else total
