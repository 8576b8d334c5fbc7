"""What to compare: named selections of methods and metrics, as data."""

from collections.abc import Sequence
from typing import NamedTuple

from captum_unioncam.comparison.method_spec import parse_spec
from captum_unioncam.metrics import METRICS

DROP = ("average_drop", "average_increase")
CURVES = ("insertion", "deletion")
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


def needs_boxes(metric: str) -> bool:
    """Return whether a metric compares maps with the boxes of objects."""
    return "boxes" in METRICS[metric].needs


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
