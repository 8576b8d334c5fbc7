"""The score of one object that a detector finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_choice, check_flag, check_number
from captum_unioncam.engine.target_scores import at_least_float32
from captum_unioncam.targets.common import check_index


@dataclass(frozen=True, eq=False)
class BoxScore:
    r"""The score of one object that a detector finds: of its box and class, matched by IoU.

    .. math::
        f = p_j, \qquad j = \arg\max_{j : l_j = l} \mathrm{IoU}(b, b_j), \qquad
        f = 0 \text{ if no such } \mathrm{IoU}(b, b_j) \ge t

    with b and l the box and class that are explained, and :math:`b_j, l_j, p_j` the boxes, classes
    and scores that the detector returns for a row. ``weighting="iou"`` takes
    :math:`p_j \, \mathrm{IoU}(b, b_j)`, as D-RISE does without its similarity of class
    probabilities; then the gradient also runs through the box. Of equal overlaps the first is
    taken.

    Outputs are those of torchvision's detectors: one dict for each row, with "boxes" (M, 4) as
    x1, y1, x2, y2, "labels" and "scores" (M,). Detectors drop boxes whose score is low: rows in
    which it is gone have score 0 and no gradient. Examples with objects of their own take a list
    of one target per example.

    Source: Petsiuk, Jain, Manjunatha, Morariu, Mehra, Ordonez, Saenko: Black-box Explanation of
    Object Detectors via Saliency Maps. CVPR, 2021. https://arxiv.org/abs/2006.03204

    Args:
        box (Sequence[float] or Tensor): x1, y1, x2, y2 in pixels of the input.
        label (int, optional): the class; None takes a box of any. Default: None
        iou (float, optional): the least overlap, t. Default: 0.5
        weighting (str, optional): "score" or "iou". Default: "score"
        must_match (bool, optional): raise where no detection matches in the clean picture, whose
            map would be of nothing. Metrics that explain changed pictures need False.
            Default: True

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range; when explained, if nothing matches.

    Examples::

        >>> found = {
        ...     "boxes": torch.tensor([[0.0, 0.0, 4.0, 4.0], [5.0, 5.0, 9.0, 9.0]]),
        ...     "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.9, 0.8]),
        ... }
        >>> BoxScore((5, 5, 9, 8), 2)([found, found])
        tensor([0.8000, 0.8000])
        >>> BoxScore((5, 5, 9, 8), 1)([found])
        tensor([0.])
    """

    box: Sequence[float] | Tensor
    label: int | None = None
    iou: float = 0.5
    weighting: Literal["score", "iou"] = "score"
    must_match: bool = True

    def __post_init__(self) -> None:
        box = self.box.tolist() if isinstance(self.box, Tensor) else list(self.box)
        for value in box:
            check_number("box", value)
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"box must be x1, y1, x2, y2 with x1 < x2 and y1 < y2, got {box}")
        object.__setattr__(self, "box", tuple(map(float, box)))
        if self.label is not None:
            check_index("label", self.label)
        check_number("iou", self.iou, above=0, most=1)
        check_choice("weighting", self.weighting, ("score", "iou"))
        check_flag("must_match", self.must_match)

    def __call__(self, output: Any) -> Tensor:
        """Return f of every row of what the model returned, (R,)."""
        return torch.stack([self._score(found) for found in _detections(output)])

    def check_clean(self, output: Any) -> None:
        """Raise ValueError if nothing matches in a row of the clean inputs' output."""
        for row, found in enumerate(_detections(output) if self.must_match else []):
            overlaps, labels = self._overlaps(found), found["labels"]
            if bool((overlaps >= self.iou).any()):
                continue
            anywhere = _overlaps(found["boxes"], self.box)
            best = int(anywhere.argmax()) if len(anywhere) else None
            nearest = "it found nothing"
            if best is not None:
                corners = [round(value, 1) for value in found["boxes"][best].tolist()]
                nearest = (
                    f"the nearest of {len(labels)} is {corners} of class {int(labels[best])}, "
                    f"with IoU {anywhere[best].item():.2f}"
                )
            raise ValueError(
                f"no detection in clean picture {row} matches {self}: {nearest}; take a box that "
                "the detector returns, lower iou=, or its score threshold"
            )

    def _overlaps(self, found: Mapping[str, Tensor]) -> Tensor:
        overlaps = _overlaps(found["boxes"], self.box)
        return overlaps if self.label is None else overlaps.where(found["labels"] == self.label, 0)

    def _score(self, found: Mapping[str, Tensor]) -> Tensor:
        scores, overlaps = at_least_float32(found["scores"]), self._overlaps(found)
        if not bool((overlaps >= self.iou).any()):
            # Zero that still hangs on the graph, where there is one.
            return scores.sum() * 0
        best = int(overlaps.argmax())
        return scores[best] * overlaps[best] if self.weighting == "iou" else scores[best]


def _detections(output: Any) -> list[Mapping[str, Tensor]]:
    names = ("boxes", "labels", "scores")
    fits = isinstance(output, tuple | list) and all(
        isinstance(found, Mapping) and all(name in found for name in names) for found in output
    )
    if not fits:
        raise TypeError(
            "the score of a box needs a detector's output, a list of one dict for each image with "
            f"'boxes', 'labels' and 'scores', got {type(output).__name__}; give a function of the "
            "model that returns such a list"
        )
    return list(output)


def _overlaps(boxes: Tensor, box: Any) -> Tensor:
    """Return the intersection over union of boxes (M, 4) and one box, (M,)."""
    boxes = at_least_float32(boxes)
    other = boxes.new_tensor(box)
    sides = torch.minimum(boxes[:, 2:], other[2:]) - torch.maximum(boxes[:, :2], other[:2])
    shared = sides.clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (other[2:] - other[:2]).prod()
    return shared / (areas - shared)
