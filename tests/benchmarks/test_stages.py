"""Stages go on where they stopped, keep to their minutes, and wait for the checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ssa import __main__ as command
from benchmarks.ssa import stages, timing
from benchmarks.ssa.bench import tiny_bench
from benchmarks.ssa.problem import PATTERNS
from benchmarks.ssa.stages import Records, Unit, work

BAD = {"findings": [{"what": "x", "value": 2.0, "limit": 1.0, "ok": False}]}


class Todo:
    """Units that note what was done."""

    def __init__(self, *names: str, seconds: float = 1.0) -> None:
        self.done: list[str] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.units = [Unit("headline", name, seconds, self._do(name)) for name in names]

    def _do(self, name: str) -> Any:
        def do() -> dict[str, Any]:
            self.done.append(name)
            result = self.results.get(name, {"value": name})
            if "raise" in result:
                raise RuntimeError(result["raise"])
            return dict(result)

        return do


def test_a_second_call_goes_on(tmp_path: Path) -> None:
    path, todo = tmp_path / "build" / "records.jsonl", Todo("a", "b", "c", seconds=100.0)
    assert not work(todo.units, Records(path, "x"), minutes=1.0)
    assert todo.done == ["a"]  # one at least
    with path.open("a") as file:
        file.write('{"name": "b", "fingerp')  # cut off while writing
    path.write_text(path.read_text() + "\n")
    assert not work(todo.units, Records(path, "x"), minutes=1.0)
    assert work(todo.units, Records(path, "x"), minutes=1.0)
    assert todo.done == ["a", "b", "c"]
    assert work(todo.units, Records(path, "x"), minutes=1.0)
    assert todo.done == ["a", "b", "c"]
    assert work(todo.units, Records(path, "other kernels"), minutes=10.0)
    assert todo.done == ["a", "b", "c"] * 2


def test_failures_are_told_and_tried_again(tmp_path: Path) -> None:
    path, todo = tmp_path / "records.jsonl", Todo("a", "b")
    todo.results["a"] = {"raise": "out of memory"}
    records = Records(path, "x")
    assert work(todo.units, records, minutes=1.0)
    assert "out of memory" in records.done["a"]["error_text"]
    todo.results.clear()
    records = Records(path, "x")
    assert work(todo.units, records, minutes=1.0)
    assert todo.done == ["a", "b", "a"]
    assert not stages.failed(records.done["a"])


def test_wrong_kernels_are_not_timed(tmp_path: Path) -> None:
    todo = Todo("check: bf16", "row: 128k")
    todo.results["check: bf16"] = BAD
    records = Records(tmp_path / "records.jsonl", "x")
    assert not work(todo.units, records, minutes=1.0, blocking=["check: bf16"])
    assert todo.done == ["check: bf16"]


def test_a_dead_gpu_ends_the_call(tmp_path: Path) -> None:
    todo = Todo("a", "b")
    todo.results["a"] = {"raise": "CUDA error: an illegal memory access was encountered"}
    with pytest.raises(SystemExit, match="GPU"):
        work(todo.units, Records(tmp_path / "records.jsonl", "x"), minutes=1.0)
    assert todo.done == ["a"]


def test_every_row_once_and_the_important_ones_first() -> None:
    rows = [row for of_stage in stages.stage_rows().values() for row in of_stage]
    assert len(rows) == len(set(rows)) == 7 * 2 * 3 * len(PATTERNS)
    assert {row.size for row in rows[:12]} == {"128k"}
    assert [(row.cell, str(row.shape)) for row in rows[:2]] == [(4, "32×64"), (8, "32×64")]
    bench = tiny_bench()
    names = [unit.name for unit in stages.units(bench, bench)]
    assert len(names) == len(set(names))
    first_row = next(number for number, name in enumerate(names) if name.startswith("row:"))
    assert set(stages.first_checks(stages.units(bench, bench), bench)) <= set(names[:first_row])
    assert any(name.startswith("check: bfloat16") for name in names[first_row:])


def test_a_call_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    todo = Todo("a", "b", seconds=100.0)
    monkeypatch.setattr(stages, "units", lambda *_: todo.units)
    records = tmp_path / "records.jsonl"
    call = ["--device", "cpu", "--minutes", "1", "--records", str(records)]
    call += ["--out", str(tmp_path / "out")]
    assert command.main([*call, "--list"]) == command.DONE
    assert "100 s  a" in capsys.readouterr().out
    assert command.main(call) == command.UNFINISHED
    assert command.main(call) == command.DONE
    assert todo.done == ["a", "b"]
    pages = list((tmp_path / "out").glob("ssa-smoke-cpu-*.md"))
    assert len(pages) == 1
    assert "mean nothing" in pages[0].read_text()
    copied = [json.loads(line) for line in (tmp_path / "out" / records.name).open()]
    assert [one["name"] for one in copied] == ["a", "b"]


def test_exit_codes_tell_wrong_kernels_from_rows_that_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo = Todo("check: float32 a", "row: b", "row: c")
    monkeypatch.setattr(stages, "units", lambda *_: todo.units)
    call = ["--device", "cpu", "--records", str(tmp_path / "records"), "--out", str(tmp_path)]
    todo.results["check: float32 a"] = BAD
    assert command.main(call) == command.FAILED
    assert todo.done == ["check: float32 a"]
    assert "FAILED" in next(tmp_path.glob("*.md")).read_text()
    todo.results = {"row: b": {"raise": "out of memory"}}
    assert command.main(call) == command.PARTLY
    todo.results = {"row: b": {"raise": "CUDA error: misaligned address"}}
    with pytest.raises(SystemExit):
        command.main(call)
    assert "misaligned" in next(tmp_path.glob("*.md")).read_text()  # written all the same
    todo.results = {}
    assert command.main(call) == command.DONE


def test_no_coordinates_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "none")
    assert command.main(["cpu", "--coordinates", missing]) == command.UNABLE
    assert "prepare" in capsys.readouterr().err


def test_a_stopwatch_times_what_goes_through_a_module() -> None:
    bench = tiny_bench()
    watch = timing.Stopwatch(bench.device)
    before = timing.rotation
    with watch.watching(timing, ["rotation", "unknown"]):
        for _ in range(3):
            timing.rotation(1, bench.device)
    assert timing.rotation is before
    assert list(watch.milliseconds()) == ["rotation"]


def test_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 9.0, 10.0, 11.0, 20.0, 22.0])  # 9, 1 and 2 s
    monkeypatch.setattr(timing, "clock", lambda: lambda: next(ticks))
    ran: list[str] = []
    works = [lambda: ran.append("a"), lambda: ran.append("b")]
    assert timing.median_ms(works, tiny_bench().device) == 2000.0
    assert ran == ["b", "a", "b"]
