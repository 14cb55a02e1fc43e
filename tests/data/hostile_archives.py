"""Hostile .zip files."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Iterator

from tests.data.folders import CUBE
from tests.data.gltf_builder import plain
from tests.data.hostile_case import Case

MESH = CUBE.encode()


def packed(
    *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return whole.getvalue()


def patched(archive: bytes, offset: int, value: bytes) -> bytes:
    """The first entry's record in the directory, with some bytes replaced."""
    at = archive.rindex(b"PK\1\2") + offset
    return archive[:at] + value + archive[at + len(value) :]


def archive_cases(outside: str) -> Iterator[Case]:
    one = packed(("a.off", MESH))
    scene = plain()
    blob = bytes(scene.blob)
    yield Case(
        "scene.zip",
        packed(
            ("source/a.gltf", scene.text("data/a.bin")),
            ("source/data/a.bin", blob),
            ("__MACOSX/source/._a.gltf", b"\0\5\x16\7"),
            ("textures/wood.png", b"no image"),
        ),
        "sample",
    )
    yield Case("stored.zip", packed(("a.off", MESH), method=zipfile.ZIP_STORED), "sample")
    yield Case("bin_missing.zip", packed(("a.gltf", scene.text("a.bin"))), "missing_file")
    up = packed(("b/a.gltf", scene.text("../a.bin")), ("a.bin", blob))
    yield Case("bin_outside.zip", up, "outside_reference")
    disk = packed(("a.gltf", scene.text(f"{outside}/decoy.bin")))
    yield Case("bin_on_disk.zip", disk, "outside_reference")
    yield Case("ratio.zip", packed(("a.off", MESH + b" " * 60_000_000)), "archive_bomb")
    beside = packed(("a.off", MESH), ("zeros.bin", bytes(60_000_000)))
    yield Case("ratio_beside.zip", beside, "archive_bomb")
    yield Case("claims.zip", patched(one, 24, struct.pack("<I", 3_900_000_000)), "archive_bomb")
    # The directory says less than there is: no more than it says is inflated.
    yield Case("lies.zip", patched(one, 24, struct.pack("<I", 20)), "unreadable")
    yield Case("entries.zip", packed(*[(f"{i}.txt", b"") for i in range(10_001)]), "archive_bomb")
    for name, entry in {
        "up": "../../escaped.off",
        "absolute": f"{outside}/escaped.off",
        "backslash": "..\\escaped.off",
        "drive": "C:\\escaped.off",
    }.items():
        yield Case(f"escape_{name}.zip", packed((entry, MESH)), "archive_escape")
    link = zipfile.ZipInfo("a.off")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    target = f"{outside}/decoy.off".encode()
    yield Case("link.zip", packed((link, target)), "archive_escape")
    yield Case("locked.zip", patched(one, 8, b"\1\0"), "archive_encrypted")
    yield Case("nested.zip", packed(("b.zip", one)), "archive_nested")
    several = packed(("a.off", MESH), ("b/c.obj", b"v 0 0 0"))
    yield Case("several.zip", several, "archive_several_meshes")
    yield Case("no_mesh.zip", packed(("readme.txt", b"hello")), "archive_no_mesh")
    yield Case("empty_mesh.zip", packed(("a.off", b"")), "empty_file")
    yield Case("nothing.zip", packed(), "archive_no_mesh")
    yield Case("cut.zip", one[:-30], "unreadable")
    yield Case("no_zip.zip", b"PK\3\4" + bytes(range(256)), "unreadable")
    yield Case("damaged.zip", one[:45] + b"\xff\xff\xff" + one[48:], "unreadable")
    lzma = packed(("a.off", MESH), method=zipfile.ZIP_LZMA)
    yield Case("lzma.zip", lzma, "unreadable")
    twice = packed(("a.off", MESH), ("b.off", MESH)).replace(b"b.off", b"a.off")
    yield Case("twice.zip", twice, "unreadable")
