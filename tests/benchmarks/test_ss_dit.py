"""The benchmark of a training step: its checks, its rows, its records, its page."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.ss_dit import __main__ as command
from benchmarks.ss_dit import cases, correctness, flops, measure, prepare, stages, timing
from benchmarks.ss_dit.cases import Case, toy_bench
from benchmarks.ss_dit.step import TrainingStep
from benchmarks.ss_dit.table import COLUMNS, page
from benchmarks.ssa import coordinates
from benchmarks.ssa.coordinates import CoordinateSet
from benchmarks.ssa.stages import Records, Unit, work
from benchmarks.ssa.table import NONE

CPU = torch.device("cpu")
XYZ = np.zeros((1, 3), np.int32)


def test_checks_pass_and_find_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = toy_bench()
    assert all(one.ok for one in correctness.exact(bench, "1.0, top-k 32"))
    assert all(one.ok for one in correctness.half(bench, "1.1"))
    assert all(one.ok for one in correctness.again(bench, "recommended"))
    original = TrainingStep.forward_backward

    def wrong(self: TrainingStep) -> Tensor:
        loss = original(self)
        if loss.dtype == torch.float32:
            self.model.blocks[0].self_attn.proj_k.weight.grad *= 1.001
        return loss

    monkeypatch.setattr(TrainingStep, "forward_backward", wrong)
    bad = [one.what for one in correctness.exact(bench, "1.1") if not one.ok]
    assert bad == ["gradients, blocks.0.self_attn.proj_k.weight"]


def test_a_row_of_each_attention_and_the_page() -> None:
    bench = toy_bench()
    ours, theirs = (Case("1.1", "10k", 1, way) for way in ("ssa", "full"))
    rows = {f"row: {case}": measure.measure(bench, case) for case in (ours, theirs)}
    one = rows[f"row: {ours}"]
    assert one["tokens"] == sum(one["lengths"]) == bench.sets["10k"][0].tokens
    assert set(one["operators"]) >= {"attention", "attention_backward", "select_blocks"}
    assert one["forward"]["low"] <= one["forward"]["median"] <= one["forward"]["high"]
    assert one["mfu"] is one["peak_gib"] is one["waits"] is None
    assert NONE in page({"machine": stages.about(bench, "abc"), **rows}, toy=True)
    json.dumps(rows)
    one |= {"step": {"median": 20.0, "low": 19.0, "high": 21.0, "runs": 3}, "peak_gib": 7.25}
    one |= {"operators": {"attention": 3.0, "combine": 2.0}, "waits": {"a.py:3": 2, "b.py:4": 1}}
    one |= {"mfu": 0.315, "executed_share": 0.42, "tokens_per_second": 123456.0}
    rows[f"row: {theirs}"]["step"]["median"] = 90.0
    rows["row: x"] = {**dataclasses.asdict(theirs), "samples": 8, "refused": "out of memory (…)"}
    text = page(rows)
    line = next(x for x in text.splitlines() if x.startswith("| 1.1 | 1 × 10k") and "ssa" in x)
    for told in (
        "20.00 (19.00-21.00)",
        "123,456",
        "31.5%",
        "42.0%",
        "7.25",
        "| 3 | 25.0% | 4.50 |",
    ):
        assert told in line, told
    assert "a.py:3 | 2 |" in text
    cut = next(x for x in text.splitlines() if "out of memory" in x)
    assert cut.count("|") == line.count("|") == len(COLUMNS) + 1


def test_no_memory_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(measure, "_measured", full)
    found = measure.measure(toy_bench(), Case("1.1", "46k", 1))
    assert "out of memory" in found["refused"]
    assert found["size"] == "46k"


def test_shares_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "device_name", lambda _: "NVIDIA H200")
    total = flops.Total(989.4e12, 2 * 989.4e12, {})
    result = {"tokens": 500, "step": {"median": 2000.0}}
    found = measure._rates(total, result, torch.device("cuda"))
    assert (found["tokens_per_second"], found["mfu"], found["executed_share"]) == (250, 0.5, 1)
    assert flops.peak_of("NVIDIA H100 80GB HBM3") == 989.4e12
    assert flops.peak_of("NVIDIA H100 PCIe") == 756e12
    assert flops.peak_of("AMD EPYC") is None


def test_waits_are_counted_by_line() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (Triggered …)", stacklevel=1)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
    found = timing.count_waits(caught)
    assert list(found.values()) == [3]
    assert next(iter(found)).startswith("tests/benchmarks/test_ss_dit.py:")


class Mark:
    """An event of a GPU whose clock only its work moves."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Mark.now

    def elapsed_time(self, end: Mark) -> float:
        return end.at - self.at


def test_what_runs_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[Any] = []
    monkeypatch.setattr(torch.cuda, "Event", Mark)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    device, steps = torch.device("cuda"), iter([1.0, 100.0, 7.0, 9.0, 8.0, 8.0])

    def step() -> None:
        Mark.now += next(steps)
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    assert list((timing.waits(step, device) or {}).values()) == [1]
    assert modes == ["warn", 0]
    with pytest.warns(UserWarning, match="synchronizing"):
        found = timing.spread_ms(step, device, 0.0)  # the first run alone says how long one takes
    assert found == {"median": 8.0, "low": 7.0, "high": 9.0, "runs": 3}


