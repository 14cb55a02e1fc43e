"""The page says what was measured, how it compares, and what was not measured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.ssa import cpu, stages
from benchmarks.ssa.bench import tiny_bench
from benchmarks.ssa.problem import Shape
from benchmarks.ssa.roofline import Sizes, backward_work, floor_ms, forward_work
from benchmarks.ssa.rows import Row, measure
from benchmarks.ssa.table import COLUMNS, NONE, ceilings_of, page

ROW = "128k, cells 4³, 32×64 heads, local"
CEILINGS = {"flops": 8e8, "exps": 4e7, "bytes": 4e7}  # a GPU that suits tiny batches


@pytest.fixture(scope="module")
def records() -> dict[str, dict[str, Any]]:
    bench = tiny_bench()
    row = measure(bench, Row("128k", 4, Shape(32, 64), "local"))
    assert f"{Row('128k', 4, Shape(32, 64), 'local')}" == ROW
    found: dict[str, dict[str, Any]] = {
        "machine": {
            **stages.about(bench, "abc1234"), "machine": "NVIDIA Test", "date": "2026-01-02",
        },
        "ceilings": CEILINGS,
        "check: bfloat16 a": {
            "findings": [
                {"what": "result", "value": 3e-3, "limit": 4e-3, "ok": True},
                {"what": "dq", "value": 1e-3, "limit": 8e-3, "ok": True},
            ]
        },
        "check: bfloat16 far": {
            "findings": [{"what": "left out: 9 GiB", "value": 0, "limit": float("inf"), "ok": True}]
        },
        f"row: {ROW}": row | {"forward_ms": 10.0, "backward_ms": 20.0, "peak_gib": 7.25},
        "FA2: 128k, 32×64 heads": {
            "rival": "FA2", "size": "128k", "heads": "32×64", "label": "varlen_attn of torch 2.11",
            "forward_ms": 85.0, "backward_ms": 250.0, "peak_gib": 4.0,
        },
        "FA3: 128k, 32×64 heads": {
            "rival": "FA3", "size": "128k", "heads": "32×64", "refused": "not installed",
        },
        f"official: {ROW}": {
            "forward_ms": 31.0, "backward_ms": 44.0, "peak_gib": 9.0, "difference": 2e-3,
            "label": "official kernels",
        },
    }  # fmt: skip
    return json.loads(json.dumps(found))  # as they come out of the file


def cells(text: str, first: str) -> list[list[str]]:
    """Rows of tables whose first cell is this."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0] == first]


def test_a_row(records: dict[str, dict[str, Any]]) -> None:
    text = page(records)
    assert text.startswith("# Spatial Sparse Attention, NVIDIA Test, 2026-01-02")
    assert "abc1234" in text
    assert "float32, 2 KV heads, top-k 3" in text
    assert "mean nothing" not in text
    row = dict(zip(COLUMNS, cells(text, "128k")[0], strict=True))
    assert row["forward ms"] == "10.00"
    assert row["peak GiB"] == "7.25"
    assert row["× FA2 f / b"] == "8.5 / 12.5"
    assert row["× official f / b"] == "3.1 / 2.2"
    assert row["× FA3 f / b"] == row["× cuDNN f / b"] == NONE
    assert "varlen_attn of torch 2.11" in text
    assert "not installed" in text
    sizes, limits = Sizes(**records[f"row: {ROW}"]["sizes"]), ceilings_of(records)
    assert limits.flops == 8e8
    share = [
        100 * floor_ms(work(sizes), limits)["total"] / spent
        for work, spent in ((forward_work, 10.0), (backward_work, 20.0))
    ]
    assert min(share) > 5
    assert row["% of floor f / b"] == f"{share[0]:.0f} / {share[1]:.0f}"


def test_checks(records: dict[str, dict[str, Any]]) -> None:
    good = cells(page(records), "bfloat16 a")[0]
    assert good[1:] == ["passed", "result: 0.003 (limit 0.004)"]
    assert cells(page(records), "bfloat16 far")[0][1] == "left out"
    bad = json.loads(json.dumps(records["check: bfloat16 a"]))
    bad["findings"][1] |= {"value": float("nan"), "ok": False}
    text = page({**records, "check: bfloat16 a": bad})
    assert cells(text, "bfloat16 a")[0][1:] == ["FAILED", "dq: nan (limit 0.008)"]


def test_stages(records: dict[str, dict[str, Any]]) -> None:
    row = cells(page(records), "128k, 4³, 32×64, local")[0]
    assert len(row) == 14
    assert row[3] == NONE  # the CPU backend makes no lists
    assert float(row[1].split()[0]) > 0


def test_what_is_not_there_is_not_a_figure(records: dict[str, dict[str, Any]]) -> None:
    text = page({"machine": records["machine"]})
    assert text.count("Not measured.") == 6
    assert "as measured earlier on an H200" in text  # whose ceilings
    broken = {**records, "row: x": {"error_text": "RuntimeError: no memory"}}
    assert "- row: x: RuntimeError: no memory" in page(broken)
    assert "mean nothing" in page(records, smoke=True)


def test_the_cpu_page() -> None:
    bench = tiny_bench()
    row = cpu.measure_on(bench, "128k")
    assert min(row.values()) >= 0
    text, _ = cpu.page([row | {"peak": 10.0}, row | {"size": 32, "peak": 41.0}])
    assert "4.10 (limit 5)" in text
    fast = {"forward": 3.0, "both": 9.0, "sdpa_forward": 2.0, "sdpa_both": 3.0, "peak": 10.0}
    assert cpu.page([row | fast])[1]
    assert not cpu.page([row | fast | {"both": 9.1}])[1]
    assert not cpu.page([row | fast, row | fast | {"peak": 51.0}])[1]


def test_pieces_are_all_pairs() -> None:
    bench = tiny_bench()
    problem = bench.problem(("128k",), 4, Shape(4, 16), "hub")
    blocks, _ = bench.choose(problem)
    pairs = sum(len(q) * len(k) for q, k, *_ in cpu.pieces(problem, blocks))
    from benchmarks.ssa.problem import sizes_of

    sizes = sizes_of(problem, blocks)
    wanted = sizes.compression_pairs + sizes.selection_pairs + sizes.window_pairs
    assert pairs == pytest.approx(wanted * sizes.heads)
