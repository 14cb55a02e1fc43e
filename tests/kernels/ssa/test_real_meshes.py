"""Voxels of surfaces as they come: real meshes, and two of the procedural shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.ssa import sort_coords
from tests.geometry.shapes import MESHES
from tests.kernels.ssa.clouds import inputs, plan_of
from tests.kernels.ssa.test_attention import compare
from threed_gen.data.procedural.families import make_mesh
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.mesh_io import load_mesh


def voxels_of(mesh: Mesh, resolution: int, sample: int) -> Tensor:
    """Voxels that hold one of many points of the surface."""
    rng = np.random.default_rng(0)
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    face = rng.choice(len(area), 60_000, p=area / area.sum())
    weight = rng.dirichlet([1, 1, 1], len(face))
    points = (corners[face] * weight[:, :, None]).sum(1)
    low, high = points.min(0), points.max(0)
    xyz = ((points - low) / (high - low).max() * (resolution - 1)).astype(np.int64)
    xyz = np.unique(xyz, axis=0)
    return torch.from_numpy(np.concatenate([np.full((len(xyz), 1), sample), xyz], 1))


@pytest.mark.parametrize(("cell", "shift"), [(4, 0), (8, 4)])
def test_procedural_shapes(cell: int, shift: int) -> None:
    shapes = [voxels_of(make_mesh(number, seed=0)[1], 20, number) for number in range(2)]
    plan = plan_of(sort_coords(torch.cat(shapes))[0], cell, shift)
    assert plan.tokens > 500 and plan.blocks.count > 16
    compare(plan, inputs(plan), top_k=4)


@pytest.mark.skipif(not MESHES.is_dir(), reason="no meshes beside this checkout")
@pytest.mark.parametrize("name", ["bunny", "fandisk"])
def test_real_meshes(name: str) -> None:
    (path,) = MESHES.glob(f"{name}.*")
    plan = plan_of(sort_coords(voxels_of(load_mesh(path), 32, 0))[0], 4, 4)
    assert plan.tokens > 500
    compare(plan, inputs(plan), top_k=4)