def test_nested_operators_count_once() -> None:
    def run() -> None:
        with torch.profiler.record_function("x::outer"), torch.profiler.record_function("x::in"):
            torch.ones(3) + 1

    assert list(timing.operator_ms(run, CPU, "x::")) == ["outer"]


def test_all_cases_once_the_released_first() -> None:
    rows = [case for of_stage in stages.cases().values() for case in of_stage]
    assert len(rows) == len(set(rows)) == 2 * 2 * 3 * (3 * 2 + 1)
    assert tuple(stages.cases()) == stages.STAGES[1:] == command.CHOICES[1:]
    units = stages.units(dataclasses.replace(toy_bench(), toy=False))
    names = [unit.name for unit in units]
    assert len(names) == len(set(names))
    rowed = [name for name in names if name.startswith("row:")]
    assert rowed[:2] == ["row: 1.1; 1 × 10k; ssa", "row: 1.1; 1 × 10k; full"]
    checks = stages.first_checks(units)
    assert len(checks) == 6
    assert max(map(names.index, checks)) < names.index(rowed[0])
    assert max(unit.seconds for unit in units) < 7 * 60


def test_finished_work_outlives_a_kill(tmp_path: Path) -> None:
    path, done = tmp_path / "r.jsonl", []
    units = [Unit("1.1", name, 1.0, lambda name=name: done.append(name) or {}) for name in "abc"]
    assert work(units[:2], Records(path, "x"), minutes=1.0)
    path.write_text(path.read_text()[:-9])  # killed while it wrote `b`
    assert work(units, Records(path, "x"), minutes=1.0)
    assert done == ["a", "b", "b", "c"]
    assert work(units, Records(path, "x"), minutes=1.0)
    assert done == ["a", "b", "b", "c"]  # `b` did not end up behind the half line
    assert work(units, Records(path, "other sources"), minutes=1.0)
    assert done == ["a", "b", "b", "c", *"abc"]


def test_a_call_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []
    units = [Unit(stage, f"check: float32 {stage}", 100.0, lambda s=stage: done.append(s) or {})
             for stage in ("check", "1.1", "1.0")]  # fmt: skip
    monkeypatch.setattr(stages, "units", lambda *_: units)
    records = tmp_path / "records.jsonl"
    call = ["--toy", "--minutes", "1", "--records", str(records), "--out", str(tmp_path / "out")]
    assert command.main([*call, "--list"]) == command.DONE
    assert "100 s  check: float32 1.1" in capsys.readouterr().out
    assert command.main([*call, "--stage", "1.0"]) == command.UNFINISHED
    assert command.main([*call, "--stage", "1.0"]) == command.DONE
    assert done == ["check", "1.0"]
    with records.open("a") as file:
        file.write('{"cut off')
    assert command.main([*call, "table"]) == command.DONE
    assert "mean nothing" in next((tmp_path / "out").glob("ss_dit-toy-cpu-*.md")).read_text()
    if not torch.cuda.is_available():
        assert command.main(call[1:]) == command.UNABLE
    assert command.main(["table", "--records", str(tmp_path / "none")]) == command.UNABLE


def test_shapes_are_fitted_to_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare.nearest({"a": 5_000, "b": 20_000, "c": 11_000}, 10_000) == ["c", "a", "b"]
    asked = []

    def tokens_of(_: object, resolution: int) -> np.ndarray[Any, Any]:
        asked.append(resolution)
        return np.zeros((resolution**2 // 20, 3), np.int32)

    monkeypatch.setattr(prepare, "tokens_of", tokens_of)
    known = CoordinateSet("", "cup", 512, np.zeros((512**2 // 20, 3), np.int32))
    found = prepare.fitted("10k-3", 10_655, known, None)  # type: ignore[arg-type]
    assert (found.name, found.mesh) == ("10k-3", "cup")
    assert asked == [464]  # √(10655 · 20) = 461.6, in eighths
    assert abs(found.tokens / 10_655 - 1) < 0.02


def test_the_shapes_file(tmp_path: Path) -> None:
    names = ["46k-0", "10k-1", "10k-0"]
    path = tmp_path / "c.safetensors"
    coordinates.save([CoordinateSet(name, "cup", 512, XYZ) for name in names], path)
    sets = prepare.load(path)
    assert [one.name for one in sets["10k"]] == ["10k-0", "10k-1"]
    assert [one.name for one in sets["46k"]] == ["46k-0"]
    with pytest.raises(FileNotFoundError, match="prepare"):
        prepare.load(tmp_path / "none")


@pytest.mark.long
@pytest.mark.parametrize("attention", ["ssa", "full"])
def test_a_compiled_row(attention: cases.Attention) -> None:
    case = Case("recommended", "10k", 1, attention, checkpoint=True, compiled=True)
    assert math.isfinite(measure.measure(toy_bench(), case)["losses"][-1])
