"""Networks that stay loaded, and comparisons that tell how far they are; nothing is drawn here."""

import argparse
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from captum_unioncam.app.choices import Choice, Picture, Tell, expected_rows
from captum_unioncam.commands.chosen_target import ChosenTarget
from captum_unioncam.commands.explain import masks_with_every_channel
from captum_unioncam.commands.record import record_of_picture, record_of_run
from captum_unioncam.commands.session import Session
from captum_unioncam.engine import NamedScorer
from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.scorers.scorer import rows_told
from captum_unioncam.vision.geometry import box_steps
from captum_unioncam.vision.networks import (
    Network,
    NetworkError,
    find_device,
    find_layer,
    load_network,
)

if TYPE_CHECKING:
    from captum_unioncam.comparison.figure import Shown

# What is drawn on a page is no larger, which keeps its sliders quick.
LONGEST_SIDE = 720
# Pages of one process take turns: two at once would take as long, and mix their warnings.
TURN = threading.Lock()
WAITING = "waiting for another page to finish"


@dataclass(frozen=True)
class Loaded:
    """A network at hand, shared by all pages.

    Attributes:
        network (Network): the network, on its device.
        device (torch.device): that device.
        suggested (str): name of the suggested layer; empty where there is none.
        why (str): why that one, or why there is none.
        layers (tuple[str, ...]): names of all layers, the suggested one first.
        scorers (dict[str, NamedScorer]): what has been built to run masked pictures.
    """

    network: Network
    device: torch.device
    suggested: str
    why: str
    layers: tuple[str, ...]
    scorers: dict[str, NamedScorer] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What became of a choice.

    Attributes:
        choice (Choice): what was chosen.
        picture (Picture): the picture.
        session (Session): the network and what was compared on it.
        shown (Shown): the comparison.
        ground (Image): what maps are drawn over, at most `LONGEST_SIDE` long.
        size (tuple[int, int]): width and height of what coordinates are pixels of.
        preprocess (Callable, optional): the preprocessing, where `ground` is as it was before.
        record (dict): what is needed to repeat it.
        layer_shape (tuple[int, ...]): shape of what the layer gives for one picture.
        warned (tuple[str, ...]): what the library warned of.
    """

    choice: Choice
    picture: Picture
    session: Session
    shown: "Shown"
    ground: Image.Image
    size: tuple[int, int]
    preprocess: Callable[[Any], Tensor] | None
    record: dict[str, Any]
    layer_shape: tuple[int, ...]
    warned: tuple[str, ...]

    @property
    def methods(self) -> list[str]:
        """The methods' labels, in the order of the choice."""
        return list(self.shown.comparison.maps)

    def map_of(self, method: str, number: int) -> Tensor:
        """Return a method's map for the class of that number, (h, w)."""
        return self.shown.comparison.maps[method][0, number]

    def row_of(self, method: str, number: int) -> dict[str, Any]:
        """Return what was measured on that map."""
        comparison = self.shown.comparison
        label = comparison.classes[0][number]
        return next(r for r in comparison.rows if (r["method"], r["class"]) == (method, label))


@contextmanager
def my_turn(waiting: Callable[[], object]) -> Iterator[None]:
    """Wait until no other page works, calling `waiting` twice a second."""
    while not TURN.acquire(timeout=0.5):
        waiting()
    try:
        yield
    finally:
        TURN.release()


def load(model: str, weights: str, device: str | None) -> Loaded:
    """Load a network, and find its layers once no other page works.

    Raises:
        NetworkError: if there is no such network, or no such device.
    """
    # Weights may have to be downloaded first, for which no other page waits.
    network, place = load_network(model, weights), find_device(device)
    network.model.to(place)
    x, _, _ = network.prepare(Image.new("RGB", (320, 240), "grey"))
    with my_turn(lambda: None):
        if network.outputs(x.to(place)).dim() > 2:
            raise NetworkError(
                f"{network.name} is no classifier; 'unioncam explain --region' explains networks "
                "of segmentation"
            )
        try:
            found = find_layer(network.model, "auto", x.to(place))
            suggested, why = found.name, found.why
        except NetworkError as error:
            suggested, why = "", str(error)
    others = [name for name, _ in network.model.named_modules() if name and name != suggested]
    layers = (suggested, *others) if suggested else tuple(others)
    return Loaded(network, place, suggested, why, layers)


def probabilities(loaded: Loaded, picture: Picture) -> Tensor:
    """Return the probability of every class, (classes,), or the one output of the network."""
    x, _, _ = loaded.network.prepare(picture.load())
    output = loaded.network.outputs(x.to(loaded.device))[0].float().cpu()
    return output.softmax(0) if output.numel() > 1 else output.reshape(-1)


