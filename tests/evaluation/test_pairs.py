"""A folder of meshes against its truths: matched by name, judged, counted, written, drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from threed_gen import cli
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.workers import Lost
from threed_gen.errors import UserError
from threed_gen.evaluation.nearest import nearest
from threed_gen.evaluation.pairs import (
    box_overlap,
    judge_pair,
    judge_pairs,
    lost_pair,
    match,
    placed,
)
from threed_gen.evaluation.protocol import Sampling
from threed_gen.evaluation.truths import load_truth, open_truths
from threed_gen.evaluation.verdict import flattened
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.mesh_io import save_mesh
from threed_gen.report import worst

FEW = Sampling(1000, 0)
SHAPES = {
    "ball": trimesh.creation.icosphere(subdivisions=3),
    "box": trimesh.creation.box((2.0, 1.2, 0.7)),
    "torus": trimesh.creation.torus(1.0, 0.3, 24, 12),
}


def mesh(name: str, scale: float = 1.0, shift: float = 0.0) -> Mesh:
    shape = SHAPES[name]
    return Mesh(np.asarray(shape.vertices) * scale + shift, np.asarray(shape.faces))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    for name in SHAPES:
        save_mesh(mesh(name, 10, 3), folder / f"{name}.ply")
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    save_mesh(mesh("ball", 10.1, 3), folder / "ball.glb")
    save_mesh(mesh("box", 10, 3), folder / "box.obj")
    return folder


def test_names_without_a_partner_are_told_and_nothing_is_skipped(truth: Path, made: Path) -> None:
    save_mesh(mesh("box"), made / "stranger.stl")
    matched = match(made, open_truths(truth), "none", FEW)
    assert [pair.name for pair in matched.pairs] == ["ball", "box"]
    assert matched.without_truth == ["stranger"]
    assert matched.without_prediction == ["torus"]


def test_no_partner_at_all_is_an_error_that_shows_both_sides(truth: Path, tmp_path: Path) -> None:
    save_mesh(mesh("box"), tmp_path / "view_1.ply")
    with pytest.raises(UserError, match=r"view_1; truths: ball, box, torus"):
        match(tmp_path, open_truths(truth), "none", FEW)


def test_each_alignment_brings_its_meshes_to_the_truth(truth: Path) -> None:
    ref = next(ref for ref in open_truths(truth) if ref.name == "box")
    real = load_truth(ref)
    unit = Mesh((real.mesh.vertices - real.offset) / real.scale - 0.5, real.mesh.faces)
    assert np.abs(unit.vertices).max() == pytest.approx(0.475)
    assert np.allclose(placed(unit, real, "unit").vertices, real.mesh.vertices)
    foreign = Mesh(real.mesh.vertices * 0.01 - 77, real.mesh.faces)
    assert np.allclose(placed(foreign, real, "box").vertices, real.mesh.vertices)
    assert placed(foreign, real, "none") is foreign
    assert box_overlap(foreign, real.mesh) == 0.0
    assert box_overlap(real.mesh, real.mesh) == pytest.approx(1.0)


def test_prepared_data_gives_its_grids_or_the_meshes_they_came_from(
    truth: Path, made: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    line = f"prepare {truth} {data} --resolution 32 --workers 1 --no-report --held-out 0"
    assert cli.main(line.split()) == 0
    grids = {ref.name: ref for ref in open_truths(data)}
    assert [ref.name for ref in grids.values()] == [s.id for s in SDFDataset(data).index.samples]
    assert {ref.kind for ref in grids.values()} == {"grid"}
    row = judge_pair(match(made, list(grids.values()), "none", FEW).pairs[1])
    voxel = 2 / 0.95 / 32
    assert (
        1e-6 < row["all"]["cd_l1"] < voxel / 4
    )  # the grid's own error, which marching cubes makes
    assert row["all"]["sharp_f@0.02"] is not None
    sources = open_truths(data, truth)
    assert {ref.kind for ref in sources} == {"source"}
    assert judge_pair(match(made, sources, "none", FEW).pairs[1])["all"]["cd_l1"] < 1e-6
    with pytest.raises(UserError, match="not made by `prepare`"):
        open_truths(truth, truth)


def test_nearest_finds_a_swapped_pair(truth: Path, made: Path) -> None:
    save_mesh(mesh("box", 10.2, 3), made / "torus.ply")
    truths = open_truths(truth)
    found = nearest(match(made, truths, "none", FEW).pairs, truths, workers=0)
    assert found.as_json() == {"right": 2, "of": 3, "confused": {"torus": "box"}}
    assert found.distance.shape == (3, 3)
    header, *rows = csv.reader(found.as_csv().splitlines())
    assert header == ["prediction", "ball", "box", "torus"]
    assert float(rows[0][1]) == pytest.approx(found.distance[0, 0], rel=1e-5)


def test_the_command_writes_numbers_and_pictures_and_names_what_it_could_not_read(
    truth: Path,
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worst, "SIZE", 80)  # pictures take the time
    (made / "torus.glb").write_text("not a mesh at all")
    save_mesh(mesh("box"), made / "stranger.ply")
    out = tmp_path / "verdict"
    line = f"evaluate {made} --against {truth} --out {out} --points 1000 --paper-points 2000"
    assert cli.main([*line.split(), "--nearest", "--workers", "0"]) == 2
    told = capsys.readouterr()
    assert "not measured: torus" in told.out
    assert "meshes without a truth of their name: 1 (stranger)" in told.out
    assert "all surface (point-to-point, for comparison with papers only)" in told.out
    assert "nearest truth is their own: 2 of 3" in told.out
    assert told.err.strip().splitlines()[-1].startswith("threed-gen: error: 1 of 3 meshes")

    summary = json.loads((out / "summary.json").read_text())
    assert summary["measured"] == 2
    assert list(summary["problems"]) == ["torus"]
    assert summary["mean"]["all"]["cd_l1"] == pytest.approx(0.005, rel=0.05)
    assert summary["worst"]["all"]["f@0.005"] == 0.0  # the ball is 0.01 too large
    assert summary["worst"]["all"]["cd_l1"] == pytest.approx(0.01, rel=0.05)
    rows = {row["name"]: row for row in csv.DictReader((out / "shapes.csv").open())}
    assert float(rows["box"]["all/f@0.001"]) == 1.0
    assert float(rows["box"]["viou"]) == 1.0
    assert rows["ball"]["all/sharp_nc"] == ""  # undefined, not zero
    assert "torus.glb" in rows["torus"]["problem"]
    with Image.open(out / "worst.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    clay, slate = pixels[..., 0] - pixels[..., 2] > 15, pixels[..., 2] - pixels[..., 0] > 30
    assert min(clay.sum(), slate.sum()) > 2000


def test_meshes_are_read_in_a_child_whose_end_costs_its_own_only(truth: Path, made: Path) -> None:
    pairs = match(made, open_truths(truth), "none", FEW).pairs
    rows = judge_pairs(pairs, workers=1)
    assert [row["name"] for row in rows] == ["ball", "box"]
    assert rows[0] == judge_pair(pairs[0])
    why = Lost("out_of_memory", "needed more than 8192 MB", 1.0, 9000.0)
    assert lost_pair(pairs[1], why)["problem"].endswith("out_of_memory: needed more than 8192 MB")


def test_a_folder_alone_says_what_is_missing(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(made)]) == 2
    assert "needs --against DATA" in capsys.readouterr().err
    for line in (
        f"{made} --against {made} --points 0",
        "nowhere --nearest",
        f"no --against {made}",
    ):
        assert cli.main(["evaluate", *line.split()]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_rows_become_flat() -> None:
    assert flattened({"name": "a", "all": {"nc": 1.0, "x": None}}) == {
        "name": "a", "all/nc": 1.0, "all/x": "",
    }  # fmt: skip
