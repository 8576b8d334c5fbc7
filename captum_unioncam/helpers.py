"""``black_baseline`` and ``as_explanation_func`` where they were first."""

from captum_unioncam.baselines import black_baseline
from captum_unioncam.metrics.explanation_func import as_explanation_func

__all__ = ["as_explanation_func", "black_baseline"]
