"""The shared type: its views agree, its orders hold, and broken fields are named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.geometry.shapes import field_of, sparse_field, sphere_distance
from threed_gen.geometry.sparse_sdf import (
    SparseSDF,
    brick_keys,
    raster_index,
    raster_offsets,
    voxel_centres,
)


@pytest.fixture
def field() -> SparseSDF:
    return field_of(lambda p: sphere_distance(p, 0.3, 0.5), 32, 4 / 32)


def test_views_agree(field: SparseSDF) -> None:
    field.validate()
    assert field.coords.shape == (field.num_voxels, 3)
    assert field.values.shape == (field.num_voxels,)
    d = sphere_distance(voxel_centres(field.coords, 32), 0.3, 0.5)
    np.testing.assert_allclose(field.values * field.tau, d, atol=1e-7)
    assert field.voxel_coords().shape == (field.num_bricks, 512, 3)
    np.testing.assert_array_equal(field.voxel_coords()[field.band], field.coords)
    np.testing.assert_array_equal(field.inside, field.sdf < 0)
    assert field.coords.dtype == np.int32


def test_raster_and_keys() -> None:
    np.testing.assert_array_equal(raster_index(raster_offsets() + 16), np.arange(512))
    bricks = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], np.int32)
    np.testing.assert_array_equal(brick_keys(bricks, 32), [1, 4, 16])


def test_empty_field() -> None:
    empty = sparse_field(np.zeros((0, 3), int), np.zeros((0, 512)), 32)
    empty.validate()
    assert empty.num_bricks == empty.num_voxels == 0
    assert empty.coords.shape == (0, 3)


def changed(field: SparseSDF, name: str) -> SparseSDF:
    bricks, sdf, band = field.bricks.copy(), field.sdf.copy(), field.band.copy()
    if name == "sorted":
        return replace(field, bricks=bricks[::-1].copy())
    if name == "lie in":
        bricks[-1] = [4, 0, 0]
        return replace(field, bricks=bricks)
    if name == "finite":
        sdf[0, 0] = np.nan
        return replace(field, sdf=sdf)
    if name == "subset":
        return replace(field, sharp=~band)
    if name == "band voxel":
        band[0] = False
        return replace(field, band=band)
    if name == "beyond":
        brick, voxel = np.argwhere(~band)[0]
        sdf[brick, voxel] = 0.99
        return replace(field, sdf=sdf)
    if name == "float32":
        return replace(field, sdf=sdf.astype(np.float64))
    assert name == "scale"
    return replace(field, scale=-1.0)


@pytest.mark.parametrize(
    "rule", ["sorted", "lie in", "finite", "subset", "band voxel", "beyond", "float32", "scale"]
)
def test_broken_fields_are_named(field: SparseSDF, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        changed(field, rule).validate()


def test_predicted_fields_need_not_be_exact(field: SparseSDF) -> None:
    changed(field, "beyond").validate(exact=False)
