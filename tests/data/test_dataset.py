"""Opening prepared data: resolutions, truncations, token counts, summaries, meshes back."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from tests.data.fields import same_field
from threed_gen.config import validate
from threed_gen.data.config import DataConfig, ProceduralConfig
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.embedded import ensure_prepared
from threed_gen.data.inspect import extract, summarise
from threed_gen.data.prepare import prepare
from threed_gen.data.procedural.families import make_mesh
from threed_gen.data.sources import FolderSource, ProceduralSource
from threed_gen.errors import UserError
from threed_gen.geometry.mesh import is_watertight, signed_volume
from threed_gen.geometry.mesh_io import load_mesh, save_mesh


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored at 32 with a band wide enough for 16 at its default."""
    out = tmp_path_factory.mktemp("wide") / "data"
    prepare(ProceduralSource(3), out, [32], tau=0.31, workers=0, shard_bytes=25_000)
    return out


def test_stored_and_resampled_resolutions(wide: Path) -> None:
    dataset = SDFDataset(wide)
    assert len(dataset) == 3
    stored = dataset.load(0, 32)
    assert (stored.resolution, stored.tau) == (32, 0.31)
    assert dataset.token_counts(32).tolist() == [dataset.load(i, 32).num_bricks for i in range(3)]
    coarse = dataset.load(0, 16)
    coarse.validate()
    assert (coarse.resolution, coarse.tau) == (16, 0.25)
    assert dataset.token_counts(16).min() >= 1
    narrow = SDFDataset(wide, tau=0.125)
    assert narrow.load(0, 32).tau == 0.125
    assert narrow.load(0, 32).num_voxels < stored.num_voxels
    assert same_field(dataset.load(2, 32), dataset.load(2, 32))
    shards = dataset.shard_numbers(32).tolist()
    assert shards == sorted(shards)
    assert max(shards) + 1 == len(dataset.index.shards) > 1


def test_what_is_not_stored_is_named(wide: Path) -> None:
    with pytest.raises(
        UserError, match=r"resolution 64 is not stored.*stored: 32.*--resolution 64"
    ):
        SDFDataset(wide).load(0, 64)
    with pytest.raises(UserError, match=r"resolution 32, tau 0.31.*resolution 32, tau 0.4"):
        SDFDataset(wide, tau=0.4).load(0, 32)
    with pytest.raises(UserError, match=r"multiple of 8"):
        SDFDataset(wide).load(0, 20)


def _tokens(path: Path) -> int:
    return SDFDataset(path).load(1, 32).num_bricks


def test_loading_in_other_processes(wide: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_tokens, [wide, wide]) == [_tokens(wide)] * 2


def test_extracting_gives_the_sources_shapes_back(tmp_path: Path) -> None:
    folder = tmp_path / "meshes"
    (folder / "sub").mkdir(parents=True)
    for index, name in enumerate(["cup.obj", "sub/seat.ply"]):
        save_mesh(make_mesh(index, 0)[1], folder / name)
    prepare(FolderSource(folder), tmp_path / "data", [32, 64], workers=0)
    written = extract(tmp_path / "data", tmp_path / "out")
    assert [path.name for path in written] == ["cup.ply", "seat.ply"]
    for index, path in enumerate(written):
        mesh, truth = load_mesh(path), make_mesh(index, 0)[1]
        assert is_watertight(mesh)
        assert signed_volume(mesh) == pytest.approx(signed_volume(truth), rel=0.03)
        np.testing.assert_allclose(mesh.bounds, truth.bounds, atol=0.02)
    coarse = extract(tmp_path / "data", tmp_path / "coarse", resolution=32)
    assert len(load_mesh(coarse[0]).faces) < len(load_mesh(written[0]).faces)
    summary = summarise(tmp_path / "data")
    assert [grid.resolution for grid in summary.grids] == [32, 64]
    assert summary.grids[0].samples == 2
    assert 0 < summary.grids[1].bits_per_voxel < 12
    assert "64³" in str(summary)
    assert summary.families == {"-": 2}


def test_the_config_section_is_strict() -> None:
    config = DataConfig()
    assert config.tau_of(64) == 4 / 64
    assert config.tau_of(512) == 1 / 128
    for tree, words in (
        ({"resolution": [64]}, "did you mean 'resolutions'"),
        ({"resolutions": []}, "at least one"),
        ({"resolutions": [60]}, "resolution 60"),
        ({"resolutions": [-8]}, "resolution -8"),
        ({"tau": 0.001}, "1.75 voxels"),
        ({"streams": 0}, "streams"),
        ({"on_bad_sample": "skip"}, "on_bad_sample"),
        ({"procedural": {"count": 0}}, "procedural.count"),
        ({"procedural": {"sede": 0}}, "did you mean 'seed'"),
    ):
        with pytest.raises(UserError, match=words):
            validate(DataConfig, tree, "run.yaml")


def test_the_embedded_set_is_prepared_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = DataConfig(resolutions=[16], procedural=ProceduralConfig(count=3))
    out = ensure_prepared(config, tmp_path, workers=0)
    assert len(SDFDataset(out)) == 3
    assert ensure_prepared(config, tmp_path, workers=0) == out
    assert "nothing to do" in capsys.readouterr().err
    other = DataConfig(resolutions=[16], procedural=ProceduralConfig(count=3, seed=1))
    assert ensure_prepared(other, tmp_path, workers=0) != out
    given = DataConfig(path=str(out))
    assert ensure_prepared(given, tmp_path) == out
