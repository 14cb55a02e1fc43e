"""`threed-gen evaluate RUN --against DATA`: what an SS-VAE makes of a data set's shapes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

import threed_gen.generation.reconstruct as rebuilding
from tests.training.vae_runs import write_run
from threed_gen import cli
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.mesh_io import save_mesh
from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.models.ss_vae import SSVAEConfig
from threed_gen.report import worst

TINY = SSVAEConfig(
    encoder_widths=(4, 4, 8, 8), decoder_widths=(8, 8, 4, 4), latent_channels=3, encoder_blocks=1,
    decoder_blocks=1, heads=2, norm_groups=4,
)  # fmt: skip


def test_a_run_against_prepared_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shape comes back perfect, one empty: both are in the table, neither is skipped."""
    for name, shape in {
        "ball": trimesh.creation.icosphere(subdivisions=2),
        "box": trimesh.creation.box((2, 1, 1)),
    }.items():
        save_mesh(
            Mesh(np.asarray(shape.vertices), np.asarray(shape.faces)),
            tmp_path / "meshes" / f"{name}.ply",
        )
    meshes, data, out = tmp_path / "meshes", tmp_path / "data", tmp_path / "verdict"
    line = f"prepare {meshes} {data} --resolution 32 --no-report --held-out 0"
    assert cli.main(line.split()) == 0
    run = write_run(tmp_path / "run", TINY, [32])
    seen = []

    def rebuilt(model: object, field: SparseSDF, device: object) -> SparseSDF:
        seen.append(field)
        return field if len(seen) == 1 else replace(field, sdf=np.ones_like(field.sdf))

    monkeypatch.setattr(rebuilding, "reconstruct", rebuilt)
    monkeypatch.setattr(worst, "SIZE", 48)  # pictures take the time
    line = f"evaluate {run} --against {data} --out {out} --points 500 --paper-points 0"
    assert cli.main([*line.split(), "--workers", "0"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["measured"], summary["evaluated"]) == (2, "run")
    assert summary["mean"]["all"]["f@0.001"] == 0.5
    assert summary["worst"]["all"]["f@0.02"] == 0.0
    assert [path.name for path in (out / "meshes").iterdir()] == ["ball.ply"]
    assert "box" in capsys.readouterr().out
    line = f"evaluate {run} --against {meshes} --out {out}"
    assert cli.main(line.split()) == 2
    assert "a run is evaluated on prepared data" in capsys.readouterr().err
