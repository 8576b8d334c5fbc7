"""What every case must hold: its oracle, batches, chunks, scorers, nothing left, clear errors."""

import copy
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from captum_unioncam.methods.registry import METHODS
from tests.fuzz.cases import Case, case_of, is_defined
from tests.fuzz.draws import Draws
from tests.fuzz.expected import expected, has_oracle
from tests.fuzz.networks import subject_of
from tests.fuzz.state import changes, state_of
from tests.fuzz.wrong import wrong_calls

# Of a map's largest value: what the oracles, in another order of sums, may differ by.
CLOSE = 1e-6
# The same for calls of the package itself.
SAME = 1e-9
# How much inputs are changed to see whether rounding decides what an oracle returns.
NUDGE = 1e-12
# Enough that an order of two equal pixels shows both its ways.
NUDGES = 12
# Decide by the order of pixels, in which nearly equal ones still follow rounding, or climb.
ORDERED = ("refinedcam", "regressioncam", "selectedcam")
DETAILS = ("denoised", "region", "union", "beta_denoised", "beta_region", "beta_union")


@dataclass
class Outcome:
    """What a case showed.

    Attributes:
        findings (list[str]): what did not hold.
        undecided (list[str]): differences where rounding of the inputs decides in the oracle too.
        counts (Counter): calls, comparisons, refusals and so on.
    """

    findings: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Failing(Exception):
    """An error of the user's own model."""


def run_case(seed: int, method: str | None = None) -> tuple[Case, Outcome]:
    """Run all that is checked of a seed's case, of a given method or of the one that is drawn."""
    case, outcome = case_of(seed, subject_of(seed), method), Outcome()
    draws, subject = Draws(f"{seed} checks"), case.subject
    _in_use(subject.net, subject.inputs, draws)
    for tensor in (*subject.inputs, *subject.extra):
        if isinstance(tensor, Tensor):
            tensor.requires_grad_(draws.chance("inputs in a graph", 0.2))
    before = state_of(subject.net, (*subject.inputs, *subject.extra))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _check(case, outcome, draws)
    for warning in caught:
        if issubclass(warning.category, RuntimeWarning):
            outcome.findings.append(f"a RuntimeWarning: {warning.message}")
    after = state_of(subject.net, (*subject.inputs, *subject.extra))
    outcome.findings += [f"changed: {name}" for name in changes(before, after)]
    return case, outcome


def _in_use(net: nn.Module, inputs: tuple[Tensor, ...], draws: Draws) -> None:
    """Leave a model as users have it: some in training, partly frozen, with gradients."""
    if draws.chance("gradients", 0.2):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
    if draws.chance("frozen", 0.2):
        for number, parameter in enumerate(net.parameters()):
            parameter.requires_grad_(not draws.chance(f"frozen {number}", 0.5))


def _check(case: Case, outcome: Outcome, draws: Draws) -> None:
    attr = _reference(case, outcome, draws)
    if attr is not None:
        maps, details = attr
        if has_oracle(case):
            _compare_with_oracle(case, outcome, maps, details)
        _compare_singles(case, outcome, maps)
        _compare_chunks(case, outcome, draws, maps)
        _compare_scorers(case, outcome, draws, maps)
        _compare_modes(case, outcome, draws, maps)
        if case.name != "gradcam":
            _fail_within(case, outcome, draws)
    if case.name != "gradcam":
        _wrong(case, outcome, draws)


def _call(case: Case, target: Any, rows: slice = slice(None), **changed: Any) -> Any:
    subject = case.subject
    inputs = tuple(x[rows] for x in subject.inputs)
    extra = tuple(e[rows] if isinstance(e, Tensor) else e for e in subject.extra)
    keywords = {**case.keywords, **changed}
    return case.method().attribute(
        inputs if len(inputs) > 1 else inputs[0], target, extra or None, **keywords
    )


def _reference(case: Case, outcome: Outcome, draws: Draws) -> tuple[Tensor, Any] | None:
    """Return the map and details of the whole batch, or None where the method refuses."""
    details = {"return_details": True} if case.name == "unioncam" else {}
    outcome.counts["calls"] += 1
    try:
        found = _call(case, case.target, **details)
    except (ValueError, TypeError) as error:
        outcome.counts["refusals"] += 1
        reason = _unexpected_refusal(case, error)
        if reason:
            outcome.findings.append(reason)
        if "layout" in str(error) and "layout" not in case.further:
            case.further["layout"] = case.subject.layout
            return _reference(case, outcome, draws)
        return None
    except Exception as error:
        outcome.findings.append(f"undocumented {type(error).__name__}: {error}")
        return None
    maps, parts = found if details else (found, None)
    maps = maps.detach() if case.name == "gradcam" else maps
    _check_form(case, outcome, maps)
    if "layout" in METHODS[case.name].options and "layout" not in case.further:
        outcome.counts["comparisons"] += 1
        told = _call(case, case.target, layout=case.subject.layout)
        if not torch.equal(told, maps):
            outcome.findings.append("the layout that was found is not the layer's")
    return maps, parts


