"""The text of a batch script: what Slurm shall give, and what to do with it.

One function renders every script there is, those in `slurm/` that people submit by hand and those
of `threed-gen launch`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from launcher.command import srun
from launcher.preflight import job
from launcher.site import Site

TRAIN = "threed_gen/train.py"


@dataclass(frozen=True)
class Batch:
    """What one script asks for and does.

    Attributes:
        name: of the job.
        about: comment lines at the top: what it does, how it is submitted.
        nodes, tasks, gpus: nodes, processes on each and GPUs on each (0: none).
        cpus: cores of one process; None: as the site has it.
        log: where output goes, with Slurm's `%j` (job), `%x` (name), `%A_%a` (array).
        body: shell lines.
        array: range of an array job.
    """

    name: str
    about: tuple[str, ...]
    nodes: int
    tasks: int
    gpus: int
    log: str
    body: tuple[str, ...]
    cpus: int | None = None
    array: str | None = None


def render(batch: Batch, site: Site) -> str:
    """The whole script."""
    about = [f"# {line}".rstrip() for line in batch.about]
    options = [f"#SBATCH {option}" for option in [*_asked(batch, site), *site.options]]
    set_up = ["set -eo pipefail", *site.setup, "set -u  # not before: set-up files rely on it"]
    if not site.setup:
        set_up = ["set -euo pipefail"]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in site.variables.items()]
    parts = [["#!/bin/bash", *about], options, [*set_up, *exports], list(batch.body)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _asked(batch: Batch, site: Site) -> list[str]:
    gpu = f"{site.gres}:{batch.gpus}" if site.gres else str(batch.gpus)
    given = [
        ("job-name", batch.name),
        ("account", site.account),
        ("partition", site.partition),
        ("qos", site.qos),
        ("constraint", site.constraint),
        ("exclude", ",".join(site.exclude) or None),
        ("time", site.time),
        ("array", batch.array),
        ("nodes", str(batch.nodes)),
        ("ntasks-per-node", str(batch.tasks)),
        ("cpus-per-task", str(batch.cpus or site.cpus_per_gpu)),
        ("gpus-per-node", gpu if batch.gpus and site.ask_for_gpus else None),
        ("mem", site.memory),
        ("output", batch.log),
    ]
    # A requeued job goes on with the same log.
    return [f"--{name}={value}" for name, value in given if value is not None] + [
        "--open-mode=append",
        "--requeue",
    ]


def training_body(head: tuple[str, ...], ranks: tuple[str, ...]) -> tuple[str, ...]:
    """A training job: `head` sets config, run and "$@" (overrides); `ranks` as of `rank_lines`.

    After a requeue the same script runs again, and then the run is there already.
    """
    return (
        *head,
        "",
        'if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ -f "$run/config.yaml" ]; then',
        '    door=(--resume "$run")',
        "    # ended before its first checkpoint: from step 0",
        '    compgen -G "$run/checkpoints/step_*" >/dev/null || door+=(--fresh)',
        "else",
        '    door=(--config "$config" --out "$run" "$@")',
        "fi",
        *ranks,
    )


def resuming_body(head: tuple[str, ...], ranks: tuple[str, ...]) -> tuple[str, ...]:
    """A job that goes on with `run`; "$@" may hold --fresh."""
    return (*head, "", 'door=(--resume "$run" "$@")', *ranks)


def rank_lines(
    site: Site, python: str, script: str, gpus: int, data: str | None = None
) -> tuple[str, ...]:
    """The end of every training job: the nodes are looked at, and if all are fit the ranks start.

    `door` is the script's array of words for `train.py`. `gpus` are those of a node; `data` is
    where a config has its data, if these words don't say it.
    """
    step = step_line(srun(None, site, [python, "-u", script]))
    return (job.line(site, python, gpus, data), step) if site.preflight else (step,)


def step_line(words: list[str]) -> str:
    """The srun line. Since Slurm 22.05 a step does not inherit its cores from the job."""
    first, *rest = words
    cores = '--cpus-per-task="$SLURM_CPUS_PER_TASK"'
    quoted = " ".join(_word(word) for word in rest)
    return f'{first} {cores} {quoted} "${{door[@]}}"'


def _word(word: str) -> str:
    """Quoted for the shell; `$PWD` is meant to be read there."""
    return f'"{word}"' if "$PWD" in word else shlex.quote(word)
