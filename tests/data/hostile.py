"""Hostile and odd files of every kind, each with what has to become of it.

`write_hostile` makes the folder SOURCE with one folder per file, and beside it the folder OUTSIDE
with decoys: files that would do very well, if anything followed the way to them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.data.folders import CUBE
from tests.data.gltf_builder import plain
from tests.data.hostile_archives import archive_cases
from tests.data.hostile_case import Case
from tests.data.hostile_gltf import exploder, gltf_cases
from tests.geometry.shapes import box
from threed_gen.geometry.mesh import Mesh

CUBE_BYTES = CUBE.encode()


def write_hostile(folder: Path, with_heavy: bool = False) -> dict[str, Case]:
    """Write everything below `folder`; the cases by their path below `folder`/source."""
    outside, source = folder / "outside", folder / "source"
    outside.mkdir(parents=True)
    decoy = plain()
    for place in (outside, source / "decoy"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "decoy.bin").write_bytes(bytes(decoy.blob))
        (place / "decoy.mtl").write_text("newmtl a\nmap_Kd decoy.png\n")
        (place / "decoy.png").write_bytes(b"no image")
    (outside / "decoy.off").write_text(CUBE)
    cases: dict[str, Case] = {}
    for number, case in enumerate(all_cases(str(outside), with_heavy)):
        place = source / f"{number:03}"
        name = os.fsencode(str(place)) + b"/" + os.fsencode(case.name)
        place.mkdir(parents=True)
        Path(os.fsdecode(name)).write_bytes(case.content)
        for beside, content in case.beside.items():
            (place / beside).parent.mkdir(exist_ok=True)
            (place / beside).write_bytes(content)
        for link, target in case.links.items():
            (place / link).symlink_to(target)
        cases[Path(os.fsdecode(name)).relative_to(source).as_posix()] = case
    # None of these is a file, so none of them is an asset; a reader would wait for the pipe.
    (source / "folder.obj").mkdir()
    (source / "dangling.obj").symlink_to("nowhere.obj")
    os.mkfifo(source / "pipe.obj")
    return cases


def all_cases(outside: str, with_heavy: bool = False) -> list[Case]:
    """Every case; the heavy ones need a limit of time or memory to end."""
    cases = [*gltf_cases(outside), *archive_cases(outside), *_obj(outside), *_ply(), *_stl()]
    cases += [*_off(), *_names()]
    return [*cases, exploder(), spirals()] if with_heavy else cases


def obj(mesh: Mesh, extra: str = "") -> bytes:
    lines = [f"v {x} {y} {z}" for x, y, z in mesh.vertices]
    lines += ["f " + " ".join(str(v + 1) for v in face) for face in mesh.faces]
    return (extra + "\n".join(lines) + "\n").encode()


def _obj(outside: str) -> Iterator[Case]:
    cube = obj(box())
    vertices = cube.partition(b"f ")[0]
    relative = vertices + cube.partition(b"f ")[0]  # a second cube, whose faces count back
    relative += b"\n".join(
        b"f " + b" ".join(str(v - 8).encode() for v in face) for face in box().faces.tolist()
    )
    yield Case("relative.obj", relative, "sample")
    yield Case("relative_beyond.obj", vertices + b"f -1 -2 -99\n", "unreadable")
    yield Case("beyond.obj", cube + b"f 1 2 99\n", "unreadable")
    yield Case("zero.obj", cube + b"f 0 1 2\n", "unreadable")
    yield Case("no_number.obj", cube + b"f 1 2 x\n", "unreadable")
    yield Case("overflow.obj", cube + b"f 1 2 99999999999999999999999\n", "unreadable")
    yield Case("comma.obj", cube.replace(b"v 1.0", b"v 1,0"), "unreadable")
    yield Case("long_line.obj", cube + b"f " + b"1 2 3 " * 1_000_000 + b"\n", "unreadable")
    yield Case("longish_line.obj", cube + b"f " + b"1 2 3 " * 200_000 + b"\n", "unreadable")
    yield Case("long_word.obj", cube + b"v " + b"0" * 900_000 + b"1 0 0\n", "sample")
    yield Case("garbage.obj", b"v \0\1\2" * 500, "unreadable")
    yield Case("utf16.obj", cube.decode().encode("utf-16"), "unreadable")
    yield Case("points.obj", vertices, "no_faces")
    yield Case("lines.obj", vertices + b"l 1 2 3\n", "no_faces")
    yield Case("curves.obj", vertices + b"cstype bezier\ncurv 0 1 1 2 3\nend\n", "no_faces")
    yield Case("nan.obj", cube.replace(b"v 1.0", b"v nan"), "non_finite")
    yield Case("infinite.obj", cube.replace(b"v 1.0", b"v 1e999"), "non_finite")
    unused = b"v nan nan nan\nv inf 0 0\n"
    yield Case("nan_unused.obj", cube + unused, "sample")
    missing = ("missing_material",)
    yield Case("mtl_missing.obj", b"mtllib gone.mtl\n" + cube, "sample", flags=missing)
    for name, path in {"absolute": f"{outside}/decoy.mtl", "up": "../decoy.mtl"}.items():
        content = f"mtllib {path}\nusemtl a\n".encode() + cube
        yield Case(f"mtl_{name}.obj", content, "sample", flags=missing)
    beside = {"a.mtl": b"newmtl a\nmap_Kd gone.png\n"}
    yield Case("mtl_there.obj", b"mtllib a.mtl\n" + cube, "sample", beside=beside)
    odd = b"\xef\xbb\xbf# caf\xe9\r\n" + vertices.replace(b"\n", b"\r\n")
    odd += b"f 1/1/1 2/2/2 \\\r\n 4//3 3\r\nf 5 7 8 6 # a quad\r\n" + cube[len(vertices) :]
    yield Case("odd_but_right.obj", odd, "sample")
    sheet = Mesh(
        np.array([[0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1]]), np.array([[0, 1, 2], [0, 2, 3]])
    )
    yield Case("flat_sheet.obj", obj(sheet), "flat")
    yield Case("empty.obj", b"", "empty_file")


def _ply(
    vertex: str = "element vertex {}\nproperty float x\nproperty float y\nproperty float z\n",
) -> Iterator[Case]:
    def ply(points: int, faces: int, rows: bytes, form: str = "ascii", more: str = "") -> bytes:
        header = f"ply\nformat {form} 1.0\n{vertex.format(points)}"
        header += (
            f"element face {faces}\nproperty list uchar int vertex_indices\n{more}end_header\n"
        )
        return header.encode() + rows

    corners = box().vertices
    text = "".join(f"{x:g} {y:g} {z:g}\n" for x, y, z in corners).encode()
    faces = "".join(f"3 {a} {b} {c}\n" for a, b, c in box().faces).encode()
    yield Case("right.ply", ply(8, 12, text + faces), "sample")
    yield Case("points.ply", ply(8, 0, text), "no_faces")
    yield Case("claims_faces.ply", ply(8, 2**40, text + faces), "too_many_faces")
    yield Case("claims_points.ply", ply(2**40, 12, text + faces), "unreadable")
    claims = "binary_little_endian"
    yield Case(
        "claims_binary.ply", ply(2**40, 12, corners.astype("<f4").tobytes(), claims), "unreadable"
    )
    yield Case("one_short.ply", ply(8, 13, text + faces), "unreadable")
    yield Case("no_columns.ply", ply(8, 12, text + faces, more=f"element void {2**40}\n"), "sample")
    yield Case("words.ply", ply(8, 12, text + b"three corners\n" * 12), "unreadable")
    yield Case("list_lies.ply", ply(8, 1, text + b"99999 0 1 2\n"), "unreadable")
    yield Case("beyond.ply", ply(8, 12, text + faces.replace(b" 7", b" 70")), "unreadable")
    rows = b"".join(struct.pack(">B3i", 3, *face) for face in box().faces)
    big = ply(8, 12, corners.astype(">f4").tobytes() + rows, "binary_big_endian")
    yield Case("big_endian.ply", big, "sample")
    yield Case("cut.ply", big[:-20], "unreadable")
    yield Case("no_end.ply", b"ply\nformat ascii 1.0\n" + b"comment x\n" * 1000, "unreadable")
    yield Case("garbage.ply", np.random.default_rng(2).bytes(3000), "unreadable")


def _stl() -> Iterator[Case]:
    def stl(count: int, mesh: Mesh, title: bytes = b"") -> bytes:
        rows = b"".join(
            struct.pack("<12fH", 0, 0, 0, *triangle.reshape(-1), 0) for triangle in mesh.triangles
        )
        return title.ljust(80, b" ") + struct.pack("<I", count) + rows

    yield Case("solid_but_binary.stl", stl(12, box(), b"solid cube"), "sample")
    yield Case("claims.stl", stl(2**32 - 1, box()), "unreadable")
    yield Case("none.stl", stl(0, box()), "no_faces")
    yield Case("cut.stl", stl(12, box())[:-25], "unreadable")
    facet = "facet normal 0 0 0\nouter loop\n{}endloop\nendfacet\n"
    text = "".join(
        facet.format("".join(f"vertex {x} {y} {z}\n" for x, y, z in triangle))
        for triangle in box().triangles
    )
    yield Case("text.stl", f"solid a\n{text}endsolid a\n".encode(), "sample")
    yield Case("text_cut.stl", f"solid a\n{text}"[:-60].encode(), "unreadable")
    whole_lines = f"solid a\n{text}".rsplit("vertex", 1)[0]
    yield Case("text_cut_between_lines.stl", whole_lines.encode(), "unreadable")
    yield Case("text_words.stl", f"solid a\n{text}".replace("1.0", "one").encode(), "unreadable")
    nothing = b"solid nothing\nendsolid nothing\n"
    yield Case("text_none.stl", nothing, "no_faces")


def _off() -> Iterator[Case]:
    yield Case("claims.off", b"OFF\n999999999999 12 0\n0 0 0\n", "unreadable")
    yield Case("claims_faces.off", b"OFF\n8 999999999999 0\n0 0 0\n", "too_many_faces")
    yield Case("cut.off", CUBE_BYTES[:-20], "unreadable")
    yield Case("binary.off", b"OFF BINARY\n\0\0\0\7", "unsupported_version")
    yield Case("negative.off", CUBE_BYTES.replace(b"4 0 1", b"4 0 -1"), "unreadable")
    yield Case("joined_header.off", CUBE_BYTES.replace(b"OFF\n", b"OFF"), "sample")


def _names() -> Iterator[Case]:
    for name in ("new\nline.off", "стол.OFF", "...off", ".hidden.off", "-rf.off", "a b\t;$(x).off"):
        yield Case(name, CUBE_BYTES, "sample")
    yield Case(os.fsdecode(b"bad\xff.off"), CUBE_BYTES, "sample")
    yield Case("new\nline\x1b[31m.obj", b"\0", "unreadable")
    yield Case(f"{'long' * 60}.off", CUBE_BYTES, "sample")


def spirals() -> Case:
    """A small legal file that takes minutes: spiral polygons, to be cut ear by ear."""
    turn = np.linspace(0, 60 * np.pi, 950)
    arm = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (1 + turn[:, None])
    ring = np.concatenate([arm, (arm * (1 + 0.5 / (1 + turn[:, None])))[::-1]])
    lines = [f"v {x} {y} {x * 0.1}" for x, y in ring]
    line = "f " + " ".join(str(i + 1) for i in range(len(ring)))
    return Case("spirals.obj", "\n".join([*lines, *[line] * 100]).encode(), "timeout")
