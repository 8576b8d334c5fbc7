"""What is measured on one picture."""

import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_unioncam.benchmark.benchmark_run import BenchmarkRun
from captum_unioncam.benchmark.loading import Prepared
from captum_unioncam.benchmark.presets import needs_boxes, needs_mosaics, needs_photograph
from captum_unioncam.benchmark.rows import Row
from captum_unioncam.benchmark.settings import Settings
from captum_unioncam.comparison.compare import compare
from captum_unioncam.comparison.result import COSTS, Comparison
from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.methods.registry import METHODS
from captum_unioncam.metrics import metric_of
from captum_unioncam.metrics.common import prepared_maps
from captum_unioncam.metrics.localization import POINTING_TOLERANCE
from captum_unioncam.metrics.protocols import PROTOCOLS, protocol_arguments
from captum_unioncam.metrics.similarity import similarities
from captum_unioncam.vision.pictures import PictureError

# The metrics that follow a protocol's way to mask.
DROPS = ("average_drop", "average_increase", "average_gain")


def compared(
    run: BenchmarkRun,
    methods: Mapping[str, str],
    metrics: Sequence[str],
    x: Tensor,
    black: Tensor,
    target: Any,
    *,
    other: Tensor | None = None,
    show_progress: bool = False,
) -> Comparison:
    """Compare methods as the protocol says, by the metrics that need neither boxes nor cells."""
    protocol = run.settings.protocol
    drop, insertion, deletion = protocol_arguments(protocol, black)
    of_protocol = {**dict.fromkeys(DROPS, drop), "insertion": insertion, "deletion": deletion}
    options = {}
    for metric in metrics:
        if needs_boxes(metric) or needs_mosaics(metric):
            continue
        options[metric] = {**of_protocol.get(metric.partition(":")[0], {})}
        options[metric] |= metric_of(metric).options
        if needs_photograph(metric):
            options[metric]["background"] = other
    with warnings.catch_warnings():
        # A blank or worthless map is a result like any other here, and its metrics show it.
        warnings.filterwarnings("ignore", ".* (is blank for|explains nothing where) ", UserWarning)
        return compare(
            methods,
            x,
            target,
            forward_func=run.network.model,
            layer=run.layer,
            # Methods mask as their maps are measured.
            baselines=black if PROTOCOLS[protocol].baseline == "black" else 0,
            metrics=list(options),
            metric_options=options,
            scorer=run.scorer,
            show_progress=show_progress,
        )


def measure_picture(run: BenchmarkRun, picture: Prepared) -> list[Row]:
    """Return a row per class and method of a picture, without what all rows of a run share.

    Rows of mosaics have the metrics that point at a cell, those of pictures all others.

    Raises:
        PictureError: if it shows nothing that could be explained.
        ValueError: if it cannot be measured, such as where scores are not finite.
    """
    settings, network = run.settings, run.network
    x, black = picture.x.to(run.device), picture.black.to(run.device)
    predicted = int(network.outputs(x)[0].argmax())
    classes = classes_of(picture, predicted, settings)
    targets = {str(c): c for c in classes}
    methods = {
        m: drawn_anew(spec, settings.seed, picture.item.image)
        for m, spec in settings.methods.items()
    }
    metrics = [m for m in settings.metrics if needs_mosaics(m) == bool(picture.item.cells)]
    other = picture.other.to(run.device)
    found: dict[tuple[str, str], Row] = {}
    maps: dict[str, Tensor] = {}
    for group in [{m: s} for m, s in methods.items()] if settings.alone else [methods]:
        comparison = compared(run, group, metrics, x, black, targets, other=other)
        maps |= comparison.maps
        found |= {(row["class"], row["method"]): row for row in comparison.rows}
    rows = []
    for number, c in enumerate(classes):
        of_class = {m: cam[:, number : number + 1] for m, cam in maps.items()}
        about = {
            "image": picture.item.image,
            "class": c,
            "class_name": network.class_name(c),
            "predicted": predicted,
            "labels": list(picture.item.labels),
            "disagreement": disagreement(list(of_class.values()), x.shape[2:]),
        }
        for method, spec in methods.items():
            row = found[str(c), method]
            values = {
                name: located_by(name, x, of_class[method], picture, c)
                if needs_boxes(name) or needs_mosaics(name)
                else row[name]
                for name in metrics
            }
            kept = {name: row[name] for name in ("probability", *COSTS)}
            if "scorer" in row:
                kept |= {"ran": row["scorer"], "scorer_deviation": row["scorer_deviation"]}
            rows.append({**about, "method": method, "spec": spec, "metrics": values, **kept})
    return rows


def drawn_anew(spec: str, seed: int, image: str) -> str:
    """Give a method that draws, and whose seed is not given, one of its own for each picture.

    With one seed for all, a control would be a single map, and intervals over pictures blind to it.

    Examples::

        >>> drawn_anew("random", 0, "a.png"), drawn_anew("random:seed=3", 0, "a.png")
        ('random:seed=134742677', 'random:seed=3')
    """
    name, _, options = parse_spec(spec)
    if "seed" not in METHODS[name].options or "seed" in options:
        return spec
    return f"{spec}:seed={zlib.crc32(f'{seed}:{image}'.encode())}"


def classes_of(picture: Prepared, predicted: int, settings: Settings) -> list[int]:
    """Return the classes to explain.

    Raises:
        PictureError: if there is none.
    """
    if picture.item.cells:
        return list(picture.item.labels)
    if settings.target == "predicted":
        return [predicted]
    classes = list(picture.item.labels)
    if any(map(needs_boxes, settings.metrics)):
        classes = [c for c in classes if c in picture.boxes]
    if not classes:
        raise PictureError("no labelled object is in the part that the network sees")
    return classes


def located_by(metric: str, x: Tensor, cam: Tensor, picture: Prepared, label: int) -> Any:
    """Return a metric of localisation for one map of a class, a number or one per threshold.

    The pointing game tolerates its 15 pixels of the picture, `scale` input pixels each.
    """
    options: dict[str, Any] = {}
    if needs_mosaics(metric):
        options["cell"] = picture.item.labels.index(label)
        options["cells"] = math.isqrt(len(picture.item.cells))
    else:
        options["boxes"] = [torch.tensor(picture.boxes[label])]
    if metric == "pointing_game":
        rows, columns = picture.scale
        options["tolerance"] = (POINTING_TOLERANCE * rows, POINTING_TOLERANCE * columns)
    return metric_of(metric).function(None, x, cam.to(x.device), **options)[0].tolist()


def disagreement(maps: Sequence[Tensor], size: Sequence[int]) -> float:
    r"""Return how much maps of one picture differ: the mean of :math:`1 - r` over all pairs.

    r is Pearson's correlation of two maps over the pixels of the input, 0 where one is flat.

    Args:
        maps (Sequence[Tensor]): each (1, 1, *spatial).
        size (Sequence[int]): spatial size of the input, to which they are resized linearly.

    Returns:
        *float* from 0 (all alike) to 2; 0 for a single map.

    Examples::

        >>> up, down = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
        >>> [round(abs(disagreement([up, other], (2,))), 6) for other in (up, down)]
        [0.0, 2.0]
    """
    if len(maps) < 2:
        return 0.0
    shown = torch.cat([prepared_maps(m.double(), 1, tuple(size)) for m in maps])
    first, second = torch.triu_indices(len(maps), len(maps), 1)
    return float((1 - similarities(shown[first], shown[second], "pearson")).mean())
