"""Finds how a layer's tensor lies on the input, from its shape and from the model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from captum_unioncam.engine.layout import Layout, Layouts, Name, OwnLayout

Side = Literal["first", "last"]
Size = tuple[int, ...]

# Tokens that may lead where only the proportions of the input tell its patches: none, a class
# token, a distillation token or four registers beside it.
LEADING_TOKENS = (0, 1, 2, 5)
# The same where the model's own convolutions tell: also four or eight registers without a class
# token, and eight beside one. Other numbers may as well follow the patches.
LEADING_TOKENS_OF_A_GRID = (*LEADING_TOKENS, 4, 8, 9)

GIVES_MAPS = (
    nn.modules.conv._ConvNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


@dataclass
class ShapesSeen:
    """What convolutions and pooling gave in a forward, which tells what other tensors mean.

    Attributes:
        maps (set): shapes (C, *size) of maps with one row per example.
        takes (dict): by number of dimensions, the channels that the first convolution takes.
        watched (bool): whether there was a model to watch.
        unrolled (bool): whether the model puts its tokens into another order than the input's.
    """

    maps: set[Size] = field(default_factory=set)
    takes: dict[int, int] = field(default_factory=dict)
    watched: bool = False
    unrolled: bool = False

    @contextmanager
    def watching(self, model: nn.Module | None, num_examples: int) -> Iterator[None]:
        """Note what the model's convolutions and pooling give inside the block."""

        def look(module: nn.Module, args: Any, output: Any) -> None:
            # Pooling may also return indices.
            maps = output[0] if isinstance(output, tuple) else output
            if not isinstance(maps, Tensor) or maps.dim() < 3:
                return
            if isinstance(module, nn.modules.conv._ConvNd):
                self.takes.setdefault(maps.dim(), module.in_channels)
            if len(maps) == num_examples:
                self.maps.add(tuple(maps.shape[1:]))

        handles = []
        self.watched |= model is not None
        for module in [] if model is None else model.modules():
            if isinstance(module, GIVES_MAPS):
                handles.append(module.register_forward_hook(look))
            self.unrolled |= "unroll" in type(module).__name__.lower()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def sizes(self) -> set[Size]:
        """Sizes of the maps that are bigger than one position."""
        return {shape[1:] for shape in self.maps if torch.Size(shape[1:]).numel() > 1}


def find_layout(
    tensor: Tensor,
    inputs: Sequence[Tensor],
    layer: nn.Module | None = None,
    seen: ShapesSeen | None = None,
    asked: Name | Layouts | None = None,
) -> Layouts:
    """Return how a layer's tensor lies on the inputs.

    Args:
        tensor (Tensor): what the layer gives, (N, ...), of three to five dimensions.
        inputs (Sequence[Tensor]): the inputs of the model.
        layer (nn.Module, optional): the layer; its modules tell where channels are.
        seen (ShapesSeen, optional): what convolutions and pooling gave on the way.
        asked (optional): what `parse_layout` returned, for a user who knows better.

    Raises:
        ValueError: if no reading fits, or two do.
    """
    seen = ShapesSeen() if seen is None else seen
    if isinstance(asked, Layout | OwnLayout):
        asked.check(tensor)
        return asked
    if asked == "tokens" and tensor.dim() != 3:
        raise ValueError(
            f'layout="tokens" is for layers that give (N, T, D), got shape {tuple(tensor.shape)}'
        )
    channels: Side
    if asked is None:
        channels = _where_channels_are(tensor, inputs, layer, seen)
    else:
        channels = "first" if asked == "maps" else "last"
    positions = _positions(tensor, channels)
    is_maps = len(positions) > 1 or asked in ("maps", "channels_last")
    if asked is None and len(positions) > 1:
        _check_not_attention(tensor, positions, inputs, seen)
    if is_maps or (channels == "first" and not _has_images(inputs)):
        return Layout(positions, channels=channels)
    return _only_grid(tensor, positions[0], channels, inputs, seen)


