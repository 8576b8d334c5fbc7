"""What some architectures of the table need around them; the guide shows it as it stands here."""

from typing import Any

import torch
from torch import Tensor, nn


class FramesFirst(nn.Module):
    """Takes (N, C, T, H, W) for a model of (N, T, C, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, video: Tensor) -> Any:
        return self.model(video.transpose(1, 2))


class OneChannel(nn.Module):
    """Takes (N, 1, T) for a model of waveforms, (N, T)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveform: Tensor) -> Any:
        return self.model(waveform[:, 0])


class Spectrogram(nn.Module):
    """Takes (N, 1, frequency, time) for a model of (N, time, frequency)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, spectrogram: Tensor) -> Any:
        return self.model(spectrogram[:, 0].mT)


class Detections(nn.Module):
    """Returns one score per image: the sum of its detections' scores."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([found["scores"].sum() for found in self.model(list(images))])


class ImageOfText(nn.Module):
    """Returns how well images fit texts that do not change, (images, texts)."""

    def __init__(self, model: nn.Module, input_ids: Tensor) -> None:
        super().__init__()
        self.model, self.input_ids = model, input_ids

    def forward(self, images: Tensor) -> Tensor:
        return self.model(input_ids=self.input_ids, pixel_values=images).logits_per_image


def timesformer_there(tokens: Tensor) -> Tensor:
    """Patches come before time here: (N, 1 + rows * columns * time, D)."""
    return tokens[:, 1:].unflatten(1, (4, 6, 4)).permute(0, 4, 3, 1, 2)


def timesformer_back(maps: Tensor, own: Tensor) -> Tensor:
    patches = maps.permute(0, 3, 4, 2, 1).flatten(1, 3)
    return torch.cat([own[:, :1].expand(len(maps), -1, -1), patches], dim=1)


def yolos_there(tokens: Tensor) -> Tensor:
    """A class token, 8 x 12 patches, and five tokens of detections."""
    return tokens[:, 1:-5].mT.unflatten(2, (8, 12))


def yolos_back(maps: Tensor, own: Tensor) -> Tensor:
    first, last = (t.expand(len(maps), -1, -1) for t in (own[:, :1], own[:, -5:]))
    return torch.cat([first, maps.flatten(2).mT, last], dim=1)


GLUE = {
    "frames": FramesFirst,
    "wave": OneChannel,
    "spectrogram": Spectrogram,
    "detections": Detections,
    "texts": ImageOfText,
    "timesformer": (timesformer_there, timesformer_back),
    "yolos": (yolos_there, yolos_back),
}
