"""Models exported to ONNX, and the runtimes that run them on a CPU."""

import importlib
import warnings
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
)
from captum_unioncam.scorers.signature import Signature

# Most rows of a forward are of so many elements: 4 images of 3 x 224 x 224.
CHUNK_ELEMENTS = 4 * 3 * 224 * 224
LONGEST_CHUNK = 512
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class _OfTensors(nn.Module):
    """A model that takes its tensors alone; its other arguments are fixed."""

    def __init__(self, model: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.model, self.signature = model, signature

    def forward(self, *tensors: Tensor) -> Any:
        """Return the model's output."""
        ready = iter(tensors)
        return self.model(
            *(
                value if shape is None else next(ready)
                for shape, value in zip(self.signature.shapes, self.signature.values, strict=True)
            )
        )


def onnx_bytes(model: nn.Module, signature: Signature) -> bytes:
    """Return a model in ONNX's format, with any number of rows.

    Raises:
        ScorerError: if the model cannot be exported.
    """
    name = signature.name
    if any(x.device.type != "cpu" for x in model.parameters()):
        raise ScorerError(f"{name} runs on a CPU, the model is elsewhere: use compiled or half")
    rows = torch.export.Dim("rows", min=1)
    dynamic = [
        {0: rows} if has_rows else None
        for shape, has_rows in zip(signature.shapes, signature.has_rows, strict=True)
        if shape is not None
    ]
    # One row would be taken for a constant.
    arguments = tuple(signature.placeholders(2))
    if any(x.dtype == torch.bfloat16 for x in (*model.parameters(), *arguments)):
        raise ScorerError(f"{name} takes models in float32, this one is in bfloat16: use compiled")
    network = _OfTensors(model, signature)
    # The flag alone: a model's own train() may do more than set it.
    network.training = False
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                network, arguments, dynamic_shapes=(tuple(dynamic),), strict=False
            )
            exported: Any = torch.onnx.export(program, dynamo=True, verbose=False)
            written: bytes = exported.model_proto.SerializeToString()
    # The exporter's errors have no common class below this.
    except Exception as error:
        raise ScorerError(
            f"{name} cannot export {type(model).__name__} ({type(error).__name__}: "
            f"{first_line(error)}): use compiled or half, or the model itself"
        ) from error
    return written


def needed(name: str, *modules: str) -> Any:
    """Return the first module; the others must be there as well.

    Raises:
        ScorerError: if one is not installed.
    """
    try:
        found = [importlib.import_module(module) for module in modules]
    except ImportError as error:
        raise ScorerError(
            f"{name} needs {error.name}: pip install 'captum-unioncam[runtimes]'"
        ) from error
    return found[0]


