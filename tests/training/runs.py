"""Start real runs under each launcher, kill them, and read what they left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "threed_gen" / "train.py"
SLOW_TRAIN = ROOT / "tests" / "training" / "slow_train.py"
BIN = Path(sys.executable).parent

# A model of a few thousand weights on a handful of 16³ shapes: a step takes some 20 ms.
TINY = ROOT / "tests" / "training" / "tiny.yaml"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(launcher: str, ranks: int, script: Path, arguments: list[str]) -> list[str]:
    """The command line that starts `ranks` ranks of `script`."""
    python, run = sys.executable, [str(script), *arguments]
    if launcher == "python":
        assert ranks == 1
        return [python, *run]
    if launcher == "torchrun":
        port = str(free_port())
        return [python, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks),
                "--master-port", port, *run]  # fmt: skip
    if launcher == "deepspeed":
        return [str(BIN / "deepspeed"), "--num_gpus", str(ranks), "--master_port",
                str(free_port()), *run]  # fmt: skip
    assert launcher == "mpirun", launcher
    return [str(BIN / "mpirun"), "-n", str(ranks), "--oversubscribe", python, *run]


def stage_overrides(stage: int) -> list[str]:
    """The keys of a ZeRO stage; at stage 3 even the smallest parameter is really partitioned."""
    extra = [f"train.deepspeed={ROOT / 'tests' / 'training' / 'zero3.json'}"] if stage == 3 else []
    return [f"train.zero_stage={stage}", *extra]


def environment() -> dict[str, str]:
    """As a user's shell with the virtual environment activated; root may use mpirun."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "1",
    }


def start(
    launcher: str, ranks: int, arguments: list[str], log: Path, script: Path = TRAIN,
    extra: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a run in its own process group; its output goes to `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command(launcher, ranks, script, arguments), stdout=file, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env={**environment(), **(extra or {})},
            start_new_session=True, cwd=ROOT,
        )  # fmt: skip


def finish(
    launcher: str, ranks: int, arguments: list[str], log: Path, timeout: float = 100,
    script: Path = TRAIN,
) -> int:  # fmt: skip
    """Run to the end; returns the exit code."""
    process = start(launcher, ranks, arguments, log, script)
    try:
        return process.wait(timeout)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of a run (the ranks of `deepspeed` have sessions of their own)."""
    for pid in [process.pid, *descendants(process.pid)]:
        kill(pid)
    process.wait()


def kill(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return


def descendants(pid: int) -> list[int]:
    """All living children and children's children, from /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[-1].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found, border = [], [pid]
    while border:
        border = [child for child, parent in parents.items() if parent in border]
        found += border
    return found


def rank_pids(process: subprocess.Popen[bytes], ranks: int, timeout: float = 60) -> list[int]:
    """Process ids of the ranks, by the RANK-like variable in each one's environment."""
    names = (b"RANK=", b"OMPI_COMM_WORLD_RANK=")
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found: dict[int, int] = {}
        for pid in descendants(process.pid):
            try:
                cmdline = Path(f"/proc/{pid}/cmdline").read_bytes()
                environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"train.py" not in cmdline or b"launch" in cmdline or b"distributed.run" in cmdline:
                continue
            for entry in environ:
                for name in names:
                    if entry.startswith(name):
                        found.setdefault(int(entry[len(name) :]), pid)
        if sorted(found) == list(range(ranks)):
            return [found[rank] for rank in range(ranks)]
        time.sleep(0.05)
    raise AssertionError(f"the {ranks} ranks of process {process.pid} were not seen")


def records(run: Path) -> list[dict[str, object]]:
    """The lines of metrics.jsonl; a torn last line is left out."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    result = []
    for line in lines:
        try:
            result.append(json.loads(line))
        except ValueError:
            continue
    return result


def losses(run: Path) -> dict[int, str]:
    """Loss by step, as hexadecimal floats: equal text is equal to the last bit."""
    return {int(r["step"]): float(r["loss"]).hex() for r in records(run)}  # type: ignore[arg-type, call-overload]


def wait_until(condition, process: subprocess.Popen[bytes], timeout: float = 90) -> None:  # type: ignore[no-untyped-def]
    """Poll until `condition()`; fails when the run ends first or time is up."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"the run ended early with code {process.returncode}"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


SAMPLES = 6


def prepared(folder: Path, samples: int = SAMPLES) -> Path:
    """Procedural shapes at 16³ as shards."""
    from threed_gen.data.prepare import prepare
    from threed_gen.data.sources import ProceduralSource

    prepare(ProceduralSource(samples, 3), folder / "shards", [16], workers=1)
    return folder / "shards"
