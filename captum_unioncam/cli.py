"""The command ``unioncam``: explain photographs from a shell."""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from captum_unioncam import __version__
from captum_unioncam.benchmark import command as benchmark_command
from captum_unioncam.benchmark.speed import command as speed_command
from captum_unioncam.comparison import command as compare_command
from captum_unioncam.engine.arguments import check_choice, check_percent

MOST_ROWS = 20
SPEED = "benchmark speed"
MISSING_EXTRA = "the command line needs the extra 'demo': pip install \"captum-unioncam[demo]\""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        argv (Sequence[str], optional): arguments; those of the process by default.

    Returns:
        *int*: 0 if all went well, 1 if some image could not be explained, 2 if the command
        cannot run as it was given, 130 if it was interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:2] == SPEED.split():
        # 'benchmark' takes a folder there, which argparse cannot tell from a command's name.
        words[:2] = [SPEED]
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.run(arguments))
    except ModuleNotFoundError as error:
        print(f"unioncam: {error}; {MISSING_EXTRA}", file=sys.stderr)
    except (ValueError, TypeError, OSError) as error:
        print(f"unioncam: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("unioncam: interrupted", file=sys.stderr)
        return 130
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unioncam", description="Show what a vision network looked at, with UnionCAM."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="explain four photographs with a real ImageNet network, offline",
        description="Explain four photographs that scikit-image ships with EfficientNet-Lite0 and "
        "its ImageNet weights; write one picture and print its scores.",
    )
    demo.set_defaults(run=_demo)

    explain = commands.add_parser(
        "explain",
        help="explain your own photographs",
        description="Explain photographs with Grad-CAM and UnionCAM; write one picture and print "
        "its scores.",
    )
    explain.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    _add_network(explain)
    explain.add_argument(
        "--target", default="top1", help="class to explain: top1 (default), a number, or a name"
    )
    explain.add_argument(
        "--method",
        default="unioncam",
        help="a name that 'unioncam methods' lists (default: unioncam)",
    )
    explain.add_argument(
        "--theta", type=float, help="percentile of the denoising (UnionCAM's default: 10)"
    )
    explain.add_argument(
        "--save-maps", type=Path, metavar="DIR", help="also write each map there, as NAME.npy"
    )
    explain.add_argument(
        "--resume",
        action="store_true",
        help="with a folder as output: leave images whose picture is there already",
    )
    explain.set_defaults(run=_explain)

    comparing = commands.add_parser(
        "compare",
        help="several methods and classes of one photograph, side by side",
        description="Explain one photograph with several methods for several classes; write a "
        "grid of pictures, rows classes and columns methods, and print their scores.",
    )
    compare_command.add_arguments(comparing)
    _add_network(comparing)
    comparing.set_defaults(run=_compare)

    benchmark = commands.add_parser(
        "benchmark",
        help="methods measured over a data set, with intervals",
        description="Measure methods over a folder of pictures: a row per picture and method, "
        "written as it is made. A run that was stopped goes on where it was when it is repeated. "
        "Under torchrun the pictures are divided among the processes.",
    )
    benchmark_command.add_arguments(benchmark)
    benchmark.set_defaults(run=benchmark_command.run)

    speed = commands.add_parser(
        SPEED,
        help="how fast, against other libraries and the network's own forwards",
        description="Time UnionCAM, other methods, Score-CAM of grad-cam and torchcam where they "
        "are installed (extra 'peers'), and as many plain forwards as there are masks, in turn in "
        "one process; write the ratios, the rows forwarded and the memory.",
    )
    speed_command.add_arguments(speed)
    speed.set_defaults(run=speed_command.run)

    methods = commands.add_parser("methods", help="list the methods that explain knows")
    methods.add_argument("--markdown", action="store_true", help="as a Markdown table with links")
    methods.set_defaults(run=_methods)

    for command, default, folder in (
        (demo, "unioncam_demo.png", ""),
        (explain, "unioncam.png", "; a folder gets one per image"),
        (comparing, "unioncam_compare.png", ""),
    ):
        command.add_argument(
            "-o",
            "--output",
            type=Path,
            default=Path(default),
            metavar="FILE",
            help=f"the picture to write (default: %(default)s){folder}",
        )
        command.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def _add_network(parser: argparse.ArgumentParser) -> None:
    """Add what says which network to explain, at which layer and where."""
    parser.add_argument(
        "--model",
        required=True,
        help="a torchvision classifier, 'demo', or module:function for your own; the function "
        "returns a model or (model, preprocess, class_names)",
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


def _demo(arguments: argparse.Namespace) -> int:
    from PIL import Image
    from skimage import data

    from captum_unioncam import figure, networks

    output = arguments.output
    if _check_output(output):
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


def _explain(arguments: argparse.Namespace) -> int:
    import numpy as np

    from captum_unioncam import figure, networks, pictures

    options = _method_options(arguments)
    into_folder = _check_output(arguments.output, len(arguments.images))
    named = [
        (path, name, arguments.output / f"{name}.png" if into_folder else arguments.output)
        for path, name in _named(arguments.images)
    ]
    _check_not_read(arguments.images, [written for _, _, written in named])
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


def _compare(arguments: argparse.Namespace) -> int:
    if _check_output(arguments.output):
        arguments.output /= "unioncam_compare.png"
    _check_not_read([arguments.image], [arguments.output])
    return compare_command.run(arguments)


def _methods(arguments: argparse.Namespace) -> int:
    from captum_unioncam.registry import methods_table

    print(methods_table(markdown=arguments.markdown))
    return 0


def _method_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Check ``--method`` and what was said for it, before anything is loaded."""
    from captum_unioncam.registry import METHODS

    check_choice("--method", arguments.method, tuple(METHODS))
    if arguments.theta is None:
        return {}
    if "theta" not in METHODS[arguments.method].options:
        raise ValueError(f"--method {arguments.method} has no theta; drop --theta")
    return {"theta": check_percent("--theta", arguments.theta)}


def _heading(network: str, layer: str, method: str) -> str:
    from captum_unioncam.registry import METHODS

    return (
        f"{METHODS[method].title} on {network}, layer {layer}, black baseline\n"
        "β: probability of the masked picture minus that of black"
    )


def _named(images: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Give every image a name of its own for what is written about it."""
    stems = Counter(path.stem for path in images)
    taken: set[str] = set()
    for path in images:
        # Endings tell apart what has one stem, whatever the order; then only a number is left.
        own = path.stem if stems[path.stem] == 1 else path.name
        name = next(n for n in _numbered(own) if n not in taken)
        taken.add(name)
        yield path, name


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def _check_output(path: Path, num_images: int = 1) -> bool:
    """Say whether the output is a folder; refuse what could not be written, before any work."""
    from captum_unioncam import figure

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


def _check_not_read(read: Sequence[Path], written: Sequence[Path]) -> None:
    originals = {path.resolve() for path in read}
    for path in written:
        if path.resolve() in originals:
            raise ValueError(f"--output would write over the picture {path}; give another folder")


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text, file=sys.stderr)
