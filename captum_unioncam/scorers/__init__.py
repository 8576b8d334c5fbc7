"""Copies of a model that forward masked inputs faster than the model itself.

Each function returns a :class:`Scorer` for the option ``scorer=`` of a method, built once and used
for many calls; ``scorer="onnxruntime"`` and the other names of `BUILDERS` build the same for the
first call and keep it with the method's object. Through a scorer run all masked inputs: those of
the channels, the baseline and UnionCAM's three maps. The clean forward, gradients, hooks and what
is read of the clean inputs stay on the model.
"""

from captum_unioncam.scorers.exported import onnxruntime, openvino
from captum_unioncam.scorers.named import AUTO, BUILDERS, is_installed, packages_of
from captum_unioncam.scorers.scorer import Scorer, ScorerError
from captum_unioncam.scorers.torch_copies import compiled, half

__all__ = [
    "AUTO",
    "BUILDERS",
    "Scorer",
    "ScorerError",
    "compiled",
    "half",
    "is_installed",
    "onnxruntime",
    "openvino",
    "packages_of",
]
