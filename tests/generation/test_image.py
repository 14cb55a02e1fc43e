"""Pictures of any kind become RGBA; what is no picture of a shape is refused in one line."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from threed_gen.errors import UserError
from threed_gen.generation.image import decode_image, read_images, with_foreground
from threed_gen.models.conditioning.picture import prepare_picture

SIDE = 24


def drawing() -> np.ndarray:
    """A red square, green above it, on transparency. [24, 24, 4]"""
    rgba = np.zeros((SIDE, SIDE, 4), np.uint8)
    rgba[8:18, 6:20] = (200, 30, 20, 255)
    rgba[4:8, 6:20] = (20, 180, 40, 255)
    return rgba


def saved(folder: Path, mode: str, name: str = "a.png", **options: Any) -> Path:
    path = folder / name
    image = Image.fromarray(drawing())
    (image if mode == "RGBA" else image.convert(mode)).save(path, **options)
    return path


def png(width: int, height: int, depth: int, kind: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand, for what Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_of_png(tmp_path: Path, mode: str) -> None:
    found = decode_image(saved(tmp_path, mode))
    assert found.shape == (SIDE, SIDE, 4) and found.dtype == np.uint8
    assert np.array_equal(found, np.array(Image.fromarray(drawing()).convert(mode).convert("RGBA")))
    assert (found[..., 3].min() == 0) == (mode in ("LA", "P", "RGBA"))


def test_palette_with_transparency(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    indexed = Image.new("P", (4, 4), 1)
    indexed.putpalette([9, 9, 9, 200, 30, 20])
    indexed.putpixel((0, 0), 0)
    indexed.save(path, transparency=0)
    found = decode_image(path)
    assert found[0, 0, 3] == 0 and found[1, 1].tolist() == [200, 30, 20, 255]


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    grey = np.array([[0, 257], [32896, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert decode_image(tmp_path / "grey.png")[..., 0].tolist() == [[0, 1], [128, 255]]
    row = struct.pack(">B8H", 0, 65535, 32768, 0, 65535, 0, 0, 0, 0)
    (tmp_path / "rgba.png").write_bytes(png(2, 1, 16, 6, row))
    assert decode_image(tmp_path / "rgba.png").tolist() == [[[255, 128, 0, 255], [0, 0, 0, 0]]]


def test_cmyk_and_webp(tmp_path: Path) -> None:
    found = decode_image(saved(tmp_path, "CMYK", "a.jpg", quality=95))
    assert np.abs(found[13, 13, :3].astype(int) - [200, 30, 20]).max() < 30
    lossless = decode_image(saved(tmp_path, "RGBA", "a.webp", lossless=True))
    assert np.array_equal(lossless[..., 3], drawing()[..., 3])


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    turned = decode_image(saved(tmp_path, "RGB", "a.jpg", exif=exif, quality=95))
    assert np.abs(turned.astype(int) - np.rot90(drawing(), -1))[13, 5, :3].max() < 60
    assert turned[13, 16, 1] > turned[13, 16, 0]  # green is on the right now


def test_the_suffix_says_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path, "RGBA").rename(tmp_path / "a.jpeg")
    assert np.array_equal(decode_image(path), drawing())


def text(folder: Path) -> Path:
    path = folder / "a.png"
    path.write_text("I am no picture.\n")
    return path


def cut(name: str, mode: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 4), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return make


def huge(folder: Path) -> Path:
    path = folder / "a.png"
    path.write_bytes(png(20_000, 20_000, 8, 0, b"\0" * 100))
    return path


def moving(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"a{suffix}"
        frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 200)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        return path

    return make


def empty(folder: Path) -> Path:
    (folder / "a.png").touch()
    return folder / "a.png"


def clear(folder: Path) -> Path:
    Image.new("RGBA", (8, 8), (200, 10, 10, 0)).save(folder / "a.png")
    return folder / "a.png"


BAD = {
    "missing": (lambda folder: folder / "none.png", "none.png: no such image file"),
    "directory": (lambda folder: folder, "is a directory"),
    "empty": (empty, "a.png: the file is empty"),
    "text": (text, "a.png: is no PNG, JPEG or WebP image"),
    "cut png": (cut("a.png", "RGBA"), "a.png: damaged image, save it anew"),
    "cut jpeg": (cut("a.jpg", "RGB"), "a.jpg: damaged image, save it anew"),
    "cut webp": (cut("a.webp", "RGB"), "a.webp: damaged image, save it anew"),
    "huge": (huge, "20,000 x 20,000 pixels are too many"),
    "moving png": (moving(".png"), r"moves \(2 frames\)"),
    "moving webp": (moving(".webp"), r"moves \(2 frames\)"),
    "gif": (moving(".gif"), "is no PNG, JPEG or WebP image"),
    "clear": (clear, "every pixel is transparent"),
    "opaque": (lambda folder: saved(folder, "RGB"), "--background remove .* --background keep"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_of_a_shape(tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    path = make(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        with_foreground(decode_image(path), path, None)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_pictures_come_through_the_child_in_order(tmp_path: Path) -> None:
    """Two of them, one twice; and the message of the child's error is ours."""
    first = saved(tmp_path, "RGBA", "first.png")
    second = saved(tmp_path, "RGBA", "second.webp", lossless=True)
    found = read_images([second, first, second])
    assert np.array_equal(found[1], drawing()) and np.array_equal(found[0], found[2])
    assert prepare_picture(found[1], 16).shape == (4, 16, 16)
    with pytest.raises(UserError, match=r"a\.png: is no PNG"):
        read_images([first, text(tmp_path)])


def test_background_kept_or_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opaque = drawing()
    opaque[..., 3] = 255
    path = tmp_path / "a.png"
    assert with_foreground(opaque, path, "keep") is opaque

    def remove(image: Image.Image, session: str) -> Image.Image:
        assert image.mode == "RGB" and session == "session of birefnet-general"
        return Image.fromarray(drawing())

    fake = SimpleNamespace(remove=remove, new_session=lambda name: f"session of {name}")
    monkeypatch.setitem(sys.modules, "rembg", fake)
    assert np.array_equal(with_foreground(opaque, path, "remove"), drawing())
    assert np.array_equal(with_foreground(drawing(), path, "remove"), drawing())  # not asked
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(UserError, match=r"pip install 'threed-gen\[background\]'"):
        with_foreground(opaque, path, "remove")
    blank = Image.new("RGBA", (SIDE, SIDE))
    monkeypatch.setitem(sys.modules, "rembg", fake)
    monkeypatch.setattr(fake, "remove", lambda image, session: blank)
    with pytest.raises(UserError, match="left nothing"):
        with_foreground(opaque, path, "remove")
