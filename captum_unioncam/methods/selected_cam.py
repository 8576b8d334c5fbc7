"""Selected CAM: the best of a pool of attributions and of the unions of its pairs."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    Attributions,
    ClassActivationMap,
    Forwards,
    GradKwargs,
    Inputs,
    LayerState,
    MaskOptions,
    Source,
    TargetType,
)
from captum_unioncam.engine.area_scores import area_masks, area_scores
from captum_unioncam.engine.areas import Areas
from captum_unioncam.engine.cam import Prepared, by_name
from captum_unioncam.engine.locks import exclusive_use
from captum_unioncam.engine.ties import first_largest
from captum_unioncam.methods.pool import Pool, pool_maps, pool_of
from captum_unioncam.methods.refined_cam import Backgrounds, hiding_with
from captum_unioncam.methods.union_cam import unite

Criterion = Literal["keep_less_drop_at_area", "keep_at_area", "drop_at_area", "beta"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


class SelectedCAMDetails(NamedTuple):
    """What the map was selected from, K candidates: the pool, then the unions of its pairs.

    Attributes:
        names (tuple[str, ...]): what the candidates are called.
        candidates (Tensor): their maps, scaled like the returned one, (N, K, *spatial).
        scores (Tensor): the criterion of each, higher is better, (N, K); minus infinity for maps
            that are flat and for unions that add nothing, which are selected only if all are.
        keep (Tensor, optional): their score with areas kept, (N, K); None if it was not measured.
        drop (Tensor, optional): their score with areas dropped, (N, K); None likewise.
        beta (Tensor, optional): their score as a mask over that of the baseline, (N, members), or
            (N, K) if it is the criterion; None if it was not measured.
        selected (Tensor): which candidate the map is, (N,).
    """

    names: tuple[str, ...]
    candidates: Tensor
    scores: Tensor
    keep: Tensor | None
    drop: Tensor | None
    beta: Tensor | None
    selected: Tensor

    @property
    def chosen(self) -> list[str]:
        """The name of each example's map."""
        return [self.names[k] for k in self.selected.tolist()]


