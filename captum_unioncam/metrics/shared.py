"""What several metrics of the same inputs and maps need, measured once for all of them."""

from collections.abc import Callable
from typing import Any

from captum_unioncam.engine.layer_state import SharedInputs


class SharedScores:
    """What metrics of the same model, inputs and maps measure once: give one to each of them.

    That is the clean pass; the scores of the whole inputs, of the baselines, and of what a map
    shows; the order of a map's pixels. A scorer given by name is built once. Metrics of another
    target, score or scorer share nothing with them. While it is used, neither the model's weights
    nor inputs, baselines or maps may change in place. It holds the inputs, and the last maps.

    Examples::

        >>> import torch
        >>> from captum_unioncam.metrics import SharedScores, average_drop, average_increase
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2)).eval()
        >>> x, shared = torch.rand(2, 3, 4, 4), SharedScores()
        >>> attr = x.mean(1, keepdim=True)
        >>> drop = average_drop(net, x, attr, target=1, shared=shared)
        >>> increase = average_increase(net, x, attr, target=1, shared=shared)  # no forward
        >>> drop.shape, increase.shape
        (torch.Size([2]), torch.Size([2]))
    """

    def __init__(self) -> None:
        # By the numbers of objects that are held with it, so that the numbers stay theirs.
        self._inputs: dict[tuple[int, ...], tuple[Any, SharedInputs]] = {}
        self._maps: tuple[Any, dict[int, dict[Any, Any]]] = (None, {})

    def of_inputs(self, *given: Any) -> SharedInputs:
        """Return what is shared by all that are given these very objects."""
        return self._inputs.setdefault(tuple(map(id, given)), (given, SharedInputs()))[1]

    def of_maps(self, inputs: SharedInputs, maps: Any) -> dict[Any, Any]:
        """Return what is known of maps of these inputs; what was known of others is forgotten."""
        if self._maps[0] is not maps:
            self._maps = maps, {}
        return self._maps[1].setdefault(id(inputs), {})


def once(known: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """Return what is known by a key, made if it is not."""
    if key not in known:
        known[key] = make()
    return known[key]
