"""What the words of a command choose to explain of every picture."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_unioncam.targets import ClassContrast, ClassOverRegion, similar_classes
from captum_unioncam.vision.finding import find_target
from captum_unioncam.vision.network import Network
from captum_unioncam.vision.pictures import PictureError, load_picture

if TYPE_CHECKING:
    from PIL.Image import Image

# As many as Finer-CAM compares with.
SIMILAR = 3


@dataclass(frozen=True)
class ChosenTarget:
    """Classes to explain, alone, against others or over a region.

    Attributes:
        classes (Any): what `find_target` returned.
        against (tuple[int, ...], optional): classes that each is compared with; empty for those
            whose outputs are most similar; None for no comparison.
        region (Image, optional): white where the classes are explained; of a picture's size.
    """

    classes: Any
    against: tuple[int, ...] | None = None
    region: "Image | None" = None

    @property
    def is_probability(self) -> bool:
        """Whether it is a class alone, whose probability is the score."""
        return self.against is None and self.region is None

    def of(self, network: Network, picture: "Image", x: Tensor) -> Any:
        """Return what `compare` takes as target for a picture, x being its input.

        Raises:
            ValueError: if the region does not fit the picture, or a class is against itself.
        """
        if self.is_probability:
            return self.classes
        y = network.outputs(x)
        if self.region is not None:
            region = _on_output(network, self.region, picture, tuple(y.shape[2:])).to(y)
            scores = (y[0] * region).flatten(1).sum(1) / region.sum()
            targets = {n: ClassOverRegion(n, region) for n in self._numbers(scores)}
            return {f"{n} over the region": target for n, target in targets.items()}
        found = {}
        for number in self._numbers(y[0]):
            similar = similar_classes(y, number, min(SIMILAR, y.shape[1] - 1))[0]
            others = self.against or similar
            if number in others:
                raise ValueError(
                    f"{network.class_name(number)} is the class to explain and one of --against; "
                    "name others there, or another class to explain"
                )
            found[f"{number} against {', '.join(map(str, others))}"] = ClassContrast(number, others)
        return found

    def _numbers(self, scores: Tensor) -> list[int]:
        if isinstance(self.classes, str):
            return list(scores.topk(int(self.classes.removeprefix("top"))).indices.tolist())
        return list(self.classes.values())


def chosen_target(
    arguments: argparse.Namespace, network: Network, wanted: str, x: Tensor
) -> ChosenTarget:
    """Return what is to be explained of every picture.

    Args:
        arguments (Namespace): with `against` and `region`, None where they were not given.
        network (Network): the network.
        wanted (str): the classes, as `find_target` takes them.
        x (Tensor): an input, from which the network's output is seen.

    Raises:
        ValueError: if there is no such class, or the network's output does not fit.
    """
    against, path = arguments.against, arguments.region
    if path is None and against is None:
        return ChosenTarget(find_target(network, wanted, x))
    if path is not None and against is not None:
        raise ValueError("--against compares classes of a whole picture: drop it, or --region")
    if path is not None:
        return ChosenTarget(find_target(network, wanted, x, of_region=True), region=_mask(path))
    classes = find_target(network, wanted, x)
    if classes is None or network.outputs(x).shape[1] == 1:
        raise ValueError(f"{network.name} has a single class, which has nothing to be against")
    if against == "similar":
        return ChosenTarget(classes, against=())
    if re.fullmatch(r"top\d+", against):
        raise ValueError(f"--against {against}: give numbers or names of classes, or 'similar'")
    others = tuple(dict.fromkeys(find_target(network, against, x).values()))
    chosen = ChosenTarget(classes, against=others)
    for number in [] if isinstance(classes, str) else classes.values():
        if number in others:
            raise ValueError(
                f"--against {against}: {network.class_name(number)} is the class to explain; name "
                "others"
            )
    return chosen


def _mask(path: Path) -> "Image":
    """Return a mask as black and white; white is what is brighter than half its brightest."""
    from PIL import Image

    # Masks of zeros and ones are as black as night to the eye.
    try:
        shades = np.asarray(load_picture(path)).max(axis=2)
    except PictureError as error:
        raise ValueError(f"--region {error}") from error
    if not shades.any():
        raise ValueError(f"--region {path} is black: paint white what is to be explained")
    return Image.fromarray(np.where(shades > shades.max() / 2, 255, 0).astype(np.uint8))


def _on_output(network: Network, mask: "Image", picture: "Image", size: tuple[int, ...]) -> Tensor:
    """Return how much of each position of the output a mask covers."""
    if mask.size != picture.size:
        (width, height), (needed, high) = mask.size, picture.size
        raise ValueError(
            f"--region is {width} x {height} pixels, but the picture {needed} x {high}; give a "
            "mask of the picture's size"
        )
    # It goes where the picture goes, whatever the preprocessing.
    _, _, seen = network.prepare(mask.convert("RGB"))
    covered = torch.nn.functional.interpolate(seen.mean(1, keepdim=True), size, mode="area")[0, 0]
    if not bool(covered.any()):
        raise ValueError(
            "--region lies where the network does not look: its preprocessing cuts that off"
        )
    return covered
