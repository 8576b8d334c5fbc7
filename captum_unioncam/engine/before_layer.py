"""The part of a network before the layer, run on one row for many equal ones."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from captum_unioncam.engine.modules import model_behind

if TYPE_CHECKING:
    from captum_unioncam.engine.layer_state import LayerState


@dataclass
class _ModuleCall:
    module: nn.Module
    number: int
    start: int
    # How many rows each of its tensors has where the network runs on one.
    rows: list[int]
    # The elements of its widest output there.
    width: int = 0


@dataclass
class BeforeLayer:
    """The calls of modules that end before the layer gives its features, outermost ones only."""

    state: "LayerState"
    calls: dict[tuple[nn.Module, int], list[int]] = field(default_factory=dict)
    widest: int = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Find the calls in a forward of one row."""
        request = self.state.request
        last = request.layer, self.state.layer_calls - 1
        running: list[_ModuleCall] = []
        ended: list[_ModuleCall] = []
        numbers: dict[nn.Module, int] = defaultdict(int)
        starts, reached = 0, False

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal starts, reached
            rows: list[int] = []
            _map_tensors((args, kwargs), lambda t: rows.append(len(t)))
            running.append(_ModuleCall(module, numbers[module], starts, rows))
            reached = reached or (request.attribute_to_layer_input and last == _key(running[-1]))
            numbers[module] += 1
            starts += 1

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            nonlocal reached
            this = running.pop()
            if reached:
                return
            while ended and ended[-1].start > this.start:
                ended.pop()
            ended.append(this)
            sizes = [0]
            _map_tensors(output, lambda t: sizes.append(t.numel()))
            this.width = max(sizes)
            reached = last == _key(this)

        model = model_behind(request.forward_func)
        if model is None:
            raise ValueError("the modules before the layer are not known")
        with _hooked(list(model.modules()), before, after):
            yield
        if any(outermost.rows and 1 not in outermost.rows for outermost in ended):
            raise ValueError("a module before the layer takes no rows")
        self.calls = {_key(outermost): outermost.rows for outermost in ended}
        self.widest = max((outermost.width for outermost in ended), default=0)

    @contextmanager
    def on_one_row(self, rows: int) -> Iterator[None]:
        """Run these calls on the first of R equal rows, and expand what they return."""
        numbers: dict[nn.Module, int] = defaultdict(int)
        running: list[tuple[nn.Module, int]] = []

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            running.append((module, numbers[module]))
            numbers[module] += 1
            if running[-1] not in self.calls:
                return None
            on_one = iter(self.calls[running[-1]])
            # Rows are what grows with them: other tensors may happen to have R rows too.
            return _map_tensors(
                (args, kwargs), lambda t: t[:1] if (next(on_one), len(t)) == (1, rows) else t
            )

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            if running.pop() not in self.calls:
                return None
            return _map_tensors(
                output, lambda t: t.expand(rows, *t.shape[1:]) if len(t) == 1 else t
            )

        with _hooked(list({module for module, _ in self.calls}), before, after):
            yield


def _key(call: _ModuleCall) -> tuple[nn.Module, int]:
    return call.module, call.number


@contextmanager
def _hooked(
    modules: list[nn.Module], before: Callable[..., Any], after: Callable[..., Any]
) -> Iterator[None]:
    handles = []
    try:
        for module in modules:
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Change the tensors with at least one dimension in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return change(value) if value.dim() else value
    if isinstance(value, dict):
        return {key: _map_tensors(entry, change) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return rebuilt(value, [_map_tensors(entry, change) for entry in value])
    return value


def rebuilt(like: Any, parts: list[Any]) -> Any:
    """Return a tuple, named tuple or list of the same kind with other parts."""
    return like._make(parts) if hasattr(like, "_make") else type(like)(parts)
