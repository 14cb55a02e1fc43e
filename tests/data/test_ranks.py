"""Several ranks on one OUT: each asset has one owner, the last packs, the bytes are the same."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.data.folders import CUBE, ListSource, TestAsset, procedural, products
from threed_gen.data.build import build_asset
from threed_gen.data.claim import packing_lock, taking_part
from threed_gen.data.locks import is_held
from threed_gen.data.prepare import prepare
from threed_gen.data.ranks import Share, share_of
from threed_gen.data.sources import FolderSource, ProceduralSource
from threed_gen.data.status import read_status
from threed_gen.errors import UserError

IDS = [f"shape_{number:05d}" for number in range(3000)]


@pytest.mark.parametrize("world", [1, 2, 3, 7, 64])
def test_every_id_has_one_owner_and_shares_are_even(world: int) -> None:
    shares = [Share(rank, world) for rank in range(world)]
    owners = [[share.rank for share in shares if share.owns(name)] for name in IDS]
    assert all(len(owner) == 1 for owner in owners)
    counts = Counter(owner[0] for owner in owners)
    assert len(counts) == world
    expected = len(IDS) / world
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_the_owner_is_the_same_for_ever() -> None:
    assert [next(r for r in range(8) if Share(r, 8).owns(name)) for name in IDS[:6]] == [
        int(sha256(f"rank {name}".encode()).hexdigest()[:16], 16) % 8 for name in IDS[:6]
    ]


ARRAY = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_MIN": "3",
    "SLURM_ARRAY_TASK_MAX": "9",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_STEP": "2",
}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_ID": "0",
    "SLURM_NNODES": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_JOB_NODELIST": "no[1-3]",
}
MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
TORCH = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "x",
    "MASTER_PORT": "1",
}


@pytest.mark.parametrize(
    ("environ", "rank", "world"),
    [
        ({}, 0, 1),
        (ARRAY, 2, 4),
        (SRUN, 5, 6),
        (MPI, 3, 4),
        (TORCH, 1, 2),
        ({**ARRAY, **SRUN}, 2 * 6 + 5, 24),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, 0, 1),  # the batch shell itself
    ],
)
def test_the_place_is_taken_from_the_launcher(
    environ: dict[str, str], rank: int, world: int
) -> None:
    assert share_of(None, None, environ) == Share(rank, world)
    assert share_of(0, 1, environ) == Share(0, 1), "options go first"


@pytest.mark.parametrize(
    ("rank", "world", "environ", "words"),
    [
        (1, None, {}, "--rank and --world-size"),
        (None, 2, {}, "--rank and --world-size"),
        (2, 2, {}, "rank 2 of 2"),
        (-1, 2, {}, "rank -1 of 2"),
        (None, None, {**ARRAY, "SLURM_ARRAY_TASK_COUNT": "3"}, "not evenly spaced"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN"),
        (None, None, {"RANK": "1"}, "MASTER_ADDR"),
    ],
)
def test_places_that_make_no_sense(
    rank: int | None, world: int | None, environ: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        share_of(rank, world, environ)


def _assets() -> ListSource:
    return ListSource(*procedural(*range(6)).assets, TestAsset("a", "flat"), TestAsset("b"))


def test_ranks_give_the_bytes_of_one_process(tmp_path: Path) -> None:
    prepare(_assets(), tmp_path / "one", [16], workers=0, shard_bytes=6000)
    for world in (2, 3):
        out = tmp_path / str(world)
        summaries = [
            prepare(_assets(), out, [16], workers=0, shard_bytes=6000, share=Share(rank, world))
            for rank in range(world)
        ]
        assert [s.open > 0 for s in summaries] == [True] * (world - 1) + [False]
        assert sum(s.built for s in summaries) == 8
        assert summaries[-1].samples == 7
        assert summaries[-1].rejects == {"flat": 1}
        assert products(out) == products(tmp_path / "one")
        again = prepare(_assets(), out, [16], workers=0, shard_bytes=6000, share=Share(0, world))
        assert (again.built, again.open, again.samples) == (0, 0, 7)


def test_the_number_of_ranks_may_change_between_runs(tmp_path: Path) -> None:
    prepare(_assets(), tmp_path / "one", [16], workers=0)
    out = tmp_path / "out"
    first = prepare(_assets(), out, [16], workers=0, share=Share(1, 3))
    second = prepare(_assets(), out, [16], workers=0, share=Share(0, 2))
    third = prepare(_assets(), out, [16], workers=0)
    assert first.built + second.built + third.built == 8
    assert first.built > 0
    assert products(out) == products(tmp_path / "one")


def test_an_open_rank_is_named_and_the_folder_may_grow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 packs a smaller set while rank 1 has seen a larger one; nothing of it is lost."""
    folder, out = tmp_path / "meshes", tmp_path / "out"
    folder.mkdir()
    names = [f"m{number}" for number in range(8)]
    mine = [name for name in names if Share(0, 2).owns(name)]
    theirs = [name for name in names if Share(1, 2).owns(name)]
    for name in [*mine, *theirs[:-1]]:
        (folder / f"{name}.off").write_text(CUBE)
    early = FolderSource(folder)
    (folder / f"{theirs[-1]}.off").write_text(CUBE.replace("1 1 1\n", "1 1 2\n"))
    late = FolderSource(folder)
    summary = prepare(late, out, [16], workers=0, share=Share(1, 2))
    assert (summary.built, summary.open) == (len(theirs), len(mine))
    said = capsys.readouterr().err
    assert "rank 1 of 2" in said
    assert f"{mine[0]}.off" in said
    assert prepare(early, out, [16], workers=0, share=Share(0, 2)).samples == 7
    summary = prepare(late, out, [16], workers=0, share=Share(1, 2))
    assert (summary.built, summary.samples) == (0, 8), "its payload is still there"
    prepare(late, tmp_path / "one", [16], workers=0)
    assert products(out) == products(tmp_path / "one")


