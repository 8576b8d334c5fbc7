"""Parameters that metrics share: each typed and described once, and filled in by `metric`."""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, cast, get_args

from torch import Tensor

from captum_unioncam.engine import BaselineType, Score, TargetType
from captum_unioncam.engine.arguments import closest
from captum_unioncam.engine.scorer_choice import ScorerOption
from captum_unioncam.metrics.shared import SharedScores

Forward = Callable[..., Any]
Inputs = Tensor | tuple[Tensor, ...]
Maps = Tensor | tuple[Tensor, ...]
Boxes = Sequence[Tensor] | Tensor
Function = TypeVar("Function", bound=Callable[..., Any])


class ScoreOptions(TypedDict, total=False):
    """Options of every metric that runs the network."""

    target: TargetType
    additional_forward_args: Any
    score: Score
    perturbations_per_eval: int | None
    scorer: ScorerOption
    shared: SharedScores | None
    show_progress: bool


class EvaluationOptions(ScoreOptions, total=False):
    """Options of every metric that hides parts of the inputs."""

    baselines: BaselineType


class ObjectOptions(TypedDict, total=False):
    """The objects in each image; one of both must be given."""

    boxes: Boxes | None
    masks: Tensor | None


# All others are None.
DEFAULTS: Mapping[str, Any] = {"score": "probability", "show_progress": False}

SEED = """\
    seed (int or torch.Generator, optional): of the random order of equal values, the same for
        all examples; the random state of torch is not touched. Default: 0
"""
DESCRIPTIONS: Mapping[str, str] = {
    "forward_func": """\
    forward_func (Callable or torch.nn.Module): the model, or any function of it that returns
        one row of scores per example.
""",
    "inputs": """\
    inputs (Tensor or tuple[Tensor, ...]): inputs, dimension 0 being the examples, N. Floating
        point inputs of the first one's rank are masked, those of another size by the first
        one's masks resized linearly; the others pass.
""",
    "attributions": """\
    attributions (Tensor): maps of shape (N, C, *any spatial size), from any attribution.
        Channels are summed; maps are resized linearly to the input and min-max scaled there.
        Flat maps are clipped to [0, 1] as they are.
""",
    "explanation_func": """\
    explanation_func (Callable): what made the maps, such as the `attribute` method of any
        attribution. It is called with the masked inputs, in a tuple if `inputs` is one, and
        with `target` and `additional_forward_args` as keywords if they are given. It must
        return maps of N examples, a Tensor or a tuple of one. The model is in evaluation mode
        and gradients are on.
""",
    "explanation_kwargs": """\
    explanation_kwargs (Mapping[str, Any], optional): further keywords of `explanation_func`,
        those with which the maps were made. In particular `baselines` here is what the
        explanation takes, while the metric's own says what masked-out parts show.
        Default: None
""",
    "keep": """\
    keep (float, optional): show this share of the pixels, in (0, 1), as they are, and the
        baseline elsewhere: the round(keep * pixels) largest values of the map, of equal
        values the first in scan order. None masks softly. Default: None
""",
    "areas": """\
    areas (Sequence[float], optional): shares of the pixels, between 0 and 1; each holds
        exactly round(area * pixels) of them. Default: (0.1, 0.2, 0.3, 0.4, 0.5)
""",
    "background": """\
    background (str or Tensor, optional): what hidden pixels show: "black", which is the
        `baselines` as given; "mean", "blur" or "noise", made of each input; or a tensor that
        broadcasts to the input, such as another photograph. Default: "black"
""",
    "step": """\
    step (int, optional): pixels per step. None takes a 28th of them, rounded up: the 8 x 224
        of RISE's evaluation on 224 x 224 pixels. Default: None
""",
    "return_curve": """\
    return_curve (bool, optional): also return the scores. Default: False
""",
    "seed": SEED,
    "target": """\
    target (int, tuple, Tensor, Callable or list, optional): output to measure, as in every
        Captum method; or a callable, or one per example, that takes what the model returned
        and gives one score per row, (N,), which is f_c itself. Default: None
""",
    "baselines": """\
    baselines (scalar, Tensor or tuple, optional): what masked-out parts show, one entry per
        input: a number, or a tensor that broadcasts to the input. For a black image under
        mean and standard deviation use ``black_baseline``. Default: 0
""",
    "additional_forward_args": """\
    additional_forward_args (Any, optional): further arguments of forward_func. Tensors whose
        first dimension is N follow their example, the rest is passed as it is. Default: None
""",
    "score": """\
    score (str or Callable, optional): f_c: "probability", "logit", or a function of the raw
        output that returns a tensor of its shape or one score per row.
        Default: "probability"
""",
    "perturbations_per_eval": """\
    perturbations_per_eval (int, optional): at most this many times N rows in a forward; None
        fits the rows to the device. Does not change the result. Default: None
""",
    "scorer": """\
    scorer (Callable or str, optional): what changed inputs run through instead of forward_func:
        what :mod:`captum_unioncam.scorers` builds, its name ("onnxruntime", ..., or "auto", the
        fastest that agrees), or a callable of your own. Default: None
""",
    "shared": """\
    shared (SharedScores, optional): what other metrics of the same inputs and maps have
        measured already; give all of them the same one. Default: None
""",
    "show_progress": """\
    show_progress (bool, optional): show progress bars on stderr. Default: False
""",
}
# Metrics that take no target compare maps with images alone.
DESCRIPTIONS_WITHOUT_A_NETWORK: Mapping[str, str] = {
    "forward_func": """\
    forward_func (Callable, optional): not used; there so that all metrics are called alike.
""",
    "inputs": """\
    inputs (Tensor or tuple[Tensor, ...]): images (N, C, H, W), used for their size.
""",
    "attributions": """\
    attributions (Tensor): one map per example, (N, C, *any size); summed over C.
""",
    "seed": SEED,
    "boxes": """\
    boxes (Sequence[Tensor]): per example its boxes (B, 4), x_min, y_min, x_max, y_max in
        pixels of the inputs. Coordinates are continuous as in torchvision: the pixel in
        column j covers [j, j + 1), and belongs to a box if its centre lies in it;
        [[0, 0, W, H]] is the whole image. PASCAL VOC counts pixels from 1 and includes the
        last: pass (x_min - 1, y_min - 1, x_max, y_max). Default: None
""",
    "masks": """\
    masks (Tensor, optional): the objects' pixels (N, H, W) as bool, instead of boxes.
        Default: None
""",
}
RAISES = """\
Raises:
    TypeError: if an argument is of the wrong kind or unknown.
    ValueError: if an argument is out of range or of the wrong shape, or values are not finite.

"""
RAISES_FOR_OBJECTS = """\
Raises:
    TypeError: if an argument is of the wrong kind or unknown, or the objects are not given, or
        given as boxes and as masks.
    ValueError: if an argument is out of range or of the wrong shape, an example lacks an object
        that it needs, a box leaves the image, or values are not finite.

"""
DOCSTRING = re.compile(r"(?P<about>.*?)(?:Args:\n(?P<args>.*?))?(?P<rest>Returns:.*)", re.DOTALL)
PARAMETER = re.compile(r"^    (\w+) \(.*\n(?:        .*\n)*", re.MULTILINE)


