"""`prepare` killed at any step, at random moments, or by a full disk goes on to the same bytes."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.data.folders import ListSource, TestAsset, procedural, products
from threed_gen.data.prepare import prepare
from threed_gen.data.ranks import Share
from threed_gen.errors import EXIT_DISK, DiskError

# Without a guard: nothing runs it again in the children.
SCRIPT = """
import sys
from pathlib import Path
from tests.data.test_interruption import run
from threed_gen.errors import UserError
try:
    run(Path(sys.argv[1]), *map(int, sys.argv[2:]))
except UserError as err:
    print(err, file=sys.stderr)
    sys.exit(err.exit_code)
"""


def run(out: Path, workers: int = 0, rank: int = 0, world: int = 1, count: int = 10) -> None:
    odd = TestAsset("flat", "flat"), TestAsset("busy", "busy")
    source = ListSource(*procedural(*range(count)).assets, *odd)
    share = Share(rank, world)
    prepare(source, out, [32], workers=workers, shard_bytes=40_000, share=share)


Way = tuple[int, int]  # workers of each rank, ranks
FEW: list[Way] = [(1, 1), (2, 1), (1, 2)]
MANY: list[Way] = [(1, 1), (4, 1), (1, 2)]


def _start(
    out: Path,
    limit: int | None = None,
    workers: int = 1,
    rank: int = 0,
    world: int = 1,
    count: int = 10,
) -> subprocess.Popen[str]:
    def confine() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    script = out.with_suffix(".py")
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, (out, workers, rank, world, count))],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=confine,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )


def _in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; its exit status (0, or 9 when the test ended it)."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # the child must never return into pytest
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("fresh", [True, False])
def test_death_at_every_durable_step(tmp_path: Path, fresh: bool) -> None:
    """Every write ends in fsync: die before, and right after, each of them in turn."""
    source = procedural(1, 6) if fresh else procedural(6, 13, 1)

    def run(out: Path) -> None:
        if not fresh and not out.exists():  # a set that grows is packed anew, over old shards
            shutil.copytree(tmp_path / "smaller", out)
        prepare(source, out, [16], workers=0, shard_bytes=4000)

    if not fresh:
        prepare(procedural(1, 6), tmp_path / "smaller", [16], workers=0, shard_bytes=4000)
    run(tmp_path / "undisturbed")
    expected = products(tmp_path / "undisturbed")
    real = os.fsync
    for late in (False, True):
        step, status = 0, 9
        while status == 9:
            step += 1
            out = tmp_path / f"{late}{step}"

            def dying(limit: int = step, late: bool = late, path: Path = out) -> None:
                count = [0]

                def fsync(handle: int) -> None:
                    count[0] += 1
                    if late:
                        real(handle)
                    if count[0] == limit:
                        os._exit(9)
                    real(handle)

                os.fsync = fsync  # type: ignore[assignment]  # only in the forked child
                run(path)

            status = _in_child(dying)
            run(out)
            assert products(out) == expected, f"after a death at step {step}"
            assert not list(out.rglob("*.tmp"))
        assert status == 0
        assert step > 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run gives."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(out)
    assert b"network" in products(out)["rejects.jsonl"]
    return products(out)


def _ranks(out: Path, way: Way, count: int) -> list[subprocess.Popen[str]]:
    workers, world = way
    return [_start(out, None, workers, rank, world, count) for rank in range(world)]


def _kill_until_done(
    out: Path, whole: dict[str, bytes], kills: int, seed: int, ways: list[Way], count: int
) -> int:
    """Kill runs of the script, then let one finish; returns how many had children at work.

    Of two ranks both are killed; towards the end only one, and the other finishes its part.
    """
    rng = random.Random(seed)
    at_work = 0
    for number in range(kills):
        processes = _ranks(out, ways[number % len(ways)], count)
        target = _lines(out) + rng.randrange(0, 4)
        while _lines(out) < target and any(process.poll() is None for process in processes):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        victims = processes if number < kills - 2 else [rng.choice(processes)]
        for process in victims:
            if process.poll() is None:
                children = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGKILL)
                process.wait()
                _, alive = psutil.wait_procs(children, timeout=10)
                assert not alive, "children outlived their parent"
                at_work += len(children) > 0
        assert all(p.wait() == 0 for p in processes if p not in victims)
    last = _ranks(out, ways[-1], count)
    assert [process.wait() for process in last] == [0] * len(last)
    assert products(out) == whole
    run(out, count=count)  # alone, so that it may clear up
    assert products(out) == whole
    assert not list(out.rglob("*.tmp"))
    return at_work


def _lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (out / "work").glob("ledger*"))


def test_kill_9_at_random_moments(tmp_path: Path, whole: dict[str, bytes]) -> None:
    assert _kill_until_done(tmp_path / "out", whole, kills=2, seed=0, ways=FEW, count=10) > 0


@pytest.mark.long
@pytest.mark.parametrize("way", MANY, ids=["1 worker", "4 workers", "2 ranks"])
def test_kill_9_twenty_times(tmp_path: Path, way: Way) -> None:
    run(tmp_path / "whole", count=150)
    at_work = _kill_until_done(
        tmp_path / "out", products(tmp_path / "whole"), kills=20, seed=1, ways=[way], count=150
    )
    assert at_work >= 10


@pytest.mark.parametrize("limit", [3_000, 30_000])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    tmp_path: Path, whole: dict[str, bytes], limit: int
) -> None:
    """The kernel refuses files above `limit` bytes: while measuring, or only while packing."""
    out = tmp_path / "out"
    process = _start(out, limit)
    _, errors = process.communicate()
    assert process.returncode == EXIT_DISK, errors
    assert "Traceback" not in errors
    assert "Free some space" in errors.splitlines()[-1]
    assert not (out / "index.jsonl").exists()
    assert _start(out).wait() == 0
    assert products(out) == whole
    assert not list(out.rglob("*.tmp"))


def test_a_small_file_system_fills_up(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a file system of its own here")
    try:
        with pytest.raises(DiskError, match="No space left"):
            prepare(procedural(0, 1, 2), disk / "out", [32], workers=0)
        assert not list(disk.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
