"""From picture to mesh: with stages whose answers are known, and with tiny random networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.geometry.shapes import box_distance, field_of, icosphere, sphere_distance
from threed_gen.console import Progress
from threed_gen.errors import UserError
from threed_gen.flow.sampler import SamplerConfig
from threed_gen.generation.account import Account
from threed_gen.generation.cascade import finer_cells
from threed_gen.generation.pipeline import Made, Pipeline, Settings
from threed_gen.generation.stages import Picture, with_changes
from threed_gen.geometry.mesh import Mesh, boundary_edge_count, signed_volume
from threed_gen.geometry.narrow_band import build_sparse_sdf
from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import RASTER_TO_CANONICAL

CPU = torch.device("cpu")
R = 32


def picture(name: str) -> Picture:
    return Picture(name, np.zeros((8, 8, 4), np.uint8), name)


def egg(resolution: int = R) -> SparseSDF:
    """A box that is longest along x, then y, off the middle."""
    return field_of(
        lambda p: box_distance(p, (0.1, 0.3, 0.4), (0.8, 0.7, 0.6)), resolution, 4 / resolution
    )


@dataclass
class KnownStructure:
    """Answers with the cells of given fields, by the picture's name."""

    fields: dict[str, SparseSDF]
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(steps=3))
    told: str = "runs/structure"
    placed: list[str] = field(default_factory=list)

    @property
    def structure(self) -> Any:
        return type("Known", (), {"grid": R // 8})

    def to(self, device: torch.device) -> None:
        self.placed.append(device.type)

    def cells(
        self, pictures: Sequence[Picture], seed: int, device: torch.device, on_step: Any
    ) -> list[np.ndarray]:
        for _ in range(self.sampler.steps):
            on_step()
        return [self.fields[p.name].bricks for p in pictures]


class KnownVAE(nn.Module):
    """Latents are the row numbers of a field's bricks; decoding looks the values up."""

    def __init__(self, fields: Sequence[SparseSDF]) -> None:
        super().__init__()
        self.fields, self.chunks = fields, []

    def decode(self, z: SparseTensor, chunk: int | None = None) -> SparseTensor:
        self.chunks.append(chunk)
        number = int(z.feats[0, 1])
        values = torch.from_numpy(self.fields[number].sdf)[:, RASTER_TO_CANONICAL]
        coords = z.grid.coords[:, 1:].numpy()
        order = np.lexsort(coords.T[::-1])
        rows = z.feats[torch.from_numpy(order), 0].long()
        return type("Answer", (), {"feats": values[rows].reshape(-1, 1)})  # type: ignore[return-value]


@dataclass
class KnownLatents:
    """z = (row of the brick in the field, number of the field)."""

    fields: dict[str, SparseSDF]
    resolution: int = R
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(steps=2))
    told: str = "runs/dit"
    tau: float = 4 / R
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.vae = KnownVAE(list(self.fields.values()))

    def to(self, device: torch.device) -> None:
        pass

    def latents(
        self, pictures: Sequence[Picture], cells: Sequence[np.ndarray], seed: int,
        device: torch.device, on_step: Any,
    ) -> list[Tensor]:  # fmt: skip
        self.batches.append(len(pictures))
        names, found = list(self.fields), []
        for p, xyz in zip(pictures, cells, strict=True):
            assert np.array_equal(xyz, self.fields[p.name].bricks)
            coords = torch.from_numpy(np.insert(xyz, 0, 0, axis=1))
            order = type_grid(coords, self.resolution)  # canonical
            number = torch.full((len(xyz),), names.index(p.name))
            found.append(torch.stack([order, number], dim=1).float())
        for _ in range(self.sampler.steps):
            on_step()
        return found


def type_grid(coords: Tensor, resolution: int) -> Tensor:
    from threed_gen.sparse.voxel_grid import VoxelGrid

    return VoxelGrid.from_coords(coords, resolution // 8, 1)[1]


def pipeline(fields: dict[str, SparseSDF], cascade: Any = None, **settings: Any) -> Pipeline:
    return Pipeline(
        KnownStructure(fields),
        KnownLatents(fields),
        cascade,
        Settings(**settings),
        CPU,  # type: ignore[arg-type]
    )


def made(line: Pipeline, *names: str) -> tuple[list[Made], Progress]:
    pictures = [picture(name) for name in names]
    bar = Progress(line.steps(len(names)), "test")
    return list(line.run(pictures, Account(CPU), bar)), bar


def test_the_shape_comes_out_where_it_was() -> None:
    """Around the origin, right way out, no axis swapped."""
    (one,), bar = made(pipeline({"egg": egg()}), "egg")
    assert one.mesh is not None and one.tokens == egg().num_bricks
    low, high = one.mesh.bounds
    np.testing.assert_allclose(low, [-0.4, -0.2, -0.1], atol=0.6 / R)
    np.testing.assert_allclose(high, [0.3, 0.2, 0.1], atol=0.6 / R)
    assert signed_volume(one.mesh) == pytest.approx(0.7 * 0.4 * 0.2, rel=0.05)
    assert boundary_edge_count(one.mesh) == 0
    assert bar.done == bar.total == 3 + 2 + 1


def test_batches_keep_pictures_and_shapes_together() -> None:
    ball = field_of(lambda p: sphere_distance(p, 0.3, 0.5), R, 4 / R)
    fields = {"egg": egg(), "ball": ball, "small": field_of(
        lambda p: sphere_distance(p, 0.2, 0.5), R, 4 / R)}  # fmt: skip
    line = pipeline(fields, batch=2, chunk=5)
    found, bar = made(line, "ball", "egg", "small")
    volumes = [signed_volume(one.mesh) for one in found if one.mesh is not None]
    assert volumes == pytest.approx([0.1131, 0.056, 0.0335], rel=0.05)
    assert [one.picture.name for one in found] == ["ball", "egg", "small"]
    assert line.latent.batches == [2, 1] and line.latent.vae.chunks == [5] * 3  # type: ignore[attr-defined]
    assert bar.done == bar.total


def test_a_picture_without_a_shape_does_not_stop_the_others() -> None:
    none = replace(egg(), bricks=egg().bricks[:0])
    found, _ = made(pipeline({"none": none, "egg": egg()}, batch=2), "none", "egg")
    assert [one.mesh is None for one in found] == [True, False]
    assert "none: the structure stage found no latent cells" in found[0].problem


def test_level_and_inner_parts() -> None:
    def hollow(p: np.ndarray) -> np.ndarray:
        return np.maximum(sphere_distance(p, 0.4, 0.5), -sphere_distance(p, 0.15, 0.5))

    fields = {"a": field_of(hollow, R, 4 / R)}
    plain, inner, thick = (
        made(pipeline(fields, **settings), "a")[0][0].mesh
        for settings in ({}, {"keep_inner": True}, {"level": 0.2})
    )
    assert plain is not None and inner is not None and thick is not None
    assert signed_volume(inner) < signed_volume(plain) < signed_volume(thick)
    assert len(inner.faces) > len(plain.faces)


def test_cascade_goes_on_from_the_mesh() -> None:
    """The finer cells are those of the normalised coarse shape; the finer mesh is the result."""
    coarse = made(pipeline({"egg": egg()}), "egg")[0][0].mesh
    assert coarse is not None
    cells = finer_cells(coarse, 2 * R)
    fine = full_field(cells)
    cascade = KnownLatents({"egg": fine}, 2 * R, tau=4 / (2 * R))
    (one,), bar = made(pipeline({"egg": egg()}, cascade), "egg")
    assert one.mesh is not None and one.tokens == len(cells) and bar.done == bar.total
    np.testing.assert_allclose(np.ptp(one.mesh.bounds, axis=0)[0], 0.95, atol=0.03)
    assert signed_volume(one.mesh) > 0


def full_field(cells: np.ndarray) -> SparseSDF:
    """The egg scaled to fill the unit frame, on given bricks of the finer grid."""
    scale = 0.95 / 0.7
    half = np.array([0.35, 0.2, 0.1]) * scale
    dense = field_of(lambda p: box_distance(p, 0.5 - half, 0.5 + half), 2 * R, 4 / (2 * R))
    known = {tuple(row): value for row, value in zip(dense.bricks.tolist(), dense.sdf, strict=True)}
    values = np.stack([known.get(tuple(row), np.ones(512, np.float32)) for row in cells.tolist()])
    band = np.abs(values) < 1
    return SparseSDF(cells, values, band, band & False, 2 * R, 4 / (2 * R), 1.0, (0.0, 0.0, 0.0))


def test_finer_cells_are_those_of_the_band() -> None:
    """But for a few at its edge: the coarse mesh is the egg up to a part of a voxel."""
    coarse = made(pipeline({"egg": egg()}), "egg")[0][0].mesh
    assert coarse is not None
    half = np.array([0.35, 0.2, 0.1]) * 0.95 / 0.7
    for tau in (4 / 64, 8 / 64):
        exact = field_of(lambda p: box_distance(p, 0.5 - half, 0.5 + half), 64, tau).bricks
        cells, wanted = (
            {tuple(c) for c in x.tolist()} for x in (finer_cells(coarse, 64, tau), exact)
        )
        assert len(cells ^ wanted) <= 0.02 * len(wanted)


def test_finer_cells_are_the_bricks_of_training_data() -> None:
    """Of a closed mesh, those that `prepare` stores; of one without extent there are none."""
    ball = icosphere(2.0, 3, (5.0, 1.0, 0.0))
    found, stored = finer_cells(ball, 64), build_sparse_sdf(ball, 64).bricks
    assert np.array_equal(found, stored) and found.dtype == np.int32
    with pytest.raises(UserError, match="no use to the cascade"):
        finer_cells(Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]])), 64)


