"""How long a mesh takes to become a field and a mesh again, what memory, and how exact it is.

    python -m benchmarks.geometry MESHES [FILE ...] --resolutions 256 512 --out benchmarks/results

Every row is measured in a fresh process, so that its peak memory is its own. Kernels are compiled
before the clock starts (about 3 s, once per machine); seconds are processor time. Distances are
exact point-to-triangle distances (libigl, float64) of 200 000 seeded samples on each side; of the
source only samples count from which one of 64 rays escapes, because what nobody can see is dropped
on purpose. F@0.001 has the source's longest side scaled to 2. The table goes to the terminal and
to `geometry_<date>.md`.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from threed_gen.console import progress, say, table
from threed_gen.geometry import narrow_band
from threed_gen.geometry.fidelity import surface_samples
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh, face_normals, is_watertight
from threed_gen.geometry.mesh_io import MESH_SUFFIXES, load_mesh
from threed_gen.geometry.rays import RayMesh
from threed_gen.geometry.repair import repair
from threed_gen.geometry.signs import SignReport
from threed_gen.geometry.surface import Surface

SAMPLES = 200_000
HEADERS = (
    "mesh",
    "faces",
    "R",
    "bricks (tokens)",
    "band voxels",
    "field CPU s",
    "extract CPU s",
    "repair CPU s",
    "peak MB",
    "before MB",
    "source→mesh voxels",
    "mesh→source voxels",
    "worst voxels",
    "beyond 2 voxels",
    "F@0.001",
    "seen",
    "watertight",
    "flags",
)


@dataclass(frozen=True)
class Row:
    """One mesh at one resolution."""

    mesh: str
    faces: int
    resolution: int
    bricks: int
    voxels: int
    field_seconds: float
    extract_seconds: float
    repair_seconds: float
    peak_mb: float
    before_mb: float
    forward: float
    backward: float
    worst: float
    beyond: float
    f_score: float
    seen: float
    watertight: bool
    flags: str

    def cells(self) -> list[str]:
        return [
            self.mesh,
            f"{self.faces}",
            f"{self.resolution}",
            f"{self.bricks}",
            f"{self.voxels}",
            f"{self.field_seconds:.2f}",
            f"{self.extract_seconds:.2f}",
            f"{self.repair_seconds:.2f}",
            f"{self.peak_mb:.0f}",
            f"{self.before_mb:.0f}",
            f"{self.forward:.4f}",
            f"{self.backward:.4f}",
            f"{self.worst:.2f}",
            f"{self.beyond:.3%}",
            f"{self.f_score:.4f}",
            f"{self.seen:.1%}",
            "yes" if self.watertight else "NO",
            self.flags,
        ]


def peak_mb() -> float:
    """Highest resident memory of this process so far (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def seen_samples(mesh: Mesh) -> tuple[np.ndarray, float]:
    """Points on the surface from which a ray escapes, [n, 3], and their share of all points."""
    low, high = mesh.bounds
    unit = Mesh((mesh.vertices - low) / float((high - low).max()), mesh.faces)
    points, face = surface_samples(unit, SAMPLES, 0)
    seen = RayMesh(unit.triangles).sees_the_sky(points, face_normals(unit)[face])
    return points[seen] * float((high - low).max()) + low, float(seen.mean())


def flags_of(surface: Surface, report: SignReport) -> str:
    """What had to be done to the mesh, in a few words."""
    repaired = surface.report
    words = [f"{repaired.patches} patches" if repaired.patches > 1 else ""]
    words += [f"{repaired.duplicates} doubled faces" if repaired.duplicates else ""]
    words += [f"{repaired.flipped} faces turned" if repaired.flipped else ""]
    words += [f"{repaired.caps} caps" if repaired.caps else ""]
    shares = (
        ("open", repaired.open_share),
        ("sheet", report.sheet_share),
        ("thin", report.thin_share),
        ("interior", report.interior_share),
    )
    words += [f"{name} {share:.1%}" for name, share in shares if share >= 0.0005]
    return ", ".join(word for word in words if word)


def distances(points: np.ndarray, mesh: Mesh) -> np.ndarray:
    import igl

    squared, _, _ = igl.point_mesh_squared_distance(points, mesh.vertices, mesh.faces)
    return np.sqrt(squared)


def measure(path: Path, resolution: int) -> Row:
    """Everything about one mesh at one resolution; meant for a fresh process."""
    source = load_mesh(path)
    corner = Mesh(np.eye(4, 3), np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]]))
    torn = Mesh(
        corner.vertices, np.concatenate([corner.faces[:3], corner.faces[:1] * 0 + [0, 1, 3]])
    )
    for warm_up in (corner, torn):  # compiles the kernels, or loads them
        narrow_band.build_sparse_sdf(warm_up, 16, policy="winding")
    before = peak_mb()
    start = time.process_time()
    surface = repair(source)
    repaired = time.process_time()
    sdf, report = narrow_band.measure(surface, resolution)
    middle = time.process_time()
    extracted = extract_mesh(sdf)
    end = time.process_time()
    peak = peak_mb()
    points, seen = seen_samples(source)
    forward = distances(points, extracted)
    backward = distances(surface_samples(extracted, SAMPLES, 1)[0], source)
    low, high = source.bounds
    threshold = 0.001 / 2 * float((high - low).max())
    recall, precision = np.mean(forward < threshold), np.mean(backward < threshold)
    voxel = sdf.scale / resolution
    return Row(
        mesh=path.name,
        faces=len(source.faces),
        resolution=resolution,
        bricks=sdf.num_bricks,
        voxels=sdf.num_voxels,
        field_seconds=middle - start,
        extract_seconds=end - middle,
        repair_seconds=repaired - start,
        peak_mb=peak,
        before_mb=before,
        forward=float(forward.mean()) / voxel,
        backward=float(backward.mean()) / voxel,
        worst=float(max(forward.max(), backward.max())) / voxel,
        beyond=float(np.mean(forward > 2 * voxel)),
        f_score=float(2 * precision * recall / max(precision + recall, 1e-12)),
        seen=seen,
        watertight=is_watertight(extracted),
        flags=flags_of(surface, report),
    )


