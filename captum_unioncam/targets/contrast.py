"""A class against others: Finer-CAM's objective (Zhang et al., CVPR 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from captum_unioncam.engine.arguments import check_choice, check_number
from captum_unioncam.engine.target_scores import parse_target
from captum_unioncam.targets.common import check_index, in_range, scores_in


@dataclass(frozen=True, eq=False)
class ClassContrast:
    r"""A class against others, "why this and not that": Finer-CAM's objective, for any method.

    .. math::
        f = \sum_d w_d \, (y_c - \gamma \, y_d), \qquad
        w_d = \frac{1}{D} \quad\text{or}\quad \frac{p_d}{\sum_{d'} p_{d'}}

    with y the raw outputs, d the D references and p the softmax over all classes, through which
    the gradient runs too. Both weightings are the authors': with equal weights this is
    :math:`y_c - \gamma` times the mean of the references; their code's class weights by
    probability. Their comparison strength is 1 in code; torch-cam takes 0.6.

    Source: Zhang, Gu, Chowdhury, Mai, Carlyn, Berger-Wolf, Su, Chao: Finer-CAM: Spotting the
    Difference Reveals Finer Details for Visual Explanation. CVPR, 2025.
    https://arxiv.org/abs/2501.11309

    Args:
        index (int): the class, c.
        references (int or Sequence[int]): the classes it is compared with;
            :func:`similar_classes` finds them as the authors do.
        gamma (float, optional): how strongly, at least 0; at 0 the class alone is explained.
            Default: 1.0
        weighting (str, optional): weights of the references, "mean" or "probability".
            Default: "mean"

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range, or there is no reference.

    Examples::

        >>> import torch
        >>> y = torch.tensor([[3.0, 1.0, 2.0]])
        >>> ClassContrast(0, [1, 2])(y), ClassContrast(0, 2, gamma=0.5)(y)
        (tensor([1.5000]), tensor([2.]))
        >>> ClassContrast(0, [1, 2], weighting="probability")(y)
        tensor([1.2689])
    """

    index: int
    references: int | Sequence[int]
    gamma: float = 1.0
    weighting: Literal["mean", "probability"] = "mean"

    def __post_init__(self) -> None:
        check_index("index", self.index)
        given = self.references
        references = (given,) if isinstance(given, int) else tuple(given)
        for one in references:
            check_index("a reference", one)
        if not references or self.index in references or len({*references}) < len(references):
            raise ValueError(
                f"references must be classes other than {self.index}, each once, got "
                f"{list(references)}"
            )
        object.__setattr__(self, "references", references)
        check_number("gamma", self.gamma, least=0)
        check_choice("weighting", self.weighting, ("mean", "probability"))

    def __call__(self, output: Any) -> Tensor:
        """Return f of every row of what the model returned, (R,)."""
        y = scores_in(output)
        if y.dim() != 2:
            raise ValueError(
                f"a contrast of classes needs outputs (N, classes), got {tuple(y.shape)}"
            )
        references: Any = self.references
        others = [in_range(one, y.shape[1]) for one in references]
        difference = y[:, [in_range(self.index, y.shape[1])]] - self.gamma * y[:, others]
        if self.weighting == "mean":
            return difference.mean(1)
        # The softmax over the references alone: the others' share of p cancels.
        return (y[:, others].softmax(1) * difference).sum(1)


def similar_classes(output: Any, target: Any, count: int = 3) -> list[tuple[int, ...]]:
    """Return the classes whose raw outputs are nearest to the target's, for each example.

    Finer-CAM compares with the three nearest.

    Args:
        output (Any): what the model returned for N examples, (N, classes).
        target (int, Tensor or list): the class, or one per example.
        count (int, optional): how many. Default: 3

    Returns:
        *list* of tuples of class indices, the nearest first.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if there are not so many classes.

    Examples::

        >>> import torch
        >>> similar_classes(torch.tensor([[3.0, 1.0, 2.0, 9.0]]), 0, 2)
        [(2, 1)]
    """
    y = scores_in(output).detach()
    check_number("count", count, above=0, whole=True)
    if y.dim() != 2 or count >= y.shape[1]:
        raise ValueError(
            f"{count} other classes need outputs (N, classes) with more of them, got "
            f"{tuple(y.shape)}"
        )
    parsed = parse_target(target, len(y))
    found = []
    for row, index in zip(
        y, parsed if isinstance(parsed, list) else [parsed] * len(y), strict=True
    ):
        check_index("target", index)
        own = in_range(index, y.shape[1]) % y.shape[1]
        order = (row - row[own]).abs().argsort(stable=True).tolist()
        found.append(tuple([other for other in order if other != own][:count]))
    return found
