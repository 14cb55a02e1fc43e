"""The readers: trimesh as the reference on real files, polygons, references, limits."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh

from tests.data.gltf_builder import BALL, Builder, plain
from tests.data.hostile_archives import packed
from tests.geometry.shapes import MESHES, box, icosphere, inverted
from threed_gen.geometry.mesh import Mesh, MeshError, face_areas, merge_by_position, signed_volume
from threed_gen.geometry.mesh_io import load_asset, load_mesh
from threed_gen.geometry.reading.beside import candidates
from threed_gen.geometry.reading.polygons import triangulate
from threed_gen.geometry.reading.reasons import ReadLimits

FILES = [path for path in sorted(MESHES.glob("*")) if path.suffix != ".md"]


def rows(mesh: Mesh) -> np.ndarray:
    """Triangles in an order of their own, each beginning with its lowest corner."""
    triangles = np.asarray(mesh.triangles)
    first = [np.lexsort(t.T[::-1])[0] for t in triangles]
    turned = np.stack([np.roll(t, -k, axis=0) for t, k in zip(triangles, first, strict=True)])
    flat = turned.reshape(-1, 9)
    return flat[np.lexsort(flat.T[::-1])]


@pytest.mark.skipif(not MESHES.is_dir(), reason="the folder of meshes is absent")
@pytest.mark.parametrize(
    "path", [p for p in sorted(MESHES.glob("*")) if p.suffix != ".md"], ids=lambda path: path.name
)
def test_real_files_against_trimesh(path: Path) -> None:
    scene = trimesh.load_scene(path, process=False)
    parts = []
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        part = scene.geometry[name].copy()
        part.apply_transform(matrix)
        parts.append(part)
    whole = trimesh.util.concatenate(parts)
    expected = merge_by_position(Mesh(np.asarray(whole.vertices), np.asarray(whole.faces)))
    found = load_mesh(path)
    assert len(found.vertices) == len(expected.vertices)
    assert len(found.faces) == len(expected.faces)
    if path.name == "suzanne.ply":  # two quads are concave: trimesh covers what is outside them
        assert len(np.unique(np.concatenate([rows(found), rows(expected)]), axis=0)) == 968 + 4
        return
    if path.suffix == ".glb":  # matrices of nodes are rounded in another order
        np.testing.assert_allclose(rows(found), rows(expected), atol=1e-12)
    else:
        np.testing.assert_array_equal(rows(found), rows(expected))


def test_concave_polygons_keep_their_area(tmp_path: Path) -> None:
    """A letter L, a star and a comb, turned in space: fans would cover the notches."""
    rng = np.random.default_rng(0)
    angle = np.arange(10) * np.pi / 5
    star = (
        np.stack([np.cos(angle), np.sin(angle)], axis=1)
        * np.where(np.arange(10) % 2, 0.3, 1)[:, None]
    )
    ell = np.array([[0, 0], [3, 0], [3, 1], [1, 1], [1, 3], [0, 3.0]])
    comb = np.array(
        [
            [0, 0],
            [5, 0],
            [5, 3],
            [4, 3],
            [4, 1],
            [3, 1],
            [3, 3],
            [2, 3],
            [2, 1],
            [1, 1],
            [1, 3],
            [0, 3.0],
        ]
    )
    for flat, area in ((ell, 5.0), (star, 10 * 0.3 * np.sin(np.pi / 5) / 2), (comb, 11.0)):
        for turn in range(len(flat)):
            frame, _ = np.linalg.qr(rng.normal(size=(3, 3)))
            ring = np.roll(flat, turn, axis=0) @ frame[:2]
            for way in (ring, ring[::-1]):
                faces = triangulate(np.array([len(way)]), np.arange(len(way)), way)
                mesh = Mesh(way, faces)
                assert len(faces) == len(way) - 2
                assert face_areas(mesh).sum() == pytest.approx(area)


def test_polygons_of_all_sizes_in_order() -> None:
    sizes = np.array([3, 2, 4, 0, 5])
    angle = np.arange(14) * 0.1
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    faces = triangulate(sizes, np.arange(14), ring)
    expected = [[0, 1, 2], [5, 6, 7], [5, 7, 8], [9, 10, 11], [9, 11, 12], [9, 12, 13]]
    assert faces.tolist() == expected


def test_binary_ply_with_polygons_of_several_sizes(tmp_path: Path) -> None:
    """A wedge: triangles and quads in one list, with a number before and a list behind each."""
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]])
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 6\n"
    header += "".join(f"property double {axis}\n" for axis in "xyz")
    header += "element face 5\nproperty uchar red\nproperty list uchar int vertex_index\n"
    header += "property list uchar float texcoord\nend_header\n"
    content = header.encode() + points.astype("<f8").tobytes()
    for face in ((0, 2, 1), (3, 4, 5), (0, 1, 4, 3), (1, 2, 5, 4), (2, 0, 3, 5)):
        content += struct.pack(f"<BB{len(face)}iB2f", 7, len(face), *face, 2, 0.5, 0.5)
    path = tmp_path / "wedge.ply"
    path.write_bytes(content)
    mesh = load_mesh(path)
    assert len(mesh.faces) == 8
    assert signed_volume(mesh) == pytest.approx(0.5)


def test_relative_numbers_count_from_their_line(tmp_path: Path) -> None:
    """Two objects, each with faces that count back: trimesh takes both from the end of the file."""
    text = ""
    for shift in (0, 5):
        text += "".join(f"v {x + shift} {y} {z}\n" for x, y, z in box().vertices)
        text += "".join("f " + " ".join(str(v - 8) for v in f) + "\n" for f in box().faces)
    path = tmp_path / "two.obj"
    path.write_text(text)
    mesh = load_mesh(path)
    assert len(mesh.faces) == 24
    assert signed_volume(mesh) == pytest.approx(2)
    assert mesh.bounds[1][0] == 6


def test_texts_longer_than_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from threed_gen.geometry.reading import text

    ball = icosphere(1.0, 2)
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in ball.vertices.tolist()]
    lines += [f"f {a + 1} \\\n{b + 1} {c + 1}" for a, b, c in ball.faces.tolist()]
    path = tmp_path / "ball.obj"
    path.write_text("\n".join(lines))
    whole = load_mesh(path)
    np.testing.assert_array_equal(rows(whole), rows(merge_by_position(ball)))
    for size in (64, 257, 4000):
        monkeypatch.setattr(text, "_PIECE", size)
        found = load_mesh(path)
        np.testing.assert_array_equal(found.faces, whole.faces)
        np.testing.assert_array_equal(found.vertices, whole.vertices)


def test_vertices_that_no_face_uses_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.obj"
    path.write_text(
        "v 1e9 0 0\nv 0 0 0\nv 1e-2 0 0\nv 0 1e-2 0\nv 0 0 1e-2\n"
        "f 2 4 3\nf 2 3 5\nf 2 5 4\nf 3 4 5\n"
    )
    assert len(load_mesh(path).faces) == 4


@pytest.mark.parametrize(
    ("reference", "names"),
    [
        ("a.bin", ["a.bin"]),
        ("my%20a.bin", ["my a.bin", "my%20a.bin"]),
        ("a..b/c.bin", ["a..b/c.bin"]),
        ("./a.bin", ["./a.bin"]),
        ("100%", ["100%"]),
    ],
)  # fmt: skip
def test_references_inside(reference: str, names: list[str]) -> None:
    assert candidates(reference) == names


@pytest.mark.parametrize(
    "reference",
    ["", "/a", "//host/a", "a/../../b", "..", "%2e%2e/a", "%252e./a", "%2fa", "a\\b", "%5c..%5ca",
     "c:a", "file:a", "HTTP://a/b", "%66ile:a", "a%00b", "%" + "25" * 20 + "2e", "x" * 5000],
)  # fmt: skip
def test_references_outside(reference: str) -> None:
    with pytest.raises(MeshError) as caught:
        candidates(reference)
    assert caught.value.reason == "outside_reference"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ReadLimits(max_faces=79), "too_many_faces"),
        (ReadLimits(max_bytes=1000), "too_large"),
        (ReadLimits(max_json_bytes=100), "too_large"),
    ],
)
def test_limits(tmp_path: Path, limits: ReadLimits, reason: str) -> None:
    path = tmp_path / "a.glb"
    path.write_bytes(plain().glb())
    assert len(BALL.faces) == 80 == len(load_asset(path, ReadLimits(max_faces=80)).mesh.faces)
    with pytest.raises(MeshError, match=r"a\.glb: ") as caught:
        load_asset(path, limits)
    assert caught.value.reason == reason


def test_files_beside_count_for_the_limit(tmp_path: Path) -> None:
    scene = plain()
    (tmp_path / "a.gltf").write_bytes(scene.text("a.bin"))
    (tmp_path / "a.bin").write_bytes(bytes(scene.blob) + bytes(10_000))
    load_asset(tmp_path / "a.gltf")
    with pytest.raises(MeshError) as caught:
        load_asset(tmp_path / "a.gltf", ReadLimits(max_bytes=10_000))
    assert caught.value.reason == "too_large"


def test_archives_count_inflated(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    content = bytes(plain().blob) + b" " * 20_000
    path.write_bytes(packed(("a.gltf", plain().text("a.bin")), ("a.bin", content)))
    assert path.stat().st_size < 5_000
    for limits in (ReadLimits(max_bytes=20_000), ReadLimits(max_entries=1)):
        with pytest.raises(MeshError) as caught:
            load_asset(path, limits)
        assert caught.value.reason == "archive_bomb"
    load_asset(path, ReadLimits(max_bytes=30_000, max_entries=2))


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".stl", ".off"])
def test_faces_are_counted_in_every_format(tmp_path: Path, suffix: str) -> None:
    from threed_gen.geometry.mesh_io import save_mesh

    path = tmp_path / f"a{suffix}"
    save_mesh(inverted(BALL), path)
    load_asset(path, ReadLimits(max_faces=80))
    with pytest.raises(MeshError) as caught:
        load_asset(path, ReadLimits(max_faces=79))
    assert caught.value.reason == "too_many_faces"


def test_a_claim_allocates_nothing(tmp_path: Path) -> None:
    import tracemalloc

    spoil: list[Callable[[Builder], None]] = [
        lambda b: b.tree["accessors"][0].update(count=2**40),
        lambda b: b.tree["accessors"][1].update(count=2**33),
        lambda b: b.tree.update(buffers=[{"byteLength": 2**40}]),
    ]
    for change in spoil:
        scene = plain()
        change(scene)
        (tmp_path / "a.glb").write_bytes(scene.glb())
        tracemalloc.start()
        with pytest.raises(MeshError):
            load_mesh(tmp_path / "a.glb")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()
