"""Metrics of class activation maps: what they keep, where they point, whether they are stable."""

from captum_unioncam.metrics.adcc import adcc, coherency, complexity
from captum_unioncam.metrics.arcc import arcc
from captum_unioncam.metrics.branch_flips import branch_flip_rate
from captum_unioncam.metrics.curves import deletion, insertion
from captum_unioncam.metrics.equal_area import drop_at_area, keep_at_area, rank_average_drop
from captum_unioncam.metrics.faithfulness import average_drop, average_gain, average_increase, beta
from captum_unioncam.metrics.localization import (
    energy_pointing_game,
    iou,
    max_box_acc,
    max_box_accuracy,
    pointing_game,
)
from captum_unioncam.metrics.mosaic import (
    grid_pointing_at_area,
    grid_pointing_game,
    make_mosaics,
)
from captum_unioncam.metrics.protocols import PROTOCOLS, Protocol, protocol_arguments
from captum_unioncam.metrics.registry import METRICS, Metric, metric_of
from captum_unioncam.metrics.remove_and_debias import road
from captum_unioncam.metrics.shared import SharedScores
from captum_unioncam.metrics.stability import parameter_randomisation

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Metric",
    "Protocol",
    "SharedScores",
    "adcc",
    "arcc",
    "average_drop",
    "average_gain",
    "average_increase",
    "beta",
    "branch_flip_rate",
    "coherency",
    "complexity",
    "deletion",
    "drop_at_area",
    "energy_pointing_game",
    "grid_pointing_at_area",
    "grid_pointing_game",
    "insertion",
    "iou",
    "keep_at_area",
    "make_mosaics",
    "max_box_acc",
    "max_box_accuracy",
    "metric_of",
    "parameter_randomisation",
    "pointing_game",
    "protocol_arguments",
    "rank_average_drop",
    "road",
]
