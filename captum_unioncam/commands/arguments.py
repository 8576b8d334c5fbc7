"""What several commands take: a network, and pictures with what is made of them."""

import argparse
from pathlib import Path

from captum_unioncam.baselines import BASELINES
from captum_unioncam.layer_fusion import FUSES
from captum_unioncam.methods.method_spec import parts
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
    parser.add_argument(
        "--against",
        metavar="CLASS",
        help="explain why each class and not these: numbers and names separated by commas, or "
        "'similar' for those of the most similar scores",
    )
    parser.add_argument(
        "--region",
        type=Path,
        metavar="MASK",
        help="for networks of segmentation: explain the classes where this picture is white; it "
        "must have the size of the picture",
    )
    parser.add_argument(
        "--layers",
        metavar="NAMES",
        help="several layers instead of --layer, separated by commas, whose maps are fused",
    )
    parser.add_argument(
        "--fuse", choices=FUSES, help=f"how maps of --layers are fused (default: {FUSES[0]})"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write every number there")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="also write one page there with sliders, curves and tables, which loads nothing",
    )
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


def check_layers(arguments: argparse.Namespace) -> None:
    """Raise ValueError unless ``--layer``, ``--layers`` and ``--fuse`` make sense together."""
    if arguments.layers is None and arguments.fuse is not None:
        raise ValueError("--fuse fuses the maps of several layers: name them with --layers")
    if arguments.layers is not None and arguments.layer != "auto":
        raise ValueError("--layer names one layer and --layers several: drop one of them")
    if arguments.layers is not None and not parts(arguments.layers):
        raise ValueError("--layers names no layer; give some, separated by commas")


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
