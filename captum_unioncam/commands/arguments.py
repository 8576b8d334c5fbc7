"""What several commands take: a network, and pictures with what is made of them."""

import argparse
from pathlib import Path

from captum_unioncam.baselines import BASELINES
from captum_unioncam.scorers import BUILDERS


def add_network(
    parser: argparse.ArgumentParser, *, required: bool = True, model: str | None = None
) -> None:
    """Add ``--model``, with a default or required, ``--weights``, ``--layer`` and ``--device``."""
    parser.add_argument(
        "--model",
        default=model,
        required=required and model is None,
        help="a torchvision classifier, 'demo', timm:NAME, hf:FOLDER for a local folder of "
        "transformers, or module:function for your own; the function returns a model or (model, "
        "preprocess, class_names)" + ("" if model is None else " (default: %(default)s)"),
    )
    parser.add_argument(
        "--weights",
        default="DEFAULT",
        help="file with a state dict (.pth, .safetensors), or the name of torchvision weights "
        "(default: %(default)s, downloaded once by torchvision or timm)",
    )
    parser.add_argument(
        "--layer", default="auto", help="dotted name of the layer, or 'auto' (default)"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")


def add_pictures(parser: argparse.ArgumentParser, *, metrics: str, output: str) -> None:
    """Add the pictures, what is measured on their maps, and where all of it is written."""
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="a picture, or a folder of some"
    )
    add_network(parser)
    parser.add_argument(
        "--metrics",
        default=metrics,
        help="metrics under each map, separated by commas; '' for none (default: %(default)s)",
    )
    parser.add_argument(
        "--baseline",
        default="black",
        choices=BASELINES,
        help="what masked-out parts show (default: %(default)s): "
        + "; ".join(f"{name}: {kind.about}" for name, kind in BASELINES.items()),
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write every number there")
    parser.add_argument(
        "--save-maps",
        type=Path,
        metavar="DIR",
        help="also write each map there, as PICTURE.MODEL.LAYER.METHOD.CLASS.npy",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="with a folder as output: leave pictures of which everything is there already",
    )
    add_output(parser, output, "; a folder gets one per picture, and a file pages NAME-1, NAME-2")


def add_scorer(
    parser: argparse.ArgumentParser, *, default: str | None = "model", by_default: str = ""
) -> None:
    """Add ``--scorer``; `by_default` says in words what a default of None is."""
    parser.add_argument(
        "--scorer",
        choices=("model", "auto", *BUILDERS),
        default=default,
        help="what runs masked pictures: the model, a runtime that is compared with it first, or "
        f"'auto', the fastest that is installed and agrees (default: {by_default or default})",
    )


def add_output(parser: argparse.ArgumentParser, default: str, several: str = "") -> None:
    """Add ``--output`` and ``--quiet``; `several` says what becomes of several pictures."""
    parser.add_argument(
        "-o",
        "--output",
        default=default,
        metavar="FILE",
        help=f"the figure to write (default: %(default)s){several}",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
