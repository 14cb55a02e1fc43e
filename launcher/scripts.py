"""The scripts in `slurm/`: `python -m launcher.scripts slurm/` writes them.

They are what `threed-gen launch` would submit, with the choices left to whoever submits them: a
person can read them, change them, and `sbatch` them. Account and partition come from the command
line (`sbatch --partition=gpu …`) or from SBATCH_ACCOUNT and SBATCH_PARTITION.
"""

from __future__ import annotations

import sys
from pathlib import Path

from launcher.sbatch import TRAIN, Batch, rank_lines, render, resuming_body, training_body
from launcher.site import Site

PYTHON = ".venv/bin/python"
HERE = f'[ -f {TRAIN} ] || {{ echo "submit this from the folder of the repository" >&2; exit 2; }}'
GPUS = 8  # of a node
RANKS = rank_lines(Site(), PYTHON, TRAIN, GPUS)


def _training(name: str, what: str, config: str, nodes: int) -> Batch:
    head = (
        HERE,
        f"config=${{1:-{config}}}",
        f"run=${{2:-runs/{name}-$SLURM_JOB_ID}}",
        'shift "$(($# < 2 ? $# : 2))"',
    )
    about = (
        f"{what}",
        "",
        f"  sbatch [--nodes=N …] slurm/{name}.sbatch [CONFIG [RUN [key=value …]]]",
        "",
        f"CONFIG is {config} unless said otherwise, and",
        f"RUN is runs/{name}-JOB. A requeued job goes on where its newest checkpoint is.",
    )
    return Batch(
        name=name, about=about, nodes=nodes, tasks=GPUS, gpus=GPUS, log="%x-%j.log",
        body=training_body(head, RANKS),
    )  # fmt: skip


def _resume() -> Batch:
    head = (HERE, "run=${1:?say which: sbatch slurm/resume.sbatch RUN}", "shift")
    about = (
        "Go on with a run from its newest whole checkpoint, on any number of ranks.",
        "",
        "  sbatch [--nodes=N …] slurm/resume.sbatch RUN [--fresh]",
    )
    return Batch(
        name="resume", about=about, nodes=1, tasks=GPUS, gpus=GPUS, log="%x-%j.log",
        body=resuming_body(head, RANKS),
    )  # fmt: skip


def _prepare() -> Batch:
    about = (
        "Meshes to shards: every task of the array takes its own assets, the last one packs.",
        "",
        "  sbatch [--array=0-15] slurm/prepare.sbatch SRC OUT --resolution 256 512",
        "",
        "The same command again does what is left.",
    )
    command = f'{PYTHON} -m threed_gen.cli prepare "$@" --workers "$SLURM_CPUS_PER_TASK"'
    return Batch(
        name="prepare", about=about, nodes=1, tasks=1, gpus=0, cpus=32, array="0-7",
        log="%x-%A_%a.log", body=(HERE, command),
    )  # fmt: skip


def _encode() -> Batch:
    about = (
        "Latents of prepared shapes: every task of the array encodes its own on one GPU, the last",
        "one packs.",
        "",
        "  sbatch [--array=0-15] slurm/encode.sbatch RUN DATA --out LATENTS",
        "",
        "The same command again does what is left.",
    )
    command = f'{PYTHON} -m threed_gen.cli encode "$@"'
    return Batch(
        name="encode", about=about, nodes=1, tasks=1, gpus=1, array="0-3",
        log="%x-%A_%a.log", body=(HERE, command),
    )  # fmt: skip


SCRIPTS = {
    batch.name: batch
    for batch in (
        _training(
            "ss_vae", "Train the SS-VAE: from fields to latents and back.",
            "configs/ss_vae/direct3d-s2.yaml", 1,
        ),
        _training(
            "structure", "Train the structure stage: from a picture to the cells that exist.",
            "configs/structure_dit/direct3d-s2.yaml", 1,
        ),
        _training(
            "ss_dit", "Train the SS-DiT: from a picture to latents on given cells.",
            "configs/ss_dit/recommended.yaml", 2,
        ),
        _prepare(),
        _encode(),
        _resume(),
    )
}  # fmt: skip


def write(folder: Path) -> list[Path]:
    """Write all scripts; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, batch in SCRIPTS.items():
        path = folder / f"{name}.sbatch"
        path.write_text(render(batch, Site()), encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    write(Path(sys.argv[1]))
