"""Pieces of figures: colours, the scale, texts that any script can be written in, files."""

import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from captum_unioncam.comparison.text import printable, width
from captum_unioncam.files import written_whole
from captum_unioncam.visualization.overlay import HEAT


def add_scale(figure: Figure, grid: NDArray[Any], label: str) -> None:
    """Add a colour bar from 0 to 1, about two rows of the grid high."""
    scale = figure.colorbar(
        ScalarMappable(Normalize(0, 1), HEAT),
        ax=grid.ravel().tolist(),
        shrink=min(1.0, 2.2 / len(grid)),
        pad=0.01,
    )
    scale.set_label(label, fontsize=10)


def lettering(texts: Iterable[str]) -> tuple[list[str], Callable[[str], str]]:
    r"""Return font families that have the letters of texts, and how to write what none has.

    Fonts that are installed are searched for what the default one lacks. A letter of no font is
    written as Python escapes it, ``\u732b``; marks that only shape their neighbours are left out.

    Returns:
        *tuple* of the families, for matplotlib's "font.family", and of a function from a text to
        one that they can write, on one line.
    """
    families = list(mpl.rcParams["font.family"])
    default = font_manager.findfont(font_manager.FontProperties(family=families))
    missing = {ord(c) for text in texts for c in text if not c.isspace()} - letters_of(default)
    fonts = [f for f in font_manager.fontManager.ttflist if f.style == "normal"] if missing else []
    while missing:
        best = max(fonts, key=lambda font: len(missing & letters_of(font.fname)), default=None)
        if best is None or not missing & letters_of(best.fname):
            break
        families.append(best.name)
        missing -= letters_of(best.fname)
    escaped = {code: _escape(chr(code)) for code in missing}
    return families, lambda text: " ".join(text.translate(escaped).split())


@cache
def letters_of(font: str) -> frozenset[int]:
    """Return the letters that a font file has outlines of; none if it cannot be read."""
    try:
        opened = font_manager.get_font(font)
    except (OSError, RuntimeError):
        return frozenset()
    # Coloured bitmaps cannot be drawn, and a font of last resort has a box for every letter.
    is_drawn = opened.scalable and not opened.family_name.startswith("Last Resort")
    return frozenset(opened.get_charmap()) if is_drawn else frozenset()


def _escape(letter: str) -> str:
    is_shaping = unicodedata.category(letter) in ("Cf", "Mn", "Me")
    return "" if is_shaping else printable(letter).encode("ascii", "backslashreplace").decode()


def shortened(text: str, length: int = 30) -> str:
    """Return the text, cut where it would not fit over a picture."""
    if width(text) <= length:
        return text
    while width(text) >= length:
        text = text[:-1]
    return f"{text}…"


def save(figure: Figure, path: Path) -> None:
    """Write a figure without opening a window; a stopped run leaves no half-written file."""
    with written_whole(path) as partial:
        FigureCanvasAgg(figure).print_figure(partial, format=path.suffix[1:].lower())


def writable_suffixes() -> set[str]:
    """Return the file name endings that `save` can write, with their dots."""
    return {f".{suffix}" for suffix in FigureCanvasAgg.get_supported_filetypes()}


def picture_suffixes() -> set[str]:
    """Return the file name endings of pictures that Pillow can write."""
    from PIL import Image

    return {end for end, kind in Image.registered_extensions().items() if kind in Image.SAVE}
