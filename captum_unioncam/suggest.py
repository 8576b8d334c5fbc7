"""Which layer to explain, found by watching one forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_unioncam.engine.arguments import parse_inputs
from captum_unioncam.engine.modules import evaluating


def image_size(inputs: tuple[Tensor, ...]) -> tuple[int, int] | None:
    """Return height and width of the first image among the inputs, if there is one."""
    images = (x for x in inputs if x.is_floating_point() and x.dim() == 4)
    return next(((x.shape[2], x.shape[3]) for x in images), None)


def channels_seem_last(layer_output: Tensor, size: tuple[int, int]) -> bool:
    """Return whether a layer's output over images of that size looks like (N, H, W, C)."""
    if layer_output.dim() != 4:
        return False
    (height, width), (_, rows, columns, last) = size, layer_output.shape
    return rows * width == columns * height and columns * width != last * height and last > columns


# Layers that only pool, drop or pass on what an earlier layer found.
PASSING = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity),
)


class SuggestedLayer(NamedTuple):
    """A layer to explain.

    Attributes:
        name (str): its dotted name in the model, as ``model.get_submodule`` takes it.
        layer (nn.Module): the layer itself.
        why (str): what it was chosen for, in a sentence.
    """

    name: str
    layer: nn.Module
    why: str


class _Call(NamedTuple):
    name: str
    module: nn.Module
    output: Tensor


def suggest_layer(
    model: nn.Module, inputs: Tensor | tuple[Tensor, ...] | None = None
) -> SuggestedLayer:
    """Suggest the layer that class activation maps are usually made of.

    It is the last one whose output is bigger than 1 x 1 in space on the way to the head, leaving
    out pooling and dropout, the class score maps of a convolutional head, and outputs whose
    channels seem to come last, as within Swin. Of nested modules
    that return the same tensor the outermost is named: ``layer4`` for ResNet, ``features`` for
    DenseNet, MobileNet, EfficientNet and ConvNeXt, but ``features.29`` for VGG16, whose
    ``features`` ends in pooling.

    Args:
        model (nn.Module): the model. Its modes and gradients stay as they are.
        inputs (Tensor or tuple[Tensor, ...], optional): an example input. By default zeros of
            shape (1, C, 224, 224), with C from the model's first convolution. Default: None

    Returns:
        *SuggestedLayer* with the layer, its dotted name and the reason.

    Raises:
        TypeError: if `model` is not a module, or `inputs` are not tensors.
        ValueError: if the model does not run on the default input, or no layer is suited, as in
            transformers that work on tokens.

    Examples::

        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1800, 10)
        ... )
        >>> found = suggest_layer(net, torch.zeros(1, 3, 32, 32))
        >>> found.name, found.why
        ('1', 'last spatial output on the way to the head: ReLU giving 8 channels of 30 x 30')
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    examples = parse_inputs(_default_example(model) if inputs is None else inputs)
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        calls, output = _watched(model, examples, is_default=inputs is None)
        ranks = {x.dim() for x in examples if x.is_floating_point()}
        spatial = [
            call
            for call in calls
            if call.output.dim() in ranks & {3, 4, 5} and call.output.shape[2:].numel() > 1
        ]
        shown = image_size(examples)
        maps = [c for c in spatial if shown is None or not channels_seem_last(c.output, shown)]
        some_last = len(maps) < len(spatial)
        reached = _reaching(output, [call.output for call in maps])
    producers: dict[int, nn.Module] = {}
    for call in calls:
        producers.setdefault(id(call.output), call.module)
    scores = _score_maps(output, calls)
    maps = [
        call
        for call, reaches in zip(maps, reached, strict=True)
        if reaches
        and id(call.output) not in scores
        and not isinstance(producers[id(call.output)], PASSING)
        and not isinstance(call.module, PASSING)
    ]
    if not maps and some_last:
        raise ValueError(
            "the model's maps seem to have their channels last; name a layer after they are "
            "permuted to (N, C, H, W), or put a module there that only returns its input so"
        )
    if not maps:
        raise ValueError(
            "no layer gives maps bigger than 1 x 1 on the way to the head; name a layer yourself"
        )
    # Of the modules that return the last map, the one that returns last encloses the others.
    chosen = maps[-1]
    later = calls[next(i for i, call in enumerate(calls) if call is chosen) + 1 :]
    if len({id(call.output) for call in maps}) == 1 and any(c.output.dim() == 3 for c in later):
        raise ValueError(
            f"the model turns into tokens right after {chosen.name!r}, which only cuts the image "
            "into patches; there is no later layer with maps to suggest"
        )
    size = " x ".join(map(str, chosen.output.shape[2:]))
    why = (
        f"last spatial output on the way to the head: {type(chosen.module).__name__} giving "
        f"{chosen.output.shape[1]} channels of {size}"
    )
    times = sum(call.module is chosen.module for call in calls)
    if times > 1:
        why += f" (called {times} times, the last call counts)"
    return SuggestedLayer(chosen.name, chosen.module, why)


def _default_example(model: nn.Module) -> Tensor:
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise ValueError(
            "the model has no 2-D convolution to guess its input from; pass an example as "
            "suggest_layer(model, inputs)"
        )
    return first.weight.new_zeros(1, first.in_channels, 224, 224)


def _watched(
    model: nn.Module, examples: tuple[Tensor, ...], *, is_default: bool
) -> tuple[list[_Call], Any]:
    """Run the model once and return its modules' calls in the order they returned."""
    # No leaves of the graph, which nothing may write into: networks may begin in place.
    copies = [x.detach().clone().requires_grad_(x.is_floating_point()).clone() for x in examples]
    calls: list[_Call] = []
    with _watching(model, calls):
        try:
            return calls, model(*copies)
        except Exception as error:
            if not is_default:
                raise
            raise ValueError(
                f"the model does not run on zeros of shape {tuple(examples[0].shape)} ({error}); "
                "pass an example as suggest_layer(model, inputs)"
            ) from error


@contextmanager
def _watching(model: nn.Module, calls: list[_Call]) -> Iterator[None]:
    names = {module: name for name, module in model.named_modules() if name}

    def look(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            calls.append(_Call(names[module], module, output))

    handles = [module.register_forward_hook(look) for module in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    parts = list(output.values()) if isinstance(output, dict) else output
    return [t for part in parts for t in _tensors(part)] if isinstance(parts, list | tuple) else []


def _reaching(output: Any, maps: list[Tensor]) -> list[bool]:
    """Say which maps the output depends on."""
    total = sum(t.sum() for t in _tensors(output))
    if not isinstance(total, Tensor) or not total.requires_grad:
        return [False] * len(maps)
    in_graph = [t for t in maps if t.requires_grad]
    gradients = torch.autograd.grad(total, in_graph, allow_unused=True) if in_graph else ()
    used = {id(t) for t, g in zip(in_graph, gradients, strict=True) if g is not None}
    return [id(t) in used for t in maps]


def _score_maps(output: Any, calls: list[_Call]) -> set[int]:
    """Return the maps with a channel per class that no linear layer follows: the head's own."""
    classes = {t.shape[1] for t in _tensors(output) if t.dim() > 1}
    last_linear = max(
        (i for i, c in enumerate(calls) if isinstance(c.module, nn.Linear)), default=-1
    )
    return {
        id(call.output)
        for i, call in enumerate(calls)
        if i > last_linear and call.output.dim() > 2 and call.output.shape[1] in classes
    }