class LayerSelectedCAM(ClassActivationMap):
    r"""Selected CAM: of a pool of attributions and their unions, each example's best.

    .. math::
        L = \arg\max_{M \in P \cup U} S(M), \qquad
        U = \{\mathrm{ReLU}(\beta_i M_i + \beta_j M_j) : i < j\}

    with P the maps of the pool, :math:`\beta_M = f_c(M \circ I_0) - f_c(I_b)`, and as criterion S
    by default what the map keeps less what it drops, at areas a that are equal for all maps, on
    several backgrounds b:

    .. math::
        S(M) = \operatorname*{mean}_{a, b}\;
        f_c(M_a \odot I_0 + (1 - M_a) \odot b) - f_c((1 - M_a) \odot I_0 + M_a \odot b)

    and :math:`M_a` one for the share a of the pixels where M is largest. It is UnionCAM's union
    (AMU) and selection (AMS) for any attributions: the paper's are those of the pool
    ``("unioncam.region", "unioncam.denoised")`` with ``criterion="beta"``, except that the paper
    does not select its denoised map. At equal area no map gains by covering more.

    Members are named like methods of :func:`captum_unioncam.compare`, may be on other layers, and
    any attribution of Captum's or map of your own is one. Those on this layer share its clean
    pass and masked forwards. Each keeps its default score unless `score` differs from this
    method's. All are min-max scaled and have the size of the finest. Candidates of exactly the
    same order of pixels have exactly the same score, and the first of equal scores,
    but for rounding (:data:`captum_unioncam.engine.ties.TIE`), is selected:
    the order of the pool, then of its pairs.

    **It optimises what faithfulness metrics measure**: judge it on backgrounds and measures that
    were not its criterion, and expect less from it than from its best member chosen with
    hindsight.

    A relative is MetaCAM (Kaczmarek et al. 2023, https://arxiv.org/abs/2307.16863), which combines
    the most activated pixels of several maps by consensus.

    Cost: that of the members, measured once; then one forward for each member's β, and for each
    candidate two for each area and background. The default pool masks no channel by itself.

    Source: this project, a generalisation of Hu, Wang, Lin, Yu: UnionCAM. Frontiers in
    Neurorobotics, 2024. https://doi.org/10.3389/fnbot.2024.1490198

    Examples::

        >>> from torch import nn
        >>> from captum.attr import Saliency
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> method = LayerSelectedCAM(net.eval(), net[1])
        >>> method.attribute(x, target=1).shape
        torch.Size([2, 1, 6, 6])
        >>> options = {"pool": ("unioncam", ("scorecam", {"weights": "softmax"}), Saliency(net))}
        >>> attr, details = method.explain_in_detail({"inputs": x, "target": 1, "options": options})
        >>> attr.shape, details.scores.shape, details.names[3]
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 6]), 'UnionCAM + Score-CAM')
    """

    name = "Selected CAM"
    source = Source(
        "this project, after Hu et al., Frontiers in Neurorobotics", 2024,
        "https://doi.org/10.3389/fnbot.2024.1490198", "by definition",
    )  # fmt: skip
    forwards = Forwards("the pool's + members + 12 × candidates", 333)
    is_scaled = True

    def attribute(
        self,
        inputs: Inputs,
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        grad_kwargs: GradKwargs = None,
        *,
        pool: Pool = ("gradcam", "layercam", "regressioncam:select=False"),
        unions: bool = True,
        criterion: Criterion = "keep_less_drop_at_area",
        areas: Areas = (0.1, 0.3, 0.5),
        backgrounds: Backgrounds = ("black", "blur"),
        **options: Unpack[MaskOptions],
    ) -> Attributions:
        """Compute the map; ``explain_in_detail`` also tells all candidates and their scores.

        Args:
            pool (Sequence, Mapping or str, optional): names of methods with options after
                colons ("unioncam:theta=30", "unioncam.region"), attribution objects, tuples of
                one of them and its options, or maps (N, 1, *spatial); a mapping gives each its
                label; in one string, names separated by slashes.
                Default: ("gradcam", "layercam", "regressioncam:select=False")
            unions (bool, optional): also select from the unions of all pairs. Default: True
            criterion (str, optional): "keep_less_drop_at_area"; "keep_at_area" or "drop_at_area"
                alone; or "beta", the score of the soft mask, which is the paper's.
                Default: "keep_less_drop_at_area"
            areas (Sequence[float], optional): shares of the pixels. Default: (0.1, 0.3, 0.5)
            backgrounds (tuple[str, ...], optional): names of
                :data:`captum_unioncam.baselines.BASELINES`; "black" stands for what `baselines`
                gives. Default: ("black", "blur")
        """
        return self.explain(locals())

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        """Check the arguments and name the pool's members, before any forward."""
        prepared = super().prepare(arguments)
        members = pool_of(prepared.options["pool"], self)
        return prepared._replace(options={**prepared.options, "pool": members})

    def explain_in_detail(self, arguments: Mapping[str, Any]) -> tuple[Attributions, Any]:
        """Return the maps and their details, holding the models of the pool all at once."""
        given = by_name(arguments)
        with exclusive_use(self.forward_func, self.layer, given.get("scorer"), given.get("pool")):
            return super().explain_in_detail(arguments)

    def cam(
        self,
        state: LayerState,
        pool: Mapping[str, Any],
        unions: bool,
        criterion: Criterion,
        areas: Areas,
        backgrounds: Backgrounds,
    ) -> tuple[Tensor, SelectedCAMDetails]:
        masks, names = state.masks, list(pool)
        M = masks.scale_for_resize(pool_maps(state, pool, self))
        live = M.flatten(2).any(2)
        keep = drop = beta = None
        if unions:
            beta = masks.score_over_baseline(M)
            pairs = list(combinations(range(len(names)), 2))
            united = [unite(M[:, [i]], M[:, [j]], beta[:, i], beta[:, j]) for i, j in pairs]
            both = [live[:, i] & live[:, j] for i, j in pairs]
            M = torch.cat([M, *map(masks.scale_for_resize, united)], dim=1)
            live = torch.stack([*live.unbind(1), *both], dim=1) & M.flatten(2).any(2)
            names += [f"{names[i]} + {names[j]}" for i, j in pairs]
        if criterion == "beta":
            # All in one call, where equal maps share a forward.
            beta = masks.score_over_baseline(M)
            S = beta.cpu().double()
        else:
            scorers = [hiding_with(state, name) for name in backgrounds]
            found = area_masks(M, live, areas, masks.sizes)
            S = torch.zeros(M.shape[:2], dtype=torch.float64)
            if criterion != "drop_at_area":
                keep = area_scores(scorers, found, keep=True)
                S = S + keep
            if criterion != "keep_at_area":
                drop = area_scores(scorers, found, keep=False)
                S = S - drop
        S = S.where(live.cpu(), -torch.inf)
        # What S was summed of, which it rounds with.
        known = state.scores[:, None], masks.baseline.scores, keep, drop, beta
        sizes = [s.cpu().abs().amax(1) for s in known if s is not None]
        size = torch.stack(sizes, dim=1).amax(1, keepdim=True).to(state.scores.dtype)
        best = first_largest(S, size).to(M.device)
        L = M[torch.arange(len(M), device=M.device), best][:, None]
        return L, SelectedCAMDetails(tuple(names), M, S, keep, drop, beta, best)
