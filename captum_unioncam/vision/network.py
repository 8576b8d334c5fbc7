"""A network at hand: its model, its preprocessing, and the names of its classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.engine.locks import exclusive_use
from captum_unioncam.engine.request import copied
from captum_unioncam.engine.target_scores import check_output


class NetworkError(ValueError):
    """A network, layer, target or file of weights that cannot be had; one line says why."""


@dataclass(frozen=True)
class Network:
    """A classifier and what belongs to it.

    Attributes:
        name (str): what to call it.
        model (nn.Module): the model, in evaluation mode.
        preprocess (Callable): turns an RGB picture into an input, (C, H, W).
        class_names (Sequence[str]): a name per output; empty if unknown.
    """

    name: str
    model: nn.Module
    preprocess: Callable[[Any], Tensor]
    class_names: Sequence[str] = ()

    def class_name(self, index: int) -> str:
        """Return the name of a class, or its number where names are unknown."""
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"

    def outputs(self, x: Tensor) -> Tensor:
        """Return what the model makes of inputs, of which it gets a copy, without gradients."""
        with exclusive_use(self.model), torch.no_grad():
            return check_output(self.model(copied(x)), len(x))

    def prepare(self, picture: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the input, its black baseline, and what the model sees as RGB in [0, 1].

        Black and white pictures go through the same preprocessing, so that the baseline is
        right for any mean and standard deviation without having to know them.
        """
        from PIL import Image

        black, white = (Image.new("RGB", picture.size, color) for color in ("black", "white"))
        x, low, high = (self.preprocess(image)[None] for image in (picture, black, white))
        return x, low, ((x - low) / (high - low)).clamp(0, 1)