def rows_for(signature: Signature) -> int:
    """Return the rows of a forward that a runtime on a CPU runs best."""
    elements = sum(
        torch.Size(shape[1]).numel()
        for shape, has_rows in zip(signature.shapes, signature.has_rows, strict=True)
        if shape is not None and has_rows
    )
    return min(LONGEST_CHUNK, max(1, CHUNK_ELEMENTS // max(1, elements)))


def onnxruntime(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    additional_forward_args: Any = None,
    *,
    rows: int | None = None,
    tolerance: float = SINGLE_TOLERANCE,
) -> Scorer:
    """Run masked inputs with ONNX Runtime on a CPU, in the model's own precision.

    The model is exported once, for any number of rows; the result agrees with it up to rounding.
    Its threads are as many as torch's, and sleep while they wait, so that the two do not take
    each other's processors.

    Args:
        model (nn.Module): the model; it is copied, in evaluation mode.
        example (Tensor or tuple[Tensor, ...]): inputs of the shapes to come, of any values and
            number of rows.
        additional_forward_args (Any, optional): further arguments, as ``attribute`` takes them.
            Tensors with a row for each row of the example follow their rows; what is no tensor
            is fixed. Default: None
        rows (int, optional): rows of a forward. Default: 4 images of 224 x 224
        tolerance (float, optional): how far scores may be from the model's, as a part of the
            largest score, before the model itself is used. Default: 0.001

    Returns:
        *Scorer* for the option ``scorer``.

    Raises:
        ScorerError: a ValueError, if the packages of the extra ``runtimes`` are missing or the
            model cannot be exported.

    Examples::

        >>> import torch
        >>> from captum_unioncam import LayerUnionCAM, scorers
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(144, 3),
        ... ).eval()
        >>> x = torch.rand(2, 3, 8, 8)
        >>> fast = scorers.onnxruntime(net, x)  # doctest: +SKIP
        >>> attr = LayerUnionCAM(net, net[1]).attribute(x, 1, scorer=fast)  # doctest: +SKIP
    """
    signature = Signature("onnxruntime", example, additional_forward_args)

    def make(frozen: nn.Module) -> Run:
        runtime = needed("onnxruntime", "onnxruntime", "onnx", "onnxscript")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin while they wait take the processors from torch's, and torch's from them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = runtime.InferenceSession(
                onnx_bytes(frozen, signature), options, providers=["CPUExecutionProvider"]
            )
        except ScorerError:
            raise
        # Its errors have no common class of their own.
        except Exception as error:
            raise ScorerError(f"onnxruntime cannot run the model: {first_line(error)}") from error
        names = [one.name for one in session.get_inputs()]
        _check_outputs("onnxruntime", len(session.get_outputs()))

        def run(*arguments: Any) -> Tensor:
            tensors = signature.tensors(arguments)
            given = {n: x.contiguous().numpy() for n, x in zip(names, tensors, strict=True)}
            return torch.from_numpy(session.run(None, given)[0])

        return run

    return Scorer(
        "onnxruntime", model, make,
        rows=rows or rows_for(signature), channels_last=False,
        tolerance=tolerance, has_threads=True,
    )  # fmt: skip


def openvino(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    additional_forward_args: Any = None,
    *,
    precision: str = "float32",
    rows: int | None = None,
    tolerance: float | None = None,
) -> Scorer:
    """Run masked inputs with OpenVINO on a CPU, in float32 or in bfloat16.

    Args:
        model (nn.Module): the model; it is copied, in evaluation mode.
        example (Tensor or tuple[Tensor, ...]): inputs of the shapes to come, of any values and
            number of rows.
        additional_forward_args (Any, optional): further arguments, as ``attribute`` takes them.
            Tensors with a row for each row of the example follow their rows; what is no tensor
            is fixed. Default: None
        precision (str, optional): "float32", which agrees with the model up to rounding, or
            "bfloat16", which is faster where the CPU has instructions for it. Default: "float32"
        rows (int, optional): rows of a forward. Default: 4 images of 224 x 224
        tolerance (float, optional): how far scores may be from the model's, as a part of the
            largest score, before the model itself is used. Default: 0.001, and 0.3 in bfloat16

    Returns:
        *Scorer* for the option ``scorer``.

    Raises:
        ScorerError: a ValueError, if the packages of the extra ``runtimes`` are missing or the
            model cannot be exported.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'float32' or 'bfloat16', got {precision!r}")
    name = "openvino" if precision == "float32" else f"openvino-{precision}"
    signature = Signature(name, example, additional_forward_args)
    if tolerance is None:
        tolerance = SINGLE_TOLERANCE if precision == "float32" else BFLOAT16_TOLERANCE

    def make(frozen: nn.Module) -> Run:
        runtime = needed(name, "openvino", "onnx", "onnxscript")
        written = onnx_bytes(frozen, signature)
        try:
            core = runtime.Core()
            program = core.read_model(written)
            compiled = core.compile_model(
                program,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
                    "PERFORMANCE_HINT": "LATENCY",
                    "NUM_STREAMS": 1,
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                    "ENABLE_CPU_PINNING": False,
                },
            )
        # Its errors have no common class of their own.
        except Exception as error:
            raise ScorerError(f"{name} cannot run the model: {first_line(error)}") from error
        _check_outputs(name, len(compiled.outputs))
        request = compiled.create_infer_request()

        def run(*arguments: Any) -> Tensor:
            tensors = signature.tensors(arguments)
            given = {number: x.contiguous().numpy() for number, x in enumerate(tensors)}
            found = request.infer(given, share_inputs=True, share_outputs=True)
            # The next run writes into the same memory.
            return torch.from_numpy(found[0].copy())

        return run

    return Scorer(
        name, model, make,
        rows=rows or rows_for(signature), channels_last=False,
        tolerance=tolerance, has_threads=True,
    )  # fmt: skip


def _check_outputs(name: str, count: int) -> None:
    if count != 1:
        raise ScorerError(f"{name} takes models that return one tensor, this one returns {count}")
