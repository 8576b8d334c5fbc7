"""Whether the positions of a layer follow those of the input: parts of it are changed to see."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from captum_unioncam.engine.layout import Layout
from captum_unioncam.engine.layout_finding import position_axes
from captum_unioncam.suggest.choosing import is_tokens, text_of
from captum_unioncam.suggest.watching import Call, Forward

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
        least, slack = (2, 1.0) if is_tokens(forward, call) else (4, SLACK_OF_MAPS)
        changes = part_changes(model, call.module, layout, examples, axes, least)
        if follows(changes, slack):
            return
    raise ValueError(
        f"where a part of the input changes, {call.name!r} changes most elsewhere: its "
        f"{text_of(forward, call)} are not in the input's order; name a layer yourself, and say "
        "how it lies with layout="
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


def follows(changes: Tensor, slack: float = 1.0) -> bool:
    """Return whether each part of the layer changes most with its own part of the input.

    Some parts of an input change all of a layer more, and some parts of a layer change more with
    everything, such as those away from padded borders: what is compared is beyond both.

    Args:
        changes (Tensor): what `part_changes` returns.
        slack (float): how much more another part may change. Default: 1.0, no more
    """
    expected = changes.mean(0, keepdim=True) * changes.mean(1, keepdim=True)
    # What never changes, as a dead part of a layer, tells nothing.
    share = torch.where(expected > 0, changes / expected, torch.ones_like(changes))
    return bool((share.diagonal() * slack >= share.amax(1)).all())


def _changed(x: Tensor, axes: Sequence[int], part: Sequence[int], parts: list[range]) -> Tensor:
    """Return an input with noise in one of its parts."""
    generator = torch.Generator().manual_seed(0)
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
