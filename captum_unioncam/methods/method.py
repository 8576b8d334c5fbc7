"""What is known of a method of the family, and the table of them by name."""

import inspect
from typing import Any, NamedTuple

from captum_unioncam.engine import Forwards, Source


class Method(NamedTuple):
    """A method of the family, with what the command line, the documents and the tests need of it.

    Attributes:
        title (str): its readable name.
        cls (type): its class.
        source (Source): who published it where, and what its definition was taken from.
        needs_gradients (bool): whether it runs a backward.
        forwards (Forwards): rows forwarded per example.
    """

    title: str
    cls: type[Any]
    source: Source
    needs_gradients: bool
    forwards: Forwards

    @property
    def needs_layer(self) -> bool:
        """Whether its class is made with a layer."""
        return "layer" in inspect.signature(self.cls).parameters

    @property
    def options(self) -> dict[str, Any]:
        """Keyword-only parameters of `attribute` and their defaults."""
        parameters = inspect.signature(self.cls.attribute).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


# Filled by `registry.py`, which imports all methods: some of them look others up by name.
METHODS: dict[str, Method] = {}
