"""Resampling against the closed form of a sphere, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.fields import analytic_sphere, same_field
from threed_gen.data.resample import check_resample, resample
from threed_gen.errors import UserError
from threed_gen.geometry.sparse_sdf import SparseSDF


def _distances(
    field: SparseSDF, radius: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    centres = (field.voxel_coords() + 0.5) / field.resolution
    distances: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = (
        np.linalg.norm(centres - 0.5, axis=-1) - radius
    )
    return distances


@pytest.mark.parametrize(("stored", "target"), [(64, 32), (64, 48), (64, 40), (96, 32), (48, 40)])
@pytest.mark.parametrize("radius", [0.2, 0.45])
def test_a_sphere_on_a_coarser_grid(stored: int, target: int, radius: float) -> None:
    tau = 3 / target
    fine = analytic_sphere(stored, tau + 1.8 / stored, radius)
    coarse = resample(fine, target, tau)
    direct = analytic_sphere(target, tau, radius)
    coarse.validate()
    assert (coarse.scale, coarse.offset) == (fine.scale, fine.offset)
    # The same bricks, but for those that the band only just touches.
    slack = (1 / stored) ** 2 / radius  # a bound of the interpolation's error
    theirs = {tuple(b): k for k, b in enumerate(direct.bricks.tolist())}
    ours = {tuple(b): k for k, b in enumerate(coarse.bricks.tolist())}
    exact = np.abs(_distances(direct, radius))
    for brick in theirs.keys() ^ ours.keys():
        assert brick in ours or exact[theirs[brick]].min() > tau - slack
    truth = _distances(coarse, radius)
    error = np.abs(coarse.sdf * tau - np.clip(truth, -tau, tau))
    assert error.max() < slack
    assert ((coarse.sdf < 0) == (truth < 0))[np.abs(truth) > slack].all()
    assert (coarse.band == (np.abs(truth) < tau))[np.abs(np.abs(truth) - tau) > slack].all()


def test_the_same_grid_with_a_smaller_tau_is_exact() -> None:
    fine = analytic_sphere(64, 5 / 64)
    narrow = resample(fine, 64, 3 / 64)
    direct = analytic_sphere(64, 3 / 64)
    narrow.validate()
    np.testing.assert_array_equal(narrow.bricks, direct.bricks)
    np.testing.assert_array_equal(narrow.band, direct.band)
    np.testing.assert_allclose(narrow.sdf, direct.sdf, atol=1e-6)
    assert same_field(
        resample(direct, 64, 3 / 64), SparseSDF(**{**vars(direct), "sharp": narrow.sharp})
    )


def test_sharp_voxels_stay_as_near_to_the_edge_as_geometry_asks() -> None:
    fine = analytic_sphere(64, 0.16, 0.3)
    centres = (fine.voxel_coords() + 0.5) / 64
    fine.sharp[:] = fine.band & (np.linalg.norm(centres - [0.5, 0.5, 0.8], axis=-1) <= 2 / 64)
    coarse = resample(fine, 32, 0.125)
    centres = (coarse.voxel_coords() + 0.5) / 32
    from_edge = np.linalg.norm(centres - [0.5, 0.5, 0.8], axis=-1)
    assert coarse.sharp[coarse.band & (from_edge < 1.6 / 32)].all()
    assert not coarse.sharp[from_edge > 2.6 / 32].any()
    assert coarse.sharp.sum() > 8


def test_a_stored_tau_that_does_not_reach_names_both_grids() -> None:
    with pytest.raises(UserError, match=r"resolution 64, tau 0.0625.*resolution 32, tau 0.125"):
        resample(analytic_sphere(64, 4 / 64), 32, 4 / 32)
    with pytest.raises(UserError, match=r"resolution 32.*coarser than.*resolution 64"):
        check_resample(32, 0.125, 64, 0.0625)
    with pytest.raises(UserError, match="multiple of 8"):
        check_resample(64, 0.1, 20, 0.1)
    check_resample(64, 0.0625, 64, 0.0625)
    check_resample(256, 0.0625, 64, 0.0625 - np.sqrt(3) / 256)
