"""The command ``unioncam methods``: the family as a table."""

import argparse

from captum_unioncam.comparison.text import aligned
from captum_unioncam.methods.registry import METHODS

HEADER = ["name", "method", "published", "backward", "rows per example", "definition from"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--markdown", action="store_true", help="as a Markdown table with links")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    print(methods_table(markdown=arguments.markdown))
    return 0


def methods_table(*, markdown: bool = False) -> str:
    """Return the registry as a table: aligned text, or Markdown with links for the documents."""
    rows = []
    for name, method in METHODS.items():
        paper, year, link, certainty = method.source
        published = f"{paper} {year}" if year else "control"
        if markdown:
            published = f"[{published}]({link})" if link else published
            name = f"`{name}`"
        gradients = "yes" if method.needs_gradients else "no"
        rows.append([name, method.title, published, gradients, method.forwards.text, certainty])
    if not markdown:
        return "\n".join(aligned(HEADER, rows, left=len(HEADER)))
    rows = [HEADER, ["---"] * len(HEADER), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
