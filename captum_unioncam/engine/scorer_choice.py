"""Which callable runs changed inputs: the user's, one built by name, or the model itself."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_unioncam.engine.arguments import check_choice
from captum_unioncam.engine.callable_targets import is_callable_target
from captum_unioncam.engine.maps import resize
from captum_unioncam.engine.target_scores import TargetScores, at_least_float32, output_as_read
from captum_unioncam.engine.warn import warn
from captum_unioncam.scorers import AUTO, BUILDERS, Scorer, ScorerError, is_installed

if TYPE_CHECKING:
    from captum_unioncam.engine.request import Request

# Masked rows on which a new scorer is compared with its model, at least; on further inputs it is
# one for each example.
FIRST_ROWS = 4

# Runs what the last argument makes, rows of the given examples, through a callable.
RunRows = Callable[[Callable[..., Any], Tensor, Callable[[], tuple[Tensor, ...]]], Any]


class NamedScorer:
    """A scorer that is built once a model's inputs are known, and kept for later calls.

    It holds copies of weights but no tensor of a call. Its own copies and pickles keep the name.

    Args:
        name (str): one of ``captum_unioncam.scorers.BUILDERS``; or "auto", the fastest that is
            installed, runs the model and agrees with it to its own precision, else the model.

    Attributes:
        used (Scorer, optional): what ran the last call, with its deviation; None if that was the
            model itself.
        built (Scorer, optional): what was built for the last call, whether it agreed or not.
    """

    def __init__(self, name: str) -> None:
        check_choice("scorer", name, ("auto", *BUILDERS))
        self.name = name
        self.used: Scorer | None = None
        self.built: Scorer | None = None
        # By name, what it was built for and the scorer, or why there is none.
        self._kept: dict[str, tuple[Any, Scorer | str]] = {}

    def __deepcopy__(self, memo: Any) -> "NamedScorer":
        return NamedScorer(self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return NamedScorer, (self.name,)

    def __repr__(self) -> str:
        return f"NamedScorer({self.name!r})"

    def choose(self, request: "Request", run: RunRows) -> Callable[..., Any]:
        """Return what runs changed inputs of a request: a scorer, or the model.

        Raises:
            TypeError: if forward_func is no module.
            ScorerError: if the scorer is not installed or cannot be built, unless it is "auto".
        """
        self.used = self.built = None
        for name in self._candidates(request):
            try:
                self.built = self._built(name, request)
                found = agreeing(self.built, request, run)
            except ScorerError:
                if self.name != "auto":
                    raise
                continue
            if isinstance(found, Scorer):
                self.used = found
                return found
        return request.forward_func

    def _candidates(self, request: "Request") -> tuple[str, ...]:
        if self.name != "auto":
            return (self.name,)
        fits = isinstance(request.forward_func, torch.nn.Module)
        on_cpu = all(x.device.type == "cpu" for x in request.inputs)
        return tuple(name for name in AUTO if fits and on_cpu and is_installed(name))

    def _built(self, name: str, request: "Request") -> Scorer:
        """Return the scorer of that name for a request, built unless it is kept."""
        wanted = _kind(request)
        built_for, kept = self._kept.get(name, (None, None))
        if kept is None or built_for != wanted:
            # Two copies of the weights are never held at once.
            self._kept.pop(name, None)
            try:
                kept = BUILDERS[name](request.forward_func, request.inputs, request.extra)
            except ScorerError as error:
                kept = str(error)
                if self.name == "auto":
                    warn(f"scorer='auto' leaves out a runtime: {error}")
            self._kept[name] = wanted, kept
        if isinstance(kept, str):
            raise ScorerError(kept)
        return kept


# What the option `scorer` takes.
ScorerOption = Callable[..., Any] | NamedScorer | str | None


def chosen_scorer(request: "Request", run: RunRows) -> Callable[..., Any]:
    """Return what runs the changed inputs of a request; the model where a scorer deviates.

    Args:
        request (Request): what was asked for.
        run (Callable): takes a callable, the example of each row and what makes the inputs, and
            returns the callable's output.

    Raises:
        ScorerError: if a scorer that was asked for by name cannot be built or run.
    """
    if isinstance(request.scorer, NamedScorer):
        return request.scorer.choose(request, run)
    if isinstance(request.scorer, Scorer):
        return agreeing(request.scorer, request, run)
    return request.scorer


def name_of_scorer(ran: Callable[..., Any], model: Callable[..., Any]) -> str:
    """Return what tables call what ran changed inputs."""
    if isinstance(ran, Scorer):
        return ran.name
    return "model" if ran is model else getattr(ran, "__name__", type(ran).__name__)


def agreeing(scorer: Scorer, request: "Request", run: RunRows) -> Callable[..., Any]:
    """Return an up-to-date scorer, or the model, with a warning, if it is too far from that.

    Raises:
        ScorerError: if the scorer cannot be built again or cannot run the inputs.
    """
    scorer.refresh()
    inputs = _told(request)
    is_new = not scorer.was_compared_on(inputs)
    if is_new:
        rows = request.num_examples if scorer.deviation is not None else FIRST_ROWS
        scorer.compared(_deviation(scorer, request, run, rows), inputs)
    # NaN is no agreement.
    if scorer.deviation is not None and scorer.deviation <= scorer.tolerance:
        return scorer
    if is_new:
        warn(
            f"scorer {scorer.name!r} is not used: on masked inputs its scores are up to "
            f"{scorer.deviation:.2g} of the largest from the model's, and {scorer.tolerance:g} is "
            "tolerated; the model itself runs them"
        )
    return request.forward_func


def _deviation(scorer: Scorer, request: "Request", run: RunRows, at_least: int) -> float:
    """Return how far a scorer is from its model on masked inputs, as a part of the largest score.

    The masks are smooth, each takes one corner away; every example is seen under as many.
    """
    count = request.num_examples
    each = -(-at_least // count)
    rows = torch.arange(count).repeat(each)
    corners = torch.arange(each).repeat_interleave(count)

    def masked() -> tuple[Tensor, ...]:
        return _masked_corners(request, rows, corners)

    expected = output_as_read(request.target, run(request.forward_func, rows, masked), len(rows))
    output = output_as_read(request.target, run(scorer, rows, masked), len(rows))
    if not is_callable_target(request.target) and output.shape != expected.shape:
        raise ScorerError(
            f"{scorer.name} returns shape {tuple(output.shape)} where the model returns "
            f"{tuple(expected.shape)}"
        )
    first = expected if is_callable_target(request.target) else expected[:count]
    target = TargetScores.from_output(request.score, request.target, first)
    scores, others = (target.target_score(given, rows)[1] for given in (expected, output))
    others = others.to(scores.device)
    difference, largest = (others - scores).abs().max(), scores.abs().max()
    return float(torch.where(difference > 0, difference / largest, difference))


def _masked_corners(request: "Request", rows: Tensor, corners: Tensor) -> tuple[Tensor, ...]:
    """Return examples `rows`, with a corner of every floating point image taken away."""
    masked = []
    for x, baseline in zip(request.inputs, request.baselines, strict=True):
        some = x[rows.to(x.device)]
        rank = x.dim() - 2
        if not x.is_floating_point() or not 1 <= rank <= 3:
            masked.append(some)
            continue
        kept = 1 - torch.nn.functional.one_hot(corners % 2**rank, 2**rank).to(x)
        keep = resize(at_least_float32(kept).reshape(-1, 1, *[2] * rank), x.shape[2:])
        wide = at_least_float32(some)
        if isinstance(baseline, Tensor):
            shown = baseline.to(wide)
            shown = shown[rows.to(x.device)] if shown.dim() and len(shown) > 1 else shown
        else:
            shown = wide.new_tensor(baseline)
        masked.append(torch.lerp(shown, wide, keep.to(wide)).to(x.dtype))
    return tuple(masked)


def _kind(request: "Request") -> tuple[Any, ...]:
    """Return what a scorer is built for: its model, and its arguments without their values."""
    inputs = [(x.dtype, tuple(x.shape[1:])) for x in request.inputs]
    further = [
        (x.dtype, tuple(x.shape[1:] if request.is_per_example(x) else x.shape))
        if isinstance(x, Tensor)
        else (type(x), repr(x))
        for x in request.extra
    ]
    return id(request.forward_func), tuple(inputs), tuple(further)


def _told(request: "Request") -> tuple[Any, ...]:
    """Return what tells a request's inputs, target and score from others, without holding them."""
    tensors = [x for x in (*request.inputs, *request.extra) if isinstance(x, Tensor)]
    sums = [(tuple(x.shape), str(x.sum().item())) for x in tensors]
    return tuple(sums), repr(request.score), repr(request.target)
