"""Eight shapes that have one token set in common, so that only their image tells them apart.

    python -m benchmarks.common_tokens --work /tmp/common    # writes docs/expected/ss_dit_data

Procedural shapes at 32³ are cut down to the bricks that all of them have; a small SS-VAE is trained
on them, and its latents are stored beside the shapes and one picture of each. The result is kept
with the project (some 100 kB), because another machine's SS-VAE would give other latents, and with
them another curve of the SS-DiT.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import GridEntry, ShardIndex
from threed_gen.data.latents.index import SHARDS as LATENTS
from threed_gen.data.latents.index import LatentIndex
from threed_gen.data.payload import encode_payload
from threed_gen.data.prepare import prepare
from threed_gen.data.shard import member_name, write_shard
from threed_gen.data.sources import ProceduralSource
from threed_gen.data.views.params import ViewParams
from threed_gen.data.views.stage import prepare_views
from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.training.encode import FrozenVAE, encode_dataset

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "expected" / "ss_dit_data"
RESOLUTION = 32
# Of the first 24 shapes the eight that share most: 51 of at most 64 bricks.
SHAPES = ("mug_0000", "table_0000", "house_0000", "mug_0001", "lamp_0000", "bowl_0000",
          "vase_0000", "knot_0000")  # fmt: skip
VIEWS = ViewParams(count=1, size=64)


def draw_shapes(work: Path) -> Path:
    """The procedural shapes, whole, with one picture each."""
    out = work / "whole"
    source = ProceduralSource(24, 0)
    prepare(source, out, [RESOLUTION], workers=os.cpu_count() or 1)
    prepare_views(source, out, VIEWS, workers=os.cpu_count() or 1)
    return out


def write_common(whole: Path, out: Path) -> SDFDataset:
    """The eight shapes on their common bricks, with the pictures of all."""
    dataset = SDFDataset(whole)
    numbers = {dataset.entry(i).id: i for i in range(len(dataset))}
    fields = [dataset.load(numbers[name], RESOLUTION) for name in SHAPES]
    common = frozenset.intersection(*(frozenset(map(tuple, f.bricks.tolist())) for f in fields))
    parts = [on_bricks(field, common) for field in fields]
    blobs = [encode_payload(part) for part in parts]
    members = [(member_name(n, RESOLUTION), blob) for n, blob in zip(SHAPES, blobs, strict=True)]
    shard, placed = write_shard(out / "shards", 0, members)
    samples = []
    for name, part, blob, place in zip(SHAPES, parts, blobs, placed, strict=True):
        grid = GridEntry(
            shard.file, place.offset, place.size, hashlib.sha256(blob).hexdigest(),
            part.num_bricks, part.num_voxels, part.tau,
        )  # fmt: skip
        entry = dataset.entry(numbers[name])
        samples.append(replace(entry, grids={RESOLUTION: grid}, info={}, split="train"))
    ShardIndex(dataset.index.params, [shard], samples).save(out)
    shutil.copy(whole / "views.jsonl", out / "views.jsonl")
    (out / "views").mkdir(exist_ok=True)
    for path in (whole / "views").glob("views-*.tar"):
        shutil.copy(path, out / "views" / path.name)
    return SDFDataset(out)


def on_bricks(field: SparseSDF, bricks: frozenset[tuple[int, ...]]) -> SparseSDF:
    """A field cut down to some of its bricks."""
    kept = np.array([tuple(brick) in bricks for brick in field.bricks.tolist()])
    return replace(
        field, bricks=field.bricks[kept], sdf=field.sdf[kept], band=field.band[kept],
        sharp=field.sharp[kept],
    )  # fmt: skip


def train_vae(data: Path, run: Path, steps: int = 1200) -> None:
    """The tiny SS-VAE on them; one thread."""
    if (run / "finished.json").is_file():
        return
    arguments = ["--config", str(ROOT / "configs" / "ss_vae" / "tiny.yaml"), "--out", str(run),
                 f"data.path={data}", f"data.resolutions=[{RESOLUTION}]", f"train.steps={steps}",
                 "train.validate_every=400", "train.checkpoint_every=400"]  # fmt: skip
    command = [sys.executable, str(ROOT / "threed_gen" / "train.py"), *arguments]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def forget_places(out: Path) -> None:
    """What is kept with the project names no folder of the machine that made it."""
    index = LatentIndex.load(out)
    replace(index, params=replace(index.params, data=out.name)).save(out)
    for leftover in [*(out / LATENTS).glob("*.json"), out / LATENTS / ".lock"]:
        leftover.unlink(missing_ok=True)  # only an `encode` that goes on would read them


def main() -> int:
    """Draw, cut, train, encode."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=DATA)
    arguments = parser.parse_args()
    dataset = write_common(draw_shapes(arguments.work), arguments.out)
    train_vae(arguments.out, arguments.work / "vae")
    vae = FrozenVAE(arguments.work / "vae", device="cpu")
    encode_dataset(vae, dataset, arguments.out, [RESOLUTION], store="mode")
    forget_places(arguments.out)
    tokens = dataset.entry(0).grids[RESOLUTION].tokens
    print(f"{arguments.out}: {len(dataset)} shapes, {tokens} tokens each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
