"""docs/your-own-meshes.md is true: its commands run in order, its tables are those of the code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from threed_gen.data.procedural.solids import boxes, revolve
from threed_gen.geometry.mesh import Mesh, boundary_edge_count
from threed_gen.geometry.mesh_io import load_mesh, save_mesh
from threed_gen.geometry.reading.reasons import FLAGS, REASONS
from threed_gen.report.data_rejects import CURES, LATER_REASONS

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "your-own-meshes.md"
# The guide says so in its first lines.
CHANGES = {
    "train.steps=2000": "train.steps=12",
    "--resolution 64": "--resolution 32",
    "data.resolutions=[64]": "data.resolutions=[32]",
}
CUP = [(0, 0), (0.5, 0), (0.6, 1), (0.5, 1), (0.4, 0.12), (0, 0.12)]  # radius, height


def blocks(text: str) -> list[str]:
    """The bash blocks that a reader can run as they stand."""
    return re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def make_meshes(folder: Path) -> None:
    """Closed, open, flipped, doubled and broken files, in folders of their own."""
    cup = revolve(CUP, 24)
    box = boxes([(0, 1, 0, 0.7, 0, 0.5)])
    (folder / "found" / "deep").mkdir(parents=True)
    save_mesh(cup, folder / "cup.obj")
    save_mesh(box, folder / "box.ply")
    save_mesh(Mesh(box.vertices, box.faces[:, ::-1]), folder / "found" / "inside_out.stl")
    save_mesh(Mesh(box.vertices, np.concatenate([box.faces, box.faces])), folder / "doubled.off")
    rim = cup.vertices[:, 2] > 0.99  # z is the axis
    open_cup = Mesh(cup.vertices, cup.faces[~rim[cup.faces].all(axis=1)])
    assert boundary_edge_count(open_cup) > 0
    save_mesh(open_cup, folder / "found" / "deep" / "open.ply")
    (folder / "found" / "torn.glb").write_bytes(b"glTF\x02\x00\x00\x00 and no more")
    (folder / "found" / "points.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    (folder / "empty.stl").write_bytes(b"")


@pytest.mark.long
@pytest.mark.timeout(400)  # nine programs, one after the other: about 40 s on a core of its own
def test_commands_run_in_order(tmp_path: Path) -> None:
    make_meshes(tmp_path / "meshes")
    text = GUIDE.read_text("utf-8")
    scripts = blocks(text)
    for old, new in CHANGES.items():
        assert sum(old in script for script in scripts) == 1
        scripts = [script.replace(old, new) for script in scripts]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    said = []
    for script in scripts:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout + done.stderr)
    assert "5 samples" in said[1]
    lines = (tmp_path / "data" / "mine" / "rejects.jsonl").read_text("utf-8").splitlines()
    rejects = {row["source"]: row["reason"] for row in map(json.loads, lines)}
    assert rejects == {
        "empty.stl": "empty_file",
        "found/points.obj": "no_faces",
        "found/torn.glb": "unreadable",
    }
    page = (tmp_path / "data" / "mine" / "report.html").read_text("utf-8")
    assert page.count('class="card sample"') == 5
    assert CURES["no_faces"] in page
    run = tmp_path / "runs" / "mine"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 12
    shapes = json.loads((run / "evaluation.json").read_text())["shapes"]
    assert {"f@0.02"} <= shapes[0]["source"].keys()
    assert (run / "report.html").is_file()
    assert (tmp_path / "cup.png").is_file()
    assert (tmp_path / "rebuilt" / "cup.ply").is_file()
    assert len(load_mesh(tmp_path / "rebuilt" / "cup.ply").faces) > 0


def test_blocks_that_do_not_run_are_marked() -> None:
    text = GUIDE.read_text("utf-8")
    marked = re.findall(r"^```(\w.*)$", text, flags=re.MULTILINE)
    assert set(marked) <= {"bash", "bash norun"}
    reasons = ("configs/ss_vae/direct3d-s2.yaml", "sbatch ")  # official size, a cluster
    resting = re.findall(r"^```bash norun\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(resting) == len(reasons)
    assert all(reason in block for reason, block in zip(reasons, resting, strict=True))
    assert blocks("a\n```bash norun\nx\n```\n```bash\ny\n```\n") == ["y\n"]


def test_tables_are_those_of_the_code() -> None:
    """When this fails, put what it expects into the guide."""
    text = GUIDE.read_text("utf-8")
    meanings = {**REASONS, **LATER_REASONS}
    reasons = [f"| `{key}` | {meanings[key]} | {CURES[key]} |" for key in meanings]
    flags = [f"| `{key}` | {meaning} |" for key, meaning in FLAGS.items()]
    assert re.findall(r"^\| `\w+` \|.*\|.*\|$", _under(text, "Reasons"), re.MULTILINE) == reasons
    assert re.findall(r"^\| `\w+` \|.*\|$", _under(text, "Flags"), re.MULTILINE) == flags


@pytest.mark.parametrize("name", ["your-own-meshes.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / "docs" / name).read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / "docs" / link).exists(), link


def _under(text: str, heading: str) -> str:
    """The part of a Markdown text between a heading and the next."""
    return text.split(f"### {heading}\n")[1].split("\n#")[0]
