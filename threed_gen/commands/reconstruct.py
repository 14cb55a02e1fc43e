"""`threed-gen reconstruct MESH… --run RUN --out DIR`: meshes through a trained SS-VAE and back.

A reconstruction has the frame of its mesh, and all of its surface: what is hollow stays hollow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from threed_gen.console import Progress, table
from threed_gen.errors import UserError, disk_errors
from threed_gen.evaluation.evaluate import Shape, file_stem, judge
from threed_gen.generation.mesh_file import write_mesh
from threed_gen.generation.pipeline import CHUNK
from threed_gen.generation.reconstruct import reconstruct
from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.geometry.narrow_band import build_sparse_sdf
from threed_gen.training.load import LoadedRun, load_run


def run(args: argparse.Namespace) -> int:
    """Every mesh is tried; those that cannot be read are listed at the end (exit code 2)."""
    loaded = load_run(args.run)
    with disk_errors(args.out, "the reconstructions"):
        args.out.mkdir(parents=True, exist_ok=True)
    rows, problems, taken = [], [], set[str]()
    with Progress(len(args.meshes), "reconstructing", "mesh") as bar:
        for path in args.meshes:
            target = args.out / f"{file_stem(path.stem, taken)}.{args.format}"
            try:
                rows.append(one(path, target, loaded))
            except MeshError as err:
                problems.append(str(err))
            bar.advance(note=path.name)
    if rows:
        print(table(["mesh", "IoU", "err/voxel", "F@0.02", "written"], rows))
    if problems:
        raise UserError(
            f"{len(problems)} of {len(args.meshes)} meshes were left out: " + "; ".join(problems)
        )
    return 0


def one(path: Path, target: Path, loaded: LoadedRun) -> tuple[str, str, str, str, str]:
    """Rebuild one mesh at the run's finest resolution and compare the two."""
    data = loaded.config.data
    source = load_mesh(path)
    truth = build_sparse_sdf(source, max(data.resolutions), data.tau)
    predicted = reconstruct(loaded.model, truth, loaded.device, CHUNK)
    judged = judge(Shape(path.stem, truth, predicted))
    if not len(judged.reconstruction.faces):
        raise MeshError(f"{path}: the run's SS-VAE makes no surface of it", "no_faces")
    write_mesh(judged.reconstruction, target)
    numbers = [judged.metrics[key] for key in ("iou", "error_voxels", "f@0.02")]
    iou, error, f_score = ("-" if n is None else f"{n:.3f}" for n in numbers)
    return path.name, iou, error, f_score, str(target)
