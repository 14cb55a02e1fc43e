"""The stages of a generation are timed one by one, and each only once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import generation
from benchmarks.gpu_session import GENERATION


@pytest.mark.long
def test_a_try_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--toy", "--out", str(tmp_path)]
    assert generation.main([*out, "--stage", "latents-512"]) == 0
    first = (tmp_path / "generation-latents-512.json").read_text()
    assert generation.main(out) == 0
    assert (tmp_path / "generation-latents-512.json").read_text() == first  # not run again
    assert {path.stem for path in tmp_path.glob("*.json")} == {
        f"generation-{stage}" for stage in GENERATION
    }
    (page,) = tmp_path.glob("*.md")
    assert str(page) in capsys.readouterr().out
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2 * 3 + 2
    for stage in GENERATION:
        told = json.loads((tmp_path / f"generation-{stage}.json").read_text())
        assert all(one["seconds"] > 0 for one in told.values() if isinstance(one, dict))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generation.main(["--out", str(tmp_path)]) == 2
    assert "no GPU here" in capsys.readouterr().err
