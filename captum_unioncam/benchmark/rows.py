"""Rows on disk: JSON lines, appended image by image, each image there completely or not at all."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@contextmanager
def appending(path: Path) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Yield a function that appends the rows of one image and returns once they are on disk.

    What an earlier process was killed while writing is cut off first, so that nothing is ever
    glued to half a line.

    The function raises ValueError if the disk takes no more; earlier rows stay.
    """
    kept = _complete(path)[1]
    # Without a buffer, which would be written once more when the file is closed.
    with path.open("ab", buffering=0) as file:
        file.truncate(kept)

        def append(rows: Sequence[Row]) -> None:
            # Each row says which of how many it is: an image without its last row does not count.
            numbered = (row | {"row": i, "rows": len(rows)} for i, row in enumerate(rows, 1))
            lines = [json.dumps(row, allow_nan=False) for row in numbered]
            left = memoryview("".join(f"{line}\n" for line in lines).encode())
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError as error:
                raise ValueError(
                    f"{path}: {error.strerror}; the rows before are kept, and the same command "
                    "goes on once that is mended"
                ) from error

        yield append


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of all images that are complete, from every process that wrote there.

    Args:
        folder (Path): holds ``rows-<rank>.jsonl``.

    Raises:
        ValueError: if a line is broken other than by a killed process, or an image was measured
            twice.
    """
    rows = [row for path in sorted(folder.glob("rows-*.jsonl")) for row in _complete(path)[0]]
    times = Counter(row["image"] for row in rows if row["row"] == 1)
    twice = next((image for image, count in times.items() if count > 1), None)
    if twice is not None:
        raise ValueError(
            f"{folder}: {twice} was measured more than once, so two runs wrote there at the same "
            "time; remove the lines of one from rows-*.jsonl"
        )
    return rows


def _complete(path: Path) -> tuple[list[Row], int]:
    """Return the rows of all complete images in a file, and how many bytes they take."""
    data = path.read_bytes() if path.exists() else b""
    rows: list[Row] = []
    complete, end, position = 0, 0, 0
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        position += len(line)
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            _, is_last = row["image"], row["row"] == row["rows"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not a row ({error}); remove it") from error
        rows.append(row)
        if is_last:
            complete, end = len(rows), position
    return rows[:complete], end