def _unexpected_refusal(case: Case, error: Exception) -> str | None:
    """Return what is wrong with a refusal, or None for those that documentation promises."""
    text, subject = str(error), case.subject
    if not text:
        return f"{type(error).__name__} without a message"
    if not is_defined(case.name, subject):
        return None
    allowed = ["layout"] if "layout" not in case.further else []
    if case.name == "selectedcam":
        allowed.append("an area of")
    if case.name == "cam" and case.indices[0] is None:
        allowed.append("callable")
    others = (*subject.inputs[1:], *(e for e in subject.extra if isinstance(e, Tensor)))
    if case.name == "legrad" and others:
        allowed.append("more than each row's tokens")
    if any(word in text for word in allowed):
        return None
    return f"refused: {type(error).__name__}: {text}"


def _check_form(case: Case, outcome: Outcome, maps: Any) -> None:
    if not isinstance(maps, Tensor):
        outcome.findings.append(f"returned {type(maps).__name__}")
        return
    subject = case.subject
    wanted = (len(subject.inputs[0]), 1)
    if maps.shape[:2] != wanted or maps.dim() != subject.rank + 2:
        outcome.findings.append(f"returned shape {tuple(maps.shape)}")
    if not bool(maps.isfinite().all()):
        outcome.findings.append("the map is not finite")
    if maps.requires_grad or maps.dtype != torch.float64:
        outcome.findings.append(f"the map has {maps.dtype}, requires_grad={maps.requires_grad}")


def _differs(one: Tensor, other: Tensor, tolerance: float) -> float:
    """Return how far two maps are apart, as a part of the largest value; 0 within tolerance."""
    if one.shape != other.shape:
        return math.inf
    apart = float((one - other).abs().max())
    scale = float(other.abs().max())
    return apart / max(scale, 1e-12) if not apart <= tolerance * scale + 1e-12 else 0.0


def _compare_with_oracle(case: Case, outcome: Outcome, maps: Tensor, details: Any) -> None:
    for row in range(len(maps)):
        outcome.counts["comparisons"] += 1
        outcome.counts["with an oracle"] += 1
        wanted = expected(case, row)
        pairs = {"map": (maps[row, 0], wanted["map"].to(maps))}
        for name in DETAILS if details is not None else ():
            own = getattr(details, name)[row].squeeze(0)
            pairs[name] = own, torch.as_tensor(wanted[name], dtype=own.dtype)
        for name, (own, its) in pairs.items():
            apart = _differs(own, its, CLOSE)
            if apart:
                text = f"{name} of example {row} is {apart:.2g} of its largest from the oracle's"
                nudged = _nudged(case, row, name)
                moves = max(_differs(other.to(its), its, CLOSE) for other in nudged)
                (outcome.undecided if moves else outcome.findings).append(text)


def _nudged(case: Case, row: int, name: str) -> list[Tensor]:
    """Return what an oracle gives for an example whose image is changed by rounding."""
    changed = copy.copy(case)
    found = []
    for number in range(NUDGES):
        generator = torch.Generator().manual_seed(number)
        changed.subject = copy.copy(case.subject)
        images = [x.detach() for x in case.subject.inputs]
        noise = torch.randn(images[0].shape, generator=generator, dtype=images[0].dtype)
        images[0] = images[0] * (1 + NUDGE * noise)
        changed.subject.inputs = tuple(images)
        found.append(torch.as_tensor(expected(changed, row)[name]))
    return found


def _compare(case: Case, outcome: Outcome, what: str, one: Tensor, other: Tensor) -> None:
    outcome.counts["comparisons"] += 1
    apart = _differs(one, other, SAME)
    if apart:
        rows = range(len(case.subject.inputs[0])) if case.name in ORDERED else ()
        decided = any(
            _differs(nudged.to(other), expected(case, row)["map"].to(other), CLOSE)
            for row in rows
            for nudged in _nudged(case, row, "map")
        )
        text = f"{what} changes the map by {apart:.2g} of its largest"
        (outcome.undecided if decided else outcome.findings).append(text)


