"""`inspect plan`: balance, what nodes fetch, and wrong requests in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from threed_gen import cli
from threed_gen.data.prepare import prepare
from threed_gen.data.sources import ProceduralSource


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plan") / "data"
    prepare(ProceduralSource(8, 1), out, [16], workers=0, shard_bytes=1)
    return out


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["inspect", "plan", *words]) == 0
    return capsys.readouterr().out


def test_data_by_itself(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(capsys, str(data), "--gpus", "2", "train.batch_samples=8").split())
    for part in (
        "1 node × 2 ranks", "8 samples in", "samples of a step 8; 4.0 on a rank", "epoch 1 step;",
        "× the mean, at worst", "(step 1; 1 of 1 looked at)", "100.0%",
    ):  # fmt: skip
        assert part in text


def test_nodes_that_divide_the_streams_fetch_their_part(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(
        f"task: ss_vae\ndata: {{path: {data}, resolutions: [16], streams: 4}}\n"
        "train: {batch_samples: 8, steps: 3}\n"
    )
    words = (str(tmp_path / "run.yaml"), "--nodes", "2", "--gpus", "1")
    text = shown(capsys, *words)
    assert "4 of whole shards" in text
    assert "1 step; the run's 3 are 3" in text
    rows = [line.split() for line in text.splitlines() if line.strip()[:2] in ("0 ", "1 ")]
    assert [row[:4] for row in rows] == [["0", "0", "2", "4"], ["1", "1", "2", "4"]]
    shares = [float(row[-1].rstrip("%")) for row in rows]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert max(shares) < 60
    assert "do not divide" not in text and "few to balance" not in text
    again = shown(capsys, *words, "data.streams=1", "train.batch_samples=2")
    assert "2 nodes do not divide 1 stream" in again  # overrides after options
    assert "each fetches all of the data instead of 1/2" in again
    assert "data.streams=2 would" in again
    assert "1.0 samples on a rank are few to balance: data.bucket=true" in again


def test_what_it_costs_when_nodes_do_not_divide(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(
        capsys, str(data), "--nodes", "6", "--gpus", "1", "data.streams=8", "train.batch_samples=4"
    )
    assert "every shard is read by 3 nodes" in text
    assert "1/2 of the data instead of 1/6; in a new run data.streams=6 would" in text
    assert "steps with an idle rank" in text
    assert "take fewer ranks" in text


def test_many_nodes_are_not_all_listed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, str(data), "--nodes", "64", "train.batch_samples=8")
    assert any(line.startswith("63") for line in text.splitlines())
    assert sum(line.startswith("…") for line in text.splitlines()) == 1
    assert "prepare smaller shards, as there are only 8" in text


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["configs/ss_vae/direct3d-s2.yaml"], "has no data.path"),
        ([], "say of which config or data"),
        (["data.streams=4"], "say of which config or data"),
        (["missing.yaml"], "missing.yaml: no such config file"),
        (["DATA", "data.streams=99"], "lower data.streams to 8"),
        (["DATA", "--nodes", "0"], "--nodes must be at least 1"),
        (["DATA", "data.bucket=true", "train.batch_tokens=99"], "needs train.batch_samples"),
        (["DATA", "data.stream=4"], "did you mean"),
    ],
)
def test_wrong_requests_are_one_line(
    data: Path, capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    line = ["inspect", "plan", *(str(data) if word == "DATA" else word for word in words)]
    assert cli.main(line) == 2
    told = capsys.readouterr().err.strip()
    assert problem in told
    assert "\n" not in told


def test_only_a_plan_takes_changes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(data), "data.streams=2"]) == 2
    assert "`inspect plan` alone takes key=value" in capsys.readouterr().err
