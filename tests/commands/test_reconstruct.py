"""`reconstruct` writes what the person asks for, in the frame of the mesh that was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from tests.training.corridor import VAE
from tests.training.vae_runs import write_run
from threed_gen import cli
from threed_gen.commands import reconstruct as command
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.geometry.sparse_sdf import SparseSDF


@pytest.mark.parametrize("suffix", ["obj", pytest.param("ply", marks=pytest.mark.long)])
def test_formats_and_frame(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """With an SS-VAE that knows the answer: the mesh comes back in its own place and size."""
    trimesh.creation.box((4.0, 2.0, 1.0)).apply_translation((10, 20, 30)).export(tmp_path / "a.ply")
    (tmp_path / "bad.ply").write_text("no mesh")
    run = write_run(tmp_path / "run", VAE, [32])
    seen: list[int] = []

    def perfect(model: object, truth: SparseSDF, device: object, chunk: int) -> SparseSDF:
        seen.append(chunk)
        return truth

    monkeypatch.setattr(command, "reconstruct", perfect)
    monkeypatch.setattr("threed_gen.training.load.ensure_prepared", lambda *_: tmp_path)
    words = [str(tmp_path / "a.ply"), str(tmp_path / "bad.ply"), "--run", str(run)]
    assert cli.main(["reconstruct", *words, "--out", f"{tmp_path}/out", "--format", suffix]) == 2
    assert "1 of 2 meshes were left out" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"a.{suffix}"]
    mesh = load_mesh(tmp_path / "out" / f"a.{suffix}")
    np.testing.assert_allclose(mesh.bounds, [[8, 19, 29.5], [12, 21, 30.5]], atol=0.05)
    assert seen == [32]
