"""The page of prepared data: complete, harmless, offline, and of bounded size."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import threed_gen
from tests.report.conftest import EVIL
from tests.report.data_sets import (
    NASTY,
    RESOLUTIONS,
    figures,
    make_data,
    multiply,
    write_ledger,
    write_rejects,
)
from tests.report.pages import Page, check_offline
from threed_gen.cli import main
from threed_gen.data.index import ShardIndex
from threed_gen.data.workers import run_tasks
from threed_gen.errors import DiskError, UserError
from threed_gen.geometry.reading.reasons import FLAGS, REASONS
from threed_gen.report import data_page, data_pictures, data_samples
from threed_gen.report.data_folder import read_data
from threed_gen.report.data_page import MOST_BYTES, write_data_report
from threed_gen.report.data_pictures import Drawn, Wish, draw, draw_one, wish
from threed_gen.report.data_rejects import CURES, LATER_REASONS, MOST_OF_ALL
from threed_gen.report.data_samples import MOST_SOLIDS, MOST_STILLS, farthest

PACKAGE = Path(threed_gen.__file__).parent
REJECTS = {"no_faces": 5, "timeout": 2, "never_heard_of": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve samples: the k-th is k/10 voxels off; two with open sheets; one with evil names."""
    out = tmp_path_factory.mktemp("data") / "set"
    samples = make_data(out, ("torus", "box") * 6)
    for k, sample in enumerate(samples):
        samples[k] = replace(sample, info=figures(k / 10, 0.25 if k in (3, 8) else 0.0))
    samples[5] = replace(samples[5], id=EVIL, source=NASTY, flags=("skinned", EVIL), licence=EVIL)
    index = ShardIndex.load(out)
    replace(index, samples=samples).save(out)
    write_rejects(out, REJECTS)
    write_ledger(out, 0, {"a": (1.0, 100.0), "b": (2.0, 200.0)})
    write_ledger(out, 1, {"c": (4.0, 400.0)})
    return out


@pytest.fixture(scope="module")
def page(data: Path) -> str:
    assert write_data_report(data) == data / "report.html"
    return (data / "report.html").read_text("utf-8")


def test_every_sample_is_drawn_with_its_figures(page: str, data: Path) -> None:
    parsed = Page(page)
    cards = parsed.with_class("sample")
    assert len(cards) == 12
    tokens = ShardIndex.load(data).samples[3].grids[40].tokens
    assert cards[3] == {
        "class": "card sample", "data-tokens": str(tokens), "data-sheet": "0.25", "data-far": "0.3"
    }  # fmt: skip
    pictures = [a for tag, a in parsed.tags if tag == "img" and a.get("loading") == "lazy"]
    assert len(pictures) == 12
    assert all((a["src"] or "").startswith("data:image/webp;base64,") for a in pictures)
    assert parsed.text.count("25 %  sheet") == 2
    for word in ("torus_0", "shell", "tokens at 24³", "tokens at 40³", "seconds per mesh",
                 "peak memory (MB)", "with open sheets", FLAGS["skinned"]):  # fmt: skip
        assert word in parsed.text


def test_tiles_count_right(page: str) -> None:
    tiles = re.findall(r"<div class=tile><b>(.*?)</b><span>(.*?)</span><small>(.*?)</small>", page)
    found = {title: (value, aside) for value, title, aside in tiles}
    assert found["samples"] == ("12", "of 20 meshes")
    assert found["rejected"] == ("6", "30 %")
    assert found["failed"] == ("2", "may be tried again")
    assert found["with open sheets"] == ("2", "policy shell")
    assert found["voxels from the source"] == ("0.600", "worst 1.1")
    assert found["licence"] == ("1", "11 samples without")


def test_the_worst_ten_are_there_to_be_turned_worst_first(page: str, data: Path) -> None:
    assert farthest(read_data(data)) == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]
    assert len(Page(page).with_class("stage")) == MOST_SOLIDS
    solids = page.split("Farthest from their source</h2>")[1].split("<section")[0]
    assert re.findall(r"source to result</dt><dd>([\d.]+)", solids) == [
        f"{k / 10:.3f}" for k in range(11, 1, -1)
    ]
    assert solids.count('{"truth":{"data":"') == MOST_SOLIDS


def test_samples_without_a_distance_are_not_among_the_worst(tmp_path: Path) -> None:
    samples = make_data(tmp_path / "set", ("box",) * 3)
    broken = figures(9.0)
    broken["grids"]["40"]["fidelity"]["mean_to_result"] = None
    samples[0] = replace(samples[0], info=broken)
    samples[2] = replace(samples[2], info=figures(0.5))
    replace(ShardIndex.load(tmp_path / "set"), samples=samples).save(tmp_path / "set")
    assert farthest(read_data(tmp_path / "set")) == [2]


