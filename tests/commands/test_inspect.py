"""`inspect` recognises what it is given; `prepare` reads its source; configs are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from threed_gen import cli
from threed_gen.commands.configs import SHIPPED, find_config
from threed_gen.commands.prepare import parse_source
from threed_gen.data.sources import FolderSource, ProceduralSource
from threed_gen.errors import UserError
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.mesh_io import load_mesh, save_mesh

CUBE = Mesh(
    np.array([[x, y, z] for x in (0.0, 2.0) for y in (0.0, 2.0) for z in (0.0, 2.0)]),
    np.array(
        [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
         [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two procedural shapes at 16³ and 32³, made through the command line."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    line = ["prepare", "procedural:2:3", str(out), "--resolution", "16", "32"]
    assert cli.main(line) == 0
    return out


def test_a_mesh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_mesh(CUBE, tmp_path / "cube.obj")
    picture = tmp_path / "cube.png"
    assert cli.main(["inspect", str(tmp_path / "cube.obj"), "--out", str(picture), "--verify"]) == 0
    words = capsys.readouterr().out.split()
    assert words[words.index("area") + 1] == "24"
    assert words[words.index("volume") + 1] == "8"
    assert words[words.index("closed") + 1] == "yes"
    assert picture.stat().st_size > 1000


def test_an_open_mesh_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_mesh(Mesh(CUBE.vertices, CUBE.faces[1:]), tmp_path / "open.ply")
    line = ["inspect", str(tmp_path / "open.ply"), "--out", str(tmp_path / "p.png")]
    assert cli.main(line) == 0
    assert "no: 3 open edges" in capsys.readouterr().out


def test_data_and_its_meshes_back(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "meshes", tmp_path / "data.png"
    line = ["inspect", str(prepared), "--extract", str(out), "--out", str(picture), "--verify"]
    assert cli.main(line) == 0
    shown = capsys.readouterr().out
    assert "2 samples" in shown
    assert "16³" in shown
    assert "32³" in shown
    assert sorted(path.name for path in out.iterdir()) == ["chair_0000.ply", "mug_0000.ply"]
    assert len(load_mesh(out / "mug_0000.ply").faces) > 100
    assert picture.stat().st_size > 1000


def test_data_at_a_resolution_that_is_not_there(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["inspect", str(prepared), "--extract", str(tmp_path / "m"), "--resolution", "24"]
    assert cli.main(line) == 2
    assert "resolution 24 is not stored (stored: 16, 32)" in capsys.readouterr().err


def test_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(SHIPPED / "ss_vae" / "direct3d-s2.yaml")]) == 0
    assert "37.87 M parameters" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["no/such/thing", "no_such.yaml", "a_folder"])
def test_nothing_that_could_be_inspected(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_folder").mkdir()
    assert cli.main(["inspect", what]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"threed-gen: error: {what}")
    assert len(error.splitlines()) == 1


def test_configs_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/ss_vae/tiny.yaml") == SHIPPED / "ss_vae" / "tiny.yaml"
    own = tmp_path / "configs" / "ss_vae" / "tiny.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert find_config("configs/ss_vae/tiny.yaml").resolve() == own
    with pytest.raises(UserError, match=r"did you mean configs/ss_vae/tiny\.yaml\?"):
        find_config("configs/ss_vae/tniy.yaml")


def test_sources(tmp_path: Path) -> None:
    source = parse_source("procedural:5:7")
    assert isinstance(source, ProceduralSource)
    assert (source.count, source.seed) == (5, 7)
    default = parse_source("procedural")
    assert isinstance(default, ProceduralSource)
    assert (default.count, default.seed) == (120, 0)
    save_mesh(CUBE, tmp_path / "cube.stl")
    assert isinstance(parse_source(str(tmp_path)), FolderSource)


@pytest.mark.parametrize(
    "text", ["procedural:x", "procedural:0", "procedural:1:-2", "procedural:1:2:3"]
)
def test_wrong_sources(text: str) -> None:
    with pytest.raises(UserError, match="procedural"):
        parse_source(text)
