"""Reading photographs from disk without trusting them."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
# A preprocessing that sets the shorter side blows up what is much longer than wide.
MAX_ASPECT = 100
# Formats that Pillow decodes itself; PostScript is among them to be refused by name.
FORMATS = (
    *("AVIF", "BMP", "DIB", "EPS", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM"),
    *("SGI", "TGA", "TIFF", "WEBP"),
)
# What turns a picture upright, by the orientation in its EXIF.
TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
    6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip


class PictureError(ValueError):
    """A picture that cannot be used; the message says which and why, in one line."""


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """Return the pictures that are meant: files as they are, of folders all pictures in them.

    What lies in a folder counts by its ending, in the order of the names; folders in it and
    hidden files do not.

    Raises:
        PictureError: if a folder holds no picture.
    """
    from PIL import Image

    endings = {end for end, kind in Image.registered_extensions().items() if kind in FORMATS}

    def inside(folder: Path) -> list[Path]:
        files = (f for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith("."))
        return [file for file in files if file.suffix.lower() in endings]

    found: list[Path] = []
    for path in paths:
        pictures = inside(path) if path.is_dir() else [path]
        if not pictures:
            raise PictureError(f"{path}: no picture in this folder")
        found += pictures
    return found


def load_picture(path: Path, file: IO[bytes] | None = None) -> "Image":
    """Return a picture as RGB, upright as its camera meant it, on white where it is transparent.

    Of a moving picture it is the first frame. What a file is, its content says and not its name.

    Args:
        path (Path): the picture.
        file (IO[bytes], optional): what is read instead, where `path` is a name alone.
            Default: None

    Raises:
        PictureError: if the file is missing, broken, no picture, PostScript, larger than
            MAX_PIXELS or longer than MAX_ASPECT times its width, which is seen in its header
            before anything is decoded, or holds numbers that are no shades of 8 or 16 bits.
    """
    from PIL import Image

    try:
        Image.init()
        # Pillow may have been built without some.
        formats = [kind for kind in FORMATS if kind in Image.OPEN]
        # Our limit is stricter than the one that Pillow warns of.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path if file is None else file, formats=formats)
        with opened as image:
            # Pillow hands it to Ghostscript, which runs it.
            if image.format == "EPS":
                raise PictureError(
                    f"{path}: PostScript is a program, which is not run; save it as PNG first"
                )
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PictureError(
                    f"{path}: {width} x {height} pixels is more than the limit of "
                    f"{MAX_PIXELS // 1_000_000} megapixels; scale it down first"
                )
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise PictureError(
                    f"{path}: {width} x {height} pixels is more than {MAX_ASPECT} times as long as "
                    "wide; cut it first"
                )
            picture = on_white(_eight_bits(_upright(image), image.format, path))
            # Comments and profiles would be written with whatever is made of it.
            picture.info.clear()
            return picture
    except FileNotFoundError:
        raise PictureError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise PictureError(f"{path}: a folder, not a picture") from None
    except PictureError:
        raise
    # Decoders raise whatever they trip over on a broken file: struct.error, SyntaxError, ...
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"{path}: not a readable picture ({reason})") from error


def _upright(image: "Image") -> "Image":
    """Turn a picture as its camera was held."""
    from PIL import ExifTags, Image

    # ImageOps.exif_transpose fails where the rest of the metadata is broken.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        orientation = None
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(Image.Transpose[turn])


def _eight_bits(image: "Image", kind: str | None, path: Path) -> "Image":
    """Scale 16 bits to 8, which Pillow would cut off."""
    from PIL import Image

    # PGM files of 16 bits, and PNG files with older Pillow, are opened in mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        shades = np.asarray(image, dtype=np.float64) / 257
        return Image.fromarray(shades.round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise PictureError(
            f"{path}: its pixels are numbers of 32 bits, whose black and white are not known; save "
            "it with 8 or 16 bits"
        )
    return image


def on_white(image: "Image") -> "Image":
    """Return a picture as RGB; what shows through is white, as on a page."""
    from PIL import Image

    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
