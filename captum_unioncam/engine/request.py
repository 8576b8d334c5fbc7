"""What the user asked for, checked before any forward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from captum_unioncam.engine import arguments as check
from captum_unioncam.engine.callable_targets import check_score_of
from captum_unioncam.engine.captum_compat import BaselineType, TargetType
from captum_unioncam.engine.layout import LayoutOption, Layouts, Name, parse_layout
from captum_unioncam.engine.modules import check_layer, describe_layer
from captum_unioncam.engine.scorer_choice import NamedScorer, ScorerOption
from captum_unioncam.engine.target_scores import Score, parse_target


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked; lives as long as one call.

    Attributes:
        forward_func (Callable): the model, or any function of it.
        layer (nn.Module, optional): the layer to explain; None for methods without one.
        inputs (tuple[Tensor, ...]): the user's inputs, detached.
        target (Any): the target in plain Python.
        extra (tuple): additional forward arguments.
        device_ids (list[int], optional): order of the devices of a hidden DataParallel.
        attribute_to_layer_input (bool): explain the layer's input instead of its output.
        grad_kwargs (dict, optional): further arguments of ``torch.autograd.grad``.
        baselines (tuple): one baseline per input, numbers or tensors.
        score (Score): what f_c is.
        rows_per_forward (int, optional): most rows of a forward; None lets the engine decide.
        description (str, optional): name for progress bars; None shows none.
        scorer (Callable or NamedScorer): what perturbed inputs run through; forward_func unless the
            user gave another callable or the name of a runtime.
        layout (optional): how the layer's tensor lies on the inputs, as `parse_layout` returns
            it; None finds out.
    """

    forward_func: Callable[..., Any]
    layer: Any
    inputs: tuple[Tensor, ...]
    target: Any
    extra: tuple[Any, ...]
    device_ids: list[int] | None
    attribute_to_layer_input: bool
    grad_kwargs: dict[str, Any] | None
    baselines: tuple[Tensor | int | float, ...]
    score: Score
    rows_per_forward: int | None
    description: str | None
    scorer: Callable[..., Any] | NamedScorer
    layout: Name | Layouts | None = None

    @property
    def scorer_is_own(self) -> bool:
        """Whether perturbed inputs run through another callable than forward_func."""
        return self.scorer is not self.forward_func

    @property
    def num_examples(self) -> int:
        """Number of examples, N."""
        return len(self.inputs[0])

    @property
    def layer_name(self) -> str:
        """The layer as error messages name it."""
        return describe_layer(self.forward_func, self.layer) if self.layer else "no layer"

    def is_per_example(self, argument: Any) -> bool:
        """Say whether an additional argument has one row per example."""
        is_rows = isinstance(argument, Tensor) and argument.dim() > 0
        return is_rows and len(argument) == self.num_examples

    def argument(self, argument: Any, rows: Tensor) -> Any:
        """Return an additional argument for the examples `rows`, safe to write into."""
        if self.is_per_example(argument):
            return argument[rows.to(argument.device)]
        return copied(argument)


def copied(value: Any) -> Any:
    """Return a copy of a tensor, or of every tensor of a tuple; anything else as it is.

    Networks may begin in place, and what they are given is the user's, or is used again.
    """
    if isinstance(value, tuple):
        return tuple(copied(one) for one in value)
    return value.detach().clone() if isinstance(value, Tensor) else value


def checked_request(
    forward_func: Callable[..., Any],
    layer: nn.Module | None,
    inputs: Any,
    target: TargetType = None,
    additional_forward_args: Any = None,
    *,
    device_ids: list[int] | None = None,
    attribute_to_layer_input: bool = False,
    grad_kwargs: dict[str, Any] | None = None,
    baselines: BaselineType = None,
    score: Score = "probability",
    perturbations_per_eval: int | None = None,
    description: str | None = None,
    scorer: ScorerOption = None,
    layout: LayoutOption = None,
) -> Request:
    """Check the arguments of an `attribute` and return them as a Request, before any forward.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if it is out of range, of the wrong shape, or not finite.
    """
    if layer is not None:
        check_layer(forward_func, layer)
    check.check_flag("attribute_to_layer_input", attribute_to_layer_input)
    check.check_perturbations_per_eval(perturbations_per_eval)
    if grad_kwargs is not None and not isinstance(grad_kwargs, dict):
        raise TypeError(f"grad_kwargs must be a dict or None, got {type(grad_kwargs).__name__}")
    if not callable(score):
        check.check_choice("score", score, ("probability", "logit"))
    if isinstance(scorer, str):
        scorer = NamedScorer(scorer)
    if scorer is not None and not callable(scorer) and not isinstance(scorer, NamedScorer):
        raise TypeError(f"scorer must be callable, a name or None, got {type(scorer).__name__}")
    parsed = check.parse_inputs(inputs)
    extra = additional_forward_args
    request = Request(
        forward_func,
        layer,
        tuple(x.detach() for x in parsed),
        parse_target(target, len(parsed[0])),
        () if extra is None else extra if isinstance(extra, tuple) else (extra,),
        device_ids or getattr(forward_func, "device_ids", None),
        attribute_to_layer_input,
        grad_kwargs,
        check.parse_baselines(baselines, parsed),
        score,
        perturbations_per_eval and perturbations_per_eval * len(parsed[0]),
        description,
        forward_func if scorer is None else scorer,
        parse_layout(layout),
    )
    check_score_of(request.target, score)
    for x in request.inputs:
        if x.is_floating_point():
            check.check_finite("inputs", x, "clean them before attribution")
    return request
