"""What several commands take: a network, its layer and its device."""

import argparse


def add_network(
    parser: argparse.ArgumentParser, *, required: bool = True, model: str | None = None
) -> None:
    """Add ``--model``, ``--weights``, ``--layer`` and ``--device``.

    Args:
        parser (ArgumentParser): what they are added to.
        required (bool, optional): refuse a command line without ``--model``. Default: True
        model (str, optional): the network taken without ``--model``. Default: None
    """
    parser.add_argument(
        "--model",
        default=model,
        required=required and model is None,
        help="a torchvision classifier, 'demo', or module:function for your own; the function "
        "returns a model or (model, preprocess, class_names)"
        + ("" if model is None else " (default: %(default)s)"),
    )
    parser.add_argument(
        "--weights",
        default="DEFAULT",
        help="file with a state dict (.pth, .safetensors), or the name of torchvision weights "
        "(default: %(default)s, downloaded once by torchvision)",
    )
    parser.add_argument(
        "--layer", default="auto", help="dotted name of the layer, or 'auto' (default)"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
