"""Tasks handed out over MPI: bounded, in any order, a crash costs one; `prepare --mpi` as alone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.data.folders import procedural, products
from tests.data.tasks import work
from threed_gen.data.crew import AHEAD, Crew, _dismiss, mustered
from threed_gen.data.prepare import prepare
from threed_gen.data.ranks import Share, crew_share
from threed_gen.data.workers import Limits, Lost
from threed_gen.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "threed_gen.cli"]


@pytest.fixture
def crew() -> Iterator[Crew]:
    """Two hands, threads of this process: what a crew does with them is the same."""
    with ThreadPoolExecutor(2) as executor:
        yield Crew(executor, 2)


def test_every_task_once_and_few_at_a_time(crew: Crew) -> None:
    begun: list[int] = []
    done = 0

    def tasks() -> Iterator[int]:
        for number in range(20):
            begun.append(number)
            assert len(begun) - done <= AHEAD * crew.hands
            yield number

    def slow_at_first(number: int) -> int:
        time.sleep(0.05 * (number == 0))
        return number * 10

    found = []
    for result in crew.run(slow_at_first, tasks()):
        found.append(result)
        done += 1
    assert sorted(found) == [number * 10 for number in range(20)]
    assert found[0] != 0, "whoever is free takes what is next"


def test_an_error_ends_the_run_and_begins_nothing_more(crew: Crew) -> None:
    ran: list[int] = []
    free = threading.Event()

    def third_fails(number: int) -> int:
        ran.append(number)
        if number == 2:
            raise UserError("disk")
        free.wait(5 if number > 2 else 0)
        return number

    with pytest.raises(UserError, match="disk"):
        for _ in crew.run(third_fails, iter(range(100))):
            pass
    free.set()
    assert max(ran) <= 2 + AHEAD * crew.hands


def test_a_crash_costs_one_task_of_a_rank(tmp_path: Path) -> None:
    """And the child that stays does the next ones."""
    tasks = [("note", tmp_path / "a"), ("segv", None), ("note", tmp_path / "b")]
    with ThreadPoolExecutor(1) as executor:
        found = list(Crew(executor, 1).run_apart(work, tasks, lambda t, why: why, Limits(60, 2000)))
        executor.submit(_dismiss).result()
    assert [one.reason for one in found if isinstance(one, Lost)] == ["crashed"]
    assert len(found) == 3
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()


def test_a_crew_builds_what_one_process_builds(tmp_path: Path, crew: Crew) -> None:
    def here(call: Callable[..., object], tasks: object, *_: object) -> object:
        return crew.run(call, tasks)  # type: ignore[arg-type,type-var]

    crew.run_apart = here  # type: ignore[method-assign,assignment]
    source = procedural(*range(4))
    summary = prepare(source, tmp_path / "crew", [16], crew=crew, shard_bytes=6000)
    prepare(source, tmp_path / "one", [16], workers=0, shard_bytes=6000)
    assert (summary.built, summary.open) == (4, 0)
    assert products(tmp_path / "crew") == products(tmp_path / "one")


@pytest.mark.parametrize(
    ("environ", "words"),
    [({}, "was not started by mpirun"), ({"OMPI_COMM_WORLD_SIZE": "1"}, "is the only rank")],
)
def test_without_other_ranks_there_is_no_crew(environ: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=f"--mpi: this process {words}"), mustered(environ):
        pass
    assert "mpi4py.MPI" not in sys.modules


def test_the_share_of_a_crew() -> None:
    assert crew_share(None, None, {}) == Share(0, 1)
    array = dict(zip(("ID", "MIN", "MAX", "COUNT"), ("5", "4", "6", "3"), strict=True))
    environ = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
    mpi = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}
    assert crew_share(None, None, {**environ, **mpi}) == Share(1, 3)
    with pytest.raises(UserError, match="leave --rank and --world-size out"):
        crew_share(0, 1, {})


@pytest.mark.cluster
@pytest.mark.long
def test_mpirun_gives_the_bytes_of_one_process_also_after_a_kill(tmp_path: Path) -> None:
    from tests.training import runs

    def line(out: str) -> list[str]:
        shapes = ["prepare", "procedural:24", str(tmp_path / out), "--resolution", "32"]
        return [*CLI, *shapes, "--no-report"]

    mpi = [str(runs.BIN / "mpirun"), "-n", "4", "--oversubscribe", *line("mpi"), "--mpi"]
    environment = runs.environment()
    subprocess.run(line("one"), check=True, cwd=ROOT, env=environment, timeout=100)
    first = subprocess.Popen(mpi, cwd=ROOT, env=environment, start_new_session=True)
    ledger = tmp_path / "mpi" / "work" / "ledger.0-of-1.jsonl"
    deadline = time.monotonic() + 60
    while not (ledger.exists() and ledger.read_bytes().count(b"\n") >= 3):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    ranks = [pid for pid in runs.descendants(first.pid) if "--mpi" in _command(pid)]
    runs.kill(ranks[-1])
    assert first.wait(60) != 0
    assert not (tmp_path / "mpi" / "index.jsonl").exists()
    done = subprocess.run(
        mpi, check=True, cwd=ROOT, env=environment, timeout=100, capture_output=True, text=True
    )
    assert "24 samples" in done.stdout and "24 built now" not in done.stdout
    assert products(tmp_path / "mpi") == products(tmp_path / "one")


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []
