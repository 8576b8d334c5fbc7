"""Gradients of scores of masked inputs with respect to the masks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_finite
from captum_unioncam.engine.mask_scoring import MaskScorer
from captum_unioncam.engine.row_stream import in_chunks
from captum_unioncam.engine.target_scores import output_as_read


def mask_gradients(
    scorer: MaskScorer,
    rows: Tensor,
    masks: Sequence[Tensor],
    gain: Callable[[Tensor, Tensor, slice], Tensor],
) -> list[Tensor]:
    """Return the gradients of a gain, summed over masked inputs, at their masks.

    Rows run through the model itself, in chunks that do not change the result; nothing is added to
    the gradients of its parameters.

    Args:
        scorer (MaskScorer): masks the inputs.
        rows (Tensor): the example that each mask belongs to, (R,).
        masks (Sequence[Tensor]): for each masked input the masks at its size, (R, 1, *size).
        gain (Callable): takes raw outputs and scores f_c of some rows, both (r,), and which they
            are; returns what each contributes, (r,).

    Returns:
        *list* of gradients, of the masks' shapes.

    Raises:
        ValueError: if no gradients flow from the scores to the inputs, or they are not finite.
    """
    request, stream, rows = scorer.request, scorer.stream, rows.to(scorer.device)
    found: list[list[Tensor]] = [[] for _ in masks]

    def run(chunk: slice) -> None:
        some = rows[chunk]
        with torch.enable_grad():
            leaves = [mask[chunk].detach().requires_grad_() for mask in masks]
            returned = stream.differentiable(some, lambda: scorer.masked_inputs(leaves, some))
            output = output_as_read(request.target, returned, len(some))
            total = gain(*scorer.target.target_score(output, some), chunk).sum()
            try:
                gradients = torch.autograd.grad(total, leaves)
            except RuntimeError as error:
                if "does not require grad" in str(error) or "used in the graph" in str(error):
                    raise ValueError(
                        "no gradients flow from the target's score to the input: forward_func "
                        "runs under no_grad or inference_mode, or detaches something on the way"
                    ) from error
                raise
        for kept, gradient in zip(found, gradients, strict=True):
            kept.append(gradient)

    stream.step = in_chunks(len(rows), stream.step, run, request.num_examples)
    gradients = [torch.cat(parts) for parts in found]
    for gradient in gradients:
        check_finite("gradients at masks", gradient, "the network overflows on masked inputs")
    return gradients
