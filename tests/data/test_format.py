"""docs/format.md tells the truth: its snippet reads what `prepare` writes, to the last number."""

from __future__ import annotations

import io
import json
import re
import tarfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.folders import ListSource, TestAsset, procedural
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.prepare import prepare

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "format.md"


@pytest.mark.parametrize("values", ["int8", "fp16"])
def test_the_snippet_reads_a_sample(
    tmp_path: Path, values: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(procedural(0), tmp_path, [32], workers=0, values=values)
    shard = tmp_path / "shards" / "shard-000000.tar"
    (snippet,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert "threed_gen" not in snippet
    monkeypatch.setattr("sys.argv", ["read.py", str(shard)])
    found: dict[str, Any] = {}
    with redirect_stdout(io.StringIO()) as printed:
        exec(snippet, found)
    field = SDFDataset(tmp_path).load(0, 32)
    np.testing.assert_allclose(found["s"], field.sdf, atol=1e-7)
    np.testing.assert_array_equal(found["t"]["brick"], field.bricks)
    np.testing.assert_array_equal(found["bits"]["inside"], field.inside)
    centres = (field.voxel_coords() + 0.5) / 32
    np.testing.assert_allclose(found["xyz"], centres * field.scale + np.asarray(field.offset))
    assert printed.getvalue().startswith("mug_0000/r32.sdf.zst")


def test_shards_are_ordinary_tars(tmp_path: Path) -> None:
    prepare(procedural(1, 6), tmp_path, [16, 32], workers=0)
    index = SDFDataset(tmp_path).index
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            f"{sample.id}/r{resolution}.sdf.zst"
            for sample in index.samples
            for resolution in (16, 32)
        ]
        grids = [grid for sample in index.samples for grid in sample.grids.values()]
        for member, grid in zip(members, grids, strict=True):
            assert (member.offset_data, member.size) == (grid.offset, grid.size)
            assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
    size = (tmp_path / "shards" / "shard-000000.tar").stat().st_size
    assert size == index.shards[0].size


def test_names_in_any_alphabet_and_length(tmp_path: Path) -> None:
    names = ["стул", "x" * 180, "a b'c\"d"]
    assets = ListSource(*(TestAsset(name) for name in names))
    prepare(assets, tmp_path, [16], workers=0)
    dataset = SDFDataset(tmp_path)
    assert [dataset.entry(i).id for i in range(3)] == names
    for i in range(3):
        dataset.load(i, 16)
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as tar:
        assert [member.name.split("/")[0] for member in tar] == names


def test_every_column_is_described(tmp_path: Path) -> None:
    """Those of the index, of the rejects and of the ledger, and no others."""
    assets = ListSource(TestAsset("box"), TestAsset("flat", "flat"))
    prepare(assets, tmp_path, [16], workers=0)
    head, table, row = map(json.loads, (tmp_path / "index.jsonl").read_text().splitlines())
    index, ledger = DOCUMENT.read_text(encoding="utf-8").split("## Ledgers")
    index = index[: index.index("## Shard")].partition("# ")[2] + index[index.index("## Index") :]
    info, grid = row["info"], row["grids"]["16"]
    columns = [*head, *table, *row, *grid, *info, *info["grids"]["16"]]
    columns += info["grids"]["16"]["fidelity"]
    (reject,) = map(json.loads, (tmp_path / "rejects.jsonl").read_text().splitlines())
    columns += reject
    assert [name for name in columns if f"`{name}`" not in index] == []
    ledger = ledger[: ledger.index("## ")]
    lines = (tmp_path / "work" / "ledger.0-of-1.jsonl").read_text().splitlines()
    outcome = json.loads(lines[0].partition(" ")[2])
    columns = [*outcome, *outcome["grids"]["16"]]
    assert [name for name in columns if f"`{name}`" not in ledger] == []
    described = set(re.findall(r"`(\w+)`", ledger.split("one JSON object: ")[1].split(".")[0]))
    assert described - {"ok", "reject", "failed"} == set(columns)
