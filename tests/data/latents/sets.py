"""Small prepared data sets without any mesh, and made-up latents for them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.fields import random_field
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import INDEX_NAME, GridEntry, SampleEntry, ShardIndex
from threed_gen.data.latents.index import LatentParams
from threed_gen.data.latents.latent import Latent
from threed_gen.data.payload import encode_payload
from threed_gen.data.shard import member_name, write_shard
from threed_gen.files import file_sha256
from threed_gen.geometry.sparse_sdf import SparseSDF

CHANNELS = 3


def make_data(
    out: Path, count: int = 5, resolutions: tuple[int, ...] = (32, 64), bricks: int = 20
) -> SDFDataset:
    """`count` random fields; the last fifth of them held out."""
    rng = np.random.default_rng(count)
    members: list[tuple[str, bytes]] = []
    fields: list[SparseSDF] = []
    for number in range(count):
        for resolution in resolutions:
            fields.append(random_field(rng, bricks + number, resolution))
            members.append((member_name(f"s{number}", resolution), encode_payload(fields[-1])))
    shard, placed = write_shard(out / "shards", 0, members)
    grids = [
        GridEntry(
            shard.file, place.offset, place.size, hashlib.sha256(blob).hexdigest(),
            field.num_bricks, field.num_voxels, field.tau,
        )
        for place, (_, blob), field in zip(placed, members, fields, strict=True)
    ]  # fmt: skip
    many = len(resolutions)
    samples = [
        SampleEntry(
            f"s{i}", f"s{i}.off", None, None, "",
            dict(zip(resolutions, grids[i * many : (i + 1) * many], strict=True)),
            split="held_out" if i >= count - count // 5 else "train",
        )
        for i in range(count)
    ]  # fmt: skip
    ShardIndex({}, [shard], samples).save(out)
    return SDFDataset(out)


def made_up(dataset: SDFDataset, i: int, resolution: int, posterior: bool = True) -> Latent:
    """A latent with the bricks of sample i, its numbers drawn from its id."""
    sdf = dataset.load(i, resolution)
    seed = [resolution, *dataset.entry(i).id.encode()]
    return random_latent(np.random.default_rng(seed), sdf, posterior)


def random_latent(rng: np.random.Generator, sdf: SparseSDF, posterior: bool = True) -> Latent:
    """Means of unlike size by channel."""
    shape = sdf.num_bricks, CHANNELS
    mean = rng.normal(size=shape) * [1.0, 30.0, 0.01] + [0.0, 5.0, -2.0]
    logvar = rng.uniform(-8, 1, shape).astype(np.float32) if posterior else None
    return Latent(sdf.bricks, mean.astype(np.float32), logvar, sdf.resolution)


def params_for(dataset: SDFDataset, **changes: Any) -> LatentParams:
    """Parameters of an encoding of `dataset`."""
    values: dict[str, Any] = {
        "run": "vae",
        "step": 7,
        "weights": "ema",
        "weights_sha256": "0" * 64,
        "data": str(dataset.path),
        "source_sha256": file_sha256(dataset.path / INDEX_NAME),
        "filter": dataset.rules.model_dump(mode="json"),
        "tau": dataset.tau,
        "store": "posterior",
        "values": "fp32",
        "channels": CHANNELS,
        "resolutions": (32, 64),
        "shard_bytes": 9000,
    }
    return LatentParams(**{**values, **changes})


def same_latent(a: Latent, b: Latent) -> bool:
    """True when every bit of the two latents is equal."""
    assert (a.logvar is None) == (b.logvar is None)
    pairs = [(a.bricks, b.bricks), (a.mean, b.mean)]
    if a.logvar is not None and b.logvar is not None:
        pairs.append((a.logvar, b.logvar))
    return a.resolution == b.resolution and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs
    )


def products(out: Path) -> dict[str, bytes]:
    """Every file that must not depend on how `encode` came to its end."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(files)}
