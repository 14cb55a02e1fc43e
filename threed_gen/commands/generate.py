"""`threed-gen generate IMAGE… --run RUN --out FILE|DIR`: meshes from images."""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

from threed_gen.console import Progress, say, table
from threed_gen.errors import UserError, disk_errors
from threed_gen.evaluation.evaluate import file_stem
from threed_gen.generation.account import HEADERS, Account
from threed_gen.generation.image import read_images
from threed_gen.generation.mesh_file import check_target, fill_holes, simplified, write_mesh
from threed_gen.generation.pipeline import Made, Pipeline, Settings
from threed_gen.generation.stages import LatentStage, Picture, StructureStage, with_changes
from threed_gen.training.load import best_device
from threed_gen.training.load_generation import (
    load_latent_stage,
    load_structure_stage,
    shared,
    structure_of,
)


def run(args: argparse.Namespace) -> int:
    """Everything that can be wrong is looked for before the first number is computed.

    Pictures that came to nothing are listed at the end (exit code 2); the others are written.
    """
    targets = targets_of(args.images, args.out, args.format)
    check_numbers(args)
    pixels = read_images(args.images, args.background)
    pictures = [
        Picture(path.name, rgba, hashlib.sha256(rgba.tobytes()).hexdigest())
        for path, rgba in zip(args.images, pixels, strict=True)
    ]
    pipeline = load_pipeline(args)
    can_write(targets)
    account, problems, rows = Account(pipeline.device), [], []
    where = {id(picture): target for picture, target in zip(pictures, targets, strict=True)}
    with Progress(pipeline.steps(len(pictures)), "generating", "step") as bar:
        for made in pipeline.run(pictures, account, bar):
            if made.mesh is None:
                problems.append(made.problem)
                continue
            with account.of("mesh file"):
                rows.append(finish(made, where[id(made.picture)], args))
    if rows:
        print(table(["image", "latent cells", "faces", "written"], rows))
        say(table(HEADERS, account.rows()))
    if problems:
        raise UserError("; ".join(problems))
    return 0


def targets_of(images: list[Path], out: str, suffix: str | None) -> list[Path]:
    """Where the mesh of each image goes.

    Raises UserError for several images into one file, and for a name that no mesh can have.
    """
    path = Path(out)
    is_folder = out.endswith("/") or path.is_dir() or not path.suffix
    if not is_folder:
        check_target(path)
        if suffix is not None and path.suffix.lower() != f".{suffix}":
            raise UserError(f"{path}: is no .{suffix} file; leave --format out, or change --out")
        if len(images) > 1:
            raise UserError(f"{path}: {len(images)} images do not go into one file; give a folder")
        return [path]
    taken: set[str] = set()
    return [path / f"{file_stem(image.stem, taken)}.{suffix or 'glb'}" for image in images]


def check_numbers(args: argparse.Namespace) -> None:
    """UserError for numbers that no sampler and no mesh can have."""
    for name, least in (("steps", 1), ("guidance", 0), ("batch", 1), ("chunk", 1), ("faces", 4)):
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise UserError(f"--{name} {value:g}: must be at least {least}")
    if not abs(args.level) < 1:
        raise UserError(f"--level {args.level:g}: must lie between -1 and 1")


def can_write(targets: list[Path]) -> None:
    """UserError now, and not when all is computed, where a target cannot be written."""
    for folder in {target.parent for target in targets}:
        with disk_errors(folder, "the meshes"):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass


def load_pipeline(args: argparse.Namespace) -> Pipeline:
    """All models, checked against each other, with the samplers that were asked for."""
    structure = load_structure_stage(args.structure or structure_of(args.run), args.weights)
    resolution = structure.structure.grid * 8
    latent = load_latent_stage(args.run, args.weights, args.vae, resolution)
    cascade = None
    if args.cascade is not None:
        cascade = changed(shared(load_latent_stage(args.cascade, args.weights), latent), args)
    settings = Settings(args.seed, args.batch, args.chunk, args.level, args.keep_inner)
    return Pipeline(
        changed_structure(structure, args), changed(shared(latent, structure), args), cascade,
        settings, best_device(),
    )  # fmt: skip


def changed(stage: LatentStage, args: argparse.Namespace) -> LatentStage:
    """The stage with another sampler."""
    return replace(
        stage, sampler=with_changes(stage.sampler, args.steps, args.guidance, args.one_pass)
    )


def changed_structure(stage: StructureStage, args: argparse.Namespace) -> StructureStage:
    """The same of the structure stage."""
    return replace(
        stage, sampler=with_changes(stage.sampler, args.steps, args.guidance, args.one_pass)
    )


def finish(made: Made, target: Path, args: argparse.Namespace) -> tuple[str, int, int, str]:
    """Close, simplify and write one mesh; a row of the table."""
    mesh = made.mesh
    assert mesh is not None
    if args.fill_holes:
        mesh, _ = fill_holes(mesh)
    if args.faces is not None:
        mesh = simplified(mesh, args.faces)
    write_mesh(mesh, target)
    return made.picture.name, made.tokens, len(mesh.faces), str(target)
