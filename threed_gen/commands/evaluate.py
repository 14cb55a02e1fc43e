"""`threed-gen evaluate RUN|DIR [--against DATA]`: how close meshes are to the truth.

RUN alone: its own shapes, rebuilt; RUN/evaluation.json, which the page shows. With --against: the
meshes of a folder, or what an SS-VAE's run makes of a data set's shapes, by the whole protocol.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from threed_gen.console import progress, say
from threed_gen.errors import UserError, disk_errors
from threed_gen.evaluation.evaluate import drawable, file_stem
from threed_gen.evaluation.nearest import nearest
from threed_gen.evaluation.pairs import Matched, Pair, judge_pairs, match
from threed_gen.evaluation.protocol import Sampling
from threed_gen.evaluation.truths import TruthRef, open_truths
from threed_gen.evaluation.verdict import summary_of, verdict_table, write_verdict
from threed_gen.files import write_atomically
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh_io import save_mesh
from threed_gen.machine import cores
from threed_gen.report.worst import write_worst


def run(args: argparse.Namespace) -> int:
    """Prints the table; what could not be measured ends in exit code 2, after all is written."""
    is_run = (args.run / "config.yaml").is_file()
    if args.against is None:
        if not is_run and args.run.is_dir():
            raise UserError(f"{args.run}: not a run; a folder of meshes needs --against DATA")
        for option, given in (("--out", args.out), ("--nearest", args.nearest)):
            if given:
                raise UserError(f"{option}: needs --against DATA, the truth to measure against")
        from threed_gen.training.validate import evaluate_run

        evaluate_run(args.run, meshes=args.meshes)
        return 0
    if args.points == 0:
        raise UserError("--points 0: nothing can be measured without points")
    truths = open_truths(args.against, args.meshes)
    sampling = Sampling(args.points, args.paper_points)
    out: Path = args.out or args.run.with_name(f"{args.run.resolve().name}.evaluated")
    with disk_errors(out, "the evaluation"):
        out.mkdir(parents=True, exist_ok=True)
    if is_run:
        matched = rebuilt(args.run, args.against, truths, out / "meshes", sampling)
    else:
        matched = match(args.run, truths, args.align, sampling)
    workers = cores() if args.workers is None else args.workers
    rows = judge_pairs(matched.pairs, workers)
    names = args.run.resolve().name, args.against.resolve().name
    summary = summary_of(*names, rows, matched, "none" if is_run else args.align, sampling)
    if args.nearest:
        found = nearest(matched.pairs, truths, workers)
        write_atomically(out / "nearest.csv", found.as_csv().encode(), "the table of distances")
        summary["nearest"] = found.as_json()
    write_verdict(out, rows, summary)
    write_worst(out / "worst.png", matched.pairs, rows, workers)
    print(verdict_table(rows, summary))
    if args.nearest:
        print(f"nearest truth is their own: {found.right} of {len(found.predictions)}")
    say(f"written: {out}: shapes.csv, summary.json, worst.png")
    problems = summary["problems"]
    if problems:
        raise UserError(f"{len(problems)} of {len(rows)} meshes could not be measured (see above)")
    return 0


def rebuilt(
    run: Path, data: Path, truths: list[TruthRef], out: Path, sampling: Sampling
) -> Matched:
    """Send every shape of a data set through a run's SS-VAE; the meshes go to `out`."""
    import torch

    from threed_gen.data.dataset import SDFDataset
    from threed_gen.data.index import INDEX_NAME
    from threed_gen.generation.reconstruct import reconstruct
    from threed_gen.training.load import load_vae

    if not (data / INDEX_NAME).is_file():
        raise UserError(
            f"{data}: not made by `prepare`; a run is evaluated on prepared data (for a folder of "
            "meshes: `threed-gen reconstruct`, then evaluate its folder)"
        )
    loaded = load_vae(run)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, section = loaded.model.to(device), loaded.config.data
    dataset, known = SDFDataset(data, section.tau), {ref.name: ref for ref in truths}
    pairs, taken = [], set[str]()
    with disk_errors(out, "the reconstructions"):
        out.mkdir(parents=True, exist_ok=True)
    for index in progress(range(len(dataset)), "rebuilding", "shape"):
        field = dataset.load(index, max(section.resolutions))
        name = dataset.entry(index).id
        mesh = extract_mesh(drawable(reconstruct(model, field, device)))
        path = out / f"{file_stem(name, taken)}.ply"
        found: Path | None = path
        if len(mesh.faces):
            save_mesh(mesh, path)
        else:
            path.unlink(missing_ok=True)  # of an earlier evaluation
            found = None
        pairs.append(Pair(name, found, known[name], "none", sampling))
    return Matched(pairs, [], [])
