"""Sphinx extension: writes a page for every method of the registry."""

import re
from pathlib import Path
from typing import Any

from captum_unioncam import METHODS, Method

FOLDER = Path(__file__).parent / "methods"
# Channels and positions of the layers that the literature uses, for pictures of 224 x 224.
LAYERS = {
    "VGG16": (512, 14 * 14),
    "EfficientNet-B0": (1280, 7 * 7),
    "ResNet-50": (2048, 7 * 7),
}
TRANSFORMERS = {"ViT-B/16": (768, 14 * 14)}
# Methods that have no map of the photograph, and why.
WITHOUT_PICTURE = dict.fromkeys(
    ("vitreciprocam", "legrad"),
    "It is defined on vision transformers; the network of the other pages' pictures has none.",
)
NOTES = {
    "gradcam": r"""Captum's own class, listed for comparison:

$$L = \sum_k w_k A_k, \qquad w_k = \mathrm{mean}_{ij}\, W_{kij}$$

with A the layer's activations and W the gradients of the target's output there."""
}


def file_name(name: str) -> str:
    """Return the name of a method's page and picture, without its ending."""
    return name.replace("+", "p")


def page(name: str, method: Method) -> str:
    """Return a method's page in Markdown."""
    paper, year, link, certainty = method.source
    published = f"[{paper} {year}]({link})" if year else "control"
    options = ", ".join(f"`{option}={value!r}`" for option, value in method.options.items())
    shown = method.title if name == "gradcam" else f"{method.title} beside Grad-CAM"
    picture = WITHOUT_PICTURE.get(
        name, f"![{shown} on a photograph](../pictures/{file_name(name)}.png)"
    )
    return f"""\
# {method.title}

{picture}

| | |
| --- | --- |
| registry | `METHODS["{name}"]`, `unioncam explain --method {name}` |
| published | {published} |
| definition from | {certainty} |
| backward | {"yes" if method.needs_gradients else "no"} |
| rows per example | {_rows(name, method)} |
| options | {options or "none"} |

{NOTES.get(name, "")}

```{{eval-rst}}
.. autoclass:: {_public_name(method.cls)}
   :members: attribute
```
"""


def link_pages(app: Any, docname: str, source: list[str]) -> None:
    """Link the committed list of methods to their pages, which only Sphinx writes."""
    if docname == "methods":
        linked = re.sub(
            r"^\| `(.*?)` \| (.*?) \|",
            lambda row: f"| `{row[1]}` | [{row[2]}](methods/{file_name(row[1])}.md) |",
            source[0],
            flags=re.MULTILINE,
        )
        pages = "\n".join(f"methods/{file_name(name)}" for name in METHODS)
        source[0] = f"{linked}\n```{{toctree}}\n:hidden:\n{pages}\n```\n"


def write(app: Any) -> None:
    """Write all pages, leaving alone those that have not changed."""
    FOLDER.mkdir(exist_ok=True)
    pages = {file_name(name): page(name, method) for name, method in METHODS.items()}
    for name, text in pages.items():
        path = FOLDER / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Any) -> None:
    """Write the pages before Sphinx looks for them, and link to them."""
    app.connect("builder-inited", write)
    app.connect("source-read", link_pages)


def _public_name(cls: type) -> str:
    package = cls.__module__.partition(".")[0]
    return f"{'captum.attr' if package == 'captum' else package}.{cls.__name__}"


def _rows(name: str, method: Method) -> str:
    layers = TRANSFORMERS if name in WITHOUT_PICTURE else LAYERS
    most = {network: method.forwards.at_most(*size) for network, size in layers.items()}
    if len({method.forwards.at_most(*size) for size in LAYERS.values()}) > 1:
        listed = ", ".join(f"{rows} for {network}" for network, rows in most.items())
        return f"{method.forwards.text}; at most {listed}"
    rows = next(iter(most.values()))
    same = method.forwards.text == str(rows)
    return method.forwards.text + ("" if same else f"; {rows} by default")