def metric(function: Function) -> Function:
    """Complete what a metric shares with others: signature, documentation, a check of keywords.

    Its ``**options`` become keyword parameters of the signature. Parameters of which its docstring
    says nothing are described as in `DESCRIPTIONS`, and errors as in `RAISES`.

    Args:
        function (Callable): the metric as it is written.

    Returns:
        *Callable* that does the same; it raises TypeError for an unknown keyword, naming the
        closest, before anything runs.

    Raises:
        KeyError: if a parameter is described nowhere.
    """
    written = inspect.signature(function)
    parameters = [p for one in written.parameters.values() for p in _expanded(one)]
    known = [p.name for p in parameters]

    @functools.wraps(function)
    def checked(*args: Any, **keywords: Any) -> Any:
        for name in keywords:
            if name not in known:
                raise TypeError(
                    f"{function.__name__} has no parameter {name!r}{closest(name, known)}; "
                    f"it takes {', '.join(known)}"
                )
        return function(*args, **keywords)

    checked.__signature__ = written.replace(parameters=parameters)  # type: ignore[attr-defined]
    checked.__doc__ = _completed(inspect.getdoc(function) or "", known)
    return cast(Function, checked)


def _expanded(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Return the keywords that ``**options: Unpack[...]`` stands for, or the parameter itself."""
    if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
        yield parameter
        return
    types = get_args(parameter.annotation)[0].__annotations__
    described = [*DESCRIPTIONS, *DESCRIPTIONS_WITHOUT_A_NETWORK]
    for name in sorted(types, key=described.index):
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=DEFAULTS.get(name),
            annotation=types[name],
        )


def _completed(text: str, names: Sequence[str]) -> str:
    found = DOCSTRING.fullmatch(text)
    if found is None:
        raise ValueError(f"a metric's docstring says what it returns, got {text!r}")
    own = {p[1]: p[0] for p in PARAMETER.finditer(found["args"] or "")}
    shared = DESCRIPTIONS if "target" in names else DESCRIPTIONS_WITHOUT_A_NETWORK
    described = "".join(own[name] if name in own else shared[name] for name in names)
    returns, examples, code = found["rest"].partition("Examples::")
    raises = RAISES_FOR_OBJECTS if "boxes" in names else RAISES
    if "Raises:" in returns:
        raises = ""
    return f"{found['about']}Args:\n{described}\n{returns}{raises}{examples}{code}"
