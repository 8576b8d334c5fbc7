"""Data sets in the layouts that people have them in, listed without opening a picture."""

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree

import torch

from captum_unioncam.engine.arguments import check_choice
from captum_unioncam.metrics.mosaic import chosen_sources
from captum_unioncam.vision.networks import Network

Box = tuple[float, float, float, float]

# Alphabetical, which is how networks trained on VOC number them.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
IMAGE_SETS = ("test", "val", "trainval", "train")
SIDES = ("xmin", "ymin", "xmax", "ymax")
LABELS_FILE = "labels.csv"


@dataclass(frozen=True)
class Item:
    """One picture of a data set.

    Attributes:
        image (str): path relative to the data set, with forward slashes.
        labels (tuple[int, ...]): indices of the classes it shows; empty if unknown.
        objects (tuple): index of the class and box of every object, in pixels of the picture as
            (left, top, right, bottom), right and bottom excluded.
        cells (tuple[str, ...]): of a mosaic, the pictures in its cells, row by row, `labels` in the
            same order; empty for a picture.
    """

    image: str
    labels: tuple[int, ...] = ()
    objects: tuple[tuple[int, Box], ...] = ()
    # Not in the digest of pictures, which is that of runs without mosaics.
    cells: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class DataSet:
    """Pictures in a fixed order, and what is known of them.

    Attributes:
        kind (str): what was found, in words.
        class_names (tuple[str, ...]): the data set's own names of its classes, by label; empty
            if labels are the network's indices already.
    """

    kind: str
    root: Path
    items: tuple[Item, ...]
    class_names: tuple[str, ...] = ()

    @property
    def is_labelled(self) -> bool:
        """Whether classes of its pictures are known."""
        return any(item.labels for item in self.items)

    @property
    def has_boxes(self) -> bool:
        """Whether objects come with boxes."""
        return any(item.objects for item in self.items)

    def sha256(self) -> str:
        """Return a digest of which pictures these are: names, sizes on disk, labels, boxes."""
        digest = hashlib.sha256()
        for item in self.items:
            paths = [self.root / image for image in item.cells or (item.image,)]
            sizes = [path.stat().st_size if path.exists() else None for path in paths]
            digest.update(repr((item, *sizes)).encode(errors="surrogateescape"))
        return digest.hexdigest()


def find_data(root: Path, year: str | None = None, image_set: str | None = None) -> DataSet:
    """Find out which layout a folder has, and list its pictures.

    A VOC devkit; a folder with ``labels.csv`` (columns file, class_index and, if you like,
    class_name); a folder of pictures; or a folder of such folders, one per class, as ImageNet's
    validation pictures are kept, whose alphabetical order numbers the classes.

    Args:
        root (Path): the folder.
        year (str, optional): of a VOC devkit that holds several. Default: None
        image_set (str, optional): of a VOC devkit: "test" if it has one, else "val".
            Default: None

    Raises:
        ValueError: if there is no such folder, no picture in it, or its layout is ambiguous.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    devkit = _devkit(root)
    if devkit is not None:
        data = _voc(devkit, year, image_set)
    elif year is not None or image_set is not None:
        raise ValueError(
            f"--year and --image-set are for a VOC devkit, and {root} holds no VOCdevkit/VOC<year>"
        )
    elif (root / LABELS_FILE).is_file():
        data = DataSet(f"pictures with {LABELS_FILE}", root, tuple(_listed(root)))
    else:
        data = _folders(root)
    if not data.items:
        raise ValueError(f"{root}: no pictures in it; looked for {data.kind}")
    return data


def sampled(data: DataSet, n: int | None, seed: int) -> DataSet:
    """Return `n` pictures chosen at random and in random order, all of them if there are fewer.

    A run that was stopped has then measured a random part, whatever the order on disk.
    """
    order = torch.randperm(len(data.items), generator=torch.Generator().manual_seed(seed))
    return replace(data, items=tuple(data.items[i] for i in order[:n].tolist()))


def mosaics_of(data: DataSet, cells: int, seed: int) -> tuple[Item, ...]:
    """Return mosaics of cells x cells pictures of different classes, each picture used once.

    Raises:
        ValueError: if there are not enough classes, or pictures with other than one label.
    """
    if any(len(item.labels) != 1 for item in data.items):
        raise ValueError(
            "mosaics are made of pictures with one label each, give them in a labels.csv (columns "
            f"file, class_index) or a folder per class; got {data.kind}"
        )
    classes = [item.labels[0] for item in data.items]
    chosen = chosen_sources(classes, cells * cells, torch.Generator().manual_seed(seed))
    mosaics = []
    for row in chosen.tolist():
        images = tuple(data.items[i].image for i in row)
        labels = tuple(classes[i] for i in row)
        mosaics.append(Item(" + ".join(images), labels, cells=images))
    return tuple(mosaics)


def matched(data: DataSet, network: Network, num_classes: int) -> DataSet:
    """Return the data set with labels that are indices of the network's outputs.

    Where the data set names its classes, they are looked up among the network's; if it does not
    know all of them, but has as many outputs, they count in their order. Otherwise the labels
    are dropped, and the kind of the data set says so.

    Raises:
        ValueError: if ``labels.csv`` gives an index that the network does not have.
    """
    if not data.class_names:
        for item in data.items:
            if any(label >= num_classes for label in item.labels):
                raise ValueError(
                    f"{LABELS_FILE} gives class {max(item.labels)} to {item.image}, but "
                    f"{network.name} has classes 0 to {num_classes - 1}"
                )
        return data
    names = [_plain(name) for name in network.class_names]
    # ImageNet has two classes "crane": such a name stands for neither.
    known = {name: index for index, name in enumerate(names) if names.count(name) == 1}
    indices = [known[name] for name in map(_plain, data.class_names) if name in known]
    if len(indices) < len(data.class_names):
        if len(data.class_names) != num_classes:
            words = f"{len(data.class_names)} classes unlike the network's {num_classes}"
            bare = tuple(Item(item.image) for item in data.items)
            return DataSet(f"{data.kind}; {words}: labels unknown", data.root, bare)
        indices = list(range(num_classes))
    items = (
        Item(
            item.image,
            tuple(indices[label] for label in item.labels),
            tuple((indices[label], box) for label, box in item.objects),
        )
        for item in data.items
    )
    return replace(data, items=tuple(items))


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").strip()


def _listed(root: Path) -> Iterator[Item]:
    """List the pictures that ``labels.csv`` names."""
    path = root / LABELS_FILE
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); save it as such") from error
    table = csv.DictReader(io.StringIO(text, newline=""))
    if not {"file", "class_index"} <= set(table.fieldnames or ()):
        raise ValueError(
            f"{path} must have the columns file and class_index, and may have class_name; "
            f"got {', '.join(table.fieldnames or ()) or 'none'}"
        )
    seen: set[str] = set()
    for row in table:
        image, index = (row["file"] or "").strip(), (row["class_index"] or "").strip()
        if not image or not index.isdecimal():
            raise ValueError(
                f"{path}, line {table.line_num}: needs a file and a class_index from 0, got "
                f"{image!r} and {index!r}"
            )
        image = Path(image).as_posix()  # without a leading "./"
        if Path(image).is_absolute() or ".." in Path(image).parts:
            raise ValueError(f"{path}, line {table.line_num}: {image} is outside {root}")
        if image in seen:
            raise ValueError(f"{path}, line {table.line_num}: {image} is there twice")
        seen.add(image)
        yield Item(image, (int(index),))


def _folders(root: Path) -> DataSet:
    """List a folder of pictures, or one of folders that each hold the pictures of a class."""
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import is_image_file

    flat = tuple(Item(p.name) for p in sorted(root.iterdir()) if is_image_file(p.name))
    has_folders = any(p.is_dir() for p in root.iterdir())
    folders = ImageFolder(str(root), allow_empty=True) if has_folders else None
    if flat and folders and folders.samples:
        raise ValueError(
            f"{root} holds pictures ({flat[0].image}, ...) and folders of pictures "
            f"({folders.classes[0]}, ...): give one of these folders, or remove what is stray"
        )
    if flat or not folders:
        return DataSet("pictures without labels", root, flat)
    items = tuple(
        Item(Path(path).relative_to(root).as_posix(), (label,)) for path, label in folders.samples
    )
    kind = f"a folder per class ({len(folders.classes)} classes)"
    return DataSet(kind, root, items, tuple(folders.classes))


def _devkit(root: Path) -> Path | None:
    """Return the folder that torchvision calls the root of VOC: the one that holds VOCdevkit."""
    if root.name.startswith("VOC2") and root.parent.name == "VOCdevkit":
        root = root.parent
    if root.name == "VOCdevkit":
        root = root.parent
    found = any((root / "VOCdevkit").glob("VOC20[01][0-9]/JPEGImages"))
    return root if found else None


def _voc(root: Path, year: str | None, image_set: str | None) -> DataSet:
    from torchvision.datasets import VOCDetection

    years = sorted(p.parent.name[3:] for p in (root / "VOCdevkit").glob("VOC20*/JPEGImages"))
    if year is None and len(years) > 1:
        raise ValueError(f"{root} holds VOC {' and '.join(years)}: give one with --year")
    year = year or years[0]
    check_choice("--year", year, tuple(years))
    folder = root / "VOCdevkit" / f"VOC{year}" / "ImageSets" / "Main"
    sets = [name for name in IMAGE_SETS if (folder / f"{name}.txt").is_file()]
    if not sets:
        raise ValueError(f"{folder} lists no image set: no {'.txt, '.join(IMAGE_SETS)}.txt")
    image_set = image_set or sets[0]
    check_choice("--image-set", image_set, tuple(sets))
    try:
        found = VOCDetection(str(root), year=year, image_set=image_set)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"VOC {year} {image_set} in {root}: {error}") from error
    pairs = zip(found.images, found.annotations, strict=True)
    items = (_annotated(Path(image).relative_to(root).as_posix(), Path(a)) for image, a in pairs)
    return DataSet(f"VOC{year} {image_set}", root, tuple(items), VOC_CLASSES)


def _annotated(image: str, path: Path) -> Item:
    """Read an annotation; a class whose objects are all marked difficult does not count."""
    objects, easy = [], set()
    try:
        for found in ElementTree.parse(path).iterfind("object"):
            label = VOC_CLASSES.index(found.findtext("name", ""))
            left, top, right, bottom = (float(found.findtext(f"bndbox/{s}", "")) for s in SIDES)
            # VOC counts pixels from 1 and includes the last.
            objects.append((label, (left - 1, top - 1, right, bottom)))
            if found.findtext("difficult", "0").strip() != "1":
                easy.add(label)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise ValueError(f"{path}: not an annotation of VOC ({error})") from error
    return Item(image, tuple(sorted(easy)), tuple(o for o in objects if o[0] in easy))