def lies_on_inputs(positions: Size, inputs: Sequence[Tensor], seen: ShapesSeen) -> bool:
    """Return whether so many positions are those of the inputs, or of maps that the model made."""
    if len(positions) == 1:
        return bool(_grids(positions[0], inputs, seen))
    return positions in seen.sizes | _halved(seen.sizes) or any(
        len(size) == len(positions) and positions[-2] * size[-1] == positions[-1] * size[-2]
        for size in _input_sizes(inputs, seen)
    )


def check_maskable(
    inputs: Sequence[Tensor], maps: Tensor, layout: Layouts, seen: ShapesSeen
) -> None:
    """Raise ValueError unless maps of that layout lie on dimensions 2, 3, ... of the inputs.

    Masks are laid there, and would otherwise cover features, channels or frames.
    """
    floats = [x for x in inputs if x.is_floating_point()]
    for x in floats:
        if x.dim() == maps.dim() and (at := _channels_elsewhere(x, layout, seen, floats)):
            order = {3: "(N, C, L)", 4: "(N, C, H, W)", 5: "(N, C, T, H, W)"}[x.dim()]
            raise ValueError(
                f"the model takes an input of shape {tuple(x.shape)} with its channels in "
                f"dimension {at}, but masks are laid on dimensions 2 to {x.dim() - 1}: explain a "
                f"module that takes {order} and returns model(x.movedim(1, {at}))"
            )
    if not any(x.dim() == maps.dim() for x in floats):
        for x in floats:
            remedies = {
                (2, 3): "takes (N, 1, T) and returns model(x[:, 0])",
                (3, 4): "takes (N, 1, rows, columns) and returns model(x[:, 0]), or "
                "model(x[:, 0].mT) if the maps' rows are the input's last dimension",
            }
            if remedy := remedies.get((x.dim(), maps.dim())):
                raise ValueError(
                    f"no input can be masked: an input of shape {tuple(x.shape)} has no dimension "
                    f"of channels beside its positions; explain a module that {remedy}"
                )


def position_axes(x: Tensor, layout: Layout, seen: ShapesSeen) -> list[tuple[int, ...]]:
    """Return the orders in which dimensions of an input can be the layout's; none fits if empty."""
    axes = tuple(range(1, x.dim()))
    if x.is_floating_point() and x.dim() == len(layout.size) + 2:
        at = _channels_elsewhere(x, layout, seen) or 1
        return [tuple(axis for axis in axes if axis != at)]
    if x.is_floating_point() and x.dim() == len(layout.size) + 1:
        return [axes] if len(axes) == 1 else [axes, axes[::-1]]
    return []


def _channels_elsewhere(
    x: Tensor, layout: Layouts | None, seen: ShapesSeen, inputs: Sequence[Tensor] = ()
) -> int | None:
    """Return the dimension of an input's channels if it is known, and not 1."""
    # Videos may be cut frame by frame.
    channels = seen.takes.get(x.dim(), seen.takes.get(4) if x.dim() == 5 else None)
    if x.dim() == 4 and x.shape[1] in (1, 3):
        return None
    if channels is not None:
        # The convolution may be another input's.
        if any(y.dim() == x.dim() and y.shape[1] == channels for y in inputs):
            return None
        at = [i for i in range(1, x.dim()) if x.shape[i] == channels]
        return at[0] if at and at[0] != 1 else None
    # Without a convolution features come last, as every linear layer has them.
    if x.dim() == 3 and isinstance(layout, Layout) and layout.channels == "last":
        return 2 if layout.size == (x.shape[1],) else None
    return None


def _positions(tensor: Tensor, channels: Side) -> Size:
    return tuple(tensor.shape[2:] if channels == "first" else tensor.shape[1:-1])


def _where_channels_are(
    tensor: Tensor, inputs: Sequence[Tensor], layer: nn.Module | None, seen: ShapesSeen
) -> Side:
    """Return where the channels are: by the layer's modules, then by what fits the inputs."""
    votes = _votes(tensor.shape, layer)
    if len(votes) == 1:
        return votes.pop()
    # An activation or a dropout passes on what a convolution gave, as it was or flattened.
    known = seen.maps | {(shape[0], torch.Size(shape[1:]).numel()) for shape in seen.maps}
    shape = tuple(tensor.shape[1:])
    if shape in known:
        return "first"
    if (shape[-1], *shape[:-1]) in known:
        return "last"
    if tensor.dim() == 3 and _has_images(inputs):
        # Rows of tokens have their features last by convention.
        return "last"
    first, last = (
        lies_on_inputs(_positions(tensor, side), inputs, seen) for side in ("first", "last")
    )
    if first and last:
        raise ValueError(
            f"the layer gives shape {tuple(tensor.shape)}, and two readings fit: channels first "
            'or channels last; say which with layout="channels_first" or layout="channels_last"'
        )
    return "last" if last else "first"


def _votes(shape: Sequence[int], layer: nn.Module | None) -> set[Side]:
    """Return where the layer's modules, by their numbers of channels, would have channels."""
    votes: set[Side] = {"first"} if isinstance(layer, GIVES_MAPS) else set()
    for module in [] if layer is None else layer.modules():
        first: set[int] = set()
        last: set[int] = set()
        if isinstance(module, nn.modules.conv._ConvNd):
            first = {module.in_channels, module.out_channels}
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            first = {module.num_features}
        elif isinstance(module, nn.GroupNorm):
            first = {module.num_channels}
        elif isinstance(module, nn.Linear):
            last = {module.in_features, module.out_features}
        elif isinstance(module, nn.Embedding):
            last = {module.embedding_dim}
        elif isinstance(module, nn.RNNBase):
            last = {module.hidden_size * (1 + module.bidirectional)}
        elif type(module) is nn.LayerNorm:
            last = {module.normalized_shape[-1]}
        elif "Norm" in type(module).__name__:
            # Norms of other libraries; some permute and take channels that come first.
            first = last = {p.numel() for p in module.parameters(recurse=False)}
        if shape[1] in first:
            votes.add("first")
        if shape[-1] in last:
            votes.add("last")
    return votes


def _check_not_attention(
    tensor: Tensor, positions: Size, inputs: Sequence[Tensor], seen: ShapesSeen
) -> None:
    """Raise ValueError for queries, keys and weights of attention: rows of tokens in each head."""
    counts = {torch.Size(size).numel() for size in seen.sizes if len(size) > 1}
    rows = {count + leading for count in counts for leading in LEADING_TOKENS_OF_A_GRID}
    if rows & set(positions) and not lies_on_inputs(positions, inputs, seen):
        raise ValueError(
            f"the layer gives shape {tuple(tensor.shape)}, which seems to hold rows of tokens for "
            "each head of an attention: choose a layer before or after it, such as the block's "
            "norm, or say how it lies with layout="
        )


def _only_grid(
    tensor: Tensor, count: int, channels: Side, inputs: Sequence[Tensor], seen: ShapesSeen
) -> Layout:
    grids = _grids(count, inputs, seen)
    known = _has_images(inputs) or any(len(size) > 1 for size in seen.sizes)
    if not grids and not known:
        grids = [((count,), 0)]
    if len(grids) == 1:
        size, leading = grids[0]
        if seen.unrolled and size in seen.sizes:
            raise ValueError(
                f"the layer gives {count} tokens of a model that takes them out of the input's "
                "order; choose a layer of its last stage, or give layout=(there, back)"
            )
        return Layout(size, leading, channels)
    remedy = "say how they lie with layout=Layout(size, leading_tokens=...) or layout=(there, back)"
    shape = tuple(tensor.shape)
    if grids:
        choices = " or ".join(f"Layout({size}, leading_tokens={k})" for size, k in grids)
        raise ValueError(
            f"the layer gives shape {shape}, and several readings fit: {choices}; {remedy}"
        )
    over = " and ".join(
        ("an image of " if len(size) == 2 else "a video of ") + " x ".join(map(str, size))
        for size in _input_sizes(inputs, seen)
        if len(size) > 1
    )
    raise ValueError(
        f"the layer gives shape {shape}: {count} tokens, with or without a class token in front, "
        f"form no grid of square patches over {over or 'the input'}; {remedy}"
    )