def explained(loaded: Loaded, picture: Picture, choice: Choice, tell: Tell) -> Result:
    """Explain a picture as it was chosen.

    Args:
        loaded (Loaded): the network.
        picture (Picture): the picture.
        choice (Choice): layer, classes, methods, metrics, baseline and scorer.
        tell (Callable): is told of rows that are done and of about how many there are; what it
            raises ends the work.

    Raises:
        PictureError: if the picture cannot be read.
        ValueError: if there is no such layer, or as the methods raise.
    """
    image, model = picture.load(), loaded.network.model
    x, _, _ = loaded.network.prepare(image)
    layer = find_layer(model, choice.layer, x.to(loaded.device)).layer
    classes = {str(number): number for number in choice.classes} or None
    methods = {parse_spec(spec).title(): spec for spec in choice.specs}
    name = scorer_of(choice)
    scorer = None if name == "model" else loaded.scorers.setdefault(name, NamedScorer(name))
    session = Session(
        loaded.network, loaded.device, layer, choice.layer, ChosenTarget(classes), methods,
        choice.metrics, choice.baseline, quiet=True, scorer=scorer,
    )  # fmt: skip
    shape = _layer_shape(loaded, layer, x)
    total = expected_rows(choice.specs, choice.metrics, max(1, len(choice.classes)), shape)
    with warnings.catch_warnings(record=True) as caught, _rows_of(model, tell, total):
        warnings.simplefilter("always", UserWarning)
        shown = session.compared(image, picture.name)
    wanted = ", ".join(map(str, choice.classes)) or "top1"
    arguments = argparse.Namespace(
        model=choice.model, weights=choice.weights, baseline=choice.baseline, scorer=name
    )
    record = record_of_picture(session, shown, picture.name, picture.content, image.size, wanted)
    record["run"] = record_of_run(session, arguments, methods)
    ground, size, preprocess = _ground(loaded.network, image, shown)
    warned = dict.fromkeys(" ".join(str(w.message).split()) for w in caught)
    return Result(
        choice, picture, session, shown, ground, size, preprocess, record, shape, tuple(warned)
    )  # fmt: skip


def scorer_of(choice: Choice) -> str:
    """Return what is to run masked pictures; "fastest" builds no runtime for a few of them."""
    if choice.scorer != "fastest":
        return choice.scorer
    return "auto" if any(map(masks_with_every_channel, choice.specs)) else "model"


def time_left(seconds: float, done: int, total: int) -> str:
    """Return in words how long it will take still.

    Examples::

        >>> time_left(4.0, 50, 150), time_left(0.0, 0, 150)
        ('50 of about 150 forwards, 8 seconds left', 'starting')
    """
    # The clean pass alone says little.
    if not done or seconds < 1:
        return "starting"
    left = round(seconds * max(0, total - done) / done)
    shown = f"{left} seconds left" if left < 90 else f"{round(left / 60)} minutes left"
    return f"{done} of about {max(done, total)} forwards, {shown}"


class _Counted:
    """A hook that counts rows; copies of the model, made for a runtime, do not count theirs."""

    def __init__(self, tell: Callable[[int], object]) -> None:
        self.tell = tell

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        first = next((a for a in arguments if isinstance(a, Tensor) and a.dim()), None)
        self.tell(1 if first is None else len(first))

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return _nothing


def _nothing(*_: Any) -> None:
    return None


@contextmanager
def _rows_of(model: nn.Module, tell: Tell, total: int) -> Iterator[None]:
    """Tell of the rows that run through a model, or through a scorer of it."""
    done, last = 0, 0.0

    def count(rows: int) -> None:
        nonlocal done, last
        done += rows
        if time.monotonic() - last > 0.2:
            last = time.monotonic()
            tell(done, total)

    def scored(of: nn.Module, rows: int) -> None:
        if of is model:
            count(rows)

    handle = model.register_forward_pre_hook(_Counted(count))
    try:
        with rows_told(scored):
            yield
    finally:
        handle.remove()


def _layer_shape(loaded: Loaded, layer: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Return the shape of what a layer gives; empty where that is no tensor."""
    seen: list[Any] = []
    handle = layer.register_forward_hook(lambda _, __, given: seen.append(given))
    try:
        loaded.network.outputs(x.to(loaded.device))
    finally:
        handle.remove()
    return tuple(seen[0].shape) if seen and isinstance(seen[0], Tensor) else ()


def _ground(
    network: Network, image: Image.Image, shown: "Shown"
) -> tuple[Image.Image, tuple[int, int], Callable[[Any], Tensor] | None]:
    """Return what maps are drawn over, its size before it was made small, and how it was cut."""
    preprocess: Callable[[Any], Tensor] | None = network.preprocess
    try:
        box_steps(preprocess)
    # A preprocessing of the user's own: what the network sees is all that is known.
    except ValueError:
        from captum_unioncam.visualization.overlay import as_image
        from captum_unioncam.visualization.placing import pixels_of

        if shown.pictures is None:
            raise
        preprocess = None
        image = as_image((255 * pixels_of(shown.pictures)).round().astype("uint8"))
    small = image.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return small, image.size, preprocess
