"""A benchmark and its disk: killed, full, read-only, damaged, and used by two at once."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from captum_unioncam.benchmark import measure_all as measuring
from captum_unioncam.benchmark.rows import read_rows
from captum_unioncam.files import written_whole
from tests.test_benchmark_run import arguments, assert_same_tables, photos, run, whole

__all__ = ["photos", "whole"]

resource = pytest.importorskip("resource", reason="Windows has no such limits")


@contextmanager
def no_file_above(size):
    """As on a full disk: a write stops where the file has that many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_killed_at_random_moments():
    command = [sys.executable, "-m", "tests.killing", "--kills", "3", "--seed", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 kills")


def test_a_full_disk_keeps_the_rows_and_the_run_goes_on(photos, whole, tmp_path, capsys):
    out = tmp_path / "out"
    given = arguments(photos, out)
    # Not even the settings.
    with no_file_above(500):
        status, _, err = run(capsys, *given)
    assert (status, err.count("\n")) == (2, 1)
    assert "settings.json" in err
    assert not [path for path in out.iterdir() if path.name != ".lock"]
    # Some of the rows, and half of one.
    with no_file_above(30_000):
        status, _, err = run(capsys, *given)
    assert status == 2
    assert err == (
        f"unioncam: {out / 'rows-0.jsonl'}: File too large; the rows before are kept, and the same "
        "command goes on once that is mended\n"
    )
    assert (out / "rows-0.jsonl").stat().st_size == 30_000
    kept = {row["image"] for row in read_rows(out)}
    assert 0 < len(kept) < 15
    assert run(capsys, *given)[0] == 1
    assert_same_tables(out, whole)
    # No room for a report: the one before stays.
    before = (out / "report.md").read_bytes()
    with no_file_above(1000):
        status, _, err = run(capsys, *given)
    assert (status, err.count("\n")) == (2, 1)
    assert "report.md" in err
    assert (out / "report.md").read_bytes() == before
    assert not list(out.glob(".partial*"))


def as_nobody(call):
    """Return a call without root's right to write everywhere."""

    def called(*given, **options):
        is_root = not os.geteuid()
        if is_root:
            os.seteuid(65534)
        try:
            return call(*given, **options)
        finally:
            if is_root:
                os.seteuid(0)

    return called


def test_a_folder_that_cannot_be_written_is_one_sentence(photos, tmp_path, capsys, monkeypatch):
    closed, old = tmp_path / "closed", tmp_path / "closed" / "old"
    run(capsys, *arguments(photos, old, "--n", "1"))
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    monkeypatch.setattr(measuring, "measure_all", as_nobody(measuring.measure_all))
    # Folders above are this user's alone: paths are relative.
    monkeypatch.chdir(closed)
    for path in (old, closed):
        path.chmod(0o555)
    try:
        for out in ("old", "new"):
            status, _, err = run(capsys, *arguments(photos, out))
            assert (status, err.count("\n")) == (2, 1)
            assert err.startswith("unioncam: ")
            assert "Permission denied" in err
            assert out in err
    finally:
        for path in (closed, old):
            path.chmod(0o755)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert not (closed / "new").exists()


@pytest.mark.parametrize(
    ("tail", "told"),
    [
        # Zeros are what a file system leaves where the power failed.
        (bytes(4096), ""),
        (b'{"image": "class1/1.p', ""),
        (b'{"image": "a", "row": 1, "rows": 2}\n', ""),
        (b"\xff\xfe\n", "not a row"),
        (b"{}\n", "not a row"),
        (b"3\n", "not a row"),
        (b'{"row": 1, "rows": 1}\n', "not a row"),
        (b"[" * 100_000 + b"\n", "not a row"),
    ],
    ids=["zeros", "cut", "one-of-two", "bytes", "empty", "number", "nameless", "deep"],
)
def test_a_damaged_last_line(tail, told, photos, whole, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("settings.json", "gallery.png"):
        (out / name).write_bytes((whole / name).read_bytes())
    rows = (whole / "rows-0.jsonl").read_bytes()
    (out / "rows-0.jsonl").write_bytes(rows + tail)
    status, _, err = run(capsys, *arguments(photos, out))
    if not told:
        assert (status, err) == (1, "")
        assert (out / "rows-0.jsonl").read_bytes() == rows
        return
    assert (status, err.count("\n")) == (2, 1)
    line = rows.count(b"\n") + 1
    assert err.startswith(f"unioncam: {out / 'rows-0.jsonl'}, line {line}: {told} (")
    assert err.endswith("; remove it\n")
    assert (out / "rows-0.jsonl").read_bytes() == rows + tail


def test_two_runs_on_one_folder(photos, tmp_path, capsys):
    holding = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    out = tmp_path / "out"
    out.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", holding, out / ".lock"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        status, _, err = run(capsys, *arguments(photos, out))
        other.stdin.close()
    assert (status, err) == (2, f"unioncam: another run is writing in {out}; wait for it\n")
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_a_file_that_does_not_fit_is_named(tmp_path):
    path = tmp_path / "report.md"
    path.write_text("before")
    with (
        no_file_above(10),
        pytest.raises(OSError, match="report.md"),
        written_whole(path) as partial,
    ):
        partial.write_bytes(bytes(11))
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["report.md"]
