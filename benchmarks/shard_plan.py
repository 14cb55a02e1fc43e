"""The plan of an epoch: seconds and memory for ten million samples, and how even ranks are.

    python -m benchmarks.shard_plan --out benchmarks/results

Seconds are processor time on one thread, of everything from the list of token counts to all batch
boundaries of an epoch and the assignment of one step to 4,096 ranks; every row is measured in a
fresh process, so that its peak memory is its own. `reader` is a rank that maps what another process
of its node has computed: its own memory, without what it shares with others. The balance is that of
token counts of real shapes (`tests/launcher/real_tokens.json`), drawn again and again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.machine import machine
from launcher.assignment import Placement, assign, make_groups
from launcher.balance import measure
from launcher.node_arrays import NodeArrays
from launcher.shard_plan import ShardPlan
from threed_gen.console import say

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT / "tests" / "launcher" / "real_tokens.json"
RANKS, PER_NODE = 4096, 8
EACH = 16  # samples on a rank
SHARD = 1000  # samples


def one(samples: int, streams: int, by: str, folder: Path | None, reader: bool) -> dict[str, float]:
    """Plan an epoch and assign a step; seconds and MB of this process."""
    process = psutil.Process()
    arrays = NodeArrays(folder)
    if reader:
        tokens = shards = np.ones(1, dtype=np.int64)  # are on the node already
        budget = 1
    else:
        tokens = np.random.default_rng(0).lognormal(8, 0.4, samples).astype(np.int64)
        shards = np.arange(samples, dtype=np.int64) // SHARD
        budget = int(tokens[:100_000].mean() * EACH * RANKS)
    size = {"batch_samples": EACH * RANKS} if by == "samples" else {"batch_tokens": budget}
    placement = Placement.even(RANKS // PER_NODE, PER_NODE)
    before = _own(process)
    start = time.process_time()
    plan = ShardPlan(tokens, shards, seed=0, streams=streams, arrays=arrays, **size)  # type: ignore[arg-type]
    batch = plan.batch(plan.steps_of_epoch(0) // 2)
    assign(plan.tokens[batch].tolist(), plan.streams_of(batch), make_groups(streams, placement))
    seconds = time.process_time() - start
    return {
        "seconds": seconds,
        "peak_mb": _peak_mb(),
        "own_mb": _own(process) - before,
        "steps": plan.steps_of_epoch(0),
    }


def _own(process: psutil.Process) -> float:
    """Memory that no other process could share: files that are mapped do not count."""
    memory = process.memory_info()
    return (memory.rss - getattr(memory, "shared", 0)) / 2**20


def _peak_mb() -> float:
    # Linux: what `getrusage` says contains the process that started this one.
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def apart(**options: object) -> dict[str, float]:
    """`one`, in a fresh process."""
    words = [sys.executable, "-m", "benchmarks.shard_plan", "one"]
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    out = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float] = json.loads(out)
    return found


def time_rows(samples: int) -> list[list[str]]:
    """Time and memory of the process that computes, and of one that maps."""
    rows = []
    for by in ("samples", "tokens"):
        for streams in (1, 64, 512):
            say(f"{samples:,} samples, batches by {by}, {streams} streams")
            found = min(
                (apart(samples=samples, streams=streams, by=by) for _ in range(3)),
                key=lambda row: row["seconds"],
            )
            rows.append([
                f"{samples:,}", by, f"{streams}", "computes", f"{found['steps']}",
                f"{found['seconds']:.2f}", f"{found['peak_mb']:.0f}", f"{found['own_mb']:.0f}",
            ])  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        common = {"samples": samples, "streams": 64, "by": "samples", "folder": folder}
        apart(**common)
        found = apart(**common, reader=True)
    rows.append([
        f"{samples:,}", "samples", "64", "reader", f"{found['steps']}",
        f"{found['seconds']:.2f}", f"{found['peak_mb']:.0f}", f"{found['own_mb']:.0f}",
    ])  # fmt: skip
    return rows


def balance_rows() -> list[list[str]]:
    """Tokens of the fullest rank over the mean, on real token counts."""
    real = json.loads(REAL.read_text("utf-8"))
    pool = np.array(real["procedural"] + real["meshes"])
    rows = []
    for each in (1, 2, 4, 16):
        for nodes in (1, 2, 4, 8):
            batch = each * nodes * PER_NODE
            count = max(12_800, 100 * batch)
            tokens = np.random.default_rng(0).choice(pool, count)
            row = [f"{each}", f"{nodes}"]
            for mode in ("samples", "tokens", "bucket"):
                budget = int(batch * tokens.mean())
                size = {"batch_tokens": budget} if mode == "tokens" else {"batch_samples": batch}
                plan = ShardPlan(
                    tokens, np.arange(count) // 100, seed=0, streams=16, bucket=mode == "bucket",
                    **size,  # type: ignore[arg-type]
                )  # fmt: skip
                found = measure(plan, Placement.even(nodes, PER_NODE))
                row.append(f"{found.mean:.3f} ({found.worst:.2f})")
            rows.append(row)
    return rows


def markdown(headers: list[str], rows: list[list[str]], left: int) -> str:
    """A table whose first columns go left."""
    rule = ["---"] * left + ["---:"] * (len(headers) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in [headers, rule, *rows])


def page(samples: int, note: str) -> str:
    """The results as they are committed."""
    today = datetime.date.today().isoformat()
    times = markdown(
        ["samples", "batches by", "streams", "process", "steps", "CPU s", "peak MB", "own MB"],
        time_rows(samples), 4,
    )  # fmt: skip
    balance = markdown(
        ["samples on a rank", "nodes", "by samples", "by tokens", "by samples, bucketed"],
        balance_rows(), 0,
    )  # fmt: skip
    return f"""# The plan of an epoch, {today}

Machine: {machine()}. Written by `benchmarks/shard_plan.py`, which says how it measures.
{note}
All batch boundaries of an epoch and the assignment of one step to {RANKS:,} ranks on
{RANKS // PER_NODE} nodes, {EACH} samples on each rank; the best of three processes:

{times}

Peak memory is that of the whole process, with its libraries and the lists it is given (160 MB for
ten million samples). Tokens of the fullest of {PER_NODE} ranks on each node over the mean of all,
averaged over the steps of an epoch, and in brackets the worst step; 16 streams:

{balance}

The worst step of batches by tokens is the last one of the epoch, which takes what is left.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("what", nargs="?", choices=("all", "one"), default="all")
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--by", choices=("samples", "tokens"), default="samples")
    parser.add_argument("--folder", type=Path, help="one: share the arrays there")
    parser.add_argument("--reader", action="store_true", help="one: they are there already")
    parser.add_argument("--out", type=Path, help="all: folder of the page")
    parser.add_argument("--note", default="", help="all: a line on the machine's other work")
    args = parser.parse_args()
    if args.what == "one":
        print(json.dumps(one(args.samples, args.streams, args.by, args.folder, args.reader)))
        return
    text = page(args.samples, args.note)
    print(text)
    if args.out is not None:
        name = f"shard_plan_{datetime.date.today().isoformat()}.md"
        (args.out / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
