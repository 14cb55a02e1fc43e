"""Downloads on bad days: what is waited for, what is given up, and what is left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.objaverse_client import IMPATIENT, QUICK, by_id, listing, options, reason
from tests.data.objaverse_server import V1, Web, glb, serving, uid, v1_pages, v1_path
from threed_gen.data.source_kinds.asset import TryAgainError
from threed_gen.data.source_kinds.download import DownloadPolicy, fetch
from threed_gen.geometry.mesh import MeshError

pytest.importorskip("objaverse")

ROOT = Path(__file__).resolve().parents[2]
COUNT = 7


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Web(pages=v1_pages(COUNT))) as web:
        yield web


@pytest.mark.parametrize(
    ("trouble", "expected", "asked"),
    [
        (404, "MeshError not_found", 1),
        (410, "MeshError not_found", 1),
        (503, "TryAgainError network", 3),
        (403, "TryAgainError network", 3),
        ("stall", "TryAgainError network", 3),
        ("cut", "TryAgainError network", 3),
        ("redirect:file:///etc/hostname", "TryAgainError network", 3),
        ("redirect:ftp://127.0.0.1/x", "TryAgainError network", 3),
    ],
)
def test_a_bad_day_costs_one_object(
    web: Web, tmp_path: Path, trouble: int | str, expected: str, asked: int
) -> None:
    path = f"{V1}/{v1_path(0)}"
    web.bad[path] = trouble
    policy = IMPATIENT if trouble == "stall" else QUICK
    assets = by_id("objaverse:all", options(web, tmp_path, policy=policy))
    assert reason(assets[uid(0)]) == expected
    assert web.asked[path] == asked
    assert len(assets[uid(1)].load().mesh.faces) > 0
    assert not any(name.endswith((".part", ".tmp")) for name in listing(tmp_path))
    assert f"hf-objaverse-v1/{v1_path(0)}" not in listing(tmp_path)
    del web.bad[path]  # a better day
    assert len(assets[uid(0)].load().mesh.faces) > 0


@pytest.mark.parametrize("trouble", [503, 429, "stall", "cut"])
def test_a_passing_trouble_is_waited_for(web: Web, tmp_path: Path, trouble: int | str) -> None:
    path = f"{V1}/{v1_path(0)}"
    web.bad[path], web.until[path] = trouble, 2
    policy = IMPATIENT if trouble == "stall" else QUICK
    assets = by_id("objaverse:all", options(web, tmp_path, policy=policy))
    assert len(assets[uid(0)].load().mesh.faces) > 0
    assert web.asked[path] == 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data[:-1000], "MeshError truncated"),
        (lambda data: data + b"more", "MeshError wrong_content"),
        (lambda data: b"<html>not today</html>", "MeshError wrong_content"),
        (lambda data: b"", "MeshError wrong_content"),
    ],
)
def test_without_a_hash_the_declared_length_counts(
    web: Web, tmp_path: Path, change: Any, expected: str
) -> None:
    path = f"{V1}/{v1_path(0)}"
    whole = web.pages[path]
    web.pages[path] = change(whole)
    asset = by_id("objaverse:all", options(web, tmp_path))[uid(0)]
    assert reason(asset) == expected
    assert web.asked[path] == 2  # once more, then it is the file itself that is wrong
    assert not (tmp_path / "hf-objaverse-v1" / v1_path(0)).exists()
    web.pages[path] = whole
    assert len(asset.load().mesh.faces) > 0


def test_a_damaged_file_in_the_cache_is_fetched_again(web: Web, tmp_path: Path) -> None:
    file = tmp_path / "hf-objaverse-v1" / v1_path(0)
    file.parent.mkdir(parents=True)
    file.write_bytes(glb(0)[:500])  # what the package itself leaves behind when it is killed
    assert len(by_id("objaverse:all", options(web, tmp_path))[uid(0)].load().mesh.faces) > 0
    assert file.read_bytes() == glb(0)


def test_pauses_grow_and_are_the_same_in_every_run(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{V1}/{v1_path(0)}"
    web.bad[path] = 503
    slept: list[float] = []
    monkeypatch.setattr("threed_gen.data.source_kinds.download.time.sleep", slept.append)
    policy = DownloadPolicy(attempts=4, pause=1.0)
    for key in ("a", "a", "b"):
        with pytest.raises(TryAgainError, match=r"HTTP 503 \(4 attempts\)"):
            fetch(web.url + path, tmp_path / "x", key, lambda file: None, policy)
    assert slept[:3] == slept[3:6] != slept[6:]
    for attempt, pause in enumerate(slept):
        assert 0.5 <= pause / 2 ** (attempt % 3) <= 1.5


def test_too_large_is_not_received(tmp_path: Path, web: Web) -> None:
    policy = DownloadPolicy(attempts=2, pause=0.01, max_bytes=1000)
    with pytest.raises(MeshError, match="too many") as caught:
        fetch(f"{web.url}{V1}/{v1_path(0)}", tmp_path / "x", "k", lambda file: None, policy)
    assert caught.value.reason == "too_large"
    assert listing(tmp_path) == []


def test_only_the_web_is_spoken(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    for url in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/x", "data:,x", "http://[::1"):
        with pytest.raises(MeshError, match="not a web address"):
            fetch(url, tmp_path / "out", "k", lambda file: None, QUICK)
    assert not (tmp_path / "out").exists()


FETCH_ALL = """
import sys
from pathlib import Path
from threed_gen.data.sources import DownloadPolicy, SourceOptions, source_from
policy = DownloadPolicy(attempts=3, silence=60.0, pause=0.01)
options = SourceOptions(cache=Path(sys.argv[2]), objaverse_url=sys.argv[1], policy=policy)
for asset in source_from("objaverse:all", options):
    asset.sha256()
"""


def test_a_kill_leaves_no_half_file_and_a_second_start_goes_on(web: Web, tmp_path: Path) -> None:
    order = [f"{V1}/{v1_path(n)}" for n in sorted(range(COUNT), key=v1_path)]
    web.bad[order[1]] = "stall"  # the kill comes in the middle of the second
    command = [sys.executable, "-c", FETCH_ALL, web.url, str(tmp_path)]
    victim = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 60
    while web.asked[order[1]] == 0 and time.monotonic() < deadline:
        assert victim.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    objects = tmp_path / "hf-objaverse-v1/glbs"
    finished = [name for name in listing(objects) if name.endswith(".glb")]
    assert len(finished) == 1  # the first; the second was under way
    assert [name for name in listing(objects) if name.endswith(".part")]  # and can be seen to be
    web.bad.clear()
    subprocess.run(command, cwd=ROOT, check=True)
    assert web.asked[order[0]] == 1
    assert listing(objects) == sorted(v1_path(n).removeprefix("glbs/") for n in range(COUNT))
    for n in range(COUNT):
        assert (tmp_path / "hf-objaverse-v1" / v1_path(n)).read_bytes() == glb(n)


def test_two_that_want_the_same_object_download_it_once(web: Web, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    asset = by_id("objaverse:all", options(web, tmp_path))[uid(0)]
    path = f"{V1}/{v1_path(0)}"
    web.bad[path] = "slow"
    with ThreadPoolExecutor(4) as pool:
        hashes = set(pool.map(lambda _: asset.sha256(), range(4)))
    assert hashes == {hashlib.sha256(glb(0)).hexdigest()}
    assert web.asked[path] == 1
