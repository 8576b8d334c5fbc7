"""What a visitor chooses, as plain data, and what follows from it without a network."""

import argparse
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.methods.registry import METHODS
from captum_unioncam.vision.networks import NetworkError
from captum_unioncam.vision.pictures import load_picture

if TYPE_CHECKING:
    from PIL.Image import Image

# Photographs that scikit-image ships, by what they are called here.
SAMPLES = {"cat": "cat", "espresso": "coffee", "tripod": "camera"}
# What other modules must not be read from a page that anybody may reach.
SOURCES = ("timm", "hf")
# Methods that share one table of masked scores.
SHARING = ("scorecam", "grad++scorecam", "unioncam", "fusioncam")
# Rows of a metric for each map, roughly: what is left over is seen in the time that is left.
ROWS_OF_METRICS = {"insertion": 30, "deletion": 30}


class Settings(NamedTuple):
    """What the app was started with.

    Attributes:
        models (tuple[str, ...]): networks to choose from, as ``--model`` names them.
        weights (str): the file of weights of the first one, or "DEFAULT".
        device (str, optional): the device.
        is_closed (bool): whether visitors may have no other networks than these.
    """

    models: tuple[str, ...]
    weights: str = "DEFAULT"
    device: str | None = None
    is_closed: bool = False


class Picture(NamedTuple):
    """A picture that was dropped, or a sample.

    Attributes:
        name (str): what it is called.
        content (bytes): what is in its file; of a sample, its pixels.
        digest (str): SHA-256 of that.
        sample (str): the function of skimage.data that returns it; empty for a file.
    """

    name: str
    content: bytes
    digest: str
    sample: str = ""

    def load(self) -> "Image":
        """Return it as RGB, upright.

        Raises:
            PictureError: if it cannot be read, or is larger than the limit.
        """
        if self.sample:
            from PIL import Image
            from skimage import data

            return Image.fromarray(getattr(data, self.sample)()).convert("RGB")
        return load_picture(Path(self.name), io.BytesIO(self.content))


class Choice(NamedTuple):
    """Everything that a result depends on, so that equal choices share one.

    Attributes:
        digest (str): of the picture.
        model (str): the network, as ``--model`` names it.
        weights (str): its file of weights, or "DEFAULT".
        layer (str): the layer's name.
        classes (tuple[int, ...]): the classes; empty for a network with one value per picture.
        specs (tuple[str, ...]): the methods with their options.
        metrics (tuple[str, ...]): the metrics.
        baseline (str): what masked-out parts show.
        scorer (str): what runs masked pictures, as ``--scorer`` names it.
    """

    digest: str
    model: str
    weights: str
    layer: str
    classes: tuple[int, ...]
    specs: tuple[str, ...]
    metrics: tuple[str, ...]
    baseline: str = "black"
    scorer: str = "model"


def settings_of(words: Sequence[str]) -> Settings:
    """Return what the app was started with.

    Examples::

        >>> settings_of(["--model", "resnet50", "demo", "--closed"]).models
        ('resnet50', 'demo')
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="+", default=["demo"])
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--device")
    parser.add_argument("--closed", action="store_true")
    given = parser.parse_args(words)
    return Settings(tuple(given.model), given.weights, given.device, given.closed)


def check_typed(model: str, settings: Settings) -> str:
    """Return the name of a network that was typed into the page.

    Raises:
        NetworkError: if it names a function of a module, whose import would run code.

    Examples::

        >>> check_typed(" timm:resnet18 ", Settings(("demo",)))
        'timm:resnet18'
    """
    name = model.strip()
    source, colon, _ = name.partition(":")
    if name in settings.models or not colon or source in SOURCES:
        return name
    raise NetworkError(
        f"{name} would run code, which a page does not: start the app with it, "
        f"'unioncam app --model {name}'"
    )


def unmarked(text: str) -> str:
    r"""Return a text that Markdown shows as it is; names of classes may come from a file.

    Examples::

        >>> print(unmarked("cat ![](https:a)"))
        cat \!\[\]\(https\:a\)
    """
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def with_options(specs: Sequence[str], **options: float | str | None) -> tuple[str, ...]:
    """Return methods with the options that each has and does not name; defaults are left out.

    Examples::

        >>> with_options(["unioncam", "gradcam", "scorecam:max_masks=32"], theta=30, max_masks=64)
        ('unioncam:theta=30:max_masks=64', 'gradcam', 'scorecam:max_masks=32')
    """
    made = []
    for spec in specs:
        name, _, own = parse_spec(spec)
        added = [
            f"{option}={value if isinstance(value, str) else f'{value:g}'}"
            for option, value in options.items()
            if option in METHODS[name].options
            and option not in own
            and value not in (None, METHODS[name].options[option])
        ]
        made.append(":".join([spec, *added]))
    return tuple(dict.fromkeys(made))


def has_option(specs: Sequence[str], option: str) -> bool:
    """Return whether some method has an option of that name.

    Examples::

        >>> has_option(["gradcam", "unioncam"], "theta"), has_option(["gradcam"], "theta")
        (True, False)
    """
    return any(option in METHODS[parse_spec(spec).name].options for spec in specs)


def expected_rows(
    specs: Sequence[str], metrics: Sequence[str], classes: int, shape: Sequence[int]
) -> int:
    """Return about how many rows a comparison forwards, from which the time left is told.

    Args:
        specs (Sequence[str]): the methods.
        metrics (Sequence[str]): the metrics.
        classes (int): how many classes are explained.
        shape (Sequence[int]): of what the layer gives for one picture; empty if unknown.

    Examples::

        >>> expected_rows(["unioncam", "scorecam"], ["beta"], 1, (1, 32, 7, 7))
        43
    """
    # Of tokens the channels are last.
    channels = shape[1] if len(shape) > 3 else shape[-1] if shape else 1
    positions = math.prod(shape) // channels if shape else 1
    shared, rows = 0, 0
    for spec in specs:
        name, _, options = parse_spec(spec)
        forwards = METHODS[name].forwards
        masks = forwards.at_most(channels, positions) - forwards.fixed
        if isinstance(options.get("max_masks"), int):
            masks = min(masks, options["max_masks"])
        rows += forwards.fixed * classes
        if name in SHARING:
            shared = max(shared, masks)
        else:
            rows += masks * classes
    measured = sum(ROWS_OF_METRICS.get(name, 2) for name in metrics)
    return shared + rows + measured * len(specs) * classes


# Is told of rows that are done, and of about how many there are.
Tell = Callable[[int, int], object]
