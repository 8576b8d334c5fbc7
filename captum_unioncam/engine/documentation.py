"""Documentation and signatures that methods share, filled in once."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from captum_unioncam.engine.options import SHARED_OPTIONS, shared_options

# What is said of parameters that several methods have as their own, unless they say more.
COMMON = {
    "inputs": """\
inputs (Tensor or tuple[Tensor, ...]): inputs, dimension 0 being the examples.
""",
    "target": """\
target (int, tuple, Tensor, Callable or list, optional): output to explain, as in every
    Captum method: one index for all examples, or one per example; tuples for outputs of
    more than two dimensions; None if there is one value per example. Or a callable that
    takes what the model returned, whatever it is, and gives one score per row, (N,), as
    :mod:`captum_unioncam.targets` has some; or a list of one per example. Its value is
    f_c itself. Default: None
""",
    "additional_forward_args": """\
additional_forward_args (Any, optional): further arguments of forward_func. Tensors
    whose first dimension is the number of examples follow their example, the rest
    is passed as it is. Default: None
""",
    "attribute_to_layer_input": """\
attribute_to_layer_input (bool, optional): use the layer's input instead of its
    output. Default: False
""",
    "relu_attributions": """\
relu_attributions (bool, optional): clip the returned map at zero, as the papers do;
    by default maps are signed, as in Captum. Default: False
""",
    "grad_kwargs": """\
grad_kwargs (dict[str, Any], optional): passed to ``torch.autograd.grad``.
    Default: None
""",
    "max_masks": """\
max_masks (int or str, optional): forward at most so many masks of an example, chosen to
    stand for the others, whose scores are predicted; "auto" forwards as many as
    ``tolerance`` needs; None forwards every distinct one. Default: None
""",
    "tolerance": """\
tolerance (float, optional): with ``max_masks="auto"``, the deviation from the exact map
    at which no more masks are forwarded, estimated from the uncertainty of the
    predicted scores, in units of the map's own variation over space: at 0.1 maps
    correlate by about 0.995. Every example stops for itself; where predictions do not
    tell, all masks are forwarded. Default: 0.08
""",
    "exact": """\
exact (bool, optional): score the finished maps with forward_func itself, also where a
    ``scorer`` runs the masks of the channels, so that the model decides what they earn.
    Default: False
""",
    "seed": """\
seed (int or torch.Generator, optional): seed of what is drawn, or a generator to draw
    from; the random state of torch is not touched. Default: 0
""",
    "return_details": """\
return_details (bool, optional): also return what else was found. Default: False
""",
}
RETURNS = """\
*Tensor* or *tuple[Tensor, ...]* of **attributions**: maps of shape
(N, 1, *spatial of the layer), in the layer's dtype, detached; a tuple only if the
layer gives several tensors. Layers of image tokens give (N, 1, rows, columns).
"""
RAISES = """\
TypeError: if an argument is of the wrong kind.
ValueError: if an argument is out of range or of the wrong shape, the layer is not
    reached or has no spatial dimensions, or values are not finite.
"""


def complete(attribute: Callable[..., Any], method: Any) -> None:
    """Fill in what a method's `attribute` has in common with others, in Captum's layout.

    Its ``**options`` become keyword parameters of the signature. The documentation gets the
    parameters of Captum and these options, what is returned and what is raised, wherever the
    method's own docstring says nothing about them.

    Args:
        attribute (Callable): the function as it is written in the class.
        method (type): the class; gives the name, and defaults of the shared options.
    """
    signature = inspect.signature(attribute)
    *parameters, options = signature.parameters.values()
    if options.kind is not options.VAR_KEYWORD:
        return
    shared = shared_options(options.annotation, method.default_score)
    at = len(parameters) - (parameters[-1].name == "return_details")
    parameters[at:at] = shared
    attribute.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]

    fills = {
        "score": method.default_score,
        "baselines": "the method's own" if method.brings_baselines else 0,
    }
    own = _sections(inspect.getdoc(attribute) or "")
    said = dict(re.findall(r"^(\w+)( \(.*\n(?:    .*\n|\n)*)", own.get("Args", ""), re.MULTILINE))
    texts = COMMON | {p.name: SHARED_OPTIONS[p.name].text.format(**fills) for p in shared}
    texts |= {name: name + text for name, text in said.items()}
    sections = {
        "Args": "".join(texts[p.name] for p in parameters[1:]),
        "Returns": own.get("Returns", RETURNS),
        "Raises": own.get("Raises", RAISES),
    }
    lines = ["Compute the map of the layer for the target.", ""]
    for title, text in sections.items():
        lines += [f"{title}:", *(f"    {line}".rstrip() for line in text.splitlines()), ""]
    # Indented as written docstrings are.
    attribute.__doc__ = "\n".join(f"        {line}".rstrip() for line in lines).lstrip()


def _sections(text: str) -> dict[str, str]:
    """Return what a docstring says under each heading, without its indentation."""
    parts = re.split(r"^(Args|Returns|Raises):\n", text, flags=re.MULTILINE)
    return {
        title: f"{inspect.cleandoc(body)}\n"
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }
