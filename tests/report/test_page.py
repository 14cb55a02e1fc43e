"""The page: complete, harmless, offline, and there at every stage of a run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.report.conftest import EVIL, record
from tests.report.pages import Page, check_offline
from threed_gen.errors import UserError
from threed_gen.report.document import HERE, fill, script
from threed_gen.report.page import write_report
from threed_gen.report.run_data import read_run


@pytest.fixture(scope="module")
def page(run_dir: Path) -> str:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    return path.read_text("utf-8")


def test_everything_is_there(page: str) -> None:
    parsed = Page(page)
    assert len([t for t, a in parsed.tags if a.get("class") == "stage"]) == 3
    charts = [a["aria-label"] for t, a in parsed.tags if t == "svg"]
    assert charts[0] == "loss"
    assert {"validation: IoU", "learning rate", "latent std", "peak memory (GiB)"} <= set(charts)
    assert sum("data-label" in a for _, a in parsed.tags) == 2  # previews under the slider
    for word in ("torus_000", "Warnings while training", "2.13.0", "steps: 60", "finished",
                 "the reconstruction is empty", "the last line is not complete yet"):  # fmt: skip
        assert word in parsed.text


def test_names_from_files_stay_text(page: str) -> None:
    parsed = Page(page)
    assert parsed.text.count(EVIL) >= 5  # card, table, config, changes, environment, warning
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    plain = [a for a in scripts if a.get("type") != "application/json"]
    assert len(plain) == 3  # three.js, the viewer, the page; nothing else
    assert EVIL not in page
    assert all(not name.startswith("on") for _, a in parsed.tags for name in a)


def test_nothing_is_fetched(page: str) -> None:
    check_offline(page)


def test_pair_data_is_valid_json_with_meshes(page: str) -> None:
    blobs = re.findall(r'<script type="application/json">(.*?)</script>', page)
    pairs = [data for data in map(json.loads, blobs) if "truth" in data]
    assert len(pairs) == 3
    assert pairs[0]["reconstruction"]["error"] is True
    assert "reconstruction" not in pairs[2]


@pytest.mark.parametrize(
    "missing",
    [
        "config.yaml", "metrics.jsonl", "validation.jsonl", "environment.json", "evaluation.json",
        "evaluation", "previews", "logs", "config_changes.txt",
    ],
)  # fmt: skip
def test_each_piece_may_be_missing(run_dir: Path, tmp_path: Path, missing: str) -> None:
    copy = _copy(run_dir, tmp_path, light=missing != "evaluation")
    path = copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert Page(write_report(copy).read_text("utf-8")).text


def test_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("task: ss_vae\n")
    text = Page(write_report(tmp_path).read_text("utf-8")).text
    assert "no step yet" in text
    assert "Not evaluated yet" in text
    assert "threed-gen evaluate" in text


def test_damaged_pieces_are_named_not_fatal(run_dir: Path, tmp_path: Path) -> None:
    copy = _copy(run_dir, tmp_path)
    (copy / "evaluation.json").write_text('{"shapes": [')
    (copy / "environment.json").write_bytes(b"\xff\xfe[]")
    (copy / "config.yaml").write_text("a: [")
    (copy / "metrics.jsonl").write_text(
        'torn\n5\n{"step": 1, "loss": "x"}\n{"step":2,"loss":NaN}\n'
    )
    (copy / "previews" / "step_00000060.png").write_bytes(b"\x89PNG half")
    text = Page(write_report(copy).read_text("utf-8")).text
    for word in ("evaluation.json is not valid JSON", "environment.json is not UTF-8",
                 "config.yaml is not valid YAML", "2 unreadable lines"):  # fmt: skip
        assert word in text


def test_steps_written_twice_count_once(tmp_path: Path) -> None:
    lines = [
        json.dumps({**record(step), "loss": loss}) for step, loss in ((1, 9.0), (2, 8.0), (2, 7.0))
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(tmp_path)
    assert [(r["step"], r["loss"]) for r in run.metrics] == [(1, 9.0), (2, 7.0)]
    assert run.notes == []


def test_mesh_paths_stay_in_the_run(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert run.meshes({"files": "../evaluation/torus_000"}) == run.meshes({"files": "torus_000"})
    assert run.meshes({"name": "../../etc/passwd"}) == {}


def test_missing_directory_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run directory"):
        write_report(tmp_path / "nowhere")


def test_filling_never_reads_what_was_filled_in() -> None:
    assert fill("{{a}} {{b}}", {"a": "{{b}}", "b": "x"}) == "{{b}} x"


def test_a_script_that_would_end_its_element_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.js").write_text("const a = '</ScRiPt>'")
    with pytest.raises(ValueError, match="end the <script>"):
        script(tmp_path / "x.js")


def test_vendored_library_is_the_one_described() -> None:
    bundle = (HERE / "vendor" / "three.bundle.min.js").read_bytes()
    assert hashlib.sha256(bundle).hexdigest() in (HERE / "vendor" / "README.md").read_text()
    for library in ("three", "fflate"):
        assert "Permission is hereby" in (HERE / "vendor" / f"LICENSE.{library}.txt").read_text()


def _copy(run_dir: Path, tmp_path: Path, light: bool = True) -> Path:
    """A copy to spoil; without the meshes, which take the time, unless they are needed."""
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    if light:
        for path in (copy / "evaluation").glob("*.ply"):
            path.unlink()
    return copy
