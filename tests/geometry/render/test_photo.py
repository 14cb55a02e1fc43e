"""Photographs against closed forms: silhouettes, textures, colours, holes, panes, light."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.geometry.shapes import box, icosphere
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.render.camera import CENTRE, Camera
from threed_gen.geometry.render.paint import (
    Material,
    PaintedMesh,
    linear_from_srgb,
    plain,
    srgb_from_linear,
)
from threed_gen.geometry.render.photo import EXPOSURE, SKY, Light, Studio, light_of

FRONT = Camera((0.5, 0.5, 2.5), CENTRE, 2 * math.degrees(math.atan(0.5 / 2)))  # sees 0..1 at z=0.5
# A wall that faces +z gets 0.7 of the sky; this sky shows colours as they are.
EVEN = Light(1 / 0.7, (), ())
WHITE = Material((1.0, 1.0, 1.0, 1.0))


def wall(material: Material = WHITE, z: float = 0.5, texture: np.ndarray | None = None,
         repeat: float = 1.0) -> PaintedMesh:  # fmt: skip
    """The unit square, seen from the front, with the texture the right way round."""
    vertices = np.array([[0, 0, z], [1, 0, z], [1, 1, z], [0, 1, z]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)[faces] * repeat
    textures = () if texture is None else (texture,)
    return replace(plain(Mesh(vertices, faces)), uv=uv, materials=(material,), textures=textures)


def checker(n: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (n, n, 4), dtype=np.uint8)
    texture[..., 3] = 255
    return texture


@pytest.mark.parametrize("supersample", [1, 2, 4])
def test_the_silhouette_of_a_ball_has_the_area_of_its_cone(supersample: int) -> None:
    radius, distance, size = 0.3, 1.2, 200
    ball = icosphere(radius, 5, CENTRE)
    camera = Camera((0.5, 0.5, 0.5 + distance), CENTRE, 50.0)
    picture = Studio(plain(ball)).photograph(camera, EVEN, size, supersample)
    # The cone that touches the ball cuts the plane of the picture in a disc.
    disc = math.tan(math.asin(radius / distance)) / math.tan(math.radians(25)) * size / 2
    area = picture[..., 3].sum() / 255
    assert area == pytest.approx(math.pi * disc**2, rel=4e-3 / supersample + 1e-3)
    levels = np.unique(picture[..., 3])
    whole = np.rint(np.arange(supersample**2 + 1) / supersample**2 * 255)
    assert set(levels) <= set(whole.astype(int)) and len(levels) > supersample


def test_colour_is_straight_where_the_edge_covers_half() -> None:
    half = wall()
    half = replace(half, vertices=half.vertices * [0.5 + 1 / 64, 1, 1])  # ends within a pixel
    picture = Studio(half).photograph(FRONT, EVEN, 32, 4)
    assert set(picture[:, 16, 3]) == {128}
    assert (picture[:, :17, :3] == 255).all(), "no darker at the edge"
    assert (picture[:, 17:] == 0).all()


def test_a_texture_is_the_right_way_round_and_in_its_colours() -> None:
    texture = checker(4)
    studio = Studio(wall(replace(WHITE, texture=0), texture=texture))
    middles = studio.photograph(FRONT, EVEN, 12, 1)[1::3, 1::3]  # the middle of each texel
    assert np.abs(middles.astype(int) - texture).max() <= 1


def test_between_texels_light_is_blended_in_linear_light() -> None:
    texture = np.full((1, 2, 4), 255, np.uint8)
    texture[0, 0, :3] = 0
    shot = Studio(wall(replace(WHITE, texture=0), texture=texture)).photograph(FRONT, EVEN, 4, 1)
    linear = linear_from_srgb(shot[0, :, 0] / 255.0)
    # Columns are at u = 1/8, 3/8, 5/8, 7/8; texels at 1/4 and 3/4, and they repeat.
    assert np.allclose(linear, [0.25, 0.25, 0.75, 0.75], atol=0.01)


def test_textures_repeat() -> None:
    texture = checker(3)
    material = replace(WHITE, texture=0)
    once = Studio(wall(material, texture=texture)).photograph(FRONT, EVEN, 9, 1)
    thrice = wall(material, texture=texture, repeat=3.0)
    thrice = replace(thrice, uv=thrice.uv - 5)  # also below zero
    many = Studio(thrice).photograph(FRONT, EVEN, 27, 1)
    assert np.abs(many.astype(int) - np.tile(once, (3, 3, 1))).max() <= 2


def test_vertex_colours_and_factors_multiply_in_linear_light() -> None:
    painted = wall(Material((0.5, 1.0, 0.25, 1.0)))
    corner = np.array([[0, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    painted = replace(painted, colors=corner[painted.faces])
    picture = Studio(painted).photograph(FRONT, EVEN, 8, 1)
    linear = linear_from_srgb(picture[..., :3] / 255.0)
    middles = (np.arange(8) + 0.5) / 8
    assert np.allclose(linear[..., 0], np.broadcast_to(0.5 * middles, (8, 8)), atol=0.006)
    assert np.allclose(linear[..., 1], np.broadcast_to(middles[:, None], (8, 8)), atol=0.006)
    assert np.allclose(linear[..., 2], 0.25, atol=0.006)


def joined(*meshes: PaintedMesh) -> PaintedMesh:
    first, *others = meshes
    for other in others:
        first = PaintedMesh(
            np.concatenate([first.vertices, other.vertices]),
            np.concatenate([first.faces, other.faces + len(first.vertices)]),
            np.concatenate([first.uv, other.uv]),
            np.concatenate([first.colors, other.colors]),
            np.concatenate([first.material, other.material + len(first.materials)]),
            first.materials + other.materials,
            first.textures + other.textures,
        )
    return first


def test_cut_out_material_has_holes_and_shows_what_is_behind() -> None:
    texture = np.full((2, 2, 4), 255, np.uint8)
    texture[0, 0, 3] = 0  # top left
    leaf = Material((1.0, 1.0, 1.0, 1.0), 0, "MASK", 0.5)
    red = wall(Material((1.0, 0.0, 0.0, 1.0)), z=0.3)
    alone = Studio(wall(leaf, texture=texture)).photograph(FRONT, EVEN, 8, 1)
    assert (alone[1:3, 1:3, 3] == 0).all() and (alone[5:7, 5:7, 3] == 255).all()
    before = Studio(joined(wall(leaf, texture=texture), red)).photograph(FRONT, EVEN, 8, 1)
    assert before[1, 1].tolist() == [255, 0, 0, 255]
    assert before[6, 6].tolist() == [255, 255, 255, 255]
    opaque = replace(leaf, alpha_mode="OPAQUE")
    solid = Studio(wall(opaque, texture=texture)).photograph(FRONT, EVEN, 8, 1)
    assert (solid == 255).all(), "alpha says nothing about an opaque material"


def test_panes_blend_from_front_to_back() -> None:
    pane = Material((0.0, 1.0, 0.0, 0.25), -1, "BLEND")
    red = wall(Material((1.0, 0.0, 0.0, 1.0)), z=0.3)
    alone = Studio(wall(pane)).photograph(FRONT, EVEN, 4, 1)
    assert alone[2, 2].tolist() == [0, 255, 0, 64]
    both = Studio(joined(wall(pane), red)).photograph(FRONT, EVEN, 4, 1)
    expected = np.rint(srgb_from_linear(np.array([0.75, 0.25, 0.0])) * 255)
    assert both[2, 2].tolist() == [*expected.astype(int).tolist(), 255]


def test_walls_are_seen_from_behind_and_from_inside() -> None:
    behind = Camera((0.5, 0.5, -1.5), CENTRE, FRONT.fov)
    light = Light(0.5, ((0.5, 0.9, -1.5),), (0.5,))
    shot = Studio(wall()).photograph(behind, light, 4, 1)
    assert (shot[..., 3] == 255).all() and shot[..., :3].min() > 200, "lit from where we are"
    room = Studio(plain(box((0, 0, 0), (1, 1, 1))))
    inside = room.photograph(Camera(CENTRE, (0.6, 0.5, 0.5), 90.0), Light(1.0, (), ()), 8, 1)
    assert (inside[..., 3] == 255).all() and inside[..., :3].min() > 100


def test_lamps_follow_lambert_and_cast_shadows() -> None:
    lamp = (0.5, 0.5, 3.5)
    light = Light(0.0, (lamp,), (0.8,))
    centre = Camera((0.5, 0.5, 2.5), CENTRE, 1.0)
    lit = Studio(wall()).photograph(centre, light, 3, 1)
    assert linear_from_srgb(lit[1, 1, 0] / 255.0) == pytest.approx(0.8, abs=0.01)
    slanted = Light(0.0, ((0.5, 0.5 + 3 * math.sqrt(3), 3.5),), (0.8,))  # 60 degrees off
    half = Studio(wall()).photograph(centre, slanted, 3, 1)
    assert linear_from_srgb(half[1, 1, 0] / 255.0) == pytest.approx(0.4, abs=0.01)
    roof = wall(z=0.8)
    roof = replace(roof, vertices=roof.vertices * [1, 0.4, 1] + [0, 0.85, 0])
    shaded = Studio(joined(wall(), roof)).photograph(centre, slanted, 3, 1)
    assert shaded[1, 1, 0] == 0


def test_light_comes_from_the_hash_and_does_not_burn_out() -> None:
    lights = [light_of(f"asset {n}", n % 5, FRONT) for n in range(60)]
    assert {len(light.lamps) for light in lights} == {1, 2, 3}
    assert all(SKY[0] <= light.sky <= SKY[1] for light in lights)
    assert np.allclose([light.sky + sum(light.power) for light in lights], EXPOSURE)
    assert light_of("a", 0, FRONT) == light_of("a", 0, FRONT) != light_of("a", 1, FRONT)
    assert light_of("a", 0, FRONT) != light_of("b", 0, FRONT)


def test_a_smooth_ball_across_a_seam_has_no_crease() -> None:
    ball = icosphere(0.4, 3, CENTRE)
    soup = Mesh(ball.triangles.reshape(-1, 3), np.arange(3 * len(ball.faces)).reshape(-1, 3))
    light = light_of("ball", 0, FRONT)
    shots = [Studio(plain(mesh)).photograph(FRONT, light, 64, 2) for mesh in (ball, soup)]
    assert np.abs(shots[0].astype(int) - shots[1]).max() <= 2


def test_nothing_to_see_is_an_empty_picture() -> None:
    empty = plain(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64)))
    assert not Studio(empty).photograph(FRONT, EVEN, 4).any()
