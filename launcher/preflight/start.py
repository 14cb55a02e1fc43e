"""How the nodes' programs are started: `srun` in a Slurm allocation, `ssh` to hosts, or right here.

All three speak over standard input and output; `srun` hands its input to every task.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LaunchError
from launcher.hostlist import expand

PROGRAM = ("-m", "launcher.preflight.node")
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
FIRST_SECONDS = 25.0
ALLOCATE_SECONDS = 30  # how long Slurm may take to give nodes to who has none


@dataclass(frozen=True)
class Start:
    """Commands to start, and what is known of the nodes before they answer.

    Attributes:
        commands: by node; under Slurm one for all, under an empty name.
        nodes: their names; None when Slurm chooses them.
        wait: seconds until the first of them has to answer.
        queues: whether Slurm may let it wait for nodes, which is no part of the preflight's time.
    """

    commands: Mapping[str, Sequence[str]]
    nodes: list[str] | None
    wait: float = FIRST_SECONDS
    queues: bool = False

    @property
    def slurm(self) -> bool:
        return "" in self.commands


def here() -> Start:
    """This machine alone."""
    name = socket.gethostname()
    return Start({name: [sys.executable, *PROGRAM, "--node", name]}, [name])


def over_ssh(hosts: Sequence[str], python: str) -> Start:
    """Every host by its name; the folder is this one on all of them."""
    if shutil.which("ssh") is None:
        raise LaunchError(
            "no ssh on this machine, over which the nodes of a hostfile are asked; install "
            "openssh-client"
        )
    commands = {}
    for host in hosts:
        line = shlex.join([python, *PROGRAM, "--node", host])
        commands[host] = [*SSH, host, f"cd {shlex.quote(str(Path.cwd()))} && exec {line}"]
    return Start(commands, list(hosts))


def over_srun(
    environ: Mapping[str, str], nodes: int | None, python: str, inside: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Start:  # fmt: skip
    """One task on each node of the allocation, or on nodes that Slurm is asked for now.

    Args:
        nodes: how many; None: all of the allocation.
        inside: words between `srun` and python: a container's.
        options: of the site, for who has no allocation: account, partition.
    """
    if shutil.which("srun") is None:
        raise LaunchError(
            "no Slurm on this machine (srun not found): name the nodes with --hostfile FILE, one "
            "'node1 slots=8' a line, or log in where Slurm is"
        )
    listed = environ.get("SLURM_JOB_NODELIST")
    names = None
    if listed is None and nodes is None:
        raise LaunchError("--nodes: say how many (--nodes 4), as this is no Slurm allocation")
    if listed is not None:
        names = expand(listed)
        if nodes is not None and nodes > len(names):
            raise LaunchError(
                f"--nodes {nodes}: this allocation has {len(names)} ({listed}); ask for fewer"
            )
        count = nodes or len(names)
        names = names if count == len(names) else None
        how = ["--overlap"]
    else:
        assert nodes is not None
        count = nodes
        how = [f"--immediate={ALLOCATE_SECONDS}", *options]
    # --mpi=none: the preflight has no MPI, whatever the site's default is.
    place = [f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", "--mpi=none"]
    words = ["srun", *how, *place, "--kill-on-bad-exit=0", *inside, python, *PROGRAM]
    if listed is not None:
        return Start({"": words}, names)
    return Start({"": words}, None, ALLOCATE_SECONDS + FIRST_SECONDS, queues=True)


def in_allocation(environ: Mapping[str, str]) -> bool:
    """Whether this shell or batch script belongs to a Slurm job."""
    return bool(environ.get("SLURM_JOB_NODELIST"))