def page(rows: list[Row], date: str, note: list[str]) -> str:
    """The Markdown page that is committed."""
    lines = [
        f"# Geometry: mesh → field → mesh, {date}",
        "",
        f"Machine: {machine()}. Written by `benchmarks/geometry.py`, which says how it measures.",
        "Seconds are processor time on one thread; those of the field contain the repair. Peak",
        "memory is that of the whole process; `before` is its peak when the libraries, the kernels",
        "and the mesh were loaded. Bricks are tokens. Of the source only the samples that can be",
        "`seen` from outside count. The policy for openings is the default, `shell`.",
        *note,
        "",
        "| " + " | ".join(HEADERS) + " |",
        "|" + "|".join(["---"] + ["---:"] * (len(HEADERS) - 2) + ["---"]) + "|",
        *("| " + " | ".join(row.cells()) + " |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("meshes", type=Path, help="folder of mesh files")
    parser.add_argument("files", nargs="*", help="files in it (default: all)")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--note", nargs="*", default=[], help="sentences for the page")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    args = parser.parse_args()
    found = sorted(p.name for p in args.meshes.iterdir() if p.suffix.lower() in MESH_SUFFIXES)
    jobs = [(args.meshes / n, r) for n in args.files or found for r in args.resolutions]
    rows = []
    for path, resolution in progress(jobs, "measuring"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(measure, path, resolution).result())
    print(table(HEADERS, [row.cells() for row in rows]))
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / f"geometry_{args.date}.md"
    target.write_text(page(rows, args.date, args.note), encoding="utf-8")
    say(f"written: {target}")


if __name__ == "__main__":
    main()
