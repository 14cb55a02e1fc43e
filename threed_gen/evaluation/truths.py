"""What predictions are compared with: a prepared data set, or a folder of meshes.

The truth of a prepared sample is the mesh that it was made from, where that is at hand (procedural
shapes, or the prepared folder given again); otherwise the surface of its finest stored grid. A
reference is small, so that a child process can be told what to load.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import INDEX_NAME, SHARDS, GridEntry
from threed_gen.data.payload import CorruptSampleError, decode_payload
from threed_gen.data.procedural.families import make_mesh, shape_index
from threed_gen.data.shard import read_member
from threed_gen.data.source_kinds.folder import FolderSource
from threed_gen.errors import UserError
from threed_gen.evaluation.sharp import NearEdges, NearMarked, SharpRegion
from threed_gen.geometry.frame import unit_frame
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh, MeshError
from threed_gen.geometry.mesh_io import load_mesh

GRID_OF_MESHES = 512  # where the truth has no grid: two voxels of this one are "near" an edge


@dataclass(frozen=True)
class TruthRef:
    """Where the truth of one name is found."""

    name: str
    resolution: int  # of the voxels by which "near a sharp edge" is measured
    mesh: Path | None = None
    procedural: int | None = None  # the seed of the set
    shard: Path | None = None
    grid: GridEntry | None = None

    @property
    def kind(self) -> str:
        """In words for tables."""
        return "grid" if self.shard is not None else "source"


@dataclass(frozen=True)
class Truth:
    """One true surface."""

    mesh: Mesh
    sharp: SharpRegion
    scale: float  # mesh_xyz = unit_xyz * scale + offset
    offset: tuple[float, float, float]


def open_truths(against: Path, meshes: Path | None = None) -> list[TruthRef]:
    """All truths of a folder made by `prepare`, or of a folder of mesh files.

    Args:
        meshes: the folder that was prepared, if the comparison shall be with its meshes.
    """
    if not (against / INDEX_NAME).is_file():
        if meshes is not None:
            raise UserError(f"{against}: not made by `prepare`; leave --meshes out")
        return [
            TruthRef(asset.id, GRID_OF_MESHES, mesh=asset.path)
            for asset in FolderSource(against).assets
        ]
    index = SDFDataset(against).index
    finest, origin = index.resolutions[-1], index.params["source"]
    found = []
    for sample in index.samples:
        if meshes is not None:
            path = meshes / sample.source
            if not path.is_file():
                raise UserError(
                    f"{path}: the mesh of sample '{sample.id}' is missing; see --meshes"
                )
            found.append(TruthRef(sample.id, finest, mesh=path))
        elif origin["kind"] == "procedural":
            found.append(TruthRef(sample.id, finest, procedural=int(origin["seed"])))
        else:
            grid = sample.grids[finest]
            place = against / SHARDS / grid.shard
            found.append(TruthRef(sample.id, finest, shard=place, grid=grid))
    return found


def load_truth(ref: TruthRef) -> Truth:
    """Read, make or decode it; MeshError when that fails or it has no surface."""
    if ref.shard is not None and ref.grid is not None:
        grid = ref.grid
        try:
            field = decode_payload(read_member(ref.shard, grid.offset, grid.size, grid.sha256))
        except (CorruptSampleError, OSError) as err:
            raise MeshError(f"{ref.shard}: sample '{ref.name}': {err}", "unreadable") from err
        mesh = extract_mesh(field)
        if not len(mesh.faces):
            raise MeshError(f"{ref.shard}: sample '{ref.name}' has no surface", "no_faces")
        return Truth(mesh, NearMarked(field), field.scale, field.offset)
    if ref.procedural is not None:
        mesh = make_mesh(shape_index(ref.name), ref.procedural)[1]
    else:
        assert ref.mesh is not None
        mesh = load_mesh(ref.mesh)
    _, scale, offset = unit_frame(mesh)
    return Truth(mesh, NearEdges(mesh, ref.resolution), scale, offset)
