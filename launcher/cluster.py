"""Who am I, and who are the others?

A rank may be started by `torchrun`, the `deepspeed` launcher, `mpirun`, `srun`, or simply by
`python`. Each leaves its own traces in the environment; `detect` reads them into one `Cluster`,
and `Cluster.export` writes the complete set of variables that PyTorch and DeepSpeed look for, so
that nothing downstream has to guess. MPI is imported only for an `mpirun` over several hosts (to
agree on an address): under plain `srun` that import would end the process.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

FIRST_PORT, PORTS = 15_000, 15_000  # below the kernel's outgoing range, which begins at 32768


class ClusterError(Exception):
    """The environment contradicts itself or lacks a piece; one line names the variables."""


@dataclass(frozen=True)
class Cluster:
    """One rank's place among all ranks.

    Attributes:
        rank, world_size: among all ranks of the job.
        local_rank, local_size: among the ranks of this host.
        node, nodes: this host's number and how many there are.
        master_addr, master_port: where rank 0 listens (unused in a single process).
        source: which launcher said so: "torch" (torchrun and deepspeed), "mpi", "slurm", "single".
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    node: int
    nodes: int
    master_addr: str
    master_port: int
    source: str

    def export(self, environ: MutableMapping[str, str]) -> None:
        """Write the full set of variables (also LOCAL_SIZE and CROSS_*, which DeepSpeed reads)."""
        environ.update(
            RANK=str(self.rank),
            WORLD_SIZE=str(self.world_size),
            LOCAL_RANK=str(self.local_rank),
            LOCAL_SIZE=str(self.local_size),
            LOCAL_WORLD_SIZE=str(self.local_size),
            CROSS_RANK=str(self.node),
            CROSS_SIZE=str(self.nodes),
            MASTER_ADDR=self.master_addr,
            MASTER_PORT=str(self.master_port),
        )


def detect(environ: Mapping[str, str]) -> Cluster:
    """Read this rank's place from the environment.

    Precedence: RANK/WORLD_SIZE (torchrun, deepspeed, or set by hand) before Open MPI before Slurm
    before a single process. Two sources that disagree about the rank are an error naming both.
    """
    found = [
        cluster
        for cluster in (_from_torch(environ), _from_mpi(environ), _from_slurm(environ))
        if cluster is not None
    ]
    if not found:
        return Cluster(0, 1, 0, 1, 0, 1, "127.0.0.1", _port("single"), "single")
    first = found[0]
    for other in found[1:]:
        if (first.rank, first.world_size) != (
            other.rank,
            other.world_size,
        ) and other.world_size > 1:
            raise ClusterError(
                f"two launchers disagree: {first.source} says rank {first.rank} of "
                f"{first.world_size}, {other.source} says rank {other.rank} of "
                f"{other.world_size}; unset the variables of one of them"
            )
    return first


def _from_torch(environ: Mapping[str, str]) -> Cluster | None:
    if "RANK" not in environ and "WORLD_SIZE" not in environ:
        return None
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in environ]
    if missing:
        raise ClusterError(f"RANK or WORLD_SIZE is set, but {', '.join(missing)} is missing")
    rank, world = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    local = _number(environ, "LOCAL_RANK")
    size_name = "LOCAL_WORLD_SIZE" if "LOCAL_WORLD_SIZE" in environ else "LOCAL_SIZE"
    local_size = _number(environ, size_name) if size_name in environ else world
    return _checked(
        Cluster(
            rank, world, local, local_size,
            _number(environ, "GROUP_RANK") if "GROUP_RANK" in environ else rank // local_size,
            max(1, world // local_size),
            environ["MASTER_ADDR"], _number(environ, "MASTER_PORT"), "torch",
        )
    )  # fmt: skip


def _from_mpi(environ: Mapping[str, str]) -> Cluster | None:
    if "OMPI_COMM_WORLD_RANK" not in environ:
        return None
    rank, world = _number(environ, "OMPI_COMM_WORLD_RANK"), _number(environ, "OMPI_COMM_WORLD_SIZE")
    local = _number(environ, "OMPI_COMM_WORLD_LOCAL_RANK")
    local_size = _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE")
    nodes = -(-world // local_size)
    namespace = environ.get("PMIX_NAMESPACE", environ.get("OMPI_MCA_ess_base_jobid", "mpi"))
    address = "127.0.0.1" if nodes == 1 else _mpi_address()
    return _checked(
        Cluster(
            rank, world, local, local_size, rank // local_size, nodes, address,
            _port(namespace), "mpi",
        )
    )  # fmt: skip


def _from_slurm(environ: Mapping[str, str]) -> Cluster | None:
    # SLURM_STEP_ID exists inside `srun` only; the batch shell itself is one plain process.
    if "SLURM_PROCID" not in environ or "SLURM_STEP_ID" not in environ:
        return None
    rank, world = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_NTASKS")
    nodes = _number(environ, "SLURM_NNODES")
    step = f"{environ.get('SLURM_JOB_ID', '0')}.{environ['SLURM_STEP_ID']}"
    restarts = environ.get("SLURM_RESTART_COUNT", "0")
    return _checked(
        Cluster(
            rank, world, _number(environ, "SLURM_LOCALID"), -(-world // nodes),
            _number(environ, "SLURM_NODEID"), nodes,
            "127.0.0.1" if nodes == 1 else _first_slurm_host(environ),
            _port(f"slurm {step} {restarts}"), "slurm",
        )
    )  # fmt: skip


def _first_slurm_host(environ: Mapping[str, str]) -> str:
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise ClusterError("SLURM_JOB_NODELIST is missing, so the first node is unknown")
    if not any(mark in nodes for mark in "[,"):
        return nodes
    listing = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
    )
    return listing.stdout.split()[0]


def _mpi_address() -> str:
    from mpi4py import MPI  # only ever reached under mpirun over several hosts

    own = socket.gethostbyname(socket.gethostname())
    return str(MPI.COMM_WORLD.bcast(own, root=0))


def _port(key: str) -> int:
    """The same port on every rank of a job, another one for the next job or attempt."""
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return FIRST_PORT + int.from_bytes(digest, "big") % PORTS


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name)
    if value is None or not value.strip().isdigit():
        raise ClusterError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def _checked(cluster: Cluster) -> Cluster:
    if not 0 <= cluster.rank < cluster.world_size:
        raise ClusterError(
            f"{cluster.source}: rank {cluster.rank} does not fit {cluster.world_size} ranks"
        )
    return cluster
