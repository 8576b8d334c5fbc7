"""Similarity with an embedding: of another picture, or of a text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from captum_unioncam.engine.arguments import check_finite
from captum_unioncam.targets.common import scores_in


@dataclass(frozen=True, eq=False)
class EmbeddingSimilarity:
    r"""The cosine similarity of the model's output with an embedding.

    .. math::
        f = \frac{z \cdot e}{\lVert z \rVert \, \lVert e \rVert}

    with z the embedding that the model returns for a row and e the one it is compared with: of
    another picture (metric learning, faces) or of a text (CLIP). Where z is zero, so is f.

    Source: by definition; explained so in Chen, Chen, Hajimirsadeghi, Mori: Adapting Grad-CAM for
    Embedding Networks. WACV, 2020. https://arxiv.org/abs/2001.06538

    Args:
        embedding (Tensor): e, (D,).
        entry (str, optional): the name of the embedding in outputs that are no tensor, such as
            "image_embeds". Default: None

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the embedding is zero, not finite or of another length than the model's.

    Examples::

        >>> import torch
        >>> EmbeddingSimilarity(torch.tensor([0.0, 2.0]))(torch.tensor([[0.0, 5.0], [1.0, 1.0]]))
        tensor([1.0000, 0.7071])
    """

    embedding: Tensor = field(repr=False)
    entry: str | None = None

    def __post_init__(self) -> None:
        e = self.embedding
        if not isinstance(e, Tensor) or not e.is_floating_point():
            kind = getattr(e, "dtype", type(e).__name__)
            raise TypeError(f"embedding must be a floating point Tensor, got {kind}")
        if e.dim() != 1:
            raise ValueError(
                f"embedding must have shape (D,), got {tuple(e.shape)}; for one per example give "
                "target=[EmbeddingSimilarity(e) for e in embeddings]"
            )
        check_finite("embedding", e[None], "clean it first")
        if not bool(e.any()):
            raise ValueError("embedding is zero, which is similar to nothing")
        # The graph it may come from is not part of what is explained.
        object.__setattr__(self, "embedding", e.detach().clone())

    def __call__(self, output: Any) -> Tensor:
        """Return f of every row of what the model returned, (R,)."""
        z = scores_in(output if self.entry is None else _entry(output, self.entry))
        if z.dim() != 2 or z.shape[1] != len(self.embedding):
            raise ValueError(
                f"the model returns shape {tuple(z.shape)} where embeddings (N, "
                f"{len(self.embedding)}) are expected; give the model that embeds, or entry="
            )
        return nn.functional.cosine_similarity(z, self.embedding.to(z)[None], dim=1)


def _entry(output: Any, name: str) -> Any:
    value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    if value is None:
        known = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
        raise ValueError(f"the model's output has no entry {name!r}; it has {', '.join(known)}")
    return value