def test_rejects_are_grouped_and_explained(page: str) -> None:
    section = page.split('id="left-out"')[1].split("</section>")[0]
    text = Page(section).text
    assert re.findall(r'class="count">(\d+)<.*?<h3>(\w+) ', section) == [
        ("5", "no_faces"), ("2", "timeout"), ("1", "never_heard_of")
    ]  # fmt: skip
    for word in (
        *(REASONS["no_faces"][1:], CURES["no_faces"], LATER_REASONS["timeout"][1:]),
        *("--retry-failed", "may be tried again", "never_heard_of: the 0th \\u2028 of them"),
    ):
        assert word in text
    assert section.count("<li>") == 8


def test_every_reason_has_a_meaning_and_a_cure() -> None:
    assert CURES.keys() == REASONS.keys() | LATER_REASONS.keys()
    assert all(text and not text.endswith(".") for text in CURES.values())
    assert reasons_in_the_code() <= CURES.keys()


def reasons_in_the_code() -> set[str]:
    """Every word that geometry and data raise or record as a reason."""
    place = {"MeshError": 1, "reject": 0, "_outcome": 3}  # which argument of a call it is
    found: set[str] = set()
    for path in [p for room in ("geometry", "data") for p in (PACKAGE / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                at = place.get(node.func.id, len(node.args))
                words = node.args[at : at + 1]
                words += [k.value for k in node.keywords if k.arg == "reason"]
                found |= {w.value for w in words if isinstance(w, ast.Constant)}
    assert {"no_faces", "flat", "unreadable", "unexpected_error"} <= found
    return found


def test_names_from_files_stay_text(page: str) -> None:
    parsed = Page(page)
    assert parsed.text.count(EVIL) >= 5  # two cards, a flag, a licence, rejects
    assert EVIL not in page
    assert "\u202e" not in page
    assert "weird/\\u202egpj\\n\\udcff.obj" in parsed.text
    scripts = [a for tag, a in parsed.tags if tag == "script"]
    assert len([a for a in scripts if a.get("type") != "application/json"]) == 3
    assert all(not name.startswith("on") for _, a in parsed.tags for name in a)


def test_nothing_is_fetched(page: str) -> None:
    check_offline(page)


def test_data_of_an_earlier_version(tmp_path: Path) -> None:
    make_data(tmp_path / "old")
    text = Page(write_data_report(tmp_path / "old").read_text("utf-8")).text
    assert "prepared by an earlier version" in text
    assert "torus_0" in text
    for word in ("Farthest from", "Left out", "sheet share at", "seconds per mesh"):
        assert word not in text


def test_only_rejects(tmp_path: Path) -> None:
    write_rejects(tmp_path, {"flat": 3})
    text = Page(write_data_report(tmp_path).read_text("utf-8")).text
    assert "no sample" in text
    assert CURES["flat"] in text


def test_damage_is_named_and_the_rest_drawn(data: Path, tmp_path: Path) -> None:
    samples = make_data(tmp_path / "set", ("box",) * 3, info=figures(1.0))
    shard = tmp_path / "set" / "shards" / samples[1].grids[40].shard
    content = bytearray(shard.read_bytes())
    content[samples[1].grids[40].offset + 9] ^= 1
    shard.write_bytes(content + b"x")
    (tmp_path / "set" / "rejects.jsonl").write_text('{"reason": "flat"}\n[1]\n{"rea')
    parsed = Page(write_data_report(tmp_path / "set").read_text("utf-8"))
    assert "is missing, or not as long as the index says" in parsed.text
    assert "rejects.jsonl: 2 unreadable lines left out" in parsed.text
    assert parsed.text.count("sha256 differs") == 2  # on the sheet, and among the worst
    assert len([a for tag, a in parsed.tags if tag == "img"]) == 4


def test_all_ledgers_count_and_the_newest_line_of_an_asset(data: Path, tmp_path: Path) -> None:
    assert sorted(o.seconds for o in read_data(data).outcomes) == [1.0, 2.0, 4.0]
    make_data(tmp_path / "set", ("box",))
    for seconds in (1.0, 9.0):
        write_ledger(tmp_path / "set", 0, {"a": (seconds, 1.0)})
    (outcome,) = read_data(tmp_path / "set").outcomes
    assert outcome.seconds == 9.0


def test_wrong_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        write_data_report(tmp_path / "none")
    with pytest.raises(UserError, match="threed-gen prepare"):
        write_data_report(tmp_path)
    (tmp_path / "index.jsonl").write_text("torn")
    with pytest.raises(UserError, match="damaged"):
        write_data_report(tmp_path)


@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=[pytest.mark.long])])
def test_size_and_pictures_are_bounded(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many samples and rejects there are, however rough the shapes."""
    out = tmp_path / "large"
    samples = make_data(out, ("rough",))
    one = {
        solid: draw_one(wish(out, 0, samples[0], 40, solid=solid)) for solid in (False, True)
    }  # noise: no picture or mesh takes more bytes

    def draw_once(wishes: Sequence[Wish]) -> dict[tuple[int, bool], Drawn]:
        return {(w.sample, w.solid): replace(one[w.solid], sample=w.sample) for w in wishes}

    monkeypatch.setattr(data_samples, "draw", draw_once)
    multiply(out, samples, count)
    write_rejects(out, dict.fromkeys(CURES, count // 12))
    path = write_data_report(out)
    assert path.stat().st_size < MOST_BYTES
    parsed = Page(path.read_text("utf-8"))
    assert len(parsed.with_class("sample")) == MOST_STILLS
    assert len(parsed.with_class("stage")) == MOST_SOLIDS
    assert f"{MOST_STILLS} of {count:,} samples are shown" in parsed.text
    section = path.read_text("utf-8").split('id="left-out"')[1].split("</section>")[0]
    assert section.count("<li><code>") == MOST_OF_ALL
    more = [int(n.replace(",", "")) for n in re.findall(r"and ([\d,]+) more", section)]
    assert sum(more) + MOST_OF_ALL == len(CURES) * (count // 12)


def test_a_rough_solid_is_coarsened_to_its_share_of_the_page(tmp_path: Path) -> None:
    samples = make_data(tmp_path / "rough", ("rough",), resolutions=(64,))
    drawn = draw_one(wish(tmp_path / "rough", 0, samples[0], 64, solid=True))
    assert drawn.mesh is not None
    assert drawn.faces > 100_000
    assert drawn.mesh["faces"] <= 40_000
    assert len(drawn.mesh["data"]) * MOST_SOLIDS < 0.7 * MOST_BYTES


def test_huge_grids_get_fewer_pictures(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = read_data(data)
    voxels = [s.grids[40].voxels for s in folder.index.samples]
    monkeypatch.setattr(data_samples, "MOST_VOXELS", sum(voxels) // 3)
    chosen = data_samples._chosen_stills(folder, 40)
    assert chosen == [0, 4, 7, 11]


def test_the_grid_to_draw(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = read_data(data)
    assert data_samples._drawn_resolution(folder) == max(RESOLUTIONS)
    monkeypatch.setattr(data_samples, "DRAWN_AT", 32)
    assert data_samples._drawn_resolution(folder) == 24
    monkeypatch.setattr(data_samples, "DRAWN_AT", 8)
    assert data_samples._drawn_resolution(folder) == 24  # none is coarse enough: the coarsest


@pytest.mark.parametrize("limit", ["FEW", "SMALL"])
def test_children_draw_the_same_pictures(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def watched(call: Any, tasks: Any, workers: int, lost: Any) -> Any:
        asked.append(workers)
        return run_tasks(call, tasks, workers, lost)

    monkeypatch.setattr(data_pictures, "run_tasks", watched)
    monkeypatch.setattr(data_pictures, limit, 2)
    samples = make_data(tmp_path / "set", ("box", "torus", "box"))
    wishes = [wish(tmp_path / "set", k, samples[k], 24, solid=False) for k in range(3)]
    drawn = draw(wishes)
    assert drawn == {(each.sample, False): draw_one(each) for each in wishes}
    assert drawn[0, False].still != drawn[1, False].still
    assert asked[0] > 0


def test_prepare_ends_with_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["prepare", "procedural:1", "--resolution", "16", "--workers", "0"]
    page = tmp_path / "a" / "report.html"
    assert main([*command, str(tmp_path / "a"), "--no-report"]) == 0
    assert not page.exists()
    assert main([*command, str(tmp_path / "a")]) == 0  # it was missing
    assert "ready for training" in page.read_text("utf-8")
    page.write_text("as it was")
    assert main([*command, str(tmp_path / "a")]) == 0  # nothing was built
    assert page.read_text("utf-8") == "as it was"
    page.unlink()
    for error, code in ((UserError("no"), 0), (OSError("no"), 0), (DiskError("full"), 74)):

        def fail(out: Path, error: Exception = error) -> Path:
            raise error

        monkeypatch.setattr(data_page, "write_data_report", fail)
        assert main([*command, str(tmp_path / "a")]) == code


def test_command_recognises_prepared_data(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "set"
    make_data(data, ("box",))
    assert main(["report", str(data)]) == 0
    assert capsys.readouterr().out == f"{data}/report.html\n"
    assert "ready for training" in (data / "report.html").read_text("utf-8")
    assert main(["report", str(run_dir)]) == 0
    assert "Curves" in (run_dir / "report.html").read_text("utf-8")
