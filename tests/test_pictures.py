"""Pictures that are broken, huge, named wrongly or made to harm."""

import io
import struct
import tracemalloc
import warnings
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from captum_unioncam.vision.pictures import PictureError, find_pictures, load_picture


def pixels(seed=0, size=(30, 20)):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def saved(kind, image=None, **options):
    file = io.BytesIO()
    (image or pixels()).save(file, kind, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks, color=2, bits=8):
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def read(tmp_path, content, name="a.png"):
    path = tmp_path / name
    path.write_bytes(content)
    return load_picture(path)


ROWS = zlib.compress(bytes(10_000))
# Each says that it is enormous, in a few bytes.
BOMBS = {
    "png": png(60_000, 60_000, chunk(b"IDAT", ROWS)),
    "png-below-pillows-limit": png(12_000, 12_000, chunk(b"IDAT", ROWS)),
    "png-of-bits": png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", ROWS), color=0, bits=1),
    "gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x00\x00\x00;",
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 50_000, 50_000, 1, 24,
                               0, 0, 0, 0, 0, 0),
    "ppm": b"P6 50000 50000 255\n",
    "tiff": saved("TIFF").replace(
        struct.pack("<HHIHH", 256, 4, 1, 30, 0), struct.pack("<HHII", 256, 4, 1, 90_000)
    ).replace(struct.pack("<HHIHH", 257, 4, 1, 20, 0), struct.pack("<HHII", 257, 4, 1, 90_000)),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_are_decoded(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PictureError, match="limit|not a readable picture") as caught:
            read(tmp_path, BOMBS[name], f"bomb.{name}")
    assert "\n" not in str(caught.value)


def test_an_icon_holds_no_bomb_either(tmp_path):
    """Its directory says 16 x 16; the picture in it says otherwise."""
    inner = BOMBS["png"]
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    with pytest.raises(PictureError, match="not a readable picture"):
        read(tmp_path, struct.pack("<HHH", 0, 1, 1) + entry + inner, "a.ico")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "GIF", "TIFF", "WEBP", "BMP", "PPM", "ICO"])
def test_a_file_cut_anywhere_is_one_sentence(kind, tmp_path):
    content = saved(kind)
    cuts = np.linspace(0, len(content) - 1, 9).astype(int)
    for cut in cuts:
        with suppress(PictureError):
            # What is cut off held no pixels.
            found = read(tmp_path, content[:cut])
            assert np.array_equal(found, Image.open(io.BytesIO(content)).convert("RGB"))
            continue
        with pytest.raises(PictureError, match=r"a\.png: not a readable picture \(.*\)$"):
            read(tmp_path, content[:cut])


@pytest.mark.parametrize("name", ["a.png", "a.txt", "a", "a.jpg.exe", "a.gif"])
def test_the_content_says_what_a_file_is(name, tmp_path):
    assert np.array_equal(read(tmp_path, saved("PNG"), name), pixels())


PROGRAMS = {
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n%%EndComments\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script/></svg>',
    "pdf": b"%PDF-1.7\n1 0 obj\n",
    "html": b"<html><body><img src=x></body></html>",
    "pickle": b"\x80\x04cposix\nsystem\n(S'touch executed'\ntR.",
    "numpy": b"\x93NUMPY\x01\x00",
    "wmf": b"\xd7\xcd\xc6\x9a" + bytes(40),
    # Formats that Pillow hands to other programs, or that hold files of their own.
    "bufr": b"BUFR" + bytes(40),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "psd": b"8BPS\x00\x01" + bytes(40),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_no_picture_is_not_run(name, tmp_path, monkeypatch):
    for called in ("subprocess.Popen", "subprocess.check_call", "os.system"):
        monkeypatch.setattr(called, lambda *_, **__: pytest.fail("run"))
    with pytest.raises(PictureError, match="not a readable picture|PostScript is a program"):
        read(tmp_path, PROGRAMS[name])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_a_moving_picture_it_is_the_first_frame(kind, tmp_path):
    frames = [Image.new("RGB", (12, 8), color) for color in ("red", "blue", "lime")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = saved(kind, frames[0], save_all=True, append_images=frames[1:], **lossless)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert np.array_equal(read(tmp_path, content), frames[0])


def test_broken_metadata_breaks_no_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "described"
    told = exif.tobytes()
    content = saved("JPEG", quality=95, exif=told)
    lying = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    upright = np.rot90(lying, -1)
    assert np.array_equal(read(tmp_path, content), upright)
    # Every byte of it in turn, as a broken camera or a hostile hand would leave it.
    for position in range(6, len(told)):
        for value in (*range(14), 255):
            spoiled = told[:position] + bytes([value]) + told[position + 1 :]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read(tmp_path, content.replace(told, spoiled))
            is_turned = found.size == upright.shape[1::-1]
            assert is_turned or found.size == lying.shape[1::-1]
    assert content.count(told) == 1


def test_compressed_texts_and_profiles_do_not_fill_memory(tmp_path):
    bomb = zlib.compress(bytes(200_000_000), 9)
    for kind, name in ((b"iCCP", b"icc\x00\x00"), (b"zTXt", b"a\x00\x00")):
        content = png(4, 4, chunk(kind, name + bomb), chunk(b"IDAT", zlib.compress(bytes(52))))
        tracemalloc.start()
        with suppress(PictureError):
            assert read(tmp_path, content).size == (4, 4)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20_000_000


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_what_a_picture_says_of_itself_is_left_behind(kind, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "<script>alert(1)</script>"
    more = {"comment": "<script>alert(2)</script>"} if kind == "JPEG" else {}
    content = saved(kind, exif=exif, icc_profile=b"<script>" * 20, **more)
    assert b"<script>" in content
    for written in ("PNG", "JPEG", "WEBP", "TIFF"):
        assert b"<script>" not in saved(written, read(tmp_path, content))


def test_a_folder_counts_pictures_alone(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.pdf", "data.h5", ".hidden.png", "movie.mpg", "x.svg"):
        (tmp_path / name).write_bytes(saved("PNG"))
    (tmp_path / "inner.png").mkdir()
    assert [path.name for path in find_pictures([tmp_path])] == ["a.jpg", "b.PNG"]
