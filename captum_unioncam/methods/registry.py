"""The family: every method with what the command line, the documents and the tests need of it."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from captum.attr import LayerGradCam

from captum_unioncam.methods.ablation_cam import LayerAblationCAM
from captum_unioncam.methods.ablation_cam_plus_plus import LayerAblationCAMPlusPlus
from captum_unioncam.methods.augmented_grad_cam import LayerAugmentedGradCAM
from captum_unioncam.methods.controls import LayerCenterCAM, LayerOnesCAM, LayerRandomCAM
from captum_unioncam.methods.fd_cam import LayerFDCAM
from captum_unioncam.methods.feature_cam import LayerFeatureCAM
from captum_unioncam.methods.fimf_score_cam import LayerFIMFScoreCAM
from captum_unioncam.methods.fusion_cam import LayerFusionCAM
from captum_unioncam.methods.grad_cam_plus_plus import LayerGradCAMPlusPlus
from captum_unioncam.methods.grad_plus_plus_score_cam import LayerGradPlusPlusScoreCAM
from captum_unioncam.methods.group_cam import LayerGroupCAM
from captum_unioncam.methods.hires_cam import LayerHiResCAM
from captum_unioncam.methods.integrated_grad_cam import LayerIntegratedGradCAM
from captum_unioncam.methods.is_cam import LayerISCAM
from captum_unioncam.methods.layer_cam import LayerCAM
from captum_unioncam.methods.original_cam import LayerOriginalCAM
from captum_unioncam.methods.recipro_cam import LayerReciproCAM
from captum_unioncam.methods.rise import RISE
from captum_unioncam.methods.score_cam import LayerScoreCAM
from captum_unioncam.methods.smooth_grad_cam_plus_plus import LayerSmoothGradCAMPlusPlus
from captum_unioncam.methods.ss_cam import LayerSSCAM
from captum_unioncam.methods.union_cam import LayerUnionCAM
from captum_unioncam.methods.vit_recipro_cam import LayerViTReciproCAM
from captum_unioncam.methods.xgrad_cam import LayerXGradCAM

Certainty = Literal["authors' code", "paper", "secondary sources", "our reading", "by definition"]


class Method(NamedTuple):
    """A method of the family.

    Attributes:
        title (str): its readable name.
        cls (type): its class.
        paper (str): who published it where; empty for controls.
        year (int): year of the paper; 0 for controls.
        link (str): address of the paper.
        needs_gradients (bool): whether it runs a backward.
        forwards (str): rows forwarded per example, in channels C and positions P of the layer.
            A suffix is the part of the network after the layer.
        rows (Callable): the same as a function of C and P, an upper bound: flat and equal
            channels are skipped, and few networks need all nine rows that find out how to run a
            suffix alone.
        certainty (str): what its definition was taken from.
    """

    title: str
    cls: type[Any]
    paper: str
    year: int
    link: str
    needs_gradients: bool
    forwards: str
    rows: Callable[[int, int], int]
    certainty: Certainty

    @property
    def needs_layer(self) -> bool:
        """Whether its class is made with a layer."""
        return "layer" in inspect.signature(self.cls).parameters

    @property
    def options(self) -> dict[str, Any]:
        """Keyword-only parameters of `attribute` and their defaults."""
        parameters = inspect.signature(self.cls.attribute).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


METHODS: dict[str, Method] = {
    "cam": Method(
        "CAM", LayerOriginalCAM, "Zhou et al., CVPR", 2016, "https://arxiv.org/abs/1512.04150",
        False, "1", lambda c, p: 1, "authors' code",
    ),
    "gradcam": Method(
        "Grad-CAM", LayerGradCam, "Selvaraju et al., ICCV", 2017,
        "https://arxiv.org/abs/1610.02391",
        True, "1", lambda c, p: 1, "authors' code",
    ),
    "gradcam++": Method(
        "Grad-CAM++", LayerGradCAMPlusPlus, "Chattopadhay et al., WACV", 2018,
        "https://arxiv.org/abs/1710.11063",
        True, "1", lambda c, p: 1, "paper",
    ),
    "smoothgradcam++": Method(
        "Smooth Grad-CAM++", LayerSmoothGradCAMPlusPlus, "Omeiza et al.", 2019,
        "https://arxiv.org/abs/1908.01224",
        True, "1 + samples", lambda c, p: 5, "our reading",
    ),
    "xgradcam": Method(
        "XGrad-CAM", LayerXGradCAM, "Fu et al., BMVC", 2020, "https://arxiv.org/abs/2008.02312",
        True, "1", lambda c, p: 1, "authors' code",
    ),
    "augmentedgradcam": Method(
        "Augmented Grad-CAM", LayerAugmentedGradCAM, "Morbidelli et al., ICASSP", 2020,
        "https://github.com/diegocarrera89/AugmentedGradCAM",
        True, "augmentations", lambda c, p: 100, "authors' code",
    ),
    "integratedgradcam": Method(
        "Integrated Grad-CAM", LayerIntegratedGradCAM, "Sattarzadeh et al., ICASSP", 2021,
        "https://arxiv.org/abs/2102.07805",
        True, "1 + steps", lambda c, p: 51, "authors' code",
    ),
    "layercam": Method(
        "LayerCAM", LayerCAM, "Jiang et al., IEEE TIP", 2021,
        "https://doi.org/10.1109/TIP.2021.3089943",
        True, "1", lambda c, p: 1, "authors' code",
    ),
    "hirescam": Method(
        "HiResCAM", LayerHiResCAM, "Draelos and Carin", 2020, "https://arxiv.org/abs/2011.08891",
        True, "1", lambda c, p: 1, "secondary sources",
    ),
    "rise": Method(
        "RISE", RISE, "Petsiuk et al., BMVC", 2018, "https://arxiv.org/abs/1806.07421",
        False, "1 + masks", lambda c, p: 6001, "authors' code",
    ),
    "scorecam": Method(
        "Score-CAM", LayerScoreCAM, "Wang et al., CVPR Workshops", 2020,
        "https://arxiv.org/abs/1910.01279",
        False, "C + 2", lambda c, p: c + 2, "authors' code",
    ),
    "sscam": Method(
        "SS-CAM", LayerSSCAM, "Wang et al.", 2020, "https://arxiv.org/abs/2006.14255",
        False, "samples × C + 2", lambda c, p: 35 * c + 2, "our reading",
    ),
    "iscam": Method(
        "IS-CAM", LayerISCAM, "Naidu et al.", 2020, "https://arxiv.org/abs/2010.03023",
        False, "steps × C + 2", lambda c, p: 10 * c + 2, "our reading",
    ),
    "fimfscorecam": Method(
        "FIMF Score-CAM", LayerFIMFScoreCAM, "Li et al., IET Image Processing", 2023,
        "https://ietresearch.onlinelibrary.wiley.com/journal/17519667",
        False, "C suffixes + 9", lambda c, p: c + 9, "our reading",
    ),
    "groupcam": Method(
        "Group-CAM", LayerGroupCAM, "Zhang et al.", 2021, "https://arxiv.org/abs/2103.13859",
        True, "groups + 2", lambda c, p: min(c, 32) + 2, "authors' code",
    ),
    "ablationcam": Method(
        "Ablation-CAM", LayerAblationCAM, "Desai and Ramaswamy, WACV", 2020,
        "https://doi.org/10.1109/WACV45572.2020.9093360",
        False, "C suffixes + 9", lambda c, p: c + 9, "secondary sources",
    ),
    "ablationcam++": Method(
        "Ablation-CAM++", LayerAblationCAMPlusPlus, "Salama et al., ICIP", 2022,
        "https://doi.org/10.1109/ICIP46576.2022.9897617",
        False, "2C suffixes + 9", lambda c, p: 2 * c + 9, "our reading",
    ),
    "reciprocam": Method(
        "Recipro-CAM", LayerReciproCAM, "Byun and Lee, CVPR Workshops", 2024,
        "https://arxiv.org/abs/2209.14074",
        False, "P suffixes + 9", lambda c, p: p + 9, "authors' code",
    ),
    "vitreciprocam": Method(
        "ViT-Recipro-CAM", LayerViTReciproCAM, "Byun and Lee", 2023,
        "https://arxiv.org/abs/2310.02588",
        False, "P suffixes + 9", lambda c, p: p + 9, "authors' code",
    ),
    "fdcam": Method(
        "FD-CAM", LayerFDCAM, "Li et al., ICPR", 2022, "https://arxiv.org/abs/2206.08792",
        True, "2C suffixes + 9", lambda c, p: 2 * c + 9, "authors' code",
    ),
    "featurecam": Method(
        "Feature CAM", LayerFeatureCAM, "Clement, Yang and Cheng", 2024,
        "https://arxiv.org/abs/2403.05658",
        True, "1", lambda c, p: 1, "our reading",
    ),
    "grad++scorecam": Method(
        "Grad++-ScoreCAM", LayerGradPlusPlusScoreCAM, "Soomro, Niaz and Choi, IEEE Access", 2024,
        "https://doi.org/10.1109/ACCESS.2024.3392853",
        True, "C + 2", lambda c, p: c + 2, "our reading",
    ),
    "unioncam": Method(
        "UnionCAM", LayerUnionCAM, "Hu et al., Frontiers in Neurorobotics", 2024,
        "https://doi.org/10.3389/fnbot.2024.1490198",
        True, "C + 5", lambda c, p: c + 5, "paper",
    ),
    "fusioncam": Method(
        "Fusion-CAM", LayerFusionCAM, "Dekdegue et al.", 2026, "https://arxiv.org/abs/2603.05386",
        True, "C + 5", lambda c, p: c + 5, "authors' code",
    ),
    "ones": Method(
        "All ones", LayerOnesCAM, "", 0, "", False, "1", lambda c, p: 1, "by definition"
    ),
    "random": Method(
        "Random map", LayerRandomCAM, "", 0, "", False, "1", lambda c, p: 1, "by definition"
    ),
    "center": Method(
        "Centre Gaussian", LayerCenterCAM, "", 0, "", False, "1", lambda c, p: 1, "by definition"
    ),
}  # fmt: skip


def methods_table(*, markdown: bool = False) -> str:
    """Return the registry as a table: aligned text, or Markdown with links for the documents."""
    header = ["name", "method", "published", "backward", "rows per example", "definition from"]
    rows = []
    for name, method in METHODS.items():
        published = f"{method.paper} {method.year}" if method.year else "control"
        if markdown:
            published = f"[{published}]({method.link})" if method.link else published
            name = f"`{name}`"
        gradients = "yes" if method.needs_gradients else "no"
        rows.append([name, method.title, published, gradients, method.forwards, method.certainty])
    if markdown:
        rows = [header, ["---"] * len(header), *rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip()
        for r in [header, *rows]
    )
