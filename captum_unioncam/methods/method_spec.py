"""Methods named in text: a registry name, a part of what a method unites, options."""

from typing import Any, NamedTuple

from captum_unioncam.engine.arguments import closest, read_options
from captum_unioncam.methods.method import METHODS


class Spec(NamedTuple):
    """A method as text names it.

    Attributes:
        name (str): its name in the registry.
        part (str): the map that is meant of those it unites; empty for the method's own.
        options (dict[str, Any]): keywords of its `attribute`.
    """

    name: str
    part: str
    options: dict[str, Any]

    def title(self) -> str:
        """Return what tables and figures call it.

        Examples::

            >>> parse_spec("unioncam.region:theta=30").title()
            'UnionCAM region theta=30'
        """
        words = [
            METHODS[self.name].title,
            self.part,
            *(f"{n}={v}" for n, v in self.options.items()),
        ]
        return " ".join(word for word in words if word)


def parse_spec(text: str) -> Spec:
    """Read a method's name with options, ``name.part:option=value:option=value``.

    Args:
        text (str): a name of the registry; a part (".denoised", ".region" or ".union" of UnionCAM
            and Fusion-CAM) gives one of the maps that the method unites, the union before anything
            is selected or fused. Values are Python literals or plain words.

    Returns:
        *Spec*: name, part and options.

    Raises:
        TypeError: if `text` is not a string.
        ValueError: if there is no such method, part or option, naming the closest ones.

    Examples::

        >>> parse_spec("unioncam:theta=30:alpha=count")
        Spec(name='unioncam', part='', options={'theta': 30, 'alpha': 'count'})
        >>> parse_spec("unioncam.region")
        Spec(name='unioncam', part='region', options={})
    """
    if not isinstance(text, str):
        raise TypeError(f"a method must be named by a str, got {type(text).__name__}")
    head, *assignments = text.strip().split(":")
    name, _, part = head.partition(".")
    if name not in METHODS:
        raise ValueError(
            f"no method {name!r}{closest(name, METHODS)}; 'unioncam methods' lists all"
        )
    has = getattr(METHODS[name].cls, "parts", ())
    if part and part not in has:
        where = f"{name} has {', '.join(has) or 'none'}"
        raise ValueError(f"{text!r}: no part {part!r}; {where}")
    return Spec(name, part, read_options(text, name, assignments, METHODS[name].options))


def parts(text: str) -> list[str]:
    """Return what commas separate, without blanks."""
    return [part for part in (piece.strip() for piece in text.split(",")) if part]