def _grids(count: int, inputs: Sequence[Tensor], seen: ShapesSeen) -> list[tuple[Size, int]]:
    """Return the grids, and the numbers of tokens that lead them, which so many tokens can be."""
    lengths = {size[0] for size in (*_input_sizes(inputs, seen), *seen.sizes) if len(size) == 1}
    sequence: list[tuple[Size, int]] = [((count,), 0)] if count in lengths else []
    if not sequence and not _has_images(inputs):
        kept = {size for size in seen.sizes if len(size) == 1}
        sequence = [(size, count - size[0]) for size in kept if count - size[0] in (1, 2)]
    grids = {size for size in seen.sizes if len(size) > 1}
    for sizes in (grids, _halved(grids)):
        leading = [(size, count - torch.Size(size).numel()) for size in sizes]
        found = [(size, k) for size, k in leading if k in LEADING_TOKENS]
        found = found or [(size, k) for size, k in leading if k in LEADING_TOKENS_OF_A_GRID]
        if found or sequence:
            return sorted(sequence + found)
    # Patches that leave pixels over are cut by convolutions, which a model shows.
    guesses = [(False, LEADING_TOKENS)] + [(True, LEADING_TOKENS[:2])] * (not seen.watched)
    for cut_off, allowed in guesses:
        found = [
            (grid, k)
            for size in {size for size in _input_sizes(inputs, seen) if len(size) == 2}
            for k in allowed
            if (grid := _square_patches(count - k, *size, cut_off=cut_off)) is not None
        ]
        if found:
            return sorted(found)
    return []


def _halved(sizes: set[Size]) -> set[Size]:
    """Return sizes of maps that strides of two make of maps of the given ones."""
    found: set[Size] = set()
    new = {size for size in sizes if len(size) > 1}
    while new:
        halves = {
            half
            for size in new
            for half in (tuple(s // 2 for s in size), tuple(-(-s // 2) for s in size))
            if torch.Size(half).numel() > 1
        }
        new = halves - found - new
        found |= halves
    return found


def _input_sizes(inputs: Sequence[Tensor], seen: ShapesSeen) -> list[Size]:
    """Return the sizes over which positions can lie."""
    sizes: list[Size] = []
    for x in inputs:
        shape = tuple(x.shape[1:])
        if x.dim() == 2:
            sizes.append(shape)
        elif x.is_floating_point() and x.dim() == 3:
            sizes += [shape[1:], shape[:1]]
        elif x.is_floating_point() and x.dim() in (4, 5):
            at = _channels_elsewhere(x, None, seen, inputs) or 1
            sizes.append(shape[: at - 1] + shape[at:])
    return sizes


def _has_images(inputs: Sequence[Tensor]) -> bool:
    ranks = {x.dim() for x in inputs if x.is_floating_point()}
    return bool(ranks & {4, 5}) and 3 not in ranks


def _square_patches(
    count: int, height: int, width: int, *, cut_off: bool
) -> tuple[int, int] | None:
    """Return how many rows and columns `count` square patches make on an image, if they do.

    With `cut_off` patches of a whole number of pixels need not divide the image.
    """
    for rows in range(1, count + 1):
        columns = count // rows
        patch = min(height // rows, width // max(columns, 1))
        fits = height * columns == width * rows
        if cut_off:
            fits = patch > 0 and (height // patch, width // patch) == (rows, columns)
        if fits and rows * columns == count:
            return rows, columns
    return None
