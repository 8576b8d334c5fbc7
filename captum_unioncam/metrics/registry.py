"""What every metric is: its function, direction and range as data."""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from captum_unioncam.engine.arguments import closest, read_options
from captum_unioncam.metrics.adcc import adcc, coherency, complexity
from captum_unioncam.metrics.arcc import arcc
from captum_unioncam.metrics.curves import deletion, insertion
from captum_unioncam.metrics.equal_area import drop_at_area, keep_at_area, rank_average_drop
from captum_unioncam.metrics.faithfulness import average_drop, average_gain, average_increase, beta
from captum_unioncam.metrics.localization import (
    energy_pointing_game,
    iou,
    max_box_acc,
    pointing_game,
)
from captum_unioncam.metrics.mosaic import grid_pointing_at_area, grid_pointing_game
from captum_unioncam.metrics.remove_and_debias import road


class Metric(NamedTuple):
    """A metric of class activation maps.

    Attributes:
        title (str): its readable name.
        function (Callable): called as ``function(forward_func, inputs, attributions, ...)``.
        higher_is_better (bool): its direction.
        low (float): the smallest value it can take.
        high (float): the largest.
        unit (str): "%" or empty.
        link (str): address of the paper that defines it; empty for common knowledge.
        needs (tuple[str, ...]): keywords of which it needs one.
        options (Mapping[str, Any]): those that text gave with its name.
    """

    title: str
    function: Callable[..., Any]
    higher_is_better: bool
    low: float
    high: float
    unit: str
    link: str
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = MappingProxyType({})


METRICS: dict[str, Metric] = {
    "beta": Metric("β", beta, True, -1, 1, "", "https://doi.org/10.3389/fnbot.2024.1490198"),
    "average_drop": Metric(
        "Average drop", average_drop, False, 0, 100, "%", "https://arxiv.org/abs/1710.11063"
    ),
    "average_increase": Metric(
        "Average increase", average_increase, True, 0, 100, "%", "https://arxiv.org/abs/1710.11063"
    ),
    "average_gain": Metric(
        "Average gain", average_gain, True, 0, 100, "%", "https://arxiv.org/abs/2301.07002"
    ),
    "insertion": Metric("Insertion", insertion, True, 0, 1, "", "https://arxiv.org/abs/1806.07421"),
    "deletion": Metric("Deletion", deletion, False, 0, 1, "", "https://arxiv.org/abs/1806.07421"),
    "keep_at_area": Metric(
        "Keep at area", keep_at_area, True, 0, 1, "", "https://arxiv.org/abs/1704.03296"
    ),
    "drop_at_area": Metric(
        "Drop at area", drop_at_area, False, 0, 1, "", "https://arxiv.org/abs/1704.03296"
    ),
    "rank_average_drop": Metric(
        "Average drop of ranks", rank_average_drop, False, 0, 100, "%",
        "https://arxiv.org/abs/1710.11063",
    ),
    "coherency": Metric(
        "Coherency", coherency, True, 0, 1, "", "https://arxiv.org/abs/2104.10252",
        ("explanation_func",),
    ),
    "complexity": Metric(
        "Complexity", complexity, False, 0, 1, "", "https://arxiv.org/abs/2104.10252"
    ),
    "adcc": Metric(
        "ADCC", adcc, True, 0, 1, "", "https://arxiv.org/abs/2104.10252", ("explanation_func",)
    ),
    "arcc": Metric(
        "ARCC", arcc, True, 0, 1, "", "https://arxiv.org/abs/2605.14641", ("explanation_func",)
    ),
    "road": Metric("ROAD", road, True, -0.5, 0.5, "", "https://arxiv.org/abs/2202.00449"),
    "pointing_game": Metric(
        "Pointing game", pointing_game, True, 0, 1, "", "https://arxiv.org/abs/1608.00507",
        ("boxes", "masks"),
    ),
    "energy_pointing_game": Metric(
        "Energy pointing game", energy_pointing_game, True, 0, 1, "",
        "https://arxiv.org/abs/1910.01279", ("boxes", "masks"),
    ),
    "grid_pointing_game": Metric(
        "Grid pointing game", grid_pointing_game, True, 0, 1, "",
        "https://arxiv.org/abs/2104.00032", ("cell",),
    ),
    "grid_pointing_at_area": Metric(
        "Grid pointing at area", grid_pointing_at_area, True, 0, 1, "",
        "https://arxiv.org/abs/2104.00032", ("cell",),
    ),
    "iou": Metric("IoU", iou, True, 0, 1, "", "", ("boxes", "masks")),
    "max_box_acc": Metric(
        "MaxBoxAcc", max_box_acc, True, 0, 1, "", "https://arxiv.org/abs/2001.07437", ("boxes",)
    ),
}  # fmt: skip


def metric_of(text: str) -> Metric:
    """Return the metric that text names, with options after colons, as methods are named.

    Args:
        text (str): ``name:option=value:option=value``; values are Python literals or plain words.

    Returns:
        *Metric* whose function has these options, and whose title names them.

    Raises:
        ValueError: if there is no such metric or option, naming the closest ones.

    Examples::

        >>> metric_of("keep_at_area:background=noise").title
        'Keep at area background=noise'
        >>> metric_of("adcc") is METRICS["adcc"]
        True
    """
    name, *assignments = text.strip().split(":") if isinstance(text, str) else (text,)
    if name not in METRICS:
        known = ", ".join(sorted(METRICS))
        raise ValueError(f"no metric {name!r}{closest(str(name), METRICS)}; known: {known}")
    metric = METRICS[name]
    if not assignments:
        return metric
    parameters = inspect.signature(metric.function).parameters.values()
    takes = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    options = read_options(text, name, assignments, takes)
    return metric._replace(
        title=" ".join([metric.title, *assignments]),
        function=functools.partial(metric.function, **options),
        options=options,
    )
