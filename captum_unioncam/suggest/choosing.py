"""Which of a forward's calls gives the maps to explain."""

from typing import Any

import torch
from torch import nn

from captum_unioncam.suggest.watching import Call, Forward, Place

Conv = nn.modules.conv._ConvNd


def chosen_call(forward: Forward) -> tuple[Call, str]:
    """Return the call whose output to explain, and why.

    Raises:
        ValueError: if none is suited.
    """
    maps = _maps(forward)
    # Of the modules that return a tensor, the one that returns last encloses the others.
    last = next((call for call in reversed(maps) if forward.is_cut(call.place)), None)
    norm = _first_norm(forward, maps)
    if norm is not None and (
        forward.comes_after(norm, last) or (last and is_tokens(forward, last))
    ):
        return norm, f"first norm of the last block whose {text_of(forward, norm)} reach the head"
    _check_what_follows(forward, last, maps)
    if last is None:
        raise ValueError(
            "no layer gives maps bigger than 1 x 1 on the way to the head; name a layer yourself"
        )
    kind = type(last.module).__name__
    return last, (
        f"last spatial output on the way to the head: {kind} giving {text_of(forward, last)}"
    )


def is_tokens(forward: Forward, call: Call) -> bool:
    """Return whether a call gives rows of tokens, (N, T, D)."""
    layout = forward.layout(call)
    return layout is not None and layout.channels == "last" and call.output.dim() == 3


def text_of(forward: Forward, call: Call) -> str:
    """Return what a call gives, in words."""
    layout = forward.known_layout(call)
    size = " x ".join(map(str, layout.size))
    if is_tokens(forward, call):
        return f"tokens of {size}"
    return f"{call.output.shape[1 if layout.channels == 'first' else -1]} channels of {size}"


def _maps(forward: Forward) -> list[Call]:
    """Return the calls that give something of their own with positions that reach the output."""
    producers: dict[Place, Call] = {}
    for call in forward.calls:
        producers.setdefault(call.place, call)
    scores = _score_maps(forward)
    return [
        call
        for call in forward.calls
        if forward.is_last(call)
        and call.place not in scores
        and not producers[call.place].only_pools
        and (not call.only_passes or producers[call.place] is call)
        and forward.reaches(call)
    ]


def _score_maps(forward: Forward) -> set[Place]:
    """Return where a head gives a map for each class: they are scores, not features."""
    classes = forward.output.shape[1] if forward.output.dim() > 1 else 1
    found: set[Place] = set()
    for call in reversed(forward.calls):
        on_path = call.place[0] in forward.on_path
        layout = forward.layout(call)
        if on_path and call.is_norm:
            # Norms follow the layers of a network without a head, whose features are its scores.
            return found | _normed_scores(forward, call) if forward.output.dim() > 2 else set()
        if on_path and layout is not None and forward.is_cut(call.place):
            channels = call.output.shape[1 if layout.channels == "first" else -1]
            if channels != classes:
                return found
            found.add(call.place)
            weight: Any = getattr(call.module, "weight", None)
            if isinstance(call.module, nn.Linear | Conv) and set(weight.shape[:2]) != {classes}:
                return found
    return found


def _normed_scores(forward: Forward, norm: Call) -> set[Place]:
    """Return where a head's last convolution and its norm give the scores, if it is one."""
    taken = {tensor.place for tensor in norm.took}
    head = next((call for call in forward.calls if call.place in taken), None)
    if head is None or not isinstance(head.module, nn.Linear | Conv):
        return set()
    # Scores are fewer than the features they are made of, unlike what a layer's end gives.
    out, features = head.module.weight.shape[:2]
    return {head.place, norm.place} if out == forward.output.shape[1] < features else set()


def _first_norm(forward: Forward, maps: list[Call]) -> Call | None:
    """Return the first norm of the last block of tokens that has one with gradients."""
    norms: list[tuple[str, Call]] = []
    ends = ""
    for call in maps:
        block = _block(call.name)
        ends = block if block and is_tokens(forward, call) else ends
        if block and call.is_norm and is_tokens(forward, call):
            # A norm may also end a branch of the block, such as Swin V2's.
            is_direct = call.name.count(".") == block.count(".") + 1
            around = (*call.took, *(forward.given.get(block, ()) if is_direct else ()))
            if any(map(forward.is_cut, [call.place, *(taken.place for taken in around)])):
                norms.append((block, call))
    norms = [(block, call) for block, call in norms if not _is_stage(forward, block, maps)]
    if not norms:
        return None
    last, size = norms[-1][0], forward.known_layout(norms[-1][1]).size
    # A stage may end in a norm of its own, after its blocks.
    inner = [block for block, _ in norms if block.startswith(f"{last}.")]
    last = inner[-1] if inner else last
    if not f"{ends}.".startswith(f"{last}.") and not f"{last}.".startswith(f"{ends}."):
        # Blocks without norms follow.
        return None
    return next(
        call for block, call in norms if block == last and forward.known_layout(call).size == size
    )


def _is_stage(forward: Forward, block: str, maps: list[Call]) -> bool:
    """Return whether a numbered module holds numbered modules that follow each other."""
    inner = (call for call in maps if call.name.startswith(f"{block}."))
    return any(_block(f"{call.name}.") != block and forward.is_cut(call.place) for call in inner)


def _block(name: str) -> str:
    """Return the name of the innermost numbered module around a layer, or nothing."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if parts[end - 1].split("_")[-1].isdigit():
            return ".".join(parts[:end])
    return ""


def _check_what_follows(forward: Forward, last: Call | None, maps: list[Call]) -> None:
    """Raise ValueError if the network goes on in branches, or with tokens of unknown positions."""
    name = "the input" if last is None else repr(last.name)
    for call in forward.after(last):
        is_row = call.output.dim() == 3 and call.output.shape[1] > 1 and not call.only_pools
        if is_row and forward.layout(call) is None and forward.is_cut(call.place):
            raise ValueError(
                f"after {name} the model goes on with tokens of shape {tuple(call.output.shape)}, "
                f"which {call.name!r} gives, that are not known to lie on the input; name a layer "
                "yourself, and say how it lies with layout="
            )

    def positions(call: Call) -> int:
        return torch.Size(forward.known_layout(call).size).numel()

    smaller = [
        call
        for call in maps
        if forward.comes_after(call, last) and (last is None or positions(call) < positions(last))
    ]
    if smaller:
        raise ValueError(
            f"after {name} the model goes on in branches that meet at its output alone; name a "
            f"layer of one of them yourself, such as {smaller[-1].name!r}"
        )
