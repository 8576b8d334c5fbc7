"""``black_baseline`` and ``as_explanation_func`` where they were first."""

from captum_unioncam.baselines import as_explanation_func, black_baseline

__all__ = ["as_explanation_func", "black_baseline"]