def _while_at_work(monkeypatch: pytest.MonkeyPatch, out: Path, act: Any, share: Share) -> None:
    """Run `act` once in the middle of a `prepare` of `share`."""
    done = []

    def acting(*args: Any, **kwargs: Any) -> Any:
        if not done:
            done.append(True)
            act()
        return build_asset(*args, **kwargs)

    monkeypatch.setattr("threed_gen.data.prepare.build_asset", acting)
    prepare(ProceduralSource(6), out, [16], workers=0, share=share)
    assert done


def test_another_number_of_ranks_is_refused_while_one_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def others() -> None:
        for share in (Share(0, 1), Share(2, 3)):
            with pytest.raises(UserError, match=rf"--world-size 2 \(process {os.getpid()} on "):
                prepare(ProceduralSource(6), tmp_path, [16], workers=0, share=share)
        with pytest.raises(UserError, match="another `prepare`.*rank 0 of 2"):
            prepare(ProceduralSource(6), tmp_path, [16], workers=0, share=Share(0, 2))

    _while_at_work(monkeypatch, tmp_path, others, Share(0, 2))
    prepare(ProceduralSource(6), tmp_path, [16], workers=0)


def test_a_second_rank_may_come_while_the_first_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def second() -> None:
        temporary = tmp_path / "out" / "work" / ".theirs.1.tmp"
        temporary.write_text("")
        share = Share(1, 2)
        seen["second"] = prepare(
            ProceduralSource(6), tmp_path / "out", [16], workers=0, share=share
        )
        assert temporary.exists(), "that may be a file in the making"

    _while_at_work(monkeypatch, tmp_path / "out", second, Share(0, 2))
    assert seen["second"].open > 0
    prepare(ProceduralSource(6), tmp_path / "one", [16], workers=0)
    assert products(tmp_path / "out") == products(tmp_path / "one")


def test_packing_waits_for_packing(tmp_path: Path) -> None:
    order = []

    def pack() -> None:
        with packing_lock(tmp_path):
            order.append("second")

    with packing_lock(tmp_path):
        thread = threading.Thread(target=pack)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_locks_go_with_their_process(tmp_path: Path) -> None:
    """Also the one that says how many ranks there are."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with taking_part(tmp_path, {}, Share(0, 2), 5):
            os.write(writer, b"x")
            signal.pause()
    os.read(reader, 1)
    lock = tmp_path / "work" / "rank.0-of-2.lock"
    assert is_held(lock)
    with (
        pytest.raises(UserError, match=f"process {child} on"),
        taking_part(tmp_path, {}, Share(), 5),
    ):
        pass
    with taking_part(tmp_path, {}, Share(1, 2), 5) as alone:
        assert not alone
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not is_held(lock)
    with taking_part(tmp_path, {}, Share(), 5) as alone:
        assert alone


def test_the_status_of_a_run_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def look() -> None:
        seen["status"] = read_status(tmp_path)

    assert read_status(tmp_path) is None
    assets = ListSource(*procedural(*range(4)).assets, TestAsset("x", "flat"), TestAsset("y"))
    prepare(assets, tmp_path, [16], workers=0, share=Share(1, 2))
    own = sum(Share(1, 2).owns(asset.id) for asset in assets)
    monkeypatch.setattr("threed_gen.data.prepare.build_asset", lambda *_, **__: look())
    with pytest.raises(AttributeError):  # it gave no outcome: that run ends here
        prepare(assets, tmp_path, [16], workers=0, share=Share(0, 2))
    status = seen["status"]
    assert [(rank.share.rank, rank.running) for rank in status.ranks] == [(0, True), (1, False)]
    assert (status.assets, status.settled, status.open) == (6, own, 6 - own)
    assert str(os.getpid()) in str(status)
    after = read_status(tmp_path)
    assert after is not None
    assert not after.running
    assert "prepare is stopped" in str(after)