def test_stages_must_fit_together() -> None:
    fields = {"egg": egg()}
    with pytest.raises(UserError, match="predicts 4³ latent cells and runs/dit wants 8³"):
        Pipeline(KnownStructure(fields), KnownLatents(fields, 64), None, Settings(), CPU)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not finer"):
        pipeline(fields, KnownLatents(fields))
    with pytest.raises(UserError, match="at least 1"):
        pipeline(fields, batch=0)


def test_models_leave_the_device_when_their_stage_is_over() -> None:
    line = pipeline({"egg": egg()})
    made(line, "egg")
    assert line.structure.placed == ["cpu", "cpu"]  # type: ignore[attr-defined]


def test_changes_of_the_sampler() -> None:
    plain = SamplerConfig(steps=9, shift=2.0)
    assert with_changes(plain, None, None, one_pass=False) == plain
    found = with_changes(plain, 3, 1.5, one_pass=True)
    assert (found.steps, found.shift) == (3, 2.0)
    assert (found.guidance.scale, found.guidance.one_pass) == (1.5, True)


def test_account_counts_each_stage() -> None:
    account = Account(CPU)
    for stage in ("a", "b", "a"):
        with account.of(stage):
            held = np.ones(4_000_000 if stage == "b" else 1)
            del held
    assert [row[0] for row in account.rows()] == ["a", "b"]
    assert account.stages["b"].peak_mb > 10
    with (
        pytest.raises(UserError, match="the latents does not fit"),
        account.of("latents"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
