"""The command ``unioncam explain``: photographs with UnionCAM and its modules, or another method.

It is ``unioncam compare`` with methods and metrics of its own.
"""

import argparse

from captum_unioncam.commands.arguments import add_pictures, add_scorer
from captum_unioncam.commands.compare import compare_pictures
from captum_unioncam.commands.overlays import Overlay
from captum_unioncam.engine import check_percent
from captum_unioncam.methods.method_spec import parse_spec
from captum_unioncam.methods.registry import METHODS
from captum_unioncam.visualization import Threshold
from captum_unioncam.visualization.regions import check_threshold

# The paper's two maps, by its symbols.
MODULES = {"denoised map D": "denoised", "region map R": "region"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Explain photographs with Grad-CAM and UnionCAM, or another method; write figures and "
        "print their scores."
    )
    add_pictures(parser, metrics="beta", output="unioncam.png")
    add_scorer(
        parser, default=None, by_default="auto for methods that mask with every channel, else model"
    )
    parser.add_argument(
        "--target", default="top1", help="class to explain: top1 (default), a number, or a name"
    )
    parser.add_argument(
        "--method",
        default="unioncam",
        help="a name that 'unioncam methods' lists, with options after colons: "
        "unioncam:max_masks=64 (default: %(default)s)",
    )
    parser.add_argument(
        "--theta", type=float, help="percentile of the denoising (UnionCAM's default: 10)"
    )
    parser.add_argument(
        "--overlay",
        action="store_true",
        help="write the picture under the method's map, nothing else, at the picture's own size, "
        "and beside it a JSON file with all that is needed to make it again",
    )
    parser.add_argument(
        "--boxes",
        action="store_true",
        help="as --overlay, with boxes around the regions of the map, alone or over it",
    )
    parser.add_argument(
        "--threshold",
        help="where a region begins: a share of the map's maximum (default: 0.5), a percentile "
        "such as p90, or otsu",
    )
    parser.add_argument("--largest", action="store_true", help="only the box of the largest region")


def run(arguments: argparse.Namespace) -> int:
    """Explain photographs; write figures and print the table."""
    spec = arguments.method
    if arguments.theta is not None:
        name = parse_spec(spec).name
        if "theta" not in METHODS[name].options:
            raise ValueError(f"--method {spec} has no theta; drop --theta")
        spec += f":theta={check_percent('--theta', arguments.theta):g}"
    if arguments.scorer is None:
        arguments.scorer = "auto" if masks_with_every_channel(spec) else "model"
    overlay = _overlay(arguments)
    methods = {parse_spec(spec).title(): spec} if overlay else explained(spec)
    if arguments.layers is not None:
        methods = {title: one for title, one in methods.items() if title not in MODULES}
    return compare_pictures(arguments, methods, arguments.target, overlay=overlay)


def _overlay(arguments: argparse.Namespace) -> Overlay | None:
    """Return what is drawn instead of figures, if anything is."""
    if not arguments.boxes:
        if arguments.threshold is not None or arguments.largest:
            raise ValueError("--threshold and --largest are about boxes: add --boxes")
        return Overlay(has_map=True, has_boxes=False) if arguments.overlay else None
    text = "0.5" if arguments.threshold is None else arguments.threshold
    try:
        threshold: Threshold = float(text)
    except ValueError:
        threshold = text
    check_threshold("--threshold", threshold)
    return Overlay(arguments.overlay, True, threshold, arguments.largest)


def masks_with_every_channel(spec: str) -> bool:
    """Return whether a method forwards so much that building a runtime for it is worth it."""
    name, _, options = parse_spec(spec)
    return METHODS[name].forwards.per_channel > 0 and "max_masks" not in options


def explained(spec: str) -> dict[str, str]:
    """Return a method with Grad-CAM before it, and what UnionCAM unites between both.

    Examples::

        >>> explained("unioncam:theta=30")["denoised map D"]
        'unioncam.denoised:theta=30'
        >>> explained("layercam")
        {'Grad-CAM': 'gradcam', 'LayerCAM': 'layercam'}
    """
    name, part, _ = own = parse_spec(spec)
    options = spec.partition(":")[1:]
    between = {
        title: "".join([f"unioncam.{module}", *options])
        for title, module in MODULES.items()
        if name == "unioncam" and not part
    }
    return {METHODS["gradcam"].title: "gradcam", **between, own.title(): spec}
