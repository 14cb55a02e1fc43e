"""Reading over real HTTP: exact bytes, and what happens when the server fails."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.data.staging.ranges import RangeServer, serving
from threed_gen.data.config import RemoteConfig
from threed_gen.data.staging import fetch
from threed_gen.data.staging.fetch import FetchError, Remote
from threed_gen.errors import UserError

CONTENT = np.random.default_rng(1).bytes(100_000)
DIGEST = hashlib.sha256(CONTENT[500:900]).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    with serving(tmp_path) as found:
        yield found


def remote(server: RangeServer, tries: int = 3, timeout: float = 5.0) -> Remote:
    return Remote(server.url, RemoteConfig(tries=tries, timeout=timeout), first_pause=0.01)


def test_a_read_asks_for_its_bytes_and_no_others(server: RangeServer) -> None:
    there = remote(server)
    assert there.read("a.tar", 500, 400, DIGEST) == CONTENT[500:900]
    assert server.requests == [("/a.tar", 500, 400)]
    assert there.size("a.tar") == len(CONTENT)
    assert there.counts == {"requests": 2, "bytes": 400}
    again = pickle.loads(pickle.dumps(there))
    assert again.read("a.tar", 99_990, 10) == CONTENT[-10:]


@pytest.mark.parametrize("fault", ["die", "short", "wrong", "error", "whole"])
def test_what_passes_is_tried_again_counted_and_shown(
    server: RangeServer, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults.extend([fault, fault])
    there = remote(server)
    assert there.read("a.tar", 500, 400, DIGEST) == CONTENT[500:900]
    assert (there.counts["requests"], there.counts["retries"]) == (3, 2)
    assert there.counts["failures"] == 0 and there.counts["bytes"] == 400
    told = capsys.readouterr().err
    assert told.count("trying again (retry 1 so far)") == 1 and f"{server.url}/a.tar: " in told


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("die", "given up after 3 tries.*see whether the server answers"),
        ("short", "sent 200 bytes where 400 were asked.*copy the file"),
        ("wrong", "sha256 differs.*copy the file to the server again"),
        ("error", "500.*see whether the server answers"),
        ("whole", "sent 100,000 bytes where 400 were asked; does it serve ranges"),
    ],
)
def test_what_stays_is_one_line_with_the_url_and_the_cure(
    server: RangeServer, fault: str, words: str
) -> None:
    server.always = fault
    there = remote(server)
    with pytest.raises(FetchError, match=words) as caught:
        there.read("a.tar", 500, 400, DIGEST)
    line = str(caught.value)
    assert line.startswith(f"{server.url}/a.tar: ") and "\n" not in line
    assert there.counts["failures"] == 1 and there.counts["retries"] == 2


def test_a_stalling_server_is_left_after_the_timeout(server: RangeServer) -> None:
    server.faults.append("slow")
    there = remote(server, timeout=0.3)
    assert there.read("a.tar", 0, 9) == CONTENT[:9]
    assert there.counts["retries"] == 1
    server.always = "slow"
    with pytest.raises(FetchError, match=r"no answer in time.*data\.remote\.timeout \(0\.3 s\)"):
        remote(server, tries=2, timeout=0.3).read("a.tar", 0, 9)


def test_what_no_further_try_cures_ends_at_once(server: RangeServer) -> None:
    there = remote(server)
    with pytest.raises(FetchError, match=r"b\.tar: no such file there; check data\.path"):
        there.read("b.tar", 0, 9)
    server.always = "denied"
    with pytest.raises(FetchError, match=r"not allowed.*403.*data\.remote\.options"):
        there.read("a.tar", 0, 9)
    assert there.counts["retries"] == 0 and there.counts["requests"] == 2


def test_a_server_that_is_gone(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        there = remote(server)
    with pytest.raises(FetchError, match=r"given up after 3 tries.*see whether the server"):
        there.read("a.tar", 0, 9)


def test_pauses_double_up_to_a_bound(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(fetch.time, "sleep", slept.append)
    server.always = "error"
    with pytest.raises(FetchError):
        Remote(server.url, RemoteConfig(tries=10)).read("a.tar", 0, 9)
    bounds = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert len(slept) == 9
    assert all(0.75 * b <= s <= 1.25 * b for s, b in zip(slept, bounds, strict=True))


def test_a_copy_goes_on_where_the_server_died(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "PIECE", 30_000)
    server.faults.extend(["", "die", "", ""])
    file = io.BytesIO()
    there = remote(server)
    assert there.download("a.tar", len(CONTENT), file) == hashlib.sha256(CONTENT).hexdigest()
    assert file.getvalue() == CONTENT
    starts = [start for _, start, _ in server.requests]
    assert starts == [0, 30_000, 30_000, 60_000, 90_000]


def test_other_protocols_and_unknown_ones() -> None:
    import fsspec

    with fsspec.open("memory://set/a.bin", "wb") as file:
        file.write(CONTENT[:50])
    there = Remote("memory://set")
    assert there.read("a.bin", 10, 5) == CONTENT[10:15] and there.size("a.bin") == 50
    with pytest.raises(FetchError, match=r"memory://set/b\.bin: no such file there"):
        there.read("b.bin", 0, 5)
    with pytest.raises(UserError, match=r"nonsense://x: cannot be opened.*check data\.path"):
        Remote("nonsense://x").read("a", 0, 1)
