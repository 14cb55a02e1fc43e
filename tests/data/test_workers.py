"""Child processes: misdeeds cost their own task only, children end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.data.tasks import lost, work
from threed_gen.data.child import THREADS
from threed_gen.data.workers import Limits, Lost, WorkersError, run_tasks
from threed_gen.errors import DiskError

ROOT = Path(__file__).resolve().parents[2]
Task = tuple[str, Any]


AMPLE = Limits(60, 2000)


def _run(tasks: list[Task], workers: int = 1, limits: Limits = AMPLE) -> list[Any]:
    return list(run_tasks(work, tasks, workers, lost, limits))


def test_every_misdeed_costs_its_own_task_only(tmp_path: Path) -> None:
    """No innocent task is lost, and none is run twice."""
    deeds = ["segv", "hang", "explode", "swell", "exit", "abort", "kill", "native"]
    tasks: list[Task] = []
    for number, deed in enumerate(deeds):
        tasks += [(deed, None), ("note", tmp_path / str(number)), ("sleep", 0.05)]
    results = _run(tasks, 2, Limits(2.0, 250))
    whys = {result[0]: result[1] for result in results if isinstance(result, tuple)}
    assert len(results) == len(tasks)
    assert {deed: (why.reason, why.message) for deed, why in whys.items()} == {
        "segv": ("crashed", "the process died of SIGSEGV"),
        "hang": ("timeout", "took longer than 2 s"),
        "explode": ("out_of_memory", "needed more than 250 MB"),
        "swell": ("out_of_memory", "needed more than 250 MB"),
        "exit": ("crashed", "the process ended with exit code 3"),
        "abort": ("crashed", "the process died of SIGABRT"),
        "kill": ("crashed", "the process was killed (SIGKILL), for lack of memory or by hand"),
        "native": ("timeout", "took longer than 2 s"),
    }
    assert 2.0 <= whys["hang"].seconds < 10
    assert 250 < whys["swell"].peak_mb < 400
    for number in range(len(deeds)):
        assert len((tmp_path / str(number)).read_text().splitlines()) == 1
    assert os.getpid() not in results


def test_others_go_on_while_one_is_stuck() -> None:
    tasks = [("hang", None), *[("sleep", 0.01)] * 20]
    results = _run(tasks, 2, Limits(1.5, 2000))
    assert isinstance(results[-1], tuple)
    assert len(set(results[:-1])) == 1, "one child did all of it, and was never restarted"


def test_children_compute_on_one_thread() -> None:
    assert _run([("threads", None)]) == [["1"] * len(THREADS)]


def test_what_a_task_leaves_behind_does_not_count_against_the_next() -> None:
    first, second, third = _run(
        [("leave", 200_000_000), ("sleep", 0), ("sleep", 0)], limits=Limits(60, 400)
    )
    assert first != second
    assert second == third


def test_the_peak_is_that_of_the_task() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system cannot start a peak anew")
    large, small = _run([("peak", 300_000_000), ("peak", 1_000_000)])
    assert large > 300
    assert small < 100


def test_large_tasks_and_answers_and_much_noise() -> None:
    tasks = [("large", 20_000_000), ("length", bytes(20_000_000)), ("print", 1000), ("sleep", 0)]
    content, length, *_ = _run(tasks)
    assert (len(content), length) == (20_000_000, 20_000_000)


def test_an_error_ends_the_run_with_its_type() -> None:
    others = set(psutil.Process().children(recursive=True))  # of tests before this one
    with pytest.raises(DiskError, match="full"):
        _run([("sleep", 0), ("disk", None), *[("sleep", 0)] * 5], 2)
    with pytest.raises(KeyError) as caught:
        _run([("raise", KeyError("name"))])
    assert "in work" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="OddError: 1 and 2"):
        _run([("odd", None)])
    assert set(psutil.Process().children(recursive=True)) <= others


def test_nothing_to_do_and_nobody_to_do_it() -> None:
    assert _run([]) == []
    assert _run([("sleep", 0)] * 2, 0) == [os.getpid()] * 2
    ((deed, why),) = _run([("raise", MemoryError())], 0, Limits(1, 77))
    assert (deed, why.reason, why.message) == ("raise", "out_of_memory", "needed more than 77 MB")
    ((_, why),) = _run([("raise", MemoryError())], 1, Limits(1, 77))
    assert isinstance(why, Lost)


def test_tasks_are_taken_when_there_is_a_child_for_them() -> None:
    taken = []

    def tasks() -> Any:
        for number in range(50):
            taken.append(number)
            yield "sleep", 0

    results = run_tasks(work, tasks(), 2, lost)
    for number in range(50):
        next(results)
        assert len(taken) <= number + 4
    assert list(results) == []


def test_children_that_cannot_start_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREAK_IMPORT", "1")
    with pytest.raises(WorkersError, match=r"cannot start: RuntimeError: libsomething\.so: cann"):
        _run([("sleep", 0)] * 9, 2)


def test_a_machine_on_which_everything_crashes_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("threed_gen.data.workers.CRASHES", 4)
    with pytest.raises(WorkersError, match="last 4 tasks have all crashed.*exit code 3"):
        _run([("exit", None)] * 5)
    mixed = [("exit", None)] * 3 + [("sleep", 0)] + [("exit", None)] * 3
    assert len(_run(mixed)) == 7


def test_a_limit_below_what_a_worker_takes_is_named() -> None:
    with pytest.raises(WorkersError, match=r"3 MB is less than the \d+ MB that a worker takes"):
        _run([("sleep", 0)], 1, Limits(1, 3))


def test_a_pause_of_the_parent_is_not_the_tasks_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threed_gen.data.workers.NOT_LOOKED", 0.5)
    tasks = [("sleep", 0.1), ("sleep", 0.1), ("sleep", 0), ("sleep", 1.8)]
    results = run_tasks(work, tasks, 2, lost, Limits(1.4, 2000))
    for _ in range(3):
        next(results)
    time.sleep(1.2)  # a slow disk, Ctrl-Z
    assert not isinstance(next(results), tuple)


def _script(tmp_path: Path, text: str) -> subprocess.Popen[str]:
    path = tmp_path / "script.py"
    path.write_text("import sys\nsys.path.insert(0, sys.argv[1])\n" + text)
    return subprocess.Popen(
        [sys.executable, str(path), str(ROOT)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_script_needs_no_guard_and_the_folder_hides_no_library(tmp_path: Path) -> None:
    (tmp_path / "inspect.py").write_text("raise SystemExit('not this one')")
    process = _script(
        tmp_path,
        "print('once')\n"
        "sys.path.remove(sys.path[1])\n"  # the script's folder: the parent needs `inspect`, too
        "from tests.data.tasks import lost, work\n"
        "from threed_gen.data.workers import run_tasks\n"
        "print(sorted(len(r) for r in run_tasks(work, [('large', 1), ('large', 2)], 2, lost)))\n",
    )
    output, errors = process.communicate()
    assert (output, errors) == ("once\n[1, 2]\n", "")


def test_what_only_the_script_knows_is_one_clear_error(tmp_path: Path) -> None:
    process = _script(
        tmp_path,
        "from tests.data.tasks import lost\n"
        "from threed_gen.data.workers import run_tasks\n"
        "def mine(task): return task\n"
        "list(run_tasks(mine, [('a', 1)], 2, lost))\n",
    )
    _, errors = process.communicate()
    assert "module that can be imported" in errors.splitlines()[-1]


@pytest.mark.parametrize("deed", ["hang", "native"])
def test_children_end_when_their_parent_is_killed(tmp_path: Path, deed: str) -> None:
    process = _busy_script(tmp_path, deed)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_ctrl_c_is_the_parents_business(tmp_path: Path) -> None:
    process = _busy_script(tmp_path, "hang")
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert errors.count("KeyboardInterrupt") == 1, "no child complains"
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_a_signal_that_is_the_parents_business_does_not_reach_the_task() -> None:
    results = run_tasks(work, [("sleep", 0), ("sleep", 0.5)], 1, lost)
    child = next(results)
    os.kill(child, signal.SIGINT)
    assert next(results) == child


def _busy_script(tmp_path: Path, deed: str) -> subprocess.Popen[str]:
    """A script with two children, both of which have begun their tasks."""
    process = _script(
        tmp_path,
        "import signal\n"
        # Whatever was started in the background by a shell ignores Ctrl-C, also these tests.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tests.data.tasks import lost, work\n"
        "from threed_gen.data.workers import run_tasks\n"
        f"tasks = [('sleep', 0), ('sleep', 0), ('{deed}', 0), ('{deed}', 0)]\n"
        "for _ in run_tasks(work, tasks, 2, lost): print('one', flush=True)\n",
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["one\n"] * 2
    time.sleep(0.3)
    return process
