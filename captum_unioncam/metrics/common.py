"""What every metric does alike: checked arguments, sized maps, scores of changed inputs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from captum_unioncam.engine import (
    MaskScorer,
    Request,
    check_finite,
    check_flag,
    checked_request,
    measure_inputs,
)
from captum_unioncam.engine.maps import extrema, min_max, resize
from captum_unioncam.metrics.options import DEFAULTS, EvaluationOptions, Forward, Inputs, Maps
from captum_unioncam.metrics.shared import SharedScores, once


@dataclass(frozen=True)
class Evaluation:
    """One call of a metric: checked arguments, prepared maps, and what scores changed inputs.

    Attributes:
        request (Request): what was asked for.
        maps (Tensor): maps in [0, 1] at the size of the inputs, (N, 1, *spatial), in float32 or
            better.
        scorer (MaskScorer): scores masked inputs; `scorer.target` reads any output and
            `scorer.stream` forwards any rows.
        baselines (Any): the baselines as they were given; tells them from others in what is known.
        of_inputs (dict): what is known of the inputs, shared by metrics.
        of_maps (dict): what is known of the maps, shared by metrics.
    """

    request: Request
    maps: Tensor
    scorer: MaskScorer
    baselines: Any = None
    of_inputs: dict[Any, Any] = field(default_factory=dict)
    of_maps: dict[Any, Any] = field(default_factory=dict)

    @property
    def rows(self) -> Tensor:
        """The number of every example, (N,)."""
        return torch.arange(len(self.maps), device=self.scorer.device)

    @property
    def ranks(self) -> Tensor:
        """Every pixel's place in the map's order, as `pixel_ranks` returns it."""
        ranks: Tensor = once(self.of_maps, "ranks", lambda: pixel_ranks(self.maps))
        return ranks

    def masked_scores(
        self, rows: Tensor, masks: Callable[[slice], Tensor], *, show: bool = True
    ) -> Tensor:
        """Score examples under masks made chunk by chunk.

        Args:
            rows (Tensor): the example that each mask belongs to, (R,).
            masks (Callable): takes a slice of the rows, returns their masks, (r, 1, *spatial).
            show (bool, optional): show a progress bar if the user asked for one. Default: True

        Returns:
            *Tensor* of scores f_c, (R,), in float32 or better.

        Raises:
            ValueError: if a score is not finite.
        """

        def for_each_input(chunk: slice) -> list[Tensor]:
            made = masks(chunk)
            return [made if made.shape[2:] == s else resize(made, s) for s in self.scorer.sizes]

        _, scores = self.scorer.score_rows(rows, for_each_input, show=show)[0]
        cause = "the network overflows on them, or a callable score returns such values"
        # Rows of one example stand together in the message, which names examples.
        bad = sorted(set(rows[(~torch.isfinite(scores)).to(rows.device)].tolist()))
        if bad:
            raise ValueError(
                f"scores of changed inputs are NaN or infinite, in example(s) {bad[:5]}; {cause}"
            )
        return scores

    def scores_under(self, *masks: Tensor | int) -> list[Tensor]:
        """Score every example under its mask in each stack, all of them in equal chunks.

        Args:
            masks (Tensor or int): masks in [0, 1] at the size of the inputs, (N, 1, *spatial); or
                1, which shows the inputs, or 0, which shows the baselines. What another metric has
                measured is not measured again.

        Returns:
            *list* of scores f_c, each (N,), in float32 or better. Rounding that depends on the
            rows of a forward is the same in all of them.

        Raises:
            ValueError: if a score is not finite.
        """
        stream = self.scorer.stream
        while True:
            step = stream.step
            scores = [self._score_under(mask, step) for mask in masks]
            # Chunks that were halved for want of memory in between differ by rounding: once more.
            if stream.step == step:
                return scores

    def _score_under(self, mask: Tensor | int, step: int) -> Tensor:
        is_map = isinstance(mask, Tensor)
        # What everything is shown of, baselines are not seen in.
        shown = None if not is_map and mask == 1 else self.baselines
        made = mask if isinstance(mask, Tensor) else torch.full_like(self.maps, mask)
        key = "score", id(mask) if is_map else mask, id(shown), step
        # Held with the score, so that the numbers stay theirs.
        _, _, score = once(
            self.of_maps if is_map else self.of_inputs,
            key,
            lambda: (mask, shown, self.masked_scores(self.rows, made.__getitem__)),
        )
        return cast(Tensor, score)

    def masked_inputs(self) -> tuple[Tensor, ...]:
        """Return the inputs as they look under their maps, in the usual layout."""
        masks = [
            self.maps if self.maps.shape[2:] == s else resize(self.maps, s)
            for s in self.scorer.sizes
        ]
        masked = self.scorer.masked_inputs(masks, self.rows)
        # Not every network takes the layout that the scorer may have chosen for its own forwards.
        return tuple(x.contiguous() for x in masked)


@contextmanager
def evaluation(
    name: str,
    forward_func: Forward,
    inputs: Inputs,
    attributions: Maps,
    **options: Unpack[EvaluationOptions],
) -> Iterator[Evaluation]:
    """Check a metric's arguments, run the clean inputs once and yield what scores changed ones.

    Inside the block gradients are off and the model is in evaluation mode, as in `attribute`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range or of the wrong shape, or values are not
            finite.
    """
    show_progress = options.get("show_progress", False)
    check_flag("show_progress", show_progress)
    shared = options.get("shared")
    if shared is None:
        shared = SharedScores()
    elif not isinstance(shared, SharedScores):
        raise TypeError(f"shared must be SharedScores() or None, got {type(shared).__name__}")
    request = checked_request(
        forward_func,
        None,
        inputs,
        options.get("target"),
        options.get("additional_forward_args"),
        baselines=options.get("baselines"),
        score=options.get("score", DEFAULTS["score"]),
        perturbations_per_eval=options.get("perturbations_per_eval"),
        description=name if show_progress else None,
        scorer=options.get("scorer"),
    )
    alike = ("target", "additional_forward_args", "score", "perturbations_per_eval", "scorer")
    of_inputs = shared.of_inputs(forward_func, inputs, *(options.get(one) for one in alike))
    of_maps = shared.of_maps(of_inputs, attributions)
    with measure_inputs(request, of_inputs) as scorer:
        maps = once(
            of_maps,
            "maps",
            lambda: prepared_maps(attributions, request.num_examples, scorer.sizes[0]).to(
                scorer.device
            ),
        )
        given = options.get("baselines")
        yield Evaluation(request, maps, scorer, given, of_inputs.known, of_maps)


def prepared_maps(
    attributions: Maps,
    num_examples: int,
    size: tuple[int, ...],
    name: str = "attributions",
) -> Tensor:
    """Return attributions as maps in [0, 1] at the size of the inputs.

    Maps of another size are resized linearly (bilinearly for images) and then min-max scaled by
    their extrema there. Attributions of several channels, such as Captum's gradients of a
    picture, are summed over channels first. A flat map has no extrema to scale by: it is clipped
    to [0, 1] as it is, so that a map of ones keeps everything and a map of zeros nothing. Signed
    maps are scaled as they are; clip them at zero first for the papers' maps.

    Args:
        attributions (Tensor or tuple[Tensor]): (N, C, *any spatial size), of the rank of `size`
            plus two.
        num_examples (int): N.
        size (tuple[int, ...]): spatial size of the inputs.
        name (str, optional): what error messages call them. Default: "attributions"

    Returns:
        *Tensor* of shape (N, 1, *size), in float32 or better, detached.

    Raises:
        TypeError: if `attributions` is not a floating point tensor.
        ValueError: if its shape does not fit, or values are not finite.

    Examples::

        >>> prepared_maps(torch.tensor([[[2.0, 4.0, 3.0]]]), 1, (3,))
        tensor([[[0.0000, 1.0000, 0.5000]]])
        >>> prepared_maps(torch.ones(1, 1, 3), 1, (3,))
        tensor([[[1., 1., 1.]]])
    """
    if isinstance(attributions, tuple):
        if len(attributions) != 1:
            raise ValueError(
                f"{name} must be one map per example, got a tuple of {len(attributions)}; "
                "measure the maps of one input or layer tensor at a time"
            )
        attributions = attributions[0]
    if not isinstance(attributions, Tensor) or not attributions.is_floating_point():
        kind = getattr(attributions, "dtype", type(attributions).__name__)
        raise TypeError(f"{name} must be a floating point Tensor, got {kind}")
    shape = tuple(attributions.shape)
    if len(shape) != len(size) + 2 or len(attributions) != num_examples or 0 in shape:
        spatial = ", ".join(["*"] * len(size))
        raise ValueError(
            f"{name} must have shape ({num_examples}, C, {spatial}) for these inputs, got {shape}"
        )
    maps = attributions.detach()
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32)).sum(1, keepdim=True)
    check_finite(name, maps, "clean them before they are measured")
    low, high = extrema(maps)
    check_finite(f"ranges of {name}", high - low, "scale them down before they are measured")
    if tuple(maps.shape[2:]) != tuple(size):
        # Rounding must not give a flat map the contrast that scaling would blow up.
        maps = torch.where(high > low, resize(maps, size), low)
        low, high = extrema(maps)
    return torch.where(high > low, min_max(maps, low, high), maps.clamp(0, 1))


def pixel_ranks(maps: Tensor) -> Tensor:
    """Return every pixel's place when each map is sorted from its largest value to its smallest.

    The sort is stable: of equal values the first in scan order comes first, on every device.

    Args:
        maps (Tensor): (N, 1, *spatial).

    Returns:
        *Tensor* of integers from 0, (N, pixels).

    Examples::

        >>> pixel_ranks(torch.tensor([[[0.5, 0.9, 0.5, 1.0]]]))
        tensor([[2, 1, 3, 0]])
    """
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
