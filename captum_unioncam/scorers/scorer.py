"""What every scorer does alike: it follows the model's weights, and takes rows as it can."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# What runs rows: takes the network's arguments, returns its output.
Run = Callable[..., Tensor]

# How far scores may be from the model's, as a part of the largest: in its own precision, where
# rounding alone differs, and in bfloat16, which keeps eight bits of every value on its way, so that
# a trained network's probabilities are a tenth off now and then.
SINGLE_TOLERANCE = 1e-3
BFLOAT16_TOLERANCE = 0.3
# Deviations that are remembered: of the classes of a comparison, not of all pictures of a data set.
REMEMBERED = 64

# Told of a model and of how many rows a copy of it runs, within `rows_told`.
Told = Callable[[nn.Module, int], None]
_told: list[Told] = []


class ScorerError(ValueError):
    """A scorer that cannot be built for a model, or cannot run what it is given."""


class Scorer:
    """A copy of a model that forwards masked inputs, made by the functions of this package.

    Calling it runs the copy. :meth:`refresh` builds it again if the model's weights have changed
    since; every ``attribute`` does so before it begins.

    Attributes:
        name (str): what made it, such as "onnxruntime".
        model (nn.Module): the model that it copies and follows.
        rows (int, optional): rows of a forward that it runs best; None for the number that the
            engine chooses.
        channels_last (bool): whether it takes images channels-last, or in the usual layout.
        has_threads (bool): whether it runs in threads of its own, not in torch's.
        tolerance (float): how far its scores may be from the model's, as a part of the largest.
        deviation (float, optional): how far they were on the inputs of the last call; None before
            the first.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        make: Callable[[nn.Module], Run],
        *,
        rows: int | None,
        channels_last: bool,
        tolerance: float,
        has_threads: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"{name} copies a torch.nn.Module, got {type(model).__name__}: the weights behind "
                "another callable cannot be followed; give the module, or wrap both in one"
            )
        if not tolerance >= 0:
            raise ValueError(f"tolerance must not be negative, got {tolerance}")
        if rows is not None and rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        self.name, self.model, self.rows = name, model, rows
        self.channels_last, self.tolerance = channels_last, tolerance
        self.has_threads = has_threads
        self.deviation: float | None = None
        self._make = make
        self._state: tuple[Any, ...] = ()
        # By what tells the inputs, which is not the inputs.
        self._deviations: dict[Any, float] = {}
        self.refresh()

    def __call__(self, *arguments: Any) -> Tensor:
        """Run the copy on the network's arguments.

        Raises:
            ScorerError: if it cannot run them.
        """
        for told in _told:
            told(self.model, len(arguments[0]))
        return self._run(*arguments)

    def __repr__(self) -> str:
        told = "" if self.deviation is None else f", deviation {self.deviation:.2g}"
        return f"Scorer({self.name!r} of {type(self.model).__name__}{told})"

    def refresh(self) -> bool:
        """Build the copy again if the model's weights have changed; return whether they had.

        Raises:
            ScorerError: if the changed model cannot be copied.
        """
        state = weights_state(self.model)
        if state == self._state:
            return False
        # What is made in inference mode could not be exported or compiled.
        with torch.inference_mode(False), torch.no_grad():
            self._run = self._make(frozen_copy(self.model, self.name))
        self._state, self.deviation = state, None
        self._deviations.clear()
        return True

    def was_compared_on(self, inputs: Any) -> bool:
        """Return whether these inputs, given as what tells them, have a `deviation`; set it."""
        if inputs not in self._deviations:
            return False
        self.deviation = self._deviations[inputs]
        return True

    def compared(self, deviation: float, inputs: Any) -> None:
        """Note the deviation found on inputs, given as what tells them."""
        if len(self._deviations) == REMEMBERED:
            self._deviations.pop(next(iter(self._deviations)))
        self.deviation = self._deviations[inputs] = deviation


@contextmanager
def rows_told(told: Told) -> Iterator[None]:
    """Tell of all rows that scorers run within the block, whatever model they copy."""
    _told.append(told)
    try:
        yield
    finally:
        _told.remove(told)


def weights_state(model: nn.Module) -> tuple[Any, ...]:
    """Return what changes whenever the model's modules, weights or buffers do, or torch's threads.

    An assignment through ``.data`` leaves a tensor's version alone, so values are summed too.
    """
    # A runtime's number of threads is fixed when it is built.
    state: list[Any] = [torch.get_num_threads(), *map(id, model.modules())]
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        version = 0 if tensor.is_inference() else tensor._version
        # As text, NaN equals itself.
        total = str(tensor.detach().sum().item())
        state.append((name, id(tensor), tensor.data_ptr(), version, total))
    return tuple(state)


def frozen_copy(model: nn.Module, name: str) -> nn.Module:
    """Return a copy of a model in evaluation mode that needs no gradients.

    Raises:
        ScorerError: if the model cannot be copied.
    """
    inner = model.module if isinstance(model, nn.DataParallel) else model
    try:
        made = copy.deepcopy(inner)
    # A module may forbid copies in any way.
    except Exception as error:
        raise ScorerError(
            f"{name} cannot copy {type(inner).__name__}: {first_line(error)}"
        ) from error
    # The flag alone: a model's own train() may do more than set it.
    for module in made.modules():
        module.training = False
    made.requires_grad_(False)
    made.zero_grad(set_to_none=True)
    return made


def in_blocks(run: Run, rows: int, arguments: Sequence[Any], has_rows: Sequence[bool]) -> Tensor:
    """Run arguments in blocks of exactly `rows` rows; the last row fills up the last block.

    Args:
        run (Callable): takes the arguments of one block.
        rows (int): its rows.
        arguments (Sequence): the network's arguments.
        has_rows (Sequence[bool]): which of them have rows; the others go into every block.

    Returns:
        *Tensor* of the outputs without the filling, one row for each given.
    """
    total = next(len(x) for x, has in zip(arguments, has_rows, strict=True) if has)
    outputs = []
    for start in range(0, total, rows):
        given = min(rows, total - start)
        block = [
            _filled(x[start : start + given], rows) if has else x
            for x, has in zip(arguments, has_rows, strict=True)
        ]
        outputs.append(run(*block)[:given])
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _filled(x: Tensor, rows: int) -> Tensor:
    if len(x) == rows:
        return x
    filled = torch.cat([x, x[-1:].expand(rows - len(x), *x.shape[1:])])
    is_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return filled.contiguous(memory_format=torch.channels_last) if is_last else filled


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, cut to what a message bears."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
