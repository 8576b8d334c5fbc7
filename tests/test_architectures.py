"""Every architecture of the table: the layer suggested, and that its positions are the input's."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from captum_unioncam import suggest_layer
from captum_unioncam.engine.layer_state import measure_layer
from captum_unioncam.engine.request import checked_request
from captum_unioncam.engine.target_scores import check_output
from tests.architectures import TABLE, Architecture
from tests.token_orders import WRONG_ORDERS, Ordered

sys.path.append(str(Path(__file__).parents[1] / "docs"))

import architecture_page

# One of each kind; the others are tried exhaustively.
QUICK = {
    "torchvision-resnet18",
    "torchvision-mobilenet_v3_small",
    "torchvision-swin_t",
    "torchvision-lraspp_mobilenet_v3_large",
    "timm-efficientnet_b0",
    "timm-ghostnet_050",
    "timm-repvgg_a0",
    "timm-deit_tiny_distilled_patch16_224",
    "timm-vit_small_patch14_reg4_dinov2",
    "timm-crossvit_9_240",
    *(f"transformers-{row.name}" for row in TABLE if row.library == "transformers"),
}
# How much more than by chance each part must change with its own part of the input.
LEAST = 1.15

everywhere = pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.id, marks=() if row.id in QUICK else pytest.mark.exhaustive)
        for row in TABLE
    ],
)


@everywhere
@pytest.mark.filterwarnings("ignore")
def test_architecture(row: Architecture):
    # Before that its layers had other names.
    pytest.importorskip(row.library, minversion={"transformers": "5.0"}.get(row.library))
    model, x = row.make(), row.example()
    if row.refused:
        bare = model.model if row.glue == "detections" else model
        with pytest.raises(ValueError, match=row.refused):
            suggest_layer(bare, x)
    else:
        assert suggest_layer(model, x).name == row.layer
    if row.layer:
        check_meaning(row, model)


def check_meaning(row: Architecture, model: nn.Module) -> None:
    """Each part of the maps must change most with its part of the input, in no other order."""
    tried: list[Tensor] = []
    # Some untrained networks keep strong changes apart, some weak ones.
    for strength in (2.0, 1.0):
        tried.append(changes_of_parts(row, model, strength))
        if lies_as_read(tried[-1]):
            break
    assert lies_as_read(tried[-1]), (row.id, *map(own_and_most, tried))
    # The same would not pass if it were read in any other way.
    for changes in tried:
        for name, misread in readings(changes).items():
            assert not lies_as_read(misread), (row.id, name, *own_and_most(misread))


@pytest.mark.parametrize("name", ["the input's", *WRONG_ORDERS])
def test_no_order_but_the_inputs_passes(name):
    torch.manual_seed(0)
    model = Ordered(WRONG_ORDERS.get(name, nn.Identity())).eval()
    row = Architecture("none", "ordered", "blocks.1.norm1", (32, 32))
    assert lies_as_read(changes_of_parts(row, model, 2.0)) == (name == "the input's")


def lies_as_read(changes: Tensor) -> bool:
    """Return whether each part follows its part of the input, and would in no other reading."""
    own, most = own_and_most(changes)
    others = [own_and_most(other)[0].min() for other in readings(changes).values()]
    return bool((own > LEAST).all() and (own >= most).all() and own.min() > max(others))


def changes_of_parts(row: Architecture, model: nn.Module, strength: float) -> Tensor:
    """Return how much the maps (C, *size) change with each part of the input, (parts, C, *size)."""
    layer = model.get_submodule(("model." if row.glue == "detections" else "") + row.layer)
    x = row.example()
    with torch.no_grad():
        target = (0,) * (check_output(model(x), 1).dim() - 1) or None

    def maps(inputs: Tensor) -> Tensor:
        request = checked_request(model, layer, inputs, target, layout=row.layout)
        with measure_layer(request, needs_gradients=False) as states:
            return states[0].activations.double()

    gates: dict[nn.Module, list[Tensor]] = {}
    with noting_gates(model, gates):
        before = maps(x)
    channels = {2: None, 5: 2 if row.glue == "timesformer" else 1}.get(x.dim(), 1)
    spatial = [axis for axis in range(1, x.dim()) if axis != channels]
    places = list(product(*map(slices, [x.shape[a] for a in spatial], parts(before.shape[2:]))))
    assert len(spatial) == before.dim() - 2
    other, changed = other_values(x, strength), x.repeat(len(places), *[1] * (x.dim() - 1))
    for number, place in enumerate(places):
        where = [slice(None)] * x.dim()
        for axis, part in zip(spatial, place, strict=True):
            where[axis] = part
        changed[number][tuple(where[1:])] = other[0][tuple(where[1:])]
    with held_gates(model, gates, len(places)):
        return (maps(changed) - before).abs()


def other_values(x: Tensor, strength: float) -> Tensor:
    """Return other ids, or other noise."""
    generator = torch.Generator().manual_seed(7)
    if not x.is_floating_point():
        return torch.randint(3, 50, x.shape, generator=generator)
    return strength * torch.randn(x.shape, generator=generator)


def parts(size: tuple[int, ...]) -> list[int]:
    """Return into how many parts to divide each dimension of maps."""
    # Of three positions or less each sees most of the input in deep networks.
    return [(4 if len(size) == 1 else 2) if length > 3 else 1 for length in size]


def slices(length: int, count: int) -> list[slice]:
    """Return equal parts; a position that lies in two parts is in neither."""
    return [
        slice(-(-number * length // count), (number + 1) * length // count)
        for number in range(count)
    ]


def own_and_most(changes: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much more than by chance a part changes with its own part, and with any."""
    amounts = changes.mean(1)
    counts = parts(changes.shape[2:]) if changes.dim() > 3 else [len(changes)]
    places = product(*map(slices, changes.shape[2:], counts))
    table = [amounts[(slice(None), *place)].flatten(1).mean(1) for place in places]
    in_parts = torch.stack(table, 1)
    chance = in_parts.mean(0, keepdim=True) * in_parts.mean(1, keepdim=True) / in_parts.mean()
    assert (chance > 0).all()
    return (in_parts / chance).diagonal(), (in_parts / chance).amax(1)


