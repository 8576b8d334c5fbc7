"""Small networks with seeded weights, one for each kind of head the methods meet."""

import torch
from torch import Tensor, nn


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module.double().eval()


def vgg_like() -> tuple[nn.Module, nn.Module, Tensor]:
    """Max-pool and flatten: gradients that vary over space, and are sparse before the pool."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 7, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(7 * 3 * 3, 5)),
    )
    return seeded(net, 1), net[4], images(2, 3, 12, 12)


def gap_head() -> tuple[nn.Module, nn.Module, Tensor]:
    """Global average pooling and one linear layer: gradients constant over space."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    )
    return seeded(net, 2), net[3], images(2, 3, 10, 14)


class _Signed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3, stride=2, padding=1)
        self.block = nn.Sequential(nn.GELU(), nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 25, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.silu(self.block(self.stem(x))))


def signed() -> tuple[nn.Module, nn.Module, Tensor]:
    """A layer before its nonlinearity: activations and gradients of both signs."""
    net = _Signed()
    return seeded(net, 3), net.block, images(2, 2, 9, 9)


def convolutional() -> tuple[nn.Module, nn.Module, Tensor]:
    """A segmentation-like network: scores per class and position."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 1)),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    )
    return seeded(net, 4), net[4], images(2, 3, 8, 8)


def of_rank(rank: int) -> tuple[nn.Module, nn.Module, Tensor]:
    """A network on 1-D, 2-D or 3-D inputs."""
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    pool = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[rank]
    size = (12, 9, 6)[:rank]
    flat = 4 * torch.Size(s // 3 for s in size).numel()
    net = nn.Sequential(
        *(conv(2, 4, 3, padding=1), nn.ReLU(), pool(3), nn.Flatten(), nn.Linear(flat, 5))
    )
    return seeded(net, 5 + rank), net[2], images(3, 2, *size)


class TwoInputs(nn.Module):
    """An image, a table beside it, and two arguments that are not explained."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3, padding=1)
        self.image_head = nn.Linear(5 * 36, 4)
        self.table_head = nn.Linear(3, 4)

    def forward(self, image: Tensor, table: Tensor, scale: Tensor, bias: float = 0.0) -> Tensor:
        maps = self.conv(image).relu()
        scores = self.image_head(maps.flatten(1)) + self.table_head(table)
        return scores * scale[:, None] + bias


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NETWORKS = {
    "vgg_like": vgg_like,
    "gap_head": gap_head,
    "signed": signed,
    "convolutional": convolutional,
}
TARGETS = {"vgg_like": 2, "gap_head": 1, "signed": 0, "convolutional": (2, 3, 4)}
