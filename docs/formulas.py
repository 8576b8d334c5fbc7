"""Sphinx extension: formulas as MathML, drawn by browsers themselves, with no script to load."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def mathml(formula: str, *, as_block: bool) -> str:
    """Return a formula in MathML.

    Examples::

        >>> mathml("x", as_block=True)
        '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"><mi>x</mi></math>'
    """
    # docutils wants to be told which big bracket opens and which closes.
    formula = re.sub(r"\\([bB]igg?)(?=[)\]])", r"\\\1r", formula)
    formula = re.sub(r"\\([bB]igg?)(?=[(\[])", r"\\\1l", formula)
    formula = re.sub(r"\\[bB]igg?/", "/", formula).replace(r"\operatorname*", r"\operatorname")
    text = re.sub(r"\n\s*", "", tex2mathml(formula, as_block=as_block))
    # Few fonts have docutils' sign for a difference of sets.
    text = text.replace("\N{REVERSE SOLIDUS OPERATOR}", "\N{SET MINUS}")
    # The bars of a norm are as high as a letter.
    return re.sub(r"<mo[^>]*>‖</mo>", '<mo stretchy="false">‖</mo>', text)


def visit_inline(writer: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    writer.body.append(mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def visit_block(writer: Any, node: nodes.math_block) -> None:
    """Write a formula that stands alone."""
    writer.body.append(f'<div class="math">{mathml(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Offer what ``html_math_renderer`` chooses."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
