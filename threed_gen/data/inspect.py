"""Looking into prepared data: what is stored, in numbers, and its shapes as meshes again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from threed_gen.console import Progress, progress, table
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import SHARDS, ShardIndex
from threed_gen.errors import UserError
from threed_gen.files import file_sha256


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
        return (
            f"{table(headers, rows)}\n"
            f"shards: {self.shards}, {self.shard_bytes / 1e6:.2f} MB\n"
            f"families: {families}\nlicences: {licences}"
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
            )
        )
    return DataSummary(
        grids=grids,
        families=dict(Counter(sample.family or "-" for sample in index.samples)),
        licences=dict(Counter(sample.licence or "-" for sample in index.samples)),
        shards=len(index.shards),
        shard_bytes=sum(shard.size for shard in index.shards),
    )


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
