"""Millions of samples: seconds of one core, peak memory, and a rank that only maps the order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def figures(*words: str) -> dict[str, float]:
    """What `benchmarks.shard_plan one` says, from a process of its own."""
    line = [sys.executable, "-m", "benchmarks.shard_plan", "one", *words]
    out = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(out)
    return found


def test_a_million_samples_take_a_moment_and_another_rank_only_maps_them(tmp_path: Path) -> None:
    words = ("--samples", "1000000", "--streams", "64", "--by", "tokens", "--folder", str(tmp_path))
    found = figures(*words)
    assert found["seconds"] < 1.0
    assert found["peak_mb"] < 300
    reader = figures(*words, "--reader")
    assert reader["steps"] == found["steps"] > 10
    assert reader["own_mb"] < 11  # half of it for the step; the plan's arrays would take 20 more


@pytest.mark.long
@pytest.mark.parametrize("streams", ["1", "64"])
@pytest.mark.parametrize("mode", ["samples", "tokens"])
def test_ten_million_samples_take_a_second_and_a_gigabyte(mode: str, streams: str) -> None:
    found = figures("--samples", "10000000", "--streams", streams, "--by", mode)
    assert found["seconds"] < 1.5  # 1 s on a quiet core
    assert found["peak_mb"] < 1000


@pytest.mark.long
def test_the_memory_of_a_rank_does_not_grow_with_the_data(tmp_path: Path) -> None:
    own = []
    for samples in ("100000", "10000000"):
        folder = tmp_path / samples
        folder.mkdir()
        words = ("--samples", samples, "--by", "samples", "--folder", str(folder))
        figures(*words)  # the process of the node that computes
        own.append(figures(*words, "--reader")["own_mb"])
    assert own[1] - own[0] < 8, own  # its arrays take 200 MB more
