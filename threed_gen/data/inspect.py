"""Looking into prepared data: what is stored, in numbers, and its shapes as meshes again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threed_gen.console import Progress, progress, table
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import SHARDS, SampleEntry, ShardIndex
from threed_gen.errors import UserError
from threed_gen.files import file_sha256

SHARES = ("sheet_share", "interior_share")  # what the index says of each grid's surface


@dataclass(frozen=True)
class Spread:
    """A share (0 to 1) over all samples that have it."""

    samples: int
    above_zero: int
    mean: float
    highest: float
    where: str  # id of the sample with the highest

    def __str__(self) -> str:
        return (
            f"mean {self.mean:.2%}, above 0 in {self.above_zero:,} of {self.samples:,} samples, "
            f"highest {self.highest:.1%} ({self.where})"
        )


@dataclass(frozen=True)
class GridSummary:
    """All samples of one stored resolution."""

    resolution: int
    tau: float  # unit-cube units
    samples: int
    bricks: int  # of all samples together, as are the next two
    voxels: int
    bytes: int
    fewest_bricks: int
    most_bricks: int
    shares: dict[str, Spread]  # sheet_share, interior_share: as far as the index has them

    @property
    def bits_per_voxel(self) -> float:
        """Stored bits per band voxel."""
        return 8 * self.bytes / self.voxels


@dataclass(frozen=True)
class DataSummary:
    """What a folder of prepared data holds."""

    grids: list[GridSummary]
    families: dict[str, int]  # family → samples; "-" where the source names none
    licences: dict[str, int]
    splits: dict[str, int]
    flags: dict[str, int]
    shards: int
    shard_bytes: int

    def __str__(self) -> str:
        rows = [
            (
                f"{grid.resolution}³",
                f"{grid.tau * grid.resolution:.3g}",
                grid.samples,
                f"{grid.bricks / grid.samples:.0f}",
                f"{grid.fewest_bricks}–{grid.most_bricks}",
                f"{grid.voxels / grid.samples:.0f}",
                f"{grid.bytes / 1e6:.2f}",
                f"{grid.bits_per_voxel:.2f}",
            )
            for grid in self.grids
        ]
        headers = (
            "grid",
            "τ voxels",
            "samples",
            "bricks",
            "from–to",
            "band voxels",
            "MB",
            "bit/vox",
        )
        families = ", ".join(f"{name} {count}" for name, count in self.families.items())
        licences = ", ".join(f"{name} {count}" for name, count in self.licences.items())
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        flags = ", ".join(f"{name} {count}" for name, count in self.flags.items()) or "none"
        shares = [
            f"{name.replace('_', ' ')} at {grid.resolution}³: {spread}"
            for grid in self.grids
            for name, spread in grid.shares.items()
        ]
        return "\n".join(
            [
                table(headers, rows),
                f"shards: {self.shards}, {self.shard_bytes / 1e6:.2f} MB",
                f"families: {families}",
                f"licences: {licences}",
                f"split: {splits}",
                f"flags: {flags}",
                *shares,
            ]
        )


def summarise(data_dir: Path) -> DataSummary:
    """Numbers from the index alone; UserError if there is none or it is damaged."""
    index = ShardIndex.load(data_dir)
    grids = []
    for resolution in index.resolutions:
        stored = [sample.grids[resolution] for sample in index.samples]
        bricks = [grid.tokens for grid in stored]
        grids.append(
            GridSummary(
                resolution=resolution,
                tau=stored[0].tau,
                samples=len(stored),
                bricks=sum(bricks),
                voxels=sum(grid.voxels for grid in stored),
                bytes=sum(grid.size for grid in stored),
                fewest_bricks=min(bricks),
                most_bricks=max(bricks),
                shares=_shares(index.samples, resolution),
            )
        )
    return DataSummary(
        grids=grids,
        families=dict(Counter(sample.family or "-" for sample in index.samples)),
        licences=dict(Counter(sample.licence or "-" for sample in index.samples)),
        splits=dict(Counter(sample.split for sample in index.samples)),
        flags=dict(Counter(flag for sample in index.samples for flag in sample.flags)),
        shards=len(index.shards),
        shard_bytes=sum(shard.size for shard in index.shards),
    )


def _shares(samples: list[SampleEntry], resolution: int) -> dict[str, Spread]:
    found = {}
    for name in SHARES:
        values = [
            (float(value), sample.id)
            for sample in samples
            if isinstance(value := _measured(sample, resolution).get(name), (int, float))
        ]
        if values:
            highest, where = max(values)
            mean = sum(value for value, _ in values) / len(values)
            above = sum(value > 0 for value, _ in values)
            found[name] = Spread(len(values), above, mean, highest, where)
    return found


def _measured(sample: SampleEntry, resolution: int) -> dict[str, Any]:
    grid = sample.info.get("grids", {}).get(str(resolution), {})
    return grid if isinstance(grid, dict) else {}


def extract(data_dir: Path, out: Path, resolution: int | None = None) -> list[Path]:
    """Write one mesh per sample, OUT/<id>.ply, in the frame of its source.

    `resolution` None takes the finest one stored.
    """
    from threed_gen.geometry.marching_cubes import extract_mesh
    from threed_gen.geometry.mesh_io import save_mesh

    dataset = SDFDataset(data_dir)
    resolution = dataset.index.resolutions[-1] if resolution is None else resolution
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with Progress(len(dataset), "extracting", "shape") as bar:
        for number in range(len(dataset)):
            path = out / f"{dataset.entry(number).id}.ply"
            save_mesh(extract_mesh(dataset.load(number, resolution)), path)
            written.append(path)
            bar.advance(note=path.name)
    return written


def verify(data_dir: Path) -> None:
    """Read every byte of every shard and compare; UserError names all that differ."""
    index = ShardIndex.load(data_dir)
    wrong = []
    for shard in progress(index.shards, "verifying", "shard"):
        path = data_dir / SHARDS / shard.file
        if not path.is_file() or file_sha256(path) != shard.sha256:
            wrong.append(str(path))
    if wrong:
        raise UserError(
            f"{', '.join(wrong)}: damaged or missing; delete and run `threed-gen prepare` again "
            "with the same arguments"
        )
