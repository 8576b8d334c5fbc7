"""Whether the positions of a layer follow those of the input: parts of it are changed to see."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from captum_unioncam.engine.layout import Layout
from captum_unioncam.engine.layout_finding import position_axes
from captum_unioncam.suggest.choosing import is_tokens, text_of
from captum_unioncam.suggest.watching import Call, Forward

# How much more than by chance tokens must change with their own part of the input, beside most
# of all. Those of a vision transformer reach 4, which is all of it; latents in an order of their
# own reach 1.1, and may change most with their own part by chance.
LEAST_OF_TOKENS = 1.2
# How much more a wrong part of maps may change: untrained convolutions can be all but blind to
# where the input changes, and their order is hardly in doubt.
SLACK_OF_MAPS = 1.5


def check_positions(model: nn.Module, forward: Forward, call: Call) -> None:
    """Raise ValueError if parts of the layer do not follow the parts of the input."""
    layout, examples = forward.known_layout(call), forward.examples
    orders = [position_axes(x, layout, forward.seen) for x in examples]
    if not any(orders):
        return
    for attempt in range(max(map(len, orders))):
        axes = [order[attempt % len(order)] if order else () for order in orders]
        # Of three positions or less of a convolution each sees most of the input.
        tokens = is_tokens(forward, call)
        changes = part_changes(model, call.module, layout, examples, axes, 2 if tokens else 4)
        own, most = own_and_most(changes)
        follows = own * (1.0 if tokens else SLACK_OF_MAPS) >= most
        if follows.all() and not (tokens and own.mean() < LEAST_OF_TOKENS):
            return
    raise ValueError(
        f"where a part of the input changes, {call.name!r} does not change most in that part: its "
        f"{text_of(forward, call)} are not in the input's order, or see all of it alike; name a "
        "layer yourself, and say how it lies with layout="
    )


def part_changes(
    model: nn.Module,
    layer: nn.Module,
    layout: Layout,
    examples: tuple[Tensor, ...],
    axes: Sequence[Sequence[int]],
    least: int,
) -> Tensor:
    """Return how much each part of the layer changes (columns) with each of the inputs (rows).

    Args:
        model (nn.Module): the model.
        layer (nn.Module): one of its layers.
        layout (Layout): how the layer's tensor lies on the inputs.
        examples (tuple[Tensor, ...]): the inputs.
        axes (Sequence): for each input the dimensions that are the layout's; none if empty.
        least (int): how many positions a dimension must have to be divided.
    """
    most = 4 if len(layout.size) == 1 else 2
    parts = [range(min(most, size) if size >= least else 1) for size in layout.size]
    before = layout.to_maps(_output_of(model, layer, examples))
    rows = []
    for part in product(*parts):
        changed = tuple(
            _changed(x, order, part, parts) if order else x
            for x, order in zip(examples, axes, strict=True)
        )
        after = layout.to_maps(_output_of(model, layer, changed))
        amount = (after - before).abs().mean((0, 1), dtype=torch.float64)
        rows.append(
            [amount[_place(amount.shape, other, parts)].mean() for other in product(*parts)]
        )
    return torch.tensor(rows)


def own_and_most(changes: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much more than by chance parts of a layer change with parts of the input.

    Some parts of an input change all of a layer more, and some parts of a layer change more with
    everything, such as those away from padded borders: 1 is what these two alone would make.

    Args:
        changes (Tensor): what `part_changes` returns.

    Returns:
        *tuple[Tensor, Tensor]*: for each part of the input, the layer's part that is the same, and
        the one that changes most.
    """
    expected = changes.mean(0, keepdim=True) * changes.mean(1, keepdim=True)
    # What never changes, as a dead part of a layer, tells nothing.
    share = torch.where(expected > 0, changes * changes.mean() / expected, 1.0)
    return share.diagonal(), share.amax(1)


def _changed(x: Tensor, axes: Sequence[int], part: Sequence[int], parts: list[range]) -> Tensor:
    """Return an input with noise in one of its parts."""
    # Another seed than that of the default example, of which this would be a multiple.
    generator = torch.Generator().manual_seed(1)
    scale = x.std() if x.numel() > 1 and x.std() > 0 else 1
    noise = torch.randn(x.shape, generator=generator).to(x) * scale
    place: list[slice] = [slice(None)] * x.dim()
    for axis, one in zip(axes, _place([x.shape[a] for a in axes], part, parts), strict=True):
        place[axis] = one
    changed = x.clone()
    changed[tuple(place)] += noise[tuple(place)]
    return changed


def _place(sizes: Sequence[int], part: Sequence[int], parts: list[range]) -> tuple[slice, ...]:
    """Return where a part is; positions that lie in two parts are in none if others are left."""
    found = []
    for size, number, all_ in zip(sizes, part, parts, strict=True):
        start, end = number * size // len(all_), (number + 1) * size // len(all_)
        inner = -(-number * size // len(all_))
        found.append(slice(inner if inner < end else start, end))
    return tuple(found)


def _output_of(model: nn.Module, layer: nn.Module, examples: tuple[Tensor, ...]) -> Tensor:
    """Return what the layer gives in its last call."""
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, args, output: outputs.append(output.clone()))
    # Networks may draw in evaluation too.
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            model(*(x.clone() for x in examples))
    finally:
        handle.remove()
    return outputs[-1]
