"""What to compare: named selections of methods and metrics, as data."""

from collections.abc import Sequence
from typing import NamedTuple

from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.metrics import metric_of
from captum_unioncam.metrics.equal_area import PHOTOGRAPH

DROP = ("average_drop", "average_increase")
CURVES = ("insertion", "deletion")
BACKGROUNDS = ("black", "mean", "blur", "noise", "photograph")
COMPARED = ("gradcam", "gradcam++", "layercam", "scorecam", "groupcam", "unioncam")


class Preset(NamedTuple):
    """What it shows, methods as `parse_spec` reads them, and names of metrics."""

    about: str
    methods: tuple[str, ...]
    metrics: tuple[str, ...]


# The numbers in the paper's tables and most of their rows are not known to us, only which metrics
# it measures: the choice of methods is ours.
PRESETS: dict[str, Preset] = {
    "table1": Preset("average drop and increase of CAMs", COMPARED, DROP),
    "table2": Preset("insertion and deletion of CAMs", COMPARED, CURVES),
    "ablation": Preset(
        "what each module of UnionCAM adds: gradients as they are, AMD, the region map, AMU "
        "without AMS, all",
        ("gradcam", "unioncam.denoised", "unioncam.region", "unioncam.union", "unioncam"),
        (*DROP, *CURVES),
    ),
    "theta": Preset(
        "UnionCAM's percentile, taken over all gradients of a channel and over its positive ones",
        (
            "unioncam",
            *(
                f"unioncam:theta={theta}:denoise_on={over}"
                for over in ("all", "positive")
                for theta in (0, 10, 30, 50, 70, 90)
                if (theta, over) != (10, "all")
            ),
        ),
        (*DROP, *CURVES),
    ),
    "equal-area": Preset(
        "16 measures that no map wins by covering more, except average drop, insertion and "
        "deletion: keep and drop at equal area on five backgrounds, ADCC, mosaics",
        (*COMPARED, "fusioncam", "regressioncam", "refinedcam", "ones"),
        (
            *(
                f"{name}_at_area:background={background}"
                for background in BACKGROUNDS
                for name in ("keep", "drop")
            ),
            *CURVES,
            "adcc",
            "grid_pointing_at_area:area=0.1",
            "grid_pointing_at_area:area=0.25",
            "average_drop",
        ),
    ),
    "variants": Preset(
        "readings of UnionCAM's ambiguous steps, and Fusion-CAM, which grew out of it",
        (
            "unioncam",
            "unioncam:alpha=count",
            "unioncam:region_weights=softmax",
            "unioncam:alpha=count:region_weights=softmax",
            "fusioncam",
        ),
        (*DROP, *CURVES),
    ),
}
REFERENCE = "unioncam"


def needs_mosaics(metric: str) -> bool:
    """Return whether a metric compares maps of mosaics with the cell of a class."""
    return "cell" in metric_of(metric).needs


def needs_photograph(metric: str) -> bool:
    """Return whether a metric hides pixels behind another photograph of the run."""
    return metric_of(metric).options.get("background") == PHOTOGRAPH


def needs_boxes(metric: str) -> bool:
    """Return whether a metric compares maps with the boxes of objects."""
    return "boxes" in metric_of(metric).needs


def labelled(specs: Sequence[str]) -> dict[str, str]:
    """Return methods by what tables call them.

    Raises:
        ValueError: if one is unknown, there is none, or one is named twice.

    Examples::

        >>> labelled(["gradcam", "unioncam.denoised", "unioncam:alpha=count"])
        {'Grad-CAM': 'gradcam', 'UnionCAM denoised': 'unioncam.denoised',
         'UnionCAM alpha=count': 'unioncam:alpha=count'}
    """
    labels: dict[str, str] = {}
    for text in specs:
        label = parse_spec(text).title()
        if label in labels:
            raise ValueError(f"--methods names {text!r} twice")
        labels[label] = text.strip()
    if not labels:
        raise ValueError("--methods names no method")
    return labels
