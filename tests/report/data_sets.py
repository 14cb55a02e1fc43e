"""Fabricated folders of prepared data: real payloads of small shapes, made-up figures on them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from tests.report.conftest import EVIL
from threed_gen.data.index import GridEntry, SampleEntry, ShardIndex
from threed_gen.data.ledger import Ledger, Outcome
from threed_gen.data.payload import encode_payload
from threed_gen.data.ranks import Share
from threed_gen.data.shard import member_name, write_shard
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.narrow_band import build_sparse_sdf
from threed_gen.geometry.sparse_sdf import SparseSDF

RESOLUTIONS = (24, 40)
NASTY = "weird/\u202egpj\n\udcff.obj"  # turns text around, ends a line, is no UTF-8


@cache
def field(kind: str, resolution: int) -> SparseSDF:
    """A small field: `torus`, `box`, or `rough` (noise: as many faces as there can be)."""
    if kind == "torus":
        shape = trimesh.creation.torus(1.0, 0.4, 24, 16)
    else:
        shape = trimesh.creation.box((1.0, 0.7, 0.5))
    sdf = build_sparse_sdf(Mesh(np.asarray(shape.vertices), np.asarray(shape.faces)), resolution)
    if kind == "rough":
        noise = np.random.default_rng(0).uniform(-1, 1, sdf.sdf.shape).astype(np.float32)
        sdf = replace(sdf, sdf=np.where(sdf.band, noise, sdf.sdf))
    return sdf


def make_data(
    out: Path,
    kinds: tuple[str, ...] = ("torus", "box"),
    resolutions: tuple[int, ...] = RESOLUTIONS,
    **changes: Any,
) -> list[SampleEntry]:
    """Write shards and an index with one sample per kind; returns the samples.

    `changes` are fields of SampleEntry that all samples get.
    """
    members, names = [], []
    for number, kind in enumerate(kinds):
        for resolution in resolutions:
            sdf = field(kind, resolution)
            names.append(member_name(f"{kind}_{number}", resolution))
            members.append((sdf, encode_payload(sdf, "int8")))
    (out / "shards").mkdir(parents=True)
    blobs = [blob for _, blob in members]
    shard, placed = write_shard(out / "shards", 0, zip(names, blobs, strict=True))
    grids = [
        GridEntry(
            shard.file, place.offset, place.size, hashlib.sha256(blob).hexdigest(),
            sdf.num_bricks, sdf.num_voxels, sdf.tau,
        )
        for place, (sdf, blob) in zip(placed, members, strict=True)
    ]  # fmt: skip
    count = len(resolutions)
    samples = [
        SampleEntry(
            id=f"{kind}_{number}",
            source=f"objects/{kind}_{number}.glb",
            family=None,
            licence=None,
            source_sha256="",
            grids=dict(zip(resolutions, grids[number * count :], strict=False)),
        )
        for number, kind in enumerate(kinds)
    ]
    samples = [replace(sample, **changes) for sample in samples]
    ShardIndex({"values": "int8", "source": {"kind": "folder"}}, [shard], samples).save(out)
    return samples


def multiply(out: Path, samples: list[SampleEntry], count: int) -> list[SampleEntry]:
    """Rewrite the index with `count` samples that share the payloads of `samples`."""
    index = ShardIndex.load(out)
    many = [
        replace(
            samples[k % len(samples)],
            id=f"{'object_' * 8}{k:06d}",
            source=f"{'folder/' * 12}object_{k:06d}.glb",
            family=f"family {k % 400}",
            licence=f"licence {k % 60}",
            flags=("skinned", "alpha", f"flag_{k % 30}"),
            info=figures(0.001 * (k % 977), 0.0 if k % 3 else (k % 100) / 100),
        )
        for k in range(count)
    ]
    ShardIndex(index.params, index.shards, many).save(out)
    return many


def figures(distance: float, sheet: float = 0.0) -> dict[str, Any]:
    """What `prepare` tells of a sample."""
    fidelity = {"mean_to_result": distance, "mean_to_source": distance, "share_beyond_2": 0.001}
    grid = {"sheet_share": sheet, "interior_share": 0.0, "fidelity": fidelity}
    grids = {str(r): dict(grid) for r in RESOLUTIONS}
    return {"policy": "shell", "faces": 1000, "caps": 2, "patches": 3, "grids": grids}


def write_rejects(out: Path, reasons: dict[str, int]) -> None:
    """OUT/rejects.jsonl as `prepare` writes it, with every second name a nasty one."""
    lines = [
        json.dumps(
            {
                "id": f"{reason}_{k}",
                "source": NASTY if k == 1 else f"{EVIL if k % 2 else 'objects'}/{reason}_{k}.glb",
                "status": "failed" if reason in ("timeout", "crashed") else "reject",
                "reason": reason,
                "message": f"{reason}: the {k}th \u2028 of them",
            },
            ensure_ascii=False,
        )
        for reason, count in reasons.items()
        for k in range(count)
    ]
    text = "".join(line + "\n" for line in lines)
    (out / "rejects.jsonl").write_bytes(text.encode("utf-8", "backslashreplace"))


def write_ledger(out: Path, rank: int, costs: dict[str, tuple[float, float]]) -> None:
    """The ledger of a rank: seconds and peak memory by source; its last line is torn."""
    ledger = Ledger(out / "work", Share(rank, 2), "params")
    for source, (seconds, peak_mb) in costs.items():
        ledger.add(Outcome(source, [], "", seconds=seconds, peak_mb=peak_mb))
    ledger.close()
    with ledger.path.open("a") as file:
        file.write('0123456789abcdef {"source": "to')
