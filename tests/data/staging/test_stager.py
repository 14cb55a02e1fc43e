"""Staging as runs use it: ahead of need, by one for all, and never in anybody's way."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.staging.ranges import serving
from tests.data.staging.sets import MadeSet, make_set
from tests.data.staging.test_cache import files_of_at_most
from threed_gen.config import validate
from threed_gen.data.config import DataConfig, RemoteConfig, StageConfig
from threed_gen.data.node_index import own_folder
from threed_gen.data.staging import fetch
from threed_gen.data.staging.source import ShardSource
from threed_gen.data.staging.stager import Stager
from threed_gen.data.staging.upcoming import Upcoming
from threed_gen.errors import UserError


@pytest.fixture
def made(tmp_path: Path) -> MadeSet:
    return make_set(tmp_path / "data")


def source(made: MadeSet, limit_gb: float = 1.0, url: str | None = None) -> ShardSource:
    stage = StageConfig(dir=str(made.out.parent / "node"), limit_gb=limit_gb)
    return ShardSource(url or made.out, RemoteConfig(tries=2, timeout=5.0), stage)


def begun(of: ShardSource, made: MadeSet) -> Stager:
    stager = of.stager(made.shards)
    assert stager is not None
    return stager


def wait(until: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def names(made: MadeSet, *numbers: int) -> list[str]:
    return [made.shards[number].file for number in numbers]


def has(of: ShardSource, made: MadeSet) -> list[bool]:
    assert of.staging is not None
    return [of.staging.has(shard) for shard in made.shards]


def of_wishes(made: MadeSet) -> Path:
    return own_folder(made.out.parent / "node") / "wishes"


def test_what_is_wanted_is_staged_and_read_from_there(made: MadeSet) -> None:
    of = source(made)
    assert of.read(*made.place(0)) == made.payloads[0]
    stager = begun(of, made)
    stager.want(names(made, 2, 0))
    wait(lambda: stager.counts["staged"] == 2)
    assert has(of, made) == [True, False, True, False]
    for shard in made.shards:  # whoever reads a staged one does not need the original
        (made.out / "shards" / shard.file).rename(made.out / shard.file)
    assert [of.read(*made.place(i)) for i in (0, 8)] == [made.payloads[0], made.payloads[8]]
    assert of.counts == {"direct": 1, "staged": 2}
    assert stager.counts["staged_bytes"] == sum(made.shards[n].size for n in (0, 2))
    stager.close()


def test_without_a_folder_there_is_no_staging(
    made: MadeSet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ShardSource(made.out).stager(made.shards) is None
    (made.out.parent / "node").write_text("in the way")
    of = source(made)
    assert of.stager(made.shards) is None
    assert "read where they lie" in capsys.readouterr().err
    assert of.read(*made.place(5)) == made.payloads[5]


def test_one_copies_for_all_and_another_takes_over(made: MadeSet) -> None:
    first = begun(source(made), made)
    wait(lambda: first.counts["elected"] == 1)
    second = begun(source(made), made)
    second.want(names(made, 1))
    wait(lambda: first.counts["staged"] == 1)
    first.close()
    second.want(names(made, 3))
    wait(lambda: second.counts["staged"] == 1)
    assert second.counts["elected"] == 1 and first.counts["staged"] == 1
    second.close()


def test_another_data_set_in_the_same_folder(made: MadeSet, tmp_path: Path) -> None:
    """Each has its own copier, and neither evicts what the other needs."""
    other = make_set(tmp_path / "other", size=3100)
    size = made.shards[0].size + other.shards[0].size
    a, b = source(made, 1.1e-9 * size), source(other, 1.1e-9 * size)
    b.staging = a.staging
    one, two = begun(a, made), begun(b, other)
    one.want(names(made, 0))
    two.want(names(other, 0))
    wait(lambda: one.counts["staged"] == two.counts["staged"] == 1)
    two.want(names(other, 0, 1))
    wait(lambda: two.counts["no_room"] > 0)
    assert has(a, made)[0] and has(b, other) == [True, False, False, False]
    one.want([])
    two.want(names(other, 1))
    wait(lambda: two.counts["staged"] == 2)
    one.close()
    two.close()


def test_too_small_a_limit_keeps_what_is_needed_first(
    made: MadeSet, capsys: pytest.CaptureFixture[str]
) -> None:
    of = source(made, 2.5e-9 * made.shards[0].size)
    stager = begun(of, made)
    stager.want(names(made, 3, 1, 0, 2))
    wait(lambda: stager.counts["no_room"] >= 2)
    assert has(of, made) == [False, True, False, True]
    assert capsys.readouterr().err.count("data.stage.limit_gb") == 1
    assert of.read(*made.place(0)) == made.payloads[0]
    stager.close()


def test_a_full_disk_is_one_line_and_reading_goes_on(
    made: MadeSet, capsys: pytest.CaptureFixture[str]
) -> None:
    of = source(made)
    with files_of_at_most(5000):
        stager = begun(of, made)
        stager.want(names(made, 0, 1))
        wait(lambda: stager.counts["failed"] == 2)
    told = capsys.readouterr().err
    assert told.count("not staged, read where it lies") == 1 and "Free some space" in told
    assert of.read(*made.place(0)) == made.payloads[0] and of.counts == {"direct": 1}
    with files_of_at_most(10):  # not even the wish can be written
        stager.want(names(made, 2))
    assert stager.counts["failed"] == 3 and not list(of_wishes(made).glob("*.tmp"))
    stager.close()


def test_a_damaged_copy_is_replaced(made: MadeSet, capsys: pytest.CaptureFixture[str]) -> None:
    of = source(made)
    stager = begun(of, made)
    stager.want(names(made, 0))
    wait(lambda: stager.counts["staged"] == 1)
    shard, offset, size, sha256 = made.place(1)
    assert of.staging is not None
    with of.staging.path(shard).open("r+b") as file:
        file.seek(offset + 5)
        file.write(b"!!!")
    assert of.read(shard, offset, size, sha256) == made.payloads[1]
    assert of.counts == {"staged_damaged": 1, "direct": 1}
    assert "a damaged copy is deleted" in capsys.readouterr().err
    wait(lambda: stager.counts["staged"] == 2)
    assert of.read(shard, offset, size, sha256) == made.payloads[1] and of.counts["staged"] == 1
    stager.close()


def test_staging_over_http(made: MadeSet, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(made.out) as server:
        of = source(made, url=server.url)
        stager = begun(of, made)
        server.faults.extend(["wrong"])
        stager.want(names(made, 0, 1))
        wait(lambda: stager.counts["staged"] == 1)
        assert has(of, made)[:2] == [False, True], "other bytes are not taken for the shard"
        assert "not those of the index" in capsys.readouterr().err
        assert of.read(*made.place(0)) == made.payloads[0]
        shard, offset, size, _ = made.place(0)
        assert server.requests[-1] == (f"/shards/{shard.file}", offset, size)
        larger = made.out / "shards" / made.shards[2].file
        larger.write_bytes(larger.read_bytes() + b"x")
        stager.want(names(made, 2, 3))
        wait(lambda: stager.counts["staged"] == 2)
        assert stager.counts["failed"] == 2 and has(of, made) == [False, True, False, True]
        stager.close()


def test_ending_gives_up_what_is_half_made(made: MadeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PIECE", 1000)
    with serving(made.out) as server:
        of = source(made, url=server.url)
        stager = begun(of, made)
        stager.want(names(made, 0, 1, 2, 3))
        wait(lambda: len(server.requests) > 3)  # two for the index, then pieces
        stager.close()
        assert stager.counts["staged"] < 4
        assert of.staging is not None
        assert len(of.staging.copies()) == stager.counts["staged"], "no half copy stays"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=5), min_size=1, max_size=8),
    st.integers(0, 7), st.integers(1, 9),
)  # fmt: skip
def test_what_comes_next(batches: list[list[int]], step: int, count: int) -> None:
    shard_of = np.arange(20) // 4
    files = [f"f{n}" for n in range(5)]
    asked: list[int] = []

    def batch(s: int) -> list[int]:
        asked.append(s)
        return batches[s]

    upcoming = Upcoming(batch, shard_of, files, len(batches))
    coming = [files[i // 4] for s in batches[step : step + count] for i in s]
    assert upcoming(step, count) == list(dict.fromkeys(coming))
    upcoming(step + 1, count)
    assert len(asked) == len(set(asked)), "each batch is asked for once"


def test_the_config_sections_are_strict() -> None:
    assert DataConfig().stage.dir is None
    for tree, words in (
        ({"stage": {"folder": "x"}}, r"data\.|stage\.folder"),
        ({"stage": {"limit_gb": 0}}, "limit_gb"),
        ({"stage": {"ahead": 0}}, "ahead"),
        ({"remote": {"tries": 0}}, "tries"),
        ({"remote": {"timeout": 0}}, "timeout"),
    ):
        with pytest.raises(UserError, match=words):
            validate(DataConfig, tree, "run.yaml")
