"""Random small networks in float64, with what an oracle needs to look into them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_unioncam.engine import Layout
from tests.fuzz.draws import Draws

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
TO_ONE = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
PEAK = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}
SIDES = {1: (3, 16), 2: (3, 10), 3: (2, 6)}
RESIZE = {1: "linear", 2: "bilinear", 3: "trilinear"}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky": nn.LeakyReLU,
    "elu": nn.ELU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}
HEADS = (
    *("gap linear", "gap linear", "flatten linear", "flatten linear", "max linear", "mlp"),
    *("dense", "one value", "scalar", "softmax", "sigmoid"),
)


class Residual(nn.Module):
    """A body that keeps the size, beside which its input passes."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ChannelsLast(nn.Module):
    """A block of ConvNeXt's kind: its modules see (N, *spatial, C)."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.wide, self.act = nn.Linear(channels, 2 * channels), act
        self.narrow = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.act(self.wide(self.norm(x.movedim(1, -1))))).movedim(-1, 1)


class Attention(nn.Module):
    """Self-attention of two heads, fused or step by step."""

    def __init__(self, width: int, *, fused: bool) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(rows, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        if self.fused:
            attended = F.scaled_dot_product_attention(q, k, v)
        else:
            attended = (q @ k.mT / (width // 2) ** 0.5).softmax(-1) @ v
        return self.proj(attended.transpose(1, 2).reshape(rows, tokens, width))


class TokenBlock(nn.Module):
    """A transformer's block."""

    def __init__(self, width: int, *, fused: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, fused=fused)
        self.norm2 = nn.LayerNorm(width)
        wide = 2 * width
        self.mlp = nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Tokens(nn.Module):
    """A vision transformer: patches, tokens that lead, blocks, and a head's features (N, C)."""

    def __init__(self, channels: int, patch: int, size: tuple[int, ...], draws: Draws) -> None:
        super().__init__()
        width, self.leading = 4 * draws.whole("width", 1, 2), draws.choice("leading", [0, 1, 1, 2])
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.first = nn.Parameter(torch.zeros(1, self.leading, width))
        count = self.leading + size[0] * size[1]
        self.position = nn.Parameter(torch.zeros(1, count, width))
        fused = draws.chance("fused", 0.5)
        depth = draws.whole("depth", 1, 3)
        self.blocks = nn.Sequential(*(TokenBlock(width, fused=fused) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], dim=1) + self.position
        return self.end(self.blocks(tokens))

    def end(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        return tokens[:, 0] if self.leading else tokens.mean(1)


class Network(nn.Module):
    """A body and a head; more inputs, further arguments and another kind of output, if drawn."""

    def __init__(self, body: nn.Module, head: nn.Module, output: str) -> None:
        super().__init__()
        self.body, self.head, self.output = body, head, output
        self.beside: nn.Module | None = None

    def forward(self, image: Tensor, *others: Any) -> Any:
        scores = self.head(self.body(image))
        for other in others:
            if isinstance(other, float):
                scores = scores + other
            elif other.dim() == 1:
                scores = scores * other.reshape(-1, *[1] * (scores.dim() - 1))
            elif self.beside is not None:
                added = self.beside(other.flatten(2).mean(2) if other.dim() > 2 else other)
                scores = scores + added.reshape(*added.shape, *[1] * (scores.dim() - 2))
        if self.output == "tuple":
            return scores, scores.detach() * 2
        return scores if self.output == "tensor" else {self.output: scores}

    def scores_of(self, returned: Any) -> Tensor:
        """Return the scores among what `forward` returns."""
        if self.output == "tuple":
            return returned[0]
        return returned if self.output == "tensor" else returned[self.output]


@dataclass
class Subject:
    """A network with its layer and inputs, and how the layer's tensor lies on them.

    Attributes:
        rank (int): spatial dimensions.
        layer_is_last (bool): whether a head of global averages follows the layer at once.
        layout (Any): the option that says how the layer's tensor lies on the inputs.
        there, back (Callable): from the layer's tensor to maps; back, given the tensor too.
        head (str): what the scores are made by.
        outputs (tuple[int, ...]): the scores' shape without rows.
    """

    net: Network
    layer: nn.Module
    layer_is_last: bool
    rank: int
    inputs: tuple[Tensor, ...]
    extra: tuple[Any, ...]
    layout: Any
    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]
    head: str
    outputs: tuple[int, ...]

    @property
    def is_tokens(self) -> bool:
        """Whether the layer gives tokens."""
        return isinstance(self.net.body, Tokens)


def subject_of(seed: int) -> Subject:
    """Return the network of a seed; sizes that no network fits are drawn again."""
    for attempt in range(50):
        draws = Draws(f"{seed}/{attempt}")
        try:
            # Modules are made with the process's random state, which is the caller's.
            with torch.random.fork_rng(devices=[]):
                return _drawn(draws)
        except (RuntimeError, ValueError, OverflowError):
            # Kernels wider than their input, or norms over a single value.
            continue
    raise RuntimeError(f"no network for seed {seed}")


