"""Each launcher's traces in the environment lead to the same `Cluster`."""

from __future__ import annotations

import pytest

from launcher.cluster import FIRST_PORT, PORTS, ClusterError, detect

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1",
    "MASTER_ADDR": "n1", "MASTER_PORT": "15001",
}  # fmt: skip
DEEPSPEED = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_SIZE": "4", "CROSS_RANK": "1",
    "CROSS_SIZE": "2", "MASTER_ADDR": "n1", "MASTER_PORT": "15001",
}  # fmt: skip
MPI = {
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "prterun-x-1@1",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
    "SLURM_NNODES": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1",
}  # fmt: skip


def test_single_process() -> None:
    cluster = detect({})
    assert (cluster.rank, cluster.world_size, cluster.source) == (0, 1, "single")


@pytest.mark.parametrize("environ", [TORCHRUN, DEEPSPEED], ids=["torchrun", "deepspeed"])
def test_torch_style(environ: dict[str, str]) -> None:
    cluster = detect(environ)
    assert (cluster.rank, cluster.world_size) == (5, 8)
    assert (cluster.local_rank, cluster.local_size) == (1, 4)
    assert (cluster.node, cluster.nodes) == (1, 2)
    assert (cluster.master_addr, cluster.master_port) == ("n1", 15001)


def test_mpirun_on_one_host_agrees_on_a_port_without_mpi() -> None:
    one, other = detect(MPI), detect({**MPI, "OMPI_COMM_WORLD_RANK": "0"})
    assert (one.rank, one.world_size, one.local_rank) == (1, 2, 1)
    assert one.master_addr == "127.0.0.1"
    assert one.master_port == other.master_port
    assert FIRST_PORT <= one.master_port < FIRST_PORT + PORTS
    assert detect({**MPI, "PMIX_NAMESPACE": "prterun-x-2@1"}).master_port != one.master_port


def test_srun() -> None:
    cluster = detect(SLURM)
    assert (cluster.rank, cluster.world_size, cluster.node, cluster.nodes) == (3, 4, 1, 2)
    assert cluster.master_addr == "n1"


def test_a_batch_shell_is_one_process() -> None:
    shell = {k: v for k, v in SLURM.items() if k != "SLURM_STEP_ID"}
    assert detect(shell).source == "single"


def test_torchrun_inside_a_slurm_allocation_wins() -> None:
    shell = {k: v for k, v in SLURM.items() if k != "SLURM_STEP_ID"}
    assert detect({**shell, **TORCHRUN}).source == "torch"


def test_export_sets_every_variable() -> None:
    environ: dict[str, str] = {}
    detect(MPI).export(environ)
    assert environ["RANK"] == "1"
    assert environ["LOCAL_SIZE"] == environ["LOCAL_WORLD_SIZE"] == "2"
    assert (environ["CROSS_RANK"], environ["CROSS_SIZE"]) == ("0", "1")
    assert detect(environ).rank == 1


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "0"}, "WORLD_SIZE|missing"),
        ({**TORCHRUN, "RANK": "x"}, "RANK must be a whole number"),
        ({**TORCHRUN, "RANK": "9"}, "does not fit 8 ranks"),
        ({**TORCHRUN, **MPI}, "disagree"),
    ],
)
def test_contradictions_are_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        detect(environ)
