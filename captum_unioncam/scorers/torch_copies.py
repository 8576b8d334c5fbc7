"""Copies of a model that torch itself runs: compiled, or in half precision."""

from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.scorers.scorer import (
    BFLOAT16_TOLERANCE,
    SINGLE_TOLERANCE,
    Run,
    Scorer,
    ScorerError,
    first_line,
    in_blocks,
)
from captum_unioncam.scorers.signature import Signature

# Rows of a compiled forward: more fall out of a CPU's caches, and feed an accelerator.
CPU_ROWS = 4
ACCELERATOR_ROWS = 64


def compiled(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...] | None = None,
    additional_forward_args: Any = None,
    *,
    rows: int | None = None,
    tolerance: float = SINGLE_TOLERANCE,
) -> Scorer:
    """Run masked inputs with a compiled copy: weights frozen on a CPU, CUDA graphs on a GPU.

    It is compiled when it first runs, which takes longer than most single maps, for a fixed number
    of rows; fewer are filled up.

    Args:
        model (nn.Module): the model; it is copied, in evaluation mode.
        example (Tensor or tuple[Tensor, ...], optional): inputs of any values and number of rows;
            without it every tensor as long as the first is taken to have rows. Default: None
        additional_forward_args (Any, optional): further arguments, as ``attribute`` takes them.
            Tensors with a row for each row of the example follow their rows. Default: None
        rows (int, optional): rows of a forward. Default: 4 on a CPU, 64 elsewhere
        tolerance (float, optional): how far scores may be from the model's, as a part of the
            largest score, before the model itself is used. Default: 0.001

    Returns:
        *Scorer* for the option ``scorer``.

    Raises:
        ScorerError: a ValueError, if the model cannot be copied; when it first runs, if it cannot
            be compiled.
    """
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    signature = None if example is None else Signature("compiled", example, additional_forward_args)
    step = rows or (CPU_ROWS if on_cpu else ACCELERATOR_ROWS)
    options: dict[str, Any] = {"freezing": True} if on_cpu else {"triton.cudagraphs": True}

    def make(frozen: nn.Module) -> Run:
        network = torch.compile(frozen, dynamic=False, options=options)

        def block(*arguments: Any) -> Tensor:
            try:
                output: Tensor = network(*arguments)
            except torch.OutOfMemoryError:
                raise
            except torch._dynamo.exc.TorchDynamoException as error:
                raise ScorerError(
                    f"compiled cannot compile {type(model).__name__}: {first_line(error)}"
                ) from error
            # A CUDA graph writes its next output into the same memory.
            return output if on_cpu else output.clone()

        def run(*arguments: Any) -> Tensor:
            count = len(arguments[0])
            has_rows = (
                [isinstance(x, Tensor) and x.dim() > 0 and len(x) == count for x in arguments]
                if signature is None
                else signature.has_rows
            )
            return in_blocks(block, step, arguments, has_rows)

        return run

    return Scorer("compiled", model, make, rows=step, channels_last=True, tolerance=tolerance)


def half(model: nn.Module, *, tolerance: float = BFLOAT16_TOLERANCE) -> Scorer:
    """Run masked inputs with a copy in bfloat16, which keeps eight bits of every value.

    Args:
        model (nn.Module): the model; it is copied, in evaluation mode.
        tolerance (float, optional): how far scores may be from the model's, as a part of the
            largest score, before the model itself is used. Default: 0.3

    Returns:
        *Scorer* for the option ``scorer``.

    Raises:
        ScorerError: a ValueError, if the model cannot be copied.
    """

    def make(frozen: nn.Module) -> Run:
        network = frozen.to(torch.bfloat16)

        def run(*arguments: Any) -> Tensor:
            output: Tensor = network(*(_halved(x) for x in arguments))
            return output

        return run

    return Scorer("half", model, make, rows=None, channels_last=True, tolerance=tolerance)


def _halved(value: Any) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(torch.bfloat16) if is_float else value
