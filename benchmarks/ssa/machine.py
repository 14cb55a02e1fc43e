"""Which machine this is, without its name, and what its GPU can do at most."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.ssa.bench import Bench
from benchmarks.ssa.coordinates import ROOT
from benchmarks.ssa.timing import median_ms

SIDE = 8192  # of the matrices
COPIED = 2**31  # bytes
EXPS_PER_CLOCK = 16  # of a multiprocessor, sm_80 to sm_90
USUAL_CLOCK = 1.98e9  # Hz, of an H200 under load; taken where PyTorch does not know the clock


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor with its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"


def about(
    device: torch.device, commit: str | None = None, **more: str | float
) -> dict[str, str | float]:
    """Machine, versions, commit and date, for the page; and whatever else."""
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = "not installed"
    return {
        "machine": device_name(device), "python": platform.python_version(),
        "torch": torch.__version__, "triton": triton, "cuda": torch.version.cuda or "none",
        "commit": commit or _commit(), "kernels": kernels_hash(),
        "date": datetime.date.today().isoformat(), **more,
    }  # fmt: skip


def kernels_hash() -> str:
    """The kernels' source in a few letters."""
    digest = hashlib.sha256()
    sources = [ROOT / "kernels" / "voxel_order.py", *(ROOT / "kernels" / "ssa").rglob("*.py")]
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def fingerprint(bench: Bench) -> str:
    """All that a figure depends on, in a few letters."""
    sets = {name: one.tokens for name, one in bench.sets.items()}
    parts = [
        kernels_hash(), device_name(bench.device), torch.__version__, bench.backend, bench.dtype,
        bench.top_k, sets,
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def ceilings(device: torch.device) -> dict[str, Any]:
    """FLOP/s of bf16 products on random data, bytes/s of a copy, exponentials per second."""
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = median_ms([lambda: a @ b], device, seconds=0.5)
    source = torch.randint(0, 2**31 - 1, (COPIED // 8,), device=device)  # int64
    target = torch.empty_like(source)
    copy = median_ms([lambda: target.copy_(source)], device, seconds=0.5)
    chip: Any = torch.cuda.get_device_properties(device)
    clock = 1e3 * getattr(chip, "clock_rate", 0) or USUAL_CLOCK
    return {
        "flops": 2 * SIDE**3 / (product / 1e3), "bytes": 2 * COPIED / (copy / 1e3),
        "exps": chip.multi_processor_count * EXPS_PER_CLOCK * clock,
    }  # fmt: skip


def _commit() -> str:
    """Short hash of the checkout, marked where files were changed."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD")
    if not commit:
        return "unknown (no git there)"
    return f"{commit}, changed since" if git("status", "--porcelain", "kernels") else commit
