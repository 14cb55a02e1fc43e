"""`prepare` on tables and on Objaverse: what arrives in the index, and what one bad file costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.folders import CUBE, products
from tests.data.objaverse_client import IMPATIENT, QUICK, options
from tests.data.objaverse_server import V1, Web, serving, uid, v1_pages, v1_path
from threed_gen import cli
from threed_gen.data.index import ShardIndex
from threed_gen.data.prepare import prepare
from threed_gen.data.source_kinds.download import DownloadPolicy
from threed_gen.data.sources import Source, source_from

ROOT = Path(__file__).resolve().parents[2]
COUNT = 6


def rejects(out: Path) -> dict[str, str]:
    lines = (out / "rejects.jsonl").read_text().splitlines()
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}


def test_a_table_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.off").write_text(CUBE)
    (tmp_path / "b.off").write_text(CUBE)
    lines = [
        "UID,sha256,path,license,aesthetic_score,captions,is_scene",
        'good,,a.off,by,6.5,"[""A cube."", ""Cube.""]",false',
        f"wrong,{'0' * 64},b.off,CC0,7,,false",
        "gone,,c.off,CC BY 4.0,7,,false",
        "out,,../x.off,CC0,7,,false",
        "low,,d.off,CC0,1,,false",
        "scene,,e.off,CC0,9,,true",
        "other,,f.off,MIT,9,,false",
    ]
    table, out = tmp_path / "t.csv", tmp_path / "out"
    table.write_text("\n".join(lines) + "\n")
    command = ["prepare", str(table), str(out), "--resolution", "16", "--licence", "CC-BY,CC0"]
    command += ["--min-score", "5.5", "--exclude", "is_scene"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "4 of 7 assets (left out: score 1, is_scene 1, licence 1)" in said
    (sample,) = ShardIndex.load(out).samples
    assert (sample.id, sample.source, sample.licence) == ("good", "a.off", "by")
    assert sample.tags == {"caption": "A cube.", "score": 6.5, "is_scene": 0.0}
    assert rejects(out) == {"wrong": "wrong_hash", "gone": "missing", "out": "outside_reference"}
    # What the table says may change: the index follows, and no mesh is measured again.
    table.write_text("\n".join(lines).replace("6.5", "8.0").replace("A cube.", "A box.") + "\n")
    assert cli.main(command) == 0
    assert "0 built now" in capsys.readouterr().out
    (sample,) = ShardIndex.load(out).samples
    assert sample.tags == {"caption": "A box.", "score": 8.0, "is_scene": 0.0}


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    pytest.importorskip("objaverse")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Web(pages=v1_pages(COUNT))) as web:
        yield web


def objects(web: Web, cache: Path, policy: DownloadPolicy = QUICK) -> Source:
    return source_from("objaverse:all", options(web, cache, policy=policy))


def test_bad_days_cost_one_object_each(web: Web, tmp_path: Path) -> None:
    address = {n: f"{V1}/{v1_path(n)}" for n in range(COUNT)}
    whole = dict(web.pages)
    web.bad[address[1]], web.bad[address[2]] = 404, "stall"
    web.pages[address[3]] = whole[address[3]][:-500]
    out = tmp_path / "out"
    summary = prepare(objects(web, tmp_path / "c", IMPATIENT), out, [16], workers=2)
    assert summary.samples == COUNT - 3
    assert summary.rejects == {"not_found": 1, "truncated": 1}
    assert summary.failed == {"network": 1}
    found = {sample.id: sample for sample in ShardIndex.load(out).samples}
    assert set(found) == {uid(0), uid(4), uid(5)}
    assert found[uid(4)].licence == "CC-BY-NC"
    assert found[uid(4)].tags["author"] == "Author 4"
    # A better day: what failed may be tried again, what was rejected stays.
    web.bad.clear()
    web.pages.update(whole)
    again = prepare(objects(web, tmp_path / "c"), out, [16], workers=2, retry_failed=True)
    assert (again.samples, again.failed) == (COUNT - 2, {})
    assert again.rejects == {"not_found": 1, "truncated": 1}
    assert web.asked[address[0]] == 1


PREPARE = """
import sys
from pathlib import Path
from tests.data.test_prepare_sources import DownloadPolicy, Web, objects, prepare

if __name__ == "__main__":
    url, cache, out = sys.argv[1:]
    source = objects(Web(url=url), Path(cache), DownloadPolicy(silence=60.0))
    prepare(source, Path(out), [16], workers=1)
"""


@pytest.mark.long
def test_a_killed_prepare_goes_on_with_its_downloads(web: Web, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PREPARE)
    order = [f"{V1}/{v1_path(n)}" for n in sorted(range(COUNT), key=v1_path)]
    prepare(objects(web, tmp_path / "calm/cache"), tmp_path / "calm/out", [16], workers=1)
    web.asked.clear()
    web.bad[order[2]] = "stall"  # the kill comes in the middle of the third
    cache, out = tmp_path / "cache", tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), web.url, str(cache), str(out)]
    victim = subprocess.Popen(command, cwd=ROOT, env=environment)
    deadline = time.monotonic() + 60
    while web.asked[order[2]] == 0 and time.monotonic() < deadline:
        assert victim.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    names = [path.name for path in (cache / "hf-objaverse-v1/glbs").rglob("*") if path.is_file()]
    assert sum(name.endswith(".glb") for name in names) == 2
    web.bad.clear()
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert [web.asked[address] for address in order[:2]] == [1, 1]  # not downloaded again
    assert products(out) == products(tmp_path / "calm/out")
    left = [path.name for path in cache.rglob(".*")]
    assert left == []
