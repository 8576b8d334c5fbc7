"""Rows of changed inputs, streamed through the network in full chunks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_unioncam.engine.captum_compat import Progress, run_forward
from captum_unioncam.engine.scorer_choice import chosen_scorer
from captum_unioncam.engine.target_scores import TargetScores, output_as_read
from captum_unioncam.engine.warn import warn
from captum_unioncam.scorers import Scorer

if TYPE_CHECKING:
    from captum_unioncam.engine.request import Request

# Elements of input that one forward carries when the engine chooses: 4 images of 3 x 224 x 224 on
# a CPU, where more rows fall out of its caches, and 64 on an accelerator, which more rows feed.
CPU_CHUNK_ELEMENTS = 4 * 3 * 224 * 224
ACCELERATOR_CHUNK_ELEMENTS = 64 * 3 * 224 * 224
LONGEST_CHUNK = 512
# What eager and compiled networks say where `view` meets a layout that it cannot take.
VIEW_ERRORS = ("view size is not compatible", "Cannot view a tensor")

# Makes the network's inputs for a part of the rows.
Make = Callable[[slice], tuple[Tensor, ...]]


class RowStream:
    """Forwards rows that are made chunk by chunk; lives as long as one call.

    Args:
        request (Request): what was asked for: network, further arguments, rows per forward.
        example (Tensor): an input whose device, rank and dtype decide on layout and chunk.
    """

    def __init__(self, request: "Request", example: Tensor) -> None:
        self.request = request
        on_cpu = example.device.type == "cpu"
        # Convolutions on a CPU, and in half precision anywhere, run faster channels-last.
        half = example.dtype in (torch.float16, torch.bfloat16)
        self.channels_last = example.dim() == 4 and (on_cpu or half)
        row = sum(x[0].numel() for x in request.inputs)
        step = own_rows(row, example.device)
        self.scorer = chosen_scorer(request, self._run)
        if isinstance(self.scorer, Scorer):
            self.channels_last = self.channels_last and self.scorer.channels_last
            step = self.scorer.rows or step
        self.step = request.rows_per_forward or step

    def score_rows(
        self, rows: Tensor, make: Make, targets: Sequence[TargetScores], bar: Progress
    ) -> list[tuple[Tensor, Tensor]]:
        """Forward every row in full chunks and read it for each target.

        Args:
            rows (Tensor): the example that each row belongs to, (R,).
            make (Callable): takes a slice of the rows, returns the network's inputs for them.
            targets (Sequence[TargetScores]): what is read from each output.
            bar (Progress): is told of every row that is done.

        Returns:
            *list* of (raw outputs, scores) for each target, both (R,).
        """
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in targets]

        def run(chunk: slice) -> None:
            some = rows[chunk]
            output = self.forward(some, chunk, make)
            for reads, target in zip(found, targets, strict=True):
                seen = output_as_read(target.functions, output, len(some))
                self.check_outputs(seen, target)
                reads.append(target.target_score(seen, some))
            bar.update(len(some))

        self.step = in_chunks(len(rows), self.step, run, self.request.num_examples)
        if not len(rows):
            nothing = rows.new_zeros(0, dtype=torch.float32)
            return [(nothing, nothing) for _ in targets]
        return [
            (torch.cat([raw for raw, _ in reads]), torch.cat([score for _, score in reads]))
            for reads in found
        ]

    def check_outputs(self, output: Any, target: TargetScores) -> None:
        """Raise ValueError unless an output is like that of the clean inputs, as a target reads it.

        Callable targets check their own.
        """
        if target.functions is None and tuple(output.shape[1:]) != target.shape:
            who = "scorer" if self.request.scorer_is_own else "forward_func"
            clean = ", ".join(["rows", *map(str, target.shape)])
            raise ValueError(
                f"{who} returned shape {tuple(output.shape)} for masked inputs, but the "
                f"clean ones gave ({clean}): the same outputs are needed"
            )

    def forward(self, rows: Tensor, chunk: slice, make: Make) -> Any:
        """Run one chunk, of which `rows` are the examples; the output is not checked."""
        return self._run(self.scorer, rows, lambda: make(chunk))

    def differentiable(self, rows: Tensor, make: Callable[[], tuple[Tensor, ...]]) -> Any:
        """Run one chunk through the model itself, whatever runs the others; gradients flow."""
        return self._run(self.request.forward_func, rows, make)

    def _run(
        self, scorer: Callable[..., Any], rows: Tensor, make: Callable[[], tuple[Tensor, ...]]
    ) -> Any:
        """Run inputs through a callable; they are made anew, since it may begin in place."""
        arguments = tuple(self.request.argument(argument, rows) for argument in self.request.extra)
        with one_thread_beside(scorer):
            try:
                return run_forward(scorer, self._laid_out(make(), scorer), None, arguments)
            except RuntimeError as error:
                # A network that flattens with `view` needs rows laid out one after the other.
                if not (self.channels_last and any(text in str(error) for text in VIEW_ERRORS)):
                    raise
                self.channels_last = False
                return run_forward(scorer, self._laid_out(make(), scorer), None, arguments)

    def _laid_out(
        self, inputs: tuple[Tensor, ...], scorer: Callable[..., Any]
    ) -> tuple[Tensor, ...]:
        is_last = self.channels_last and getattr(scorer, "channels_last", True)
        layout = torch.channels_last if is_last else torch.contiguous_format
        wanted = None if scorer is self.request.forward_func else _dtype_of(scorer)
        return tuple(
            x.to(wanted if wanted and x.is_floating_point() else x.dtype).contiguous(
                memory_format=layout if x.dim() == 4 else torch.contiguous_format
            )
            for x in inputs
        )


@contextmanager
def one_thread_beside(scorer: Callable[..., Any]) -> Iterator[None]:
    """Let torch work in one thread within the block, if the scorer runs in threads of its own.

    Torch's other threads spin for a while after each operation, on processors that the scorer's
    then lack.
    """
    threads = torch.get_num_threads()
    if threads == 1 or not getattr(scorer, "has_threads", False):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def own_rows(elements: int, device: torch.device) -> int:
    """Return how many rows of so many elements a forward carries when the engine chooses."""
    budget = CPU_CHUNK_ELEMENTS if device.type == "cpu" else ACCELERATOR_CHUNK_ELEMENTS
    return min(LONGEST_CHUNK, max(1, budget // elements))


def in_chunks(rows: int, step: int, run: Callable[[slice], None], num_examples: int) -> int:
    """Run slices of at most `step` rows; where memory runs out, halve them, and warn once.

    Returns:
        *int*: the number of rows that fits.

    Raises:
        torch.OutOfMemoryError: if a single row does not fit.
    """
    start, asked = 0, step
    while start < rows:
        chunk = slice(start, min(rows, start + step))
        try:
            run(chunk)
        except torch.OutOfMemoryError:
            step = (chunk.stop - start) // 2
            if not step:
                raise
            continue
        start = chunk.stop
    if step < asked:
        warn(
            f"{asked} rows in a forward do not fit the device's memory, {step} do: pass "
            f"perturbations_per_eval={max(1, step // num_examples)} to skip the search"
        )
    return step


def _dtype_of(scorer: Any) -> torch.dtype | None:
    """Return the floating point dtype of a module's parameters, None for other callables."""
    if not isinstance(scorer, nn.Module):
        return None
    return next((p.dtype for p in scorer.parameters() if p.is_floating_point()), None)
