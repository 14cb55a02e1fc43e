"""What a process holds of a large data set: seconds and memory of its index as columns.

    python -m benchmarks.staging --samples 10000 1000000

Writes an index of made-up samples (two resolutions, tags and figures as `prepare` gives them) over
empty shards, has one process convert it, and then opens it in fresh ones. Anonymous memory is what
a rank holds for itself; mapped pages belong to the node.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from threed_gen.data.table import line

PER_SHARD = 1000  # samples
RESOLUTIONS = (256, 512)
SHARD_BYTES = 1 << 30


def rows(samples: int) -> Iterator[bytes]:
    """The lines of the index after the first."""
    shards = [
        {"file": f"shard-{n:06d}.tar", "size": SHARD_BYTES, "sha256": f"{n:064x}"}
        for n in range(-(-samples // PER_SHARD))
    ]
    yield line({"params": {"source": {"kind": "folder"}}, "shards": shards})
    figures = {"sheet_share": 0.01, "interior_share": 0.0, "thin_share": 0.003, "fidelity": 0.02}
    for k in range(samples):
        grid = {
            "shard": f"shard-{k // PER_SHARD:06d}.tar", "offset": 512 + k % PER_SHARD * 10**6,
            "size": 900_000 + k % 1000, "sha256": f"{k:064x}", "voxels": 10**6, "tau": 1 / 128,
        }  # fmt: skip
        yield line({
            "id": f"object_{k:09d}", "source": f"{k // 1000:06d}/object_{k:09d}.glb",
            "family": None, "licence": ("CC-BY", "CC0")[k % 2], "source_sha256": f"{k:064x}",
            "grids": {str(r): {**grid, "tokens": r * r // 40 + k % 500} for r in RESOLUTIONS},
            "flags": ["skinned"] if k % 50 == 0 else [],
            "split": "held_out" if k % 100 == 7 else "train",
            "tags": {"caption": "a wooden chair with four legs", "score": 4.5},
            "info": {"faces": 9000 + k, "grids": {str(r): figures for r in RESOLUTIONS}},
        })  # fmt: skip


def write_index(out: Path, samples: int) -> int:
    """An index of so many samples, and shards that take no room; bytes of the index."""
    digest = hashlib.sha256()
    for text in rows(samples):
        digest.update(text)
    head = {
        "format": "threed-gen index", "version": 1, "count": samples, "sha256": digest.hexdigest(),
    }  # fmt: skip
    (out / "shards").mkdir(parents=True)
    with (out / "index.jsonl").open("wb") as file:
        file.write(line(head))
        file.writelines(rows(samples))
    for n in range(-(-samples // PER_SHARD)):
        with (out / "shards" / f"shard-{n:06d}.tar").open("wb") as file:
            file.truncate(SHARD_BYTES)
    return (out / "index.jsonl").stat().st_size


def memory() -> dict[str, float]:
    """Of this process, in MB."""
    fields = (text.split() for text in Path("/proc/self/status").read_text().splitlines())
    told = {words[0].rstrip(":"): words[1] for words in fields if len(words) > 1}
    return {key: int(told[key]) / 1024 for key in ("RssAnon", "RssFile", "VmRSS")}


def child(out: Path, node: str, split: str) -> None:
    """Open, touch what a run touches, and print figures."""
    from threed_gen.data.config import FilterConfig, StageConfig
    from threed_gen.data.dataset import SDFDataset

    before, start = memory(), time.perf_counter()
    dataset = SDFDataset(out, rules=FilterConfig(split=split), stage=StageConfig(dir=node))
    opened = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before["VmRSS"]
    start = time.perf_counter()
    for k in range(1000):
        dataset.entry(k * 7919 % len(dataset))
    entry = (time.perf_counter() - start) / 1000
    dataset.token_counts(512), dataset.shard_numbers(512)
    after = memory()
    figures = {key: round(after[key] - before[key], 1) for key in after}
    figures |= {"seconds": round(opened, 2), "peak": round(peak, 1), "entry_us": round(entry * 1e6)}
    print(json.dumps(figures))


def measure(out: Path, node: Path, split: str) -> dict[str, Any]:
    """The same in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.staging", "--child", str(out), str(node), split]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(found.stdout)


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(Path(args.child[0]), *args.child[1:])
        return 0
    print("| samples | index MB | open | seconds | peak MB | own MB | mapped MB | entry µs |")
    print("|---|---|---|---|---|---|---|---|")
    for samples in args.samples:
        with tempfile.TemporaryDirectory() as name:
            out, node = Path(name) / "data", Path(name) / "node"
            size = write_index(out, samples) / 1e6
            for what, split in (("first", "all"), ("again", "all"), ("first, train", "train"),
                                ("again, train", "train")):  # fmt: skip
                f = measure(out, node, split)
                print(
                    f"| {samples:,} | {size:,.0f} | {what} | {f['seconds']} | {f['peak']} | "
                    f"{f['RssAnon']} | {f['RssFile']} | {f['entry_us']} |", flush=True,
                )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
