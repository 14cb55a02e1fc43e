"""Colours out of files: glTF, OBJ and PLY against what was written, and files that mean harm."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.gltf_builder import BALL, CARD, Builder, skinned, surrounded
from tests.geometry.shapes import MESHES
from threed_gen.geometry.frame import unit_frame
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.geometry.render.appearance import load_painted
from threed_gen.geometry.render.paint import (
    NEUTRAL,
    PAINT_FLAGS,
    Material,
    PaintedMesh,
    linear_from_srgb,
)
from threed_gen.geometry.render.textures import LARGEST_SIDE, TextureError, decoded

UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]])  # of CARD, upright: v counts from the top


def picture(size: tuple[int, int] = (4, 2), kind: str = "PNG") -> tuple[np.ndarray, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return pixels, content.getvalue()


def textured(image: Callable[[Builder], dict[str, Any]], **material: Any) -> Builder:
    """A card with a base colour texture; `image` says where its picture lies."""
    scene = Builder()
    rough = {"baseColorTexture": {"index": 0}, "baseColorFactor": [0.5, 1, 1, 1]}
    scene.add("materials", {"pbrMetallicRoughness": rough} | material)
    scene.add("images", image(scene))
    scene.add("textures", {"source": 0})
    mesh = scene.mesh(CARD, material=0)
    attributes = scene.tree["meshes"][mesh]["primitives"][0]["attributes"]
    attributes["TEXCOORD_0"] = scene.accessor(UV, "VEC2", "f4")
    scene.node(mesh=mesh)
    scene.node(mesh=scene.mesh(BALL), translation=[0, 0, 5])
    return scene


def loaded(tmp_path: Path, scene: Builder) -> PaintedMesh:
    path = tmp_path / "scene.glb"
    path.write_bytes(scene.glb())
    return load_painted(path)


def looks_neutral(painted: PaintedMesh) -> bool:
    return not painted.textures and {m.color for m in painted.materials} <= {NEUTRAL}


def same_place(path: Path) -> None:
    painted, mesh = load_painted(path), load_mesh(path)
    unit = unit_frame(mesh)[0]
    ours = np.sort(painted.vertices[painted.faces].reshape(-1, 9), axis=0)
    area = np.linalg.norm(np.cross(*np.moveaxis(np.diff(unit.triangles, axis=1), 1, 0)), axis=1)
    theirs = np.sort(unit.triangles.reshape(-1, 9), axis=0)
    assert len(area) == len(painted.faces)
    assert np.allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("where", ["inside", "data", "beside"])
def test_a_gltf_texture_wherever_it_lies(tmp_path: Path, where: str) -> None:
    pixels, content = picture()
    (tmp_path / "my wood.png").write_bytes(content)
    ways: dict[str, Callable[[Builder], dict[str, Any]]] = {
        "inside": lambda scene: {"bufferView": scene.view(content), "mimeType": "image/png"},
        "data": lambda _: {"uri": "data:image/png;base64," + base64.b64encode(content).decode()},
        "beside": lambda _: {"uri": "my%20wood.png"},
    }
    painted = loaded(tmp_path, textured(ways[where]))
    assert painted.flags == ()
    assert np.array_equal(painted.textures[0][..., :3], pixels)
    card = painted.materials[painted.material[0]]
    assert card == Material((0.5, 1.0, 1.0, 1.0), 0)
    assert np.array_equal(painted.uv[0], UV[CARD.faces[0]])
    assert painted.materials[painted.material[-1]] == Material(), "the ball has no material"


def test_alpha_modes_glossiness_and_moved_textures(tmp_path: Path) -> None:
    _, content = picture()

    def image(scene: Builder) -> dict[str, Any]:
        return {"bufferView": scene.view(content)}

    leaf = loaded(tmp_path, textured(image, alphaMode="MASK", alphaCutoff=0.2))
    assert (leaf.materials[leaf.material[0]].alpha_mode, leaf.materials[1].cutoff) == ("MASK", 0.2)
    change = {"offset": [0.25, 0.5], "scale": [2, 3], "rotation": np.pi / 2}
    glossy = {
        "diffuseFactor": [0.1, 0.2, 0.3, 0.4],
        "diffuseTexture": {"index": 0, "extensions": {"KHR_texture_transform": change}},
    }
    extensions = {"KHR_materials_pbrSpecularGlossiness": glossy}
    pane = loaded(tmp_path, textured(image, alphaMode="BLEND", extensions=extensions))
    assert pane.materials[pane.material[0]] == Material((0.1, 0.2, 0.3, 0.4), 0, "BLEND")
    u, v = (UV[CARD.faces[0]] * [2, 3]).T
    assert np.allclose(pane.uv[0], np.stack([v + 0.25, 0.5 - u], axis=1), atol=1e-6)


def test_vertex_colours_of_a_gltf_are_linear(tmp_path: Path) -> None:
    scene = Builder()
    mesh = scene.mesh(BALL)
    colors = np.random.default_rng(0).integers(0, 256, (len(BALL.vertices), 4))
    attributes = scene.tree["meshes"][mesh]["primitives"][0]["attributes"]
    attributes["COLOR_0"] = scene.accessor(colors, "VEC4", "u1", normalized=True)
    scene.node(mesh=mesh)
    painted = loaded(tmp_path, scene)
    assert np.allclose(painted.colors, colors[BALL.faces] / 255)
    assert painted.materials[painted.material[0]].color == (1, 1, 1, 1)


@pytest.mark.parametrize("make", [skinned, surrounded], ids=["skinned", "surrounded"])
def test_vertices_are_where_the_mesh_has_them(tmp_path: Path, make: Callable[[], Builder]) -> None:
    path = tmp_path / "scene.glb"
    path.write_bytes(make().glb())
    same_place(path)


@pytest.mark.skipif(not MESHES.is_dir(), reason="the folder of meshes is absent")
def test_real_files(tmp_path: Path) -> None:
    same_place(MESHES / "Duck.glb")
    truck = load_painted(MESHES / "CesiumMilkTruck.glb")
    assert [texture.shape for texture in truck.textures] == [(2048, 2048, 4)]
    assert len(set(truck.material.tolist())) == 4


MTL = """newmtl wood
Kd 0.5 1 0
newmtl photo
Kd 0 0 0
map_Kd -s 1 1 1 wood.png
newmtl glass
Kd 1 1 1
d 0.25
"""
OBJ = """mtllib thing.mtl
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 0 0 1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl photo
f 1/1 2/2 3/3 4/4
usemtl wood
f 1 2 5
usemtl glass
f -1/-1 -2/-2/7 -3//7
usemtl nowhere
f 1 4 5
"""


def test_an_obj_with_its_library(tmp_path: Path) -> None:
    pixels, content = picture()
    for name, data in (("a.obj", OBJ), ("thing.mtl", MTL)):
        (tmp_path / name).write_text(data)
    (tmp_path / "wood.png").write_bytes(content)
    painted = load_painted(tmp_path / "a.obj")
    assert painted.flags == ()
    photo, photo_again, wood, glass, nowhere = (painted.materials[n] for n in painted.material)
    assert photo == photo_again == Material((1, 1, 1, 1), 0)
    assert wood.color == pytest.approx((linear_from_srgb(np.array(0.5)).item(), 1, 0, 1))
    assert (glass.color[3], glass.alpha_mode) == (0.25, "BLEND")
    assert nowhere == Material()
    assert np.array_equal(painted.textures[0][..., :3], pixels)
    # The lower left corner has v = 0, the lowest row of the picture: 1 from the top.
    assert np.array_equal(painted.uv[0], [[0, 1], [1, 1], [1, 0]])
    assert np.array_equal(painted.uv[3, :2], [[0, 0], [1, 0]])
    same_place(tmp_path / "a.obj")


def test_colours_behind_the_vertices_of_an_obj(tmp_path: Path) -> None:
    path = tmp_path / "a.obj"
    path.write_text(
        "v 0 0 0 1 0 0\nv 1 0 0 0 0.5 0\nv 0 1 0 0 0 1\nv 0 0 1 1 1 1\nf 1 2 3\nf 1 2 4"
    )
    painted = load_painted(path)
    half = linear_from_srgb(np.array(0.5)).item()
    assert np.allclose(painted.colors[0, :, :3], [[1, 0, 0], [0, half, 0], [0, 0, 1]])


@pytest.mark.parametrize("binary", [False, True])
def test_colours_of_a_ply(tmp_path: Path, binary: bool) -> None:
    kind = "binary_little_endian" if binary else "ascii"
    head = f"ply\nformat {kind} 1.0\nelement vertex 4\n" + "".join(
        f"property float {axis}\n" for axis in "xyz"
    )
    head += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    head += "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    rows = [(0, 0, 0, 255, 0, 0), (1, 0, 0, 0, 128, 0), (0, 1, 0, 0, 0, 255), (0, 0, 1, 9, 9, 9)]
    if binary:
        body = b"".join(struct.pack("<fffBBB", *row) for row in rows)
        body += b"".join(struct.pack("<Biii", 3, *f) for f in [(0, 1, 2), (0, 1, 3)])
    else:
        body = "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()
        body += b"3 0 1 2\n3 0 1 3\n"
    (tmp_path / "a.ply").write_bytes(head.encode() + body)
    painted = load_painted(tmp_path / "a.ply")
    half = linear_from_srgb(np.array(128 / 255)).item()
    assert np.allclose(painted.colors[0, :, :3], [[1, 0, 0], [0, half, 0], [0, 0, 1]])
    same_place(tmp_path / "a.ply")


def bomb(side: int) -> bytes:
    """A PNG that says it is `side` pixels wide and high."""
    body = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body
    return head + struct.pack(">I", zlib.crc32(body)) + struct.pack(">I", 0) + b"IDAT"


def inside(content: bytes) -> Callable[[Builder], dict[str, Any]]:
    return lambda scene: {"bufferView": scene.view(content)}


HOSTILE: list[tuple[str, Callable[[Builder], dict[str, Any]], str]] = [
    ("bomb", inside(bomb(100_000)), "texture_too_large"),
    ("too large", inside(bomb(8193)), "texture_too_large"),
    ("as large as may be", inside(bomb(8192)), "texture_unreadable"),
    ("cut off", inside(picture((64, 64))[1][:900]), "texture_unreadable"),
    ("noise", inside(bytes(range(256))), "texture_unreadable"),
    ("way up", lambda _: {"uri": "../secret.png"}, "texture_outside"),
    ("encoded way up", lambda _: {"uri": "%2e%2e/secret.png"}, "texture_outside"),
    ("absolute", lambda _: {"uri": "/etc/passwd"}, "texture_outside"),
    ("scheme", lambda _: {"uri": "https://example.org/a.png"}, "texture_outside"),
    ("link", lambda _: {"uri": "link.png"}, "texture_outside"),
    ("not there", lambda _: {"uri": "gone.png"}, "texture_missing"),
    ("no base64", lambda _: {"uri": "data:image/png;base64,!!"}, "texture_unreadable"),
    ("beyond", lambda _: {"bufferView": 99}, "texture_unreadable"),
]


@pytest.mark.parametrize(("image", "flag"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_hostile_images_are_neutral_and_flagged(
    tmp_path: Path, image: Callable[[Builder], dict[str, Any]], flag: str
) -> None:
    (tmp_path / "secret.png").write_bytes(picture()[1])
    folder = tmp_path / "asset"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    painted = loaded(folder, textured(image))
    assert painted.flags == (flag,) and flag in PAINT_FLAGS
    assert looks_neutral(painted)
    assert len(painted.faces) == len(CARD.faces) + len(BALL.faces)


def test_damaged_coordinates_and_materials_are_neutral(tmp_path: Path) -> None:
    scene = textured(inside(picture()[1]))
    attributes = scene.tree["meshes"][0]["primitives"][0]["attributes"]
    attributes["TEXCOORD_0"] = scene.accessor(UV[:2], "VEC2", "f4")
    assert loaded(tmp_path, scene).flags == ("material_unreadable",)
    scene = textured(inside(picture()[1]))
    scene.tree["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"] = "red"
    painted = loaded(tmp_path, scene)
    assert painted.flags == ("material_unreadable",) and looks_neutral(painted)


def test_the_guide_names_the_flags() -> None:
    guide = Path(__file__).resolve().parents[3] / "docs" / "your-own-meshes.md"
    text = guide.read_text("utf-8")
    for flag, meaning in PAINT_FLAGS.items():
        assert f"| `{flag}` | {meaning} |" in text


def test_large_images_are_made_smaller_and_16_bits_fit() -> None:
    _, content = picture((2 * LARGEST_SIDE, 8))
    assert decoded(content).shape == (4, LARGEST_SIDE, 4)
    grey = io.BytesIO()
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16)).save(grey, "PNG")
    assert decoded(grey.getvalue())[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(TextureError, match="texture_unreadable"):
        decoded(b"")
