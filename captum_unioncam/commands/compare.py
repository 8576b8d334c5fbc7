"""The command ``unioncam compare``: methods and classes of one photograph, side by side."""

import argparse
import re
from pathlib import Path

DEFAULT_METHODS = "gradcam,gradcam++,scorecam,unioncam"
DEFAULT_METRICS = "average_drop,insertion,deletion"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes beyond the network."""
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--methods",
        default=DEFAULT_METHODS,
        help="names that 'unioncam methods' lists, separated by commas, with options after "
        "colons: unioncam:theta=30 (default: %(default)s)",
    )
    parser.add_argument(
        "--classes",
        default="top1",
        help="top1, top3, ... or numbers and names separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics",
        default=DEFAULT_METRICS,
        help="metrics under each map, separated by commas; '' for none (default: %(default)s)",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write every number there")


def run(arguments: argparse.Namespace) -> int:
    """Compare methods on one photograph; write the picture and print the table."""
    from captum_unioncam import compare
    from captum_unioncam.comparison.drawing import save
    from captum_unioncam.comparison.method_spec import parse_spec, parts
    from captum_unioncam.vision import networks, pictures

    methods, metrics = parts(arguments.methods), parts(arguments.metrics)
    csv = arguments.csv
    if csv is not None and (csv.is_dir() or not csv.resolve().parent.is_dir()):
        raise ValueError(f"--csv {csv}: give a file in a folder that exists")
    if not methods:
        raise ValueError("--methods names no method")
    for method in methods:
        parse_spec(method)
    network = networks.load_network(arguments.model, arguments.weights)
    device = networks.find_device(arguments.device)
    network.model.to(device)
    x, black, shown = network.prepare(pictures.load_picture(arguments.image))
    x, black = x.to(device), black.to(device)
    layer = networks.find_layer(network.model, arguments.layer, x)
    target: object = arguments.classes
    if not re.fullmatch(r"top\d+", arguments.classes):
        numbers = [networks.find_class(network, one, x) for one in parts(arguments.classes)]
        target = {str(number): number for number in numbers}
    result = compare(
        methods, x, target, forward_func=network.model, layer=layer.layer, baselines=black,
        metrics=metrics, show_progress=not arguments.quiet,
    )  # fmt: skip
    heading = f"{arguments.image.name}: {network.name}, layer {layer.name}, black baseline"

    def name(label: str) -> str:
        return network.class_name(int(label))

    print(result)
    if csv is not None:
        result.to_csv(csv)
    save(result.figure(shown, names=name, heading=heading), arguments.output)
    print(f"picture written to {arguments.output}")
    return 0
