"""One process of a node computes, the others map; a full disk or a killed run harms nobody."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from launcher import node_arrays
from launcher.node_arrays import Arrays, NodeArrays, own_folder, remove_leftovers
from launcher.shard_plan import ShardPlan

TOKENS = (np.arange(4000) * 7919) % 301 + 1
SHARDS = np.arange(4000) // 100


def plan(arrays: NodeArrays | None = None, **mode: int) -> ShardPlan:
    size = mode or {"batch_samples": 64}
    return ShardPlan(TOKENS, SHARDS, seed=5, streams=8, arrays=arrays, **size)  # type: ignore[arg-type]


def never() -> Arrays:
    raise AssertionError("computed a second time")


def test_the_second_process_computes_nothing(tmp_path: Path) -> None:
    first = plan(NodeArrays(tmp_path))
    expected = [first.batch(step) for step in range(70)]
    assert expected == [plan().batch(step) for step in range(70)]
    other = plan(NodeArrays(tmp_path))
    other._made = lambda epoch: never()  # type: ignore[method-assign]
    assert [other.batch(step) for step in range(70)] == expected
    held = other._arrays.get("epoch_0", never)
    assert all(isinstance(array, np.memmap) for array in held.values())
    assert all(isinstance(array, np.memmap) for array in (other.tokens, other.shards))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == [
        "epoch_0", "epoch_1", "samples", "streams",
    ]  # fmt: skip


@pytest.mark.parametrize("shared", [True, False])
def test_a_pickled_plan_goes_on_in_another_process(tmp_path: Path, shared: bool) -> None:
    first = plan(NodeArrays(tmp_path if shared else None))
    expected = [first.batch(step) for step in (0, 5, 66)]
    text = pickle.dumps(first)
    assert (len(text) < 8000) == shared  # shared: names of files, no arrays
    (tmp_path / "plan.pickle").write_bytes(text)
    code = (
        "import pickle, sys\n"
        f"p = pickle.load(open({str(tmp_path / 'plan.pickle')!r}, 'rb'))\n"
        "print([p.batch(step) for step in (0, 5, 66)])"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert out.stdout.strip() == str(expected)


def test_old_epochs_go_and_come_back(tmp_path: Path) -> None:
    arrays = NodeArrays(tmp_path)
    budget = int(TOKENS.sum() / 20)
    walked = plan(arrays, batch_tokens=budget)
    order = [walked.batch(step) for step in range(120)]
    epochs = [path.name for path in tmp_path.iterdir() if path.name.startswith("epoch")]
    assert len(epochs) == 2
    # Where an epoch begins depends on all before it: their lengths are still known.
    late = plan(NodeArrays(tmp_path), batch_tokens=budget)
    made = []
    compute = late._made
    late._made = lambda epoch: made.append(epoch) or compute(epoch)  # type: ignore[func-returns-value,method-assign]
    assert late.batch(119) == order[119]
    assert made == []
    assert late.batch(0) == order[0]
    assert made == [0]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses longer ones, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_once_and_changes_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    expected = [plan().batch(step) for step in range(70)]
    with files_of_at_most(20_000):
        shared = plan(NodeArrays(tmp_path, lines.append))
        assert [shared.batch(step) for step in range(70)] == expected
        second = plan(NodeArrays(tmp_path, lines.append))
        assert [second.batch(step) for step in range(70)] == expected
        assert pickle.loads(pickle.dumps(second)).batch(3) == expected[3]
    assert len(lines) == 1
    assert str(tmp_path) in lines[0] and "cannot be used" in lines[0] and "TMPDIR" in lines[0]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".lock", ".unusable"]  # nothing half-written


def test_a_folder_that_another_rank_cannot_see(tmp_path: Path) -> None:
    lines: list[str] = []
    gone = NodeArrays(tmp_path / "of another container", lines.append)
    assert plan(gone).batch(3) == plan().batch(3)
    assert len(lines) == 1


def test_a_killed_run_is_cleaned_up_by_the_next_and_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_arrays, "YOUNG_SECONDS", 0.0)
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from launcher.node_arrays import own_folder\n"
        f"with own_folder(Path({str(tmp_path)!r})) as folder:\n"
        "    (folder / 'epoch_0').mkdir()\n"
        "    print(folder, flush=True)\n    time.sleep(60)\n"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    try:
        remove_leftovers(tmp_path)
        assert folder.is_dir()  # its owner lives
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert folder.is_dir()
    with own_folder(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_just_made_is_left_alone(tmp_path: Path) -> None:
    young, old = tmp_path / "threed-gen-plan-a", tmp_path / "threed-gen-plan-b"
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, (time.time() - 3600,) * 2)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [young]


def test_three_processes_at_once_compute_once(tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom pathlib import Path\nimport numpy as np\n"
        "from launcher.node_arrays import NodeArrays\n"
        f"root = Path({str(tmp_path)!r})\n"
        "def make():\n"
        "    with (root / '.made').open('a') as file: file.write('x')\n"
        "    time.sleep(0.1)\n"
        "    return {'a': np.arange(200_000)}\n"
        "(root / f'.ready{os.getpid()}').touch()\n"
        "while len(list(root.glob('.ready*'))) < 3: time.sleep(0.005)\n"
        "print(int(NodeArrays(root).get('numbers', make)['a'].sum()))\n"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    assert [rank.communicate()[0].strip() for rank in ranks] == [str(sum(range(200_000)))] * 3
    assert (tmp_path / ".made").read_text() == "x"
