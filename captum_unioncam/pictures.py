"""Reading photographs from disk without trusting them."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000


class PictureError(ValueError):
    """A picture that cannot be used; the message says which and why, in one line."""


def load_picture(path: Path) -> "Image":
    """Return a picture as RGB, upright as its camera meant it.

    Raises:
        PictureError: if the file is missing, broken, no picture, or larger than MAX_PIXELS,
            which is seen in its header before anything is decoded.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PictureError(
                    f"{path}: {width} x {height} pixels is more than the limit of "
                    f"{MAX_PIXELS // 1_000_000} megapixels; scale it down first"
                )
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise PictureError(f"{path}: no such file") from None
    except PictureError:
        raise
    # Decoders raise whatever they trip over on a broken file: struct.error, SyntaxError, ...
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"{path}: not a readable picture ({reason})") from error
