"""Sphinx extension: writes the tables of metrics and protocols, which ``metrics.md`` includes."""

from pathlib import Path
from typing import Any

from captum_unioncam.metrics import METRICS, PROTOCOLS

FILE = Path(__file__).parent / "methods" / "_metrics.md"


def tables() -> str:
    """Return both tables in Markdown, in the order of the registries."""
    metrics = [
        f"| [`{name}`](#captum_unioncam.metrics.{name}) | {metric.title} | "
        f"{'higher' if metric.higher_is_better else 'lower'} | "
        f"{metric.low:g} to {metric.high:g}{' %' * (metric.unit == '%')} | "
        f"{' or '.join(f'`{needed}`' for needed in metric.needs) or '–'} | "
        f"{f'[paper]({metric.link})' if metric.link else '–'} |"
        for name, metric in METRICS.items()
    ]
    protocols = [
        f"| `{name}` | [{protocol.title}]({protocol.link}) | {protocol.baseline} | "
        f"{'softly' if protocol.keep is None else f'best {protocol.keep:.0%} of pixels'} | "
        f"{protocol.steps} | {_start(protocol)} |"
        for name, protocol in PROTOCOLS.items()
    ]
    return "\n".join(
        [
            "| name | metric | better is | range | also needs | source |",
            "| --- | --- | --- | --- | --- | --- |",
            *metrics,
            "",
            "A protocol is a set of settings that makes numbers comparable with a publication's:",
            "`--protocol` of `unioncam benchmark`, or",
            "{func}`captum_unioncam.metrics.protocol_arguments`.",
            "",
            "| name | whose | hidden pixels show | average drop masks | steps | insertion from |",
            "| --- | --- | --- | --- | --- | --- |",
            *protocols,
            "",
            *(f"- `{name}`: {protocol.reproduces}" for name, protocol in PROTOCOLS.items()),
            "",
        ]
    )


def _start(protocol: Any) -> str:
    if protocol.insertion_start == "zero":
        return "zero"
    return f"the input blurred over {protocol.blur_size} pixels"


def write(app: Any) -> None:
    """Write the tables, leaving the file alone if nothing has changed."""
    FILE.parent.mkdir(exist_ok=True)
    if not FILE.exists() or FILE.read_text(encoding="utf-8") != tables():
        FILE.write_text(tables(), encoding="utf-8")


def setup(app: Any) -> None:
    """Write before Sphinx looks for the file."""
    app.connect("builder-inited", write)