@contextmanager
def _reported(outcome: Outcome, what: str) -> Iterator[None]:
    outcome.counts["calls"] += 1
    try:
        yield
    except Exception as error:
        outcome.findings.append(f"{what}: {type(error).__name__}: {error}")


def _compare_singles(case: Case, outcome: Outcome, maps: Tensor) -> None:
    for row in range(len(maps)) if len(maps) > 1 else ():
        own = slice(row, row + 1)
        with _reported(outcome, f"example {row} alone"):
            single = _call(case, case.single[row], own).detach()
            _compare(case, outcome, f"being alone (example {row})", maps[own], single)


def _compare_chunks(case: Case, outcome: Outcome, draws: Draws, maps: Tensor) -> None:
    if "perturbations_per_eval" not in METHODS[case.name].options:
        return
    rows = draws.choice("another number of rows", [1, 2, 3, 7])
    with _reported(outcome, f"perturbations_per_eval={rows}"):
        chunked = _call(case, case.target, perturbations_per_eval=rows)
        _compare(case, outcome, f"perturbations_per_eval={rows}", maps, chunked)


def _compare_scorers(case: Case, outcome: Outcome, draws: Draws, maps: Tensor) -> None:
    if "scorer" not in METHODS[case.name].options:
        return
    plain = copy.deepcopy(case.subject.net)
    with _reported(outcome, "a copy as the scorer"):
        scored = _call(case, case.target, scorer=plain)
        _compare(case, outcome, "a copy as the scorer", maps, scored)
    if case.indices[0] is not None and draws.chance("lower precision", 0.3):
        with _reported(outcome, "a copy in single precision as the scorer"):
            scored = _call(case, case.target, scorer=_in_single(plain))
            _check_form(case, outcome, scored)


def _in_single(net: nn.Module) -> Callable[..., Any]:
    lower = net.float()

    def scorer(*arguments: Any) -> Any:
        return lower(*(a.float() if isinstance(a, Tensor) else a for a in arguments))

    return scorer


def _compare_modes(case: Case, outcome: Outcome, draws: Draws, maps: Tensor) -> None:
    """Compare with the map in a caller's modes: the same, to the last bit."""
    mode = draws.choice("mode", ["no_grad", "inference", "training", "none", "none"])
    if case.name == "gradcam" or mode == "none":
        return
    contexts: dict[str, Any] = {"no_grad": torch.no_grad, "inference": torch.inference_mode}
    net = case.subject.net
    net.train(mode == "training")
    try:
        with contexts.get(mode, nullcontext)(), _reported(outcome, f"mode {mode}"):
            again = _call(case, case.target)
            _compare(case, outcome, f"mode {mode}", maps, again)
            if net.training != (mode == "training"):
                outcome.findings.append(f"mode {mode}: the model's own mode is not put back")
    finally:
        net.eval()


def _fail_within(case: Case, outcome: Outcome, draws: Draws) -> None:
    """Let the model raise in one of its forwards: its own error comes out, and nothing is left."""
    calls, fails_at = 0, draws.choice("fails at", [1, 2, 3, 5, 9])
    net = case.subject.net

    def fail(module: Any, args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise Failing

    handle = net.register_forward_pre_hook(fail)
    outcome.counts["calls"] += 1
    try:
        _call(case, case.target)
        # Finding out how features can be run, errors of the network are taken for an answer.
    except Failing:
        outcome.counts["errors of the model"] += 1
    except Exception as error:
        outcome.findings.append(f"the model's own error became {type(error).__name__}: {error}")
    finally:
        handle.remove()


def _wrong(case: Case, outcome: Outcome, draws: Draws) -> None:
    """Make wrong calls: each is refused in words, or gives a finite map."""
    calls = wrong_calls(case, draws)
    for name in draws.of("wrong").sample(sorted(calls), min(3, len(calls))):
        outcome.counts["calls"] += 1
        before = state_of(case.subject.net, case.subject.inputs)
        try:
            found = calls[name]()
        except (ValueError, TypeError) as error:
            outcome.counts["errors named"] += 1
            if len(str(error)) < 10:
                outcome.findings.append(f"wrong call {name!r}: no message: {error!r}")
        except Exception as error:
            outcome.findings.append(f"wrong call {name!r}: {type(error).__name__}: {error}")
        else:
            maps = found if isinstance(found, Tensor) else found[0]
            if not bool(maps.isfinite().all()):
                outcome.findings.append(f"wrong call {name!r} gives a map that is not finite")
        left = changes(before, state_of(case.subject.net, case.subject.inputs))
        outcome.findings += [f"wrong call {name!r} changed: {one}" for one in left]
