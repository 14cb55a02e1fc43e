"""What can go wrong in a run ends in one clear line with the right exit code, and loses nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import runs

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished single-rank run of 20 steps with checkpoints at 10, 15 and 20."""
    folder = tmp_path_factory.mktemp("finished")
    code, text = train(folder, data)
    assert code == 0, text
    return folder / "run"


def train(folder: Path, data: Path, *overrides: str, fsize: int | None = None) -> tuple[int, str]:
    return door(["--config", str(runs.TINY), "--out", str(folder / "run"), f"data.path={data}",
                 *overrides], fsize)  # fmt: skip


def resume(run: Path, *flags: str) -> tuple[int, str]:
    return door(["--resume", str(run), *flags])


def door(arguments: list[str], fsize: int | None = None) -> tuple[int, str]:
    """One rank of the training door; its exit code and what it said."""

    def limit() -> None:
        if fsize is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fsize, fsize))

    done = subprocess.run(
        [sys.executable, str(runs.TRAIN), *arguments], capture_output=True, text=True, check=False,
        env=runs.environment(), cwd=runs.ROOT, preexec_fn=limit, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def error_line(text: str) -> str:
    """The one line that tells the user; there must be exactly one, and no traceback."""
    assert "Traceback" not in text, text
    lines = [line for line in text.splitlines() if line.startswith("threed-gen: error: ")]
    assert len(lines) == 1, text
    return lines[0]


def copy(run: Path, folder: Path) -> Path:
    """An unfinished copy of a finished run."""
    target = folder / "run"
    shutil.copytree(run, target)
    (target / "finished.json").unlink()
    return target


def test_a_finished_run_has_nothing_to_do(finished: Path) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    code, text = resume(finished)
    assert (code, "nothing to do" in text) == (0, True)
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_a_second_start_in_the_same_directory(finished: Path, data: Path) -> None:
    code, text = train(finished.parent, data)
    assert code == 2
    assert "already holds a run" in error_line(text)


def test_resume_of_something_else(tmp_path: Path) -> None:
    code, text = resume(tmp_path)
    assert code == 2
    assert "not a run directory" in error_line(text)


def test_misspelt_key(tmp_path: Path, data: Path) -> None:
    code, text = train(tmp_path, data, "train.stepz=3")
    assert code == 2
    assert "did you mean 'steps'" in error_line(text)
    assert not (tmp_path / "run").exists()


def test_missing_data(tmp_path: Path) -> None:
    code, text = train(tmp_path, tmp_path / "nowhere")
    assert code == 2
    assert "nowhere" in error_line(text)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_walks_back_past_a_damaged_checkpoint(finished: Path, tmp_path: Path, damage: str) -> None:
    run = copy(finished, tmp_path)
    newest = run / "checkpoints" / "step_00000020"
    file = newest / ("manifest.json" if damage == "manifest" else "rank_00000.safetensors")
    raw = file.read_bytes()
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(raw[: len(raw) // 2])
    elif damage == "flip":
        file.write_bytes(raw[:-100] + bytes([raw[-100] ^ 1]) + raw[-99:])
    else:
        file.write_bytes(b"{}")
    code, text = resume(run)
    assert code == 0, text
    assert "damaged checkpoint" in text and file.name in text
    assert "from step_00000015" in text
    assert runs.losses(run) == runs.losses(finished)  # to the last bit


def test_no_whole_checkpoint_is_an_error_unless_fresh(finished: Path, tmp_path: Path) -> None:
    run = copy(finished, tmp_path)
    for folder in (run / "checkpoints").iterdir():
        (folder / "manifest.json").unlink()
    code, text = resume(run)
    assert code == 2
    assert "--fresh" in error_line(text)
    code, text = resume(run, "--fresh")
    assert code == 0, text
    assert runs.losses(run) == runs.losses(finished)


def test_leftovers_of_a_killed_save_are_cleaned(finished: Path, tmp_path: Path) -> None:
    run = copy(finished, tmp_path)
    shutil.rmtree(run / "checkpoints" / "step_00000020")
    half = run / "checkpoints" / ".step_00000020.tmp"
    half.mkdir()
    (half / "rank_00000.safetensors").write_bytes(b"half")
    code, text = resume(run)
    assert code == 0, text
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "step_00000010", "step_00000015", "step_00000020",
    ]  # fmt: skip


def test_in_use(finished: Path, tmp_path: Path) -> None:
    from threed_gen.training.run_dir import RunLock

    run = copy(finished, tmp_path)
    lock = RunLock(run)
    lock.acquire(0)
    code, text = resume(run)
    lock.release()
    assert code == 2
    assert "in use by another process" in error_line(text)


def test_disk_full_while_writing_a_checkpoint(data: Path, finished: Path, tmp_path: Path) -> None:
    size = max(p.stat().st_size for p in finished.rglob("rank_*.safetensors"))
    code, text = train(tmp_path, data, fsize=size - 1000)
    assert code == 74, text
    assert "rank_00000.safetensors" in error_line(text)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    code, text = resume(tmp_path / "run", "--fresh")
    assert code == 0, text
    assert runs.losses(tmp_path / "run") == runs.losses(finished)


def test_really_full_disk(data: Path, finished: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(small)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    try:
        code, text = train(small, data)
        assert code == 74, text
        assert "No space left" in error_line(text)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        code, text = resume(small / "run", "--fresh")
        assert code == 0, text
        assert runs.losses(small / "run") == runs.losses(finished)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(data: Path, tmp_path: Path) -> None:
    code, text = train(tmp_path, data, "train.learning_rate=1e30", "train.clip_norm=1e30",
                       "train.checkpoint_every=1")  # fmt: skip
    assert code == 76, text
    line = error_line(text)
    assert "the loss is " in line and "train.learning_rate" in line
    steps = [record["step"] for record in runs.records(tmp_path / "run")]
    saved = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))
    assert steps == list(range(1, len(steps) + 1))
    assert int(saved[-1].name[5:]) <= len(steps)


def flip_sample(data: Path, folder: Path) -> tuple[Path, str]:
    """A copy of the data set with one damaged sample."""
    target = folder / "damaged"
    shutil.copytree(data, target)
    rows = [json.loads(line) for line in (target / "index.jsonl").read_text().splitlines()]
    sample = next(row for row in rows if row.get("id"))
    grid = next(iter(sample["grids"].values()))
    shard = target / "shards" / grid["shard"]
    raw = bytearray(shard.read_bytes())
    raw[grid["offset"] + grid["size"] // 2] ^= 0x40
    shard.write_bytes(raw)
    return target, sample["id"]


def test_a_bad_sample_stops_the_run_by_default(data: Path, tmp_path: Path) -> None:
    damaged, name = flip_sample(data, tmp_path)
    code, text = train(tmp_path, damaged)
    assert code == 2
    line = error_line(text)
    assert f"'{name}'" in line and "shard-000000.tar" in line and "substitute" in line


@pytest.mark.cluster
def test_a_bad_sample_is_substituted_alike_on_all_ranks(data: Path, tmp_path: Path) -> None:
    damaged, name = flip_sample(data, tmp_path)
    seen = []
    for ranks, launcher in ((1, "python"), (2, "torchrun")):
        folder = tmp_path / launcher
        folder.mkdir()
        code = runs.finish(
            launcher, ranks,
            ["--config", str(runs.TINY), "--out", str(folder / "run"), f"data.path={damaged}",
             "data.on_bad_sample=substitute"], folder / "log",
        )  # fmt: skip
        text = (folder / "log").read_text()
        assert code == 0, text
        assert "substituted a bad sample" in text
        records = runs.records(folder / "run")
        assert not any(name in record["samples"] for record in records)  # type: ignore[operator]
        assert records[-1]["substituted"] == 10  # once per epoch of two steps, 20 steps
        seen.append([record["samples"] for record in records])
    assert seen[0] == seen[1]


@pytest.mark.parametrize("override", ["train.accumulation=3", "train.accumulation=5"])
def test_accumulation_changes_nothing(
    data: Path, finished: Path, tmp_path: Path, override: str
) -> None:
    """Three micro-batches of one, and five of which two are empty."""
    code, text = train(tmp_path, data, override)
    assert code == 0, text
    expected = {s: float.fromhex(v) for s, v in runs.losses(finished).items()}
    found = {s: float.fromhex(v) for s, v in runs.losses(tmp_path / "run").items()}
    assert max(abs(found[s] / expected[s] - 1) for s in expected) < 1e-5


def test_bf16_follows_fp32(data: Path, finished: Path, tmp_path: Path) -> None:
    code, text = train(tmp_path, data, "train.precision=bf16")
    assert code == 0, text
    expected = {s: float.fromhex(v) for s, v in runs.losses(finished).items()}
    found = {s: float.fromhex(v) for s, v in runs.losses(tmp_path / "run").items()}
    differences = [abs(found[s] / expected[s] - 1) for s in expected]
    assert 1e-7 < max(differences) < 3e-2


@pytest.mark.cluster
def test_resume_on_another_number_of_ranks_and_stage_weights(
    finished: Path, tmp_path: Path
) -> None:
    """Not bitwise, but the same run: fragments are read by name, whatever the topology."""
    run = copy(finished, tmp_path)
    shutil.rmtree(run / "checkpoints" / "step_00000020")
    shutil.rmtree(run / "checkpoints" / "step_00000015")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("zero_stage: 0", "zero_stage: 2"))
    code = runs.finish("torchrun", 2, ["--resume", str(run)], tmp_path / "log")
    assert code == 0, (tmp_path / "log").read_text()
    expected = {s: float.fromhex(v) for s, v in runs.losses(finished).items()}
    found = {s: float.fromhex(v) for s, v in runs.losses(run).items()}
    assert sorted(found) == list(range(1, 21))
    assert max(abs(found[s] / expected[s] - 1) for s in expected) < 1e-5


def test_a_gradient_that_is_not_finite_is_never_saved(data: Path, tmp_path: Path) -> None:
    """The loss of that step is still finite; the weights after it would not be."""
    program = (
        "import sys\n"
        "from threed_gen import train\n"
        "from threed_gen.training.trainer import Trainer\n"
        "update, calls = Trainer._update, []\n"
        "def broken(self, leave_out):\n"
        "    calls.append(update(self, leave_out))\n"
        "    return float('inf') if len(calls) == 3 else calls[-1]\n"
        "Trainer._update = broken\n"
        "train.leave(train.main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--config", str(runs.TINY), "--out", str(tmp_path / "run"),
         f"data.path={data}", "train.checkpoint_every=1"],
        capture_output=True, text=True, check=False, env=runs.environment(), cwd=runs.ROOT,
    )  # fmt: skip
    assert done.returncode == 76, done.stderr
    assert "step 3: the gradient norm is inf" in error_line(done.stdout + done.stderr)
    assert [record["step"] for record in runs.records(tmp_path / "run")] == [1, 2]
    saved = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == ["step_00000001", "step_00000002"]
