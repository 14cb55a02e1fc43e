"""A run with `data.filter`: it trains on one part, validates on the other, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.runs import TINY, prepared
from threed_gen import cli
from threed_gen.data.index import ShardIndex
from threed_gen.data.split import split_of
from threed_gen.training.run_dir import read_journal

SHARE = 0.2


def test_a_run_on_a_split(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.training import runs

    data = prepared(tmp_path)
    ids = [sample.id for sample in ShardIndex.load(data).samples]
    held_out = [name for name in ids if split_of(name, SHARE) == "held_out"]
    assert 1 <= len(held_out) < len(ids) - 1
    keys = [
        f"data.path={data}",
        "data.filter.split=train",
        f"data.filter.held_out_share={SHARE}",
        "train.steps=4",
        "train.validate_every=2",
        "train.checkpoint_every=4",
        "validation.shapes=8",
        "validation.surface_samples=1000",
    ]
    log = tmp_path / "log.txt"
    out = tmp_path / "run"
    code = runs.finish("python", 1, ["--config", str(TINY), "--out", str(out), *keys], log)
    said = log.read_text()
    assert code == 0, said
    assert f"{len(ids) - len(held_out)} samples" in said
    assert f"data.filter leaves out: split {len(held_out)}" in said
    assert f"{len(held_out)} held-out samples, for validation" in said
    seen = {name for row in read_journal(out / "metrics.jsonl") for name in row["samples"]}
    assert seen == set(ids) - set(held_out)
    for row in read_journal(out / "validation.jsonl"):
        assert [shape["name"] for shape in row["shapes"]] == held_out
    assert cli.main(["inspect", str(out / "config.yaml")]) == 0
    shown = capfd.readouterr().out
    assert f"{len(ids) - len(held_out)} samples stay (left out: split {len(held_out)})" in shown
