"""Where the commands write what they make of pictures; nothing that is read is written over."""

import argparse
import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from captum_unioncam.layer_fusion import FUSES

# Rows of a figure: more are hard to look at, and long to draw again after every picture.
MOST_ROWS = 5


class Work(NamedTuple):
    """A picture to explain.

    Attributes:
        path (Path): the picture.
        figure (Path): the figure that shows it.
        maps (tuple[Path, ...]): files for its maps, by method and then by class.
        record (Path, optional): file that says how it was made.
    """

    path: Path
    figure: Path
    maps: tuple[Path, ...]
    record: Path | None = None

    def is_done(self) -> bool:
        """Return whether everything is there."""
        record = () if self.record is None else (self.record,)
        return all(path.exists() for path in (self.figure, *self.maps, *record))


def works(
    arguments: argparse.Namespace,
    images: Sequence[Path],
    suffixes: set[str],
    specs: Sequence[str],
    classes: Sequence[str],
    per_page: int,
) -> list[Work]:
    """Return what is to be done; folders are made and every file is checked before any work.

    Methods and classes are those of the command line, and name the files of maps.

    Raises:
        ValueError: if something cannot be written there, or a picture would be written over.
    """
    is_folder = check_output(arguments.output, suffixes, len(images))
    if arguments.resume and not is_folder:
        raise ValueError("--resume needs a folder as --output, with a figure for every picture")
    output, folder = Path(arguments.output), arguments.save_maps
    if output.resolve() in {path.resolve() for path in arguments.images if path.is_dir()}:
        raise ValueError(
            f"--output {output}: its pictures are to be explained; give another folder"
        )
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    weights = (
        [] if arguments.weights == "DEFAULT" else [str(Path(arguments.weights).with_suffix(""))]
    )
    baseline = [] if arguments.baseline == "black" else [arguments.baseline]
    fused = f"{arguments.layers} {arguments.fuse or FUSES[0]}"
    layer = arguments.layer if arguments.layers is None else fused
    network = [arguments.model, *weights, layer, *baseline]
    todo = [
        Work(
            image,
            output / f"{name}.png" if is_folder else page,
            tuple(
                folder / f"{_plain('.'.join([name, *network, spec, one]))}.npy"
                for spec in specs
                for one in classes
                if folder is not None
            ),
        )
        for image, name, page in zip(
            images, _names(images), _pages(output, len(images), per_page), strict=True
        )
    ]
    written = [work.figure for work in todo]
    if arguments.csv is not None:
        check_file("--csv", arguments.csv)
        written.append(arguments.csv)
    if arguments.html is not None:
        check_file("--html", arguments.html)
        if arguments.resume:
            raise ValueError(
                "--html shows every picture of a run, and --resume leaves out those of an earlier "
                "one, whose maps are not at hand: drop one of the two"
            )
        written.append(arguments.html)
    originals = {path.resolve() for path in images}
    for path in written:
        if path.resolve() in originals:
            raise ValueError(f"this would write over the picture {path}; give another output")
    return todo


def check_output(output: str, suffixes: set[str], pictures: int = 1) -> bool:
    """Return whether the output is a folder, which is made; refuse what could not be written."""
    path = Path(output)
    if path.is_dir() or not path.suffix:
        if pictures == 1 and not path.exists() and not output.endswith(os.sep):
            line = f"--output {output} has no ending such as .png, so it becomes a folder"
            print(f"unioncam: {line}", file=sys.stderr)
        path.mkdir(parents=True, exist_ok=True)
        return True
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"--output {output}: end it in one of {', '.join(sorted(suffixes))}")
    check_file("--output", path)
    return False


def check_file(option: str, path: Path) -> None:
    """Raise ValueError unless a file can stand at `path`."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise ValueError(f"{option} {path}: give a file in a folder that exists")


def _pages(path: Path, pictures: int, per_page: int) -> Iterator[Path]:
    if pictures <= per_page:
        return itertools.repeat(path, pictures)
    return (path.with_stem(f"{path.stem}-{n // per_page + 1}") for n in range(pictures))


def _names(images: Sequence[Path]) -> Iterator[str]:
    """Give every picture a name of its own for what is written about it."""
    stems, names = Counter(path.stem for path in images), {path.name for path in images}
    taken: set[str] = set()
    for path in images:
        # Endings tell apart what has one stem, whatever the order; then only a number is left.
        own = path.stem if stems[path.stem] == 1 and path.stem not in names else path.name
        numbered = itertools.chain([own], (f"{own}-{number}" for number in itertools.count(2)))
        name = next(n for n in numbered if n not in taken)
        taken.add(name)
        yield name


def _plain(text: str) -> str:
    """Return a text that can be the name of a file everywhere."""
    return "".join("-" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in text)
