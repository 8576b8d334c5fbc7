"""Scores of the target on perturbed features: the layer's output replaced on its way forward."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_finite
from captum_unioncam.engine.captum_compat import NullProgress, progress, run_forward
from captum_unioncam.engine.target_scores import check_output

if TYPE_CHECKING:
    from captum_unioncam.engine.layer_state import LayerState

# Elements of the layer that one forward carries when the engine chooses.
CHUNK_ELEMENTS = 2**24
LONGEST_CHUNK = 512


class FeatureScores(NamedTuple):
    """What perturbed features earned.

    Attributes:
        logits (Tensor): the target's raw output, (N, K).
        scores (Tensor): the target's score f_c, (N, K).

    """

    logits: Tensor
    scores: Tensor


def score_features(
    state: "LayerState",
    count: int,
    perturbed: Callable[[int, Tensor], Tensor],
    *,
    description: str | None = None,
) -> FeatureScores:
    """Score `count` perturbed versions of every example's features.

    The part of the network before the layer runs on one row per chunk, the part after it on as
    many rows as there are features. Where the part after it needs the other branches in the
    same number of rows, the inputs are repeated instead.

    Args:
        state (LayerState): the measured layer.
        count (int): how many perturbations there are, K.
        perturbed (Callable): takes an example's number and a tensor of R perturbation numbers,
            returns features for them, (R, C, *spatial).
        description (str, optional): shows a progress bar under this name. Default: None

    Returns:
        *FeatureScores*, each (N, K).

    Raises:
        ValueError: if a score is not finite.

    """
    call, num_examples = state.call, len(state.activations)
    fitting = max(1, CHUNK_ELEMENTS // max(1, state.activations[0].numel()))
    step = call.rows_per_forward or min(LONGEST_CHUNK, fitting)
    repeat_inputs = False
    logits, scores = [], []
    show = progress if description else NullProgress
    with show(desc=description, total=num_examples * count, unit="feature") as bar:
        for example in range(num_examples):
            for start in range(0, count, step):
                stop = min(count, start + step)
                ids = torch.arange(start, stop, device=state.activations.device)
                features = perturbed(example, ids)
                output, repeat_inputs = _forward(state, example, features, repeat_inputs)
                rows = torch.full((len(ids),), example, device=output.device)
                logit, score = state.target.read(output, rows)
                logits.append(logit)
                scores.append(score)
                bar.update(len(ids))
    table = FeatureScores(*(torch.cat(v).reshape(num_examples, count) for v in (logits, scores)))
    cause = "the network overflows on them, or a callable score returns such values"
    check_finite("scores of perturbed features", table.scores, cause)
    return FeatureScores(*(values.to(state.activations.device) for values in table))


def _forward(
    state: "LayerState", example: int, features: Tensor, repeat_inputs: bool
) -> tuple[Tensor, bool]:
    """Run the network with its layer giving `features`; say whether inputs were repeated."""
    call, rows = state.call, len(features)
    for repeated in (False, True)[repeat_inputs:]:
        picks = torch.full((rows if repeated else 1,), example)
        inputs = tuple(x[picks.to(x.device)] for x in call.inputs)
        arguments = tuple(call.argument(a, picks) for a in call.extra)
        with _replacing(state, features, example):
            try:
                output = run_forward(call.forward_func, inputs, None, arguments)
            except RuntimeError:
                if repeated:
                    raise
                continue
        if repeated or (isinstance(output, Tensor) and output.dim() and len(output) == rows):
            return check_output(output, rows), repeated
    raise AssertionError("unreachable")


@contextmanager
def _replacing(state: "LayerState", features: Tensor, example: int) -> Iterator[None]:
    """Make the layer's last call give `features`, laid out as the layer's own tensor."""
    laid_out = state.as_layer_tensor(features, example)
    calls = 0

    def replaced(value: Any) -> Any:
        nonlocal calls
        calls += 1
        # A shared module runs several times; its last call is the one that was measured.
        if calls < state.layer_calls:
            return None
        if not isinstance(value, tuple | list):
            return laid_out.to(value.device)
        parts = list(value)
        parts[state.position] = laid_out.to(parts[state.position].device)
        return type(value)(parts)

    layer = state.call.layer
    handle = (
        layer.register_forward_pre_hook(lambda module, args: replaced(args))
        if state.call.attribute_to_layer_input
        else layer.register_forward_hook(lambda module, args, output: replaced(output))
    )
    try:
        yield
    finally:
        handle.remove()