def _drawn(draws: Draws) -> Subject:
    rank = draws.choice("rank", [1, 2, 2, 2, 3])
    low, high = SIDES[rank]
    count, channels = draws.choice("rows", [1, 2, 2, 3]), draws.whole("channels", 1, 3)
    size = tuple(draws.whole(f"side {i}", low, high) for i in range(rank))
    kind = draws.choice("kind", ["maps"] * 6 + ["channels last", "tokens", "tokens"])
    if kind == "tokens":
        rank, patch = 2, draws.choice("patch", [2, 3])
        grid = tuple(draws.whole(f"patches {i}", 2, 4) for i in range(2))
        size = tuple(patch * n for n in grid)
        body: nn.Module = Tokens(channels, patch, grid, draws)
    else:
        body = _body(draws, rank, channels, last=kind == "channels last")
    image = draws.normal("image", count, channels, *size)
    image = draws.choice("values", [image, image.sigmoid(), image.relu(), 3 * image])
    if draws.chance("blank", 0.04):
        image[-1] = 0
    body = body.double().eval()
    _fill(body, draws)
    with torch.no_grad():
        # Some norms refuse a single example, which is no network for a method.
        body(image[:1])
        features = body(image)
    classes = draws.whole("classes", 2, 5)
    head_kind = "flatten linear" if kind == "tokens" else draws.choice("head", HEADS)
    head = _head(head_kind, features, classes, rank).double().eval()
    output = draws.choice("output", ["tensor"] * 6 + ["logits", "out", "tuple"])
    net = Network(body, head, output).eval()
    _fill(head, draws)
    inputs, extra = _more(draws, net, head_kind, image, classes, rank)
    layer, is_last = _layer(body, kind, draws)
    _odd_channels(layer, draws)
    layout, there, back = _lies(body, kind, layer, size, rank)
    with torch.no_grad():
        scores = net.scores_of(net(*inputs, *extra))
    if not bool(scores.isfinite().all()):
        raise ValueError("the network overflows")
    return Subject(
        net, layer, is_last, rank, inputs, extra, layout, there, back, head_kind,
        tuple(scores.shape[1:]),
    )  # fmt: skip


def _body(draws: Draws, rank: int, channels: int, *, last: bool) -> nn.Module:
    blocks: list[nn.Module] = []
    depth = draws.whole("blocks", 1, 3)
    for n in range(depth):
        made = draws.whole(f"made {n}", 1, 6)
        blocks.append(_block(draws, f"block {n}", rank, channels, made, keep=False))
        channels = made
        if draws.chance(f"residual {n}", 0.2):
            blocks.append(
                Residual(_block(draws, f"residual {n}", rank, channels, channels, keep=True))
            )
    if last:
        act = draws.choice("last act", list(ACTIVATIONS))
        blocks.append(ChannelsLast(channels, ACTIVATIONS[act]()))
    return nn.Sequential(*blocks)


def _block(
    draws: Draws, name: str, rank: int, channels: int, made: int, *, keep: bool
) -> nn.Sequential:
    kernel = 3 if keep else draws.choice(f"{name} kernel", [1, 2, 3, 3])
    groups = [g for g in range(1, channels + 1) if channels % g == 0 and made % g == 0]
    conv = CONV[rank](
        channels,
        made,
        kernel,
        stride=1 if keep else draws.choice(f"{name} stride", [1, 1, 2]),
        padding=1 if keep else draws.whole(f"{name} padding", 0, kernel // 2),
        groups=draws.choice(f"{name} groups", groups),
        bias=draws.chance(f"{name} bias", 0.7),
    )
    parts: list[nn.Module] = [conv]
    norm = draws.choice(f"{name} norm", ["none"] * 4 + ["batch", "batch", "instance", "group"])
    if norm == "batch":
        parts.append(BATCH[rank](made))
    elif norm == "instance":
        parts.append(INSTANCE[rank](made, affine=draws.chance(f"{name} affine", 0.5)))
    elif norm == "group":
        divisors = [g for g in range(1, made + 1) if made % g == 0]
        parts.append(nn.GroupNorm(draws.choice(f"{name} norm groups", divisors), made))
    act = draws.choice(f"{name} act", ["relu", "relu", "relu", *ACTIVATIONS])
    # A residual adds its input later, which must not have been overwritten.
    parts.append(ACTIVATIONS["relu" if keep and act == "relu in place" else act]())
    pool = "none" if keep else draws.choice(f"{name} pool", ["none", "none", "max", "average"])
    if pool != "none":
        parts.append((MAX if pool == "max" else AVERAGE)[rank](2))
    return nn.Sequential(*parts)


def _head(kind: str, features: Tensor, classes: int, rank: int) -> nn.Module:
    channels, flat = features.shape[1], features[0].numel()
    if kind == "gap linear":
        return nn.Sequential(TO_ONE[rank](1), nn.Flatten(), nn.Linear(channels, classes))
    if kind == "max linear":
        return nn.Sequential(PEAK[rank](1), nn.Flatten(), nn.Linear(channels, classes))
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(flat, 5), nn.Tanh(), nn.Linear(5, classes))
    if kind == "dense":
        return CONV[rank](channels, classes, 1)
    if kind == "one value":
        return nn.Sequential(nn.Flatten(), nn.Linear(flat, 1))
    if kind == "scalar":
        return nn.Sequential(nn.Flatten(), nn.Linear(flat, 1), nn.Flatten(0))
    linear = [nn.Flatten(), nn.Linear(flat, classes)]
    # Sigmoids that saturate may sum to one, as a distribution does.
    ends = {"softmax": [nn.Softmax(1)], "sigmoid": [nn.Tanh(), nn.Sigmoid()]}
    further = ends.get(kind, [])
    return nn.Sequential(*linear, *further)


