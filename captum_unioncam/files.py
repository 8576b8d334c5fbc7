"""Files that are there completely or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a file beside `path` to write; it takes the place of `path` once the block succeeds.

    A run that is stopped leaves what stood at `path` before, never half a file.

    Args:
        path (Path): the file to write; its ending stays that of the file that is yielded.

    Raises:
        FileNotFoundError: if the folder of `path` is missing.
        OSError: if it cannot be written; it names `path`.

    Examples::

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "report.md"
        >>> with written_whole(path) as partial:
        ...     _ = partial.write_text("# Report")
        >>> [file.name for file in path.parent.iterdir()]
        ['report.md']
    """
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}")
    # No longer than names may be, where that of `path` is as long.
    partial = path.with_name(f".partial.{path.name[-60:]}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        # That a disk is full is told without the name of a file.
        error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
