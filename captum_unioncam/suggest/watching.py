"""One forward of a model, watched: what its modules give, and how the output depends on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from captum_unioncam.engine.clean_pass import REENTRANT, is_reentrant
from captum_unioncam.engine.layout import Layout
from captum_unioncam.engine.layout_finding import ShapesSeen, find_layout, lies_on_inputs
from captum_unioncam.engine.modules import evaluating
from captum_unioncam.engine.target_scores import check_output

# Modules that only drop or pass on what an earlier one found.
PASSING = (*(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity),)

# Where a tensor stands in the graph; modules that return the same tensor share it.
Place = tuple[Node, int]


class InGraph(NamedTuple):
    """A tensor as it stood in the graph, whatever became of it since: networks work in place."""

    edge: GradientEdge
    tensor: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> "InGraph":
        """Note where a tensor stands now."""
        return cls(get_gradient_edge(tensor), tensor.detach())

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self.edge.node, self.edge.output_nr


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module.

    Attributes:
        name (str): the module's dotted name.
        module (nn.Module): the module.
        gave (InGraph): what it returned.
        took (tuple[InGraph, ...]): the tensors it was given.
    """

    name: str
    module: nn.Module
    gave: InGraph
    took: tuple[InGraph, ...]

    @property
    def place(self) -> Place:
        """Where what it returned stands."""
        return self.gave.place

    @property
    def output(self) -> Tensor:
        """What it returned; its values may have been written over since."""
        return self.gave.tensor

    @property
    def is_norm(self) -> bool:
        """Whether the module normalises."""
        kind = type(self.module).__name__
        return "Norm" in kind or kind == "Affine"

    @property
    def only_pools(self) -> bool:
        """Whether the module pools, and has no weights."""
        has_weights = next(self.module.parameters(), None) is not None
        return "Pool" in type(self.module).__name__ and not has_weights

    @property
    def only_passes(self) -> bool:
        """Whether the module finds nothing of its own."""
        return isinstance(self.module, PASSING) or self.only_pools


