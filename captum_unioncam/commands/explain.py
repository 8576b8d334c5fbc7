"""The commands ``unioncam explain`` and ``unioncam demo``: photographs, their maps and scores."""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from captum_unioncam.engine.arguments import check_choice, check_percent

MOST_ROWS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``explain`` takes beyond the network."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--target", default="top1", help="class to explain: top1 (default), a number, or a name"
    )
    parser.add_argument(
        "--method",
        default="unioncam",
        help="a name that 'unioncam methods' lists (default: unioncam)",
    )
    parser.add_argument(
        "--theta", type=float, help="percentile of the denoising (UnionCAM's default: 10)"
    )
    parser.add_argument(
        "--save-maps", type=Path, metavar="DIR", help="also write each map there, as NAME.npy"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="with a folder as output: leave images whose picture is there already",
    )


def run(arguments: argparse.Namespace) -> int:
    """Explain photographs; write pictures and print the table of scores."""
    import numpy as np

    from captum_unioncam.comparison import drawing as figure
    from captum_unioncam.vision import networks, pictures

    options = _method_options(arguments)
    into_folder = check_output(arguments.output, len(arguments.images))
    named = [
        (path, name, arguments.output / f"{name}.png" if into_folder else arguments.output)
        for path, name in _named(arguments.images)
    ]
    check_not_read(arguments.images, [written for _, _, written in named])
    if arguments.save_maps is not None:
        arguments.save_maps.mkdir(parents=True, exist_ok=True)
    network = networks.load_network(arguments.model, arguments.weights)
    device = networks.find_device(arguments.device)
    network.model.to(device)
    subject, heading, failed, left = None, "", 0, 0
    explained: list[figure.Explanation] = []
    for number, (path, name, picture_file) in enumerate(named, 1):
        map_file = arguments.save_maps and arguments.save_maps / f"{name}.npy"
        done = picture_file.exists() and (map_file is None or map_file.exists())
        if arguments.resume and into_folder and done:
            left += 1
            continue
        _say(f"{path.name} ({number} of {len(arguments.images)})", arguments.quiet)
        try:
            picture = pictures.load_picture(path)
            if subject is None:
                x = network.prepare(picture)[0].to(device)
                layer = networks.find_layer(network.model, arguments.layer, x)
                heading = _heading(network.name, layer.name, arguments.method)
                target = networks.find_class(network, arguments.target, x)
                subject = figure.Subject(
                    network, layer.layer, arguments.method, target, options, not arguments.quiet
                )
            explanation = figure.explain(subject, path.name, picture)
        except networks.NetworkError:
            raise
        # The picture may be to blame, and the others are explained without it.
        except (ValueError, TypeError, RuntimeError) as error:
            where = "" if isinstance(error, pictures.PictureError) else f"{path}: "
            print(f"unioncam: {where}{' '.join(str(error).split())}", file=sys.stderr)
            failed += 1
            continue
        explained.append(explanation)
        if map_file is not None:
            np.save(map_file, explanation.attribution)
        # Drawn after each image: a run that is stopped leaves what it has finished.
        rows = [explanation] if into_folder else explained
        figure.save(figure.draw(rows, heading), picture_file)
    if left:
        print(f"{left} of {len(arguments.images)} were there already and are left as they are")
    if explained:
        print(figure.table(explained))
        print(f"{'pictures' if into_folder else 'picture'} written to {arguments.output}")
    return 1 if failed else 0


def run_demo(arguments: argparse.Namespace) -> int:
    """Explain four photographs of scikit-image with the demo network."""
    from PIL import Image
    from skimage import data

    from captum_unioncam.comparison import drawing as figure
    from captum_unioncam.vision import networks

    output = arguments.output
    if check_output(output):
        output /= "unioncam_demo.png"
    photographs = {
        "cat": data.cat(),
        "espresso": data.coffee(),
        "rocket": data.rocket(),
        "motorcycle": data.stereo_motorcycle()[0],
    }
    network = networks.demo_network()
    layer = networks.find_layer(network.model, "auto", torch.zeros(1, 3, 224, 224))
    subject = figure.Subject(network, layer.layer, show_progress=not arguments.quiet)
    explained: list[figure.Explanation] = []
    for name, pixels in photographs.items():
        _say(f"{name} ({len(explained) + 1} of {len(photographs)})", arguments.quiet)
        explained.append(figure.explain(subject, name, Image.fromarray(pixels)))
    figure.save(figure.draw(explained, _heading(network.name, layer.name, "unioncam")), output)
    print(figure.table(explained))
    print(f"picture written to {output}")
    return 0


def _method_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Check ``--method`` and what was said for it, before anything is loaded."""
    from captum_unioncam.methods.registry import METHODS

    check_choice("--method", arguments.method, tuple(METHODS))
    if arguments.theta is None:
        return {}
    if "theta" not in METHODS[arguments.method].options:
        raise ValueError(f"--method {arguments.method} has no theta; drop --theta")
    return {"theta": check_percent("--theta", arguments.theta)}


def _heading(network: str, layer: str, method: str) -> str:
    from captum_unioncam.methods.registry import METHODS

    return (
        f"{METHODS[method].title} on {network}, layer {layer}, black baseline\n"
        "β: probability of the masked picture minus that of black"
    )


def _named(images: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Give every image a name of its own for what is written about it."""
    stems, names = Counter(path.stem for path in images), {path.name for path in images}
    taken: set[str] = set()
    for path in images:
        # Endings tell apart what has one stem, whatever the order; then only a number is left.
        own = path.stem if stems[path.stem] == 1 and path.stem not in names else path.name
        name = next(n for n in _numbered(own) if n not in taken)
        taken.add(name)
        yield path, name


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def check_output(path: Path, num_images: int = 1) -> bool:
    """Say whether the output is a folder; refuse what could not be written, before any work."""
    from captum_unioncam.comparison import drawing as figure

    if path.is_dir() or not path.suffix:
        path.mkdir(parents=True, exist_ok=True)
        return True
    suffixes = figure.writable_suffixes()
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"--output {path}: end it in one of {', '.join(sorted(suffixes))}")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"--output {path}: there is no folder {path.resolve().parent}")
    if num_images > MOST_ROWS:
        raise ValueError(
            f"--output {path}: {num_images} images do not fit one picture (at most {MOST_ROWS}); "
            "give a folder and each gets its own"
        )
    return False


def check_not_read(read: Sequence[Path], written: Sequence[Path]) -> None:
    """Refuse to write over a picture that is to be explained."""
    originals = {path.resolve() for path in read}
    for path in written:
        if path.resolve() in originals:
            raise ValueError(f"this would write over the picture {path}; give another output")


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text, file=sys.stderr)
