"""Which layer to explain, found by watching a forward and checked by changing the input."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_unioncam.engine.arguments import parse_inputs
from captum_unioncam.engine.locks import exclusive_use
from captum_unioncam.engine.modules import check_has_values
from captum_unioncam.suggest.choosing import chosen_call
from captum_unioncam.suggest.positions import check_positions
from captum_unioncam.suggest.watching import Forward, NotScoresError, undisturbed, watch

__all__ = ["SuggestedLayer", "suggest_layer"]


class SuggestedLayer(NamedTuple):
    """A layer to explain; printed, it is one line.

    Attributes:
        name (str): its dotted name in the model, as ``model.get_submodule`` takes it.
        layer (nn.Module): the layer itself.
        why (str): what it was chosen for, in a sentence.
    """

    name: str
    layer: nn.Module
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({type(self.layer).__name__}): {self.why}"

    def __repr__(self) -> str:
        return f"SuggestedLayer(name={self.name!r}, why={self.why!r})"


def suggest_layer(
    model: nn.Module, inputs: Tensor | tuple[Tensor, ...] | None = None
) -> SuggestedLayer:
    """Suggest the layer that class activation maps are usually made of.

    In convolutional networks it is the last layer whose output is bigger than 1 x 1 in space and
    through which all of the output passes, leaving out pooling, dropout and the class score maps
    of a convolutional head. Of nested modules that return the same tensor the outermost is
    named: ``layer4`` for ResNet, ``features`` for DenseNet, MobileNet, EfficientNet and ConvNeXt,
    but ``features.29`` for VGG16, whose ``features`` ends in pooling. In transformers that work
    on tokens it is the first norm of the last block whose patches, not its class token alone,
    reach the output: ``blocks.11.norm1`` for timm's ViT.

    Parts of the input are changed to see whether the layer changes most in the same parts; a
    layer whose positions are in another order is refused.

    Args:
        model (nn.Module): the model. Its modes, gradients and random state stay as they are. It
            may return what `attribute` takes: a tensor, something with an entry "logits" or
            "out", or a tuple that begins with the scores.
        inputs (Tensor or tuple[Tensor, ...], optional): an example input. By default noise of
            shape (1, C, H, W), with C from the model's first convolution and the size that
            timm's and transformers' models note, or else 224 x 224. Default: None

    Returns:
        *SuggestedLayer* with the layer, its dotted name and the reason.

    Raises:
        TypeError: if `model` is not a module, or `inputs` are not tensors.
        ValueError: if the model has no values, does not run on the default input, returns no
            single tensor of scores, or no layer is suited.

    Examples::

        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1800, 10)
        ... )
        >>> found = suggest_layer(net, torch.rand(1, 3, 32, 32))
        >>> print(found)
        1 (ReLU): last spatial output on the way to the head: ReLU giving 8 channels of 30 x 30
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_has_values(model)
    given = None if inputs is None else parse_inputs(inputs)
    # The random state is one for all threads.
    with exclusive_use(model, torch.default_generator), undisturbed(model):
        forward = _watched_by_default(model) if given is None else watch(model, given)
        call, why = chosen_call(forward)
        check_positions(model, forward, call)
    times = sum(other.module is call.module for other in forward.calls)
    if times > 1:
        why += f" (called {times} times, the last call counts)"
    return SuggestedLayer(call.name, call.module, why)


def _watched_by_default(model: nn.Module) -> Forward:
    examples = _default_examples(model)
    for example in examples[:-1]:
        try:
            return watch(model, (example,))
        except NotScoresError:
            raise
        except Exception:
            # Whatever the model's own error is, it may take the next size.
            continue
    try:
        return watch(model, (examples[-1],))
    except NotScoresError:
        raise
    except Exception as error:
        raise ValueError(
            f"the model does not run on noise of shape {tuple(examples[-1].shape)} ({error}); "
            "pass an example as suggest_layer(model, inputs)"
        ) from error


def _default_examples(model: nn.Module) -> list[Tensor]:
    """Return noise of the sizes that the model may take, the likeliest first."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise ValueError(
            "the model has no 2-D convolution to guess its input from; pass an example as "
            "suggest_layer(model, inputs)"
        )
    config: Any = getattr(model, "config", None)
    noted: list[Any] = [
        getattr(getattr(model, "patch_embed", None), "img_size", None),
        (getattr(model, "default_cfg", None) or {}).get("input_size", ())[1:],
        getattr(config, "image_size", None),
        224,
    ]
    sizes = [(size, size) if isinstance(size, int) else tuple(size or ()) for size in noted]
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn((1, first.in_channels, *size), generator=generator).to(first.weight)
        for size in dict.fromkeys(sizes)
        if len(size) == 2
    ]