class Forward:
    """A forward that was watched.

    Args:
        examples (tuple[Tensor, ...]): the inputs.
        calls (list[Call]): calls of modules in the order in which they returned.
        seen (ShapesSeen): what convolutions and pooling gave.
        output (Tensor): the scores that the model returned.
        leaves (set[Node]): where the inputs begin.
        given (dict[str, tuple]): by name of the module, what its last call was given.
    """

    def __init__(
        self,
        examples: tuple[Tensor, ...],
        calls: list[Call],
        seen: ShapesSeen,
        output: Tensor,
        leaves: set[Node],
        given: dict[str, tuple[InGraph, ...]],
    ) -> None:
        self.given = given
        self.examples, self.calls, self.seen, self.output = examples, calls, seen, output
        self._leaves = leaves
        self._last_calls = {call.module: call for call in calls}
        self._numbers = {call: number for number, call in enumerate(calls)}
        self._cuts: dict[Place, bool] = {}
        self._layouts = {call: self._find_layout(call) for call in calls}

    def _find_layout(self, call: Call) -> Layout | None:
        output = call.output
        if not 3 <= output.dim() <= 5 or len(output) != len(self.examples[0]):
            return None
        try:
            layout = find_layout(output, self.examples, call.module, self.seen)
        except ValueError:
            return None
        if not isinstance(layout, Layout) or torch.Size(layout.size).numel() == 1:
            return None
        certain = len(layout.size) == 1 or lies_on_inputs(layout.size, self.examples, self.seen)
        return layout if certain else None

    def layout(self, call: Call) -> Layout | None:
        """Return how what a call gave lies on the inputs, if it has positions and that is known."""
        return self._layouts[call]

    def known_layout(self, call: Call) -> Layout:
        """Return the layout of a call that has one."""
        layout = self._layouts[call]
        if layout is None:
            raise ValueError(f"the positions of {call.name!r} are not known")
        return layout

    def after(self, call: Call | None) -> list[Call]:
        """Return the calls that returned after one, all of them after None."""
        return self.calls if call is None else self.calls[self._numbers[call] + 1 :]

    def comes_after(self, call: Call, other: Call | None) -> bool:
        """Return whether a call returned after another one."""
        return other is None or self._numbers[call] > self._numbers[other]

    def is_last(self, call: Call) -> bool:
        """Return whether the module was not called again: its last call is what is explained."""
        return self._last_calls[call.module] is call

    @cached_property
    def on_path(self) -> set[Node]:
        """The graph that leads from the inputs to the output."""
        return self._met_without(None)

    def _met_without(self, left_out: Node | None) -> set[Node]:
        waiting, met = [self.output.grad_fn], set[Node]()
        while waiting:
            node = waiting.pop()
            if node is not None and node is not left_out and node not in met:
                met.add(node)
                waiting += [following for following, _ in node.next_functions]
        return met

    def is_cut(self, place: Place) -> bool:
        """Return whether the output depends on the inputs through this tensor alone."""
        if place not in self._cuts:
            node = place[0]
            bypassed = self._met_without(node) & self._leaves if node in self.on_path else True
            self._cuts[place] = not bypassed
        return self._cuts[place]

    @cached_property
    def gradients(self) -> dict[Place, Tensor]:
        """Gradients of a mixture of the outputs at all tensors with positions."""
        if not self.output.requires_grad:
            return {}
        found = self._gradients_of(InGraph.of(self.output))
        if any(map(torch.any, found.values())):
            return found
        # Before training the last layer may be zero: what it takes is differentiated instead.
        for call in reversed(self.calls):
            for taken in call.took:
                if self.is_cut(taken.place):
                    found = self._gradients_of(taken)
                    if any(map(torch.any, found.values())):
                        return found
        return {}

    def _gradients_of(self, what: InGraph) -> dict[Place, Tensor]:
        edges = {c.place: c.gave.edge for c in self.calls if self._layouts[c] is not None}
        if not edges:
            return {}
        # A plain sum would be constant for probabilities.
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(what.tensor.shape, generator=generator, dtype=torch.float64)
        try:
            gradients = torch.autograd.grad(
                what.edge, list(edges.values()), weights.to(what.tensor),
                retain_graph=True, allow_unused=True,
            )  # fmt: skip
        except RuntimeError as error:
            if is_reentrant(error):
                raise ValueError(f"no layer can be suggested: {REENTRANT}") from error
            raise
        pairs = zip(edges, gradients, strict=True)
        return {place: gradient for place, gradient in pairs if gradient is not None}

    def reaches(self, call: Call) -> bool:
        """Return whether the output has gradients at the positions of what a call gave."""
        layout, gradient = self._layouts[call], self.gradients.get(call.place)
        if layout is None or gradient is None:
            return False
        strength = layout.to_maps(gradient).abs().flatten(2).amax((0, 1))
        return bool((strength > 0).sum() > 1)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Hold the model in evaluation mode with frozen parameters, and the random state as it is."""
    # Frozen, all that has a graph depends on the inputs.
    learning = [p for p in model.parameters() if p.requires_grad]
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(sorted(devices)),
        evaluating(model),
    ):
        try:
            for parameter in learning:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)


class NotScoresError(ValueError):
    """The model runs, but what it returns cannot be explained."""


def watch(model: nn.Module, examples: tuple[Tensor, ...]) -> Forward:
    """Run the model once, within `undisturbed`.

    Raises:
        NotScoresError: if it returns no single tensor of scores.
    """
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in examples]
    # No leaves of the graph, which nothing may write into: networks may begin in place.
    copies = [leaf.clone() for leaf in leaves]
    differentiable = [leaf for leaf in leaves if leaf.requires_grad]
    calls: list[Call] = []
    given: dict[str, tuple[InGraph, ...]] = {}
    seen = ShapesSeen()
    # Where images come with a table, the table may bypass what shows the image.
    spatial = [leaf for leaf in differentiable if leaf.dim() > 2] or differentiable
    starts = {get_gradient_edge(leaf).node for leaf in spatial}
    noting = _noting(model, calls, given, None if starts else starts)
    with seen.watching(model, len(examples[0])), noting:
        returned = model(*copies)
    try:
        output = check_output(returned, len(examples[0]))
    except (TypeError, ValueError) as error:
        raise NotScoresError(
            f"no layer can be suggested for what the model returns: {error}"
        ) from error
    return Forward(examples, calls, seen, output, starts, given)


@contextmanager
def _noting(
    model: nn.Module,
    calls: list[Call],
    given: dict[str, tuple[InGraph, ...]],
    embeddings: set[Node] | None,
) -> Iterator[None]:
    names = {module: name for name, module in model.named_modules() if name}

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if embeddings is not None and isinstance(module, nn.Embedding):
            embeddings.add(get_gradient_edge(output.requires_grad_()).node)
        name, tensors = names[module], (*args, *kwargs.values())
        given[name] = tuple(
            InGraph.of(x) for x in tensors if isinstance(x, Tensor) and x.requires_grad
        )
        if isinstance(output, Tensor) and output.requires_grad:
            calls.append(Call(name, module, InGraph.of(output), given[name]))

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
