"""Which Grad-CAM a comparison takes: Captum's, or one that reads tokens and channels last."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from captum.attr import LayerGradCam
from torch import Tensor, nn

from captum_unioncam.engine.layout import Layout
from captum_unioncam.engine.layout_finding import ShapesSeen, find_layout
from captum_unioncam.methods.grad_cam import LaidOutGradCAM


class LayersOfGradCAM:
    """What the layers of Captum's Grad-CAM give in a forward, which tells how they lie.

    Args:
        attributions (Sequence): the attributions of a comparison.
    """

    def __init__(self, attributions: Sequence[Any]) -> None:
        self.layers = [one.layer for one in attributions if type(one) is LayerGradCam]
        self.given: dict[int, Any] = {}
        self.seen = ShapesSeen()

    @contextmanager
    def watching(self, model: nn.Module | None, num_examples: int) -> Iterator[None]:
        """Note what the layers give inside the block."""
        with ExitStack() as stack:
            for layer in self.layers:
                hook = layer.register_forward_hook(
                    lambda layer, _, given: self.given.update({id(layer): given})
                )
                stack.callback(hook.remove)
            if self.layers:
                stack.enter_context(self.seen.watching(model, num_examples))
            yield

    def fitting(self, attribution: Any, inputs: Sequence[Tensor]) -> Any:
        """Return the attribution, or the Grad-CAM that fits where its layer gives no plain maps."""
        tensor = self.given.get(id(getattr(attribution, "layer", None)))
        is_captums = type(attribution) is LayerGradCam
        if not is_captums or not isinstance(tensor, Tensor) or not 3 <= tensor.dim() <= 5:
            return attribution
        try:
            layout = find_layout(tensor, inputs, attribution.layer, self.seen)
        # What cannot be told is Captum's to read, as it always was, where it can be maps.
        except ValueError:
            if tensor.dim() == 3 and any(x.dim() > 3 for x in inputs):
                raise
            return attribution
        if isinstance(layout, Layout) and (layout.channels, layout.leading_tokens) == ("first", 0):
            return attribution
        return LaidOutGradCAM(attribution.forward_func, attribution.layer, attribution.device_ids)