def readings(changes: Tensor) -> dict[str, Tensor]:
    """Return changes (parts, C, *size) as other readings of the layer's tensor would have them."""
    size = changes.shape[2:]
    found = {"mirrored": changes.flip(-1), "features as positions": changes.flatten(2).mT}
    if len(size) > 1:
        turned = range(changes.dim() - 1, 1, -1)
        found["columns first"] = changes.flatten(2).unflatten(2, size[::-1]).permute(0, 1, *turned)
        found["rows first"] = changes.permute(0, 1, *turned).reshape(changes.shape)
        # As Hiera has its tokens: first all in the corners of squares of four, and so on.
        rows, columns = size[-2] // 2, size[-1] // 2
        even = changes[..., : 2 * rows, : 2 * columns]
        squares = even.unflatten(-1, (columns, 2)).unflatten(-3, (rows, 2))
        found["unrolled"] = squares.movedim((-3, -1), (-4, -3)).reshape(even.shape)
        corners = even.flatten(-2).unflatten(-1, (2, 2, rows, columns))
        found["rolled"] = corners.movedim((-4, -3), (-3, -1)).reshape(even.shape)
    return found


# Gates and pooled branches have one value for all positions, which tells nothing of where and
# hides what does. They are held as they were before the change, and so is EfficientViT's linear
# attention, which divides by next to nothing before training.


def is_gate(module: nn.Module, value: object, rows: int) -> bool:
    if not isinstance(value, Tensor) or value.dim() < 4 or len(value) != rows:
        return False
    return value.shape[2:].numel() == 1 or type(module).__name__ == "LiteMLA"


@contextmanager
def noting_gates(model: nn.Module, gates: dict[nn.Module, list[Tensor]]) -> Iterator[None]:
    def note(module: nn.Module, args: object, output: Tensor) -> None:
        if is_gate(module, output, 1):
            gates.setdefault(module, []).append(output.clone())

    handles = [module.register_forward_hook(note) for module in model.modules()]
    yield
    for handle in handles:
        handle.remove()


@contextmanager
def held_gates(model: nn.Module, gates: dict[nn.Module, list[Tensor]], rows: int) -> Iterator[None]:
    def hold(module: nn.Module, args: object, output: Tensor) -> Tensor | None:
        if module not in gates or not is_gate(module, output, rows):
            return None
        gates[module].append(gates[module].pop(0))
        return gates[module][-1].repeat(rows, *[1] * (output.dim() - 1))

    handles = [module.register_forward_hook(hold) for module in model.modules()]
    yield
    for handle in handles:
        handle.remove()


def test_the_table_is_as_wide_as_promised():
    counts = {
        library: sum(row.library == library for row in TABLE)
        for library in ("torchvision", "timm", "transformers")
    }
    assert sum(counts.values()) >= 80
    assert min(counts.values()) >= 30
    assert len({row.id for row in TABLE}) == len(TABLE)


def test_nine_of_ten_work_as_they_are():
    assert sum(row.outcome == "works" for row in TABLE) >= 0.9 * len(TABLE)


def test_the_page_is_the_table():
    assert architecture_page.FILE.read_text() == architecture_page.page(LEAST)
    assert {row.glue for row in TABLE} - {""} == set(architecture_page.TITLES)
    assert {row.refused for row in TABLE} - {""} == set(architecture_page.REASONS)
