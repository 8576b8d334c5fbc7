"""Options of a command, declared once: as the fields of the settings that they become."""

import argparse
from collections.abc import Mapping
from dataclasses import Field, field, fields
from typing import Any


def option(*flags: str, label: str = "", **declaration: Any) -> Any:
    """Declare a field of a dataclass to be an option of a command.

    Args:
        flags (str): as `add_argument` takes them; command lines that are written use the last.
        label (str, optional): what reports call it, where `choices` maps values to words.
            Default: ""
        declaration: keywords of `add_argument`; none for what several commands take, which
            ``commands/arguments.py`` declares.
    """
    return field(metadata={"flags": flags, "label": label, "declaration": declaration})


def add_options(parser: argparse.ArgumentParser, settings: type) -> None:
    """Add the options that the fields of a class declare."""
    for one in _options(settings):
        if one.metadata["declaration"]:
            parser.add_argument(*one.metadata["flags"], **one.metadata["declaration"])


def given(arguments: argparse.Namespace, settings: type) -> dict[str, Any]:
    """Return the values of a command line by the fields of the settings."""
    return {one.name: getattr(arguments, one.name) for one in _options(settings)}


def command_words(settings: Any) -> list[str]:
    """Return the words that give these settings on the command line.

    Examples::

        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Settings:
        ...     data: str = option("data")
        ...     n: int | None = option("--n", "--pictures", type=int)
        ...     methods: list[str] = option("--methods")
        ...     alone: bool = option("--alone", action="store_true")
        >>> command_words(Settings("my photos", 5, ["cam", "rise"], True))
        ['my photos', '--pictures', '5', '--methods', 'cam,rise', '--alone']
    """
    words = []
    for one in _options(type(settings)):
        value, flag = getattr(settings, one.name), one.metadata["flags"][-1]
        if value is None or value is False or value in ([], ()):
            continue
        words += [flag] * flag.startswith("-")
        if isinstance(value, Mapping):
            value = list(value.values())
        several = value if isinstance(value, list | tuple) else [value]
        if one.metadata["declaration"].get("nargs") == "+":
            words += several
        elif value is not True:
            words.append(",".join(map(str, several)))
    return words


def in_words(settings: Any) -> list[str]:
    """Return a line for every option whose choices are explained."""
    return [
        f"{one.metadata['label']}: "
        f"{one.metadata['declaration']['choices'][getattr(settings, one.name)]}."
        for one in _options(type(settings))
        if one.metadata["label"]
    ]


def _options(settings: type) -> list[Field[Any]]:
    return [one for one in fields(settings) if "flags" in one.metadata]