def _fill(module: nn.Module, draws: Draws) -> None:
    """Fill parameters and buffers with seeded values, of a scale that the case draws."""
    scale = draws.choice("weights", [0.15, 0.4, 0.4, 0.8])
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = draws.normal(f"parameter {type(module).__name__} {name}", *parameter.shape)
            parameter.copy_(values * scale)
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                values = draws.uniform(f"buffer {name}", *buffer.shape)
                buffer.copy_(values + 0.5 if name.endswith("var") else values)


def _odd_channels(layer: nn.Module, draws: Draws) -> None:
    """Make some channels dead, constant or equal, where the layer has filters of its own."""
    filters = [m for m in layer.modules() if isinstance(m, nn.modules.conv._ConvNd)]
    if not filters or not draws.chance("odd channels", 0.3):
        return
    weight, bias = filters[-1].weight, filters[-1].bias
    one, other = (draws.whole(f"odd channel {i}", 0, len(weight) - 1) for i in range(2))
    what = draws.choice("oddity", ["dead", "constant", "equal", "scaled"])
    with torch.no_grad():
        if what in ("dead", "constant"):
            weight[one] = 0
            if bias is not None:
                bias[one] = 0 if what == "dead" else 0.7
        else:
            factor = 1 if what == "equal" else 0.3
            weight[one] = factor * weight[other]
            if bias is not None:
                bias[one] = factor * bias[other]


def _more(
    draws: Draws, net: Network, head: str, image: Tensor, classes: int, rank: int
) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Return all inputs, and further arguments of the forward."""
    inputs: list[Tensor] = [image]
    extra: list[Any] = []
    plain = head not in ("softmax", "sigmoid", "scalar")
    what = draws.choice("inputs", ["image"] * 6 + ["table", "image twice"])
    if plain and what != "image":
        values = 1 if head == "one value" else classes
        if what == "table":
            inputs.append(draws.normal("table", len(image), 3))
            net.beside = nn.Linear(3, values)
        else:
            sides = [draws.whole(f"other side {i}", 2, 5) for i in range(rank)]
            inputs.append(draws.normal("other image", len(image), 2, *sides))
            net.beside = nn.Linear(2, values)
        net.beside = net.beside.double().eval()
        _fill(net.beside, draws)
    if plain and draws.chance("scale", 0.15):
        extra.append(draws.uniform("scale", len(image)) + 0.5)
    if plain and draws.chance("shift", 0.15):
        extra.append(0.25)
    return tuple(inputs), tuple(extra)


def _layer(body: nn.Module, kind: str, draws: Draws) -> tuple[nn.Module, bool]:
    """Return the layer to explain, and whether its output is the body's."""
    if isinstance(body, Tokens):
        block = draws.choice("layer", list(body.blocks))
        return draws.choice("part", [block.norm1, block.norm2, block]), False
    assert isinstance(body, nn.Sequential)
    if kind == "channels last":
        block = body[-1]
        return draws.choice("part", [block.norm, block.narrow]), False
    number = draws.choice("layer", [len(body) - 1, len(body) - 1, *range(len(body))])
    block = body[number]
    parts = list(block.body if isinstance(block, Residual) else block)
    part = draws.choice("part", [len(parts) - 1, len(parts) - 1, *range(len(parts))])
    is_last = number == len(body) - 1 and part == len(parts) - 1
    return parts[part], is_last and not isinstance(block, Residual)


def _lies(
    body: nn.Module, kind: str, layer: nn.Module, size: tuple[int, ...], rank: int
) -> tuple[Any, Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    if kind == "maps":
        return "maps", lambda o: o, lambda maps, own: maps
    if kind == "channels last":
        return "channels_last", lambda o: o.movedim(-1, 1), lambda maps, own: maps.movedim(1, -1)
    assert isinstance(body, Tokens)
    k, patch = body.leading, body.patches.kernel_size[0]
    grid = tuple(n // patch for n in size)

    def back(maps: Tensor, own: Tensor) -> Tensor:
        return torch.cat([own[:, :k].expand(len(maps), -1, -1), maps.flatten(2).mT], dim=1)

    return Layout(grid, k), lambda o: o[:, k:].mT.unflatten(2, grid), back
