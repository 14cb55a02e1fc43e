"""Each launcher's traces in the environment lead to the same `Cluster`."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from launcher import cluster as module
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


# What srun says to rank 5 of a step on nodes n2, n3 and n4 with 3 + 3 + 1 ranks.
STEP = {
    "SLURM_PROCID": "5", "SLURM_NTASKS": "7", "SLURM_LOCALID": "2", "SLURM_NODEID": "1",
    "SLURM_NNODES": "3", "SLURM_STEP_ID": "2", "SLURM_JOB_ID": "40",
    "SLURM_STEP_TASKS_PER_NODE": "3(x2),1", "SLURM_STEP_NODELIST": "n[2-4]",
    "SLURM_JOB_NODELIST": "n[1-4]",
}  # fmt: skip


def test_srun_with_uneven_nodes() -> None:
    cluster = detect(STEP)
    assert (cluster.rank, cluster.world_size, cluster.node, cluster.nodes) == (5, 7, 1, 3)
    assert (cluster.local_rank, cluster.local_size) == (2, 3)
    assert cluster.master_addr == "n2", "the step's first node, not the job's"
    last = {"SLURM_PROCID": "6", "SLURM_LOCALID": "0", "SLURM_NODEID": "2"}
    assert detect({**STEP, **last}).local_size == 1


def test_every_start_under_slurm_has_its_own_port() -> None:
    def port(**changes: str) -> int:
        return detect({**STEP, **changes}).master_port

    first = port()
    assert port(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0") == first
    others = {port(SLURM_STEP_ID="3"), port(SLURM_RESTART_COUNT="1"), port(SLURM_JOB_ID="41")}
    assert len(others | {first}) == 4


def test_address_and_port_in_the_environment_go_first() -> None:
    told = {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "20001"}
    for environ in (STEP, MPI):
        cluster = detect({**environ, **told})
        assert (cluster.master_addr, cluster.master_port) == ("10.0.0.7", 20001)
    assert detect({**STEP, "MASTER_ADDR": "10.0.0.7"}).master_addr == "n2", "one alone says nothing"


@pytest.mark.parametrize(
    "inner",
    [
        TORCHRUN,  # srun --ntasks-per-node=1 torchrun …
        DEEPSPEED,
    ],
)
def test_a_launcher_may_start_another_on_each_node(inner: dict[str, str]) -> None:
    outer = {**SLURM, "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    assert detect({**outer, **inner}).rank == 5


def test_deepspeeds_nodes_need_not_be_alike() -> None:
    cluster = detect({**DEEPSPEED, "WORLD_SIZE": "7", "LOCAL_SIZE": "3"})
    assert (cluster.node, cluster.nodes, cluster.local_size) == (1, 2, 3)


def test_both_sides_of_a_disagreement_are_shown() -> None:
    with pytest.raises(ClusterError) as caught:
        detect({**TORCHRUN, **STEP})
    for words in ("torch says rank 5 of 8 (RANK, WORLD_SIZE)", "slurm says rank 5 of 7", "unset"):
        assert words in str(caught.value)
    # As many ranks, one on each node: not a daemon that started them.
    one_each = {**SLURM, "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    alone = {**TORCHRUN, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    with pytest.raises(ClusterError, match="slurm says rank 0 of 2"):
        detect({**alone, **one_each})


class FakeWorld:
    """COMM_WORLD of 4 ranks on 2 hosts, seen from the last one, placed in turns."""

    def allgather(self, _mine: str) -> list[str]:
        return ["a", "b", "a", "b"]

    def bcast(self, mine: Any, root: int) -> Any:
        assert root == 0 and mine is None
        return "10.0.0.1", 20_002


def test_mpirun_over_hosts_asks_mpi_and_leaves_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    fake = SimpleNamespace(COMM_WORLD=FakeWorld(), Finalize=lambda: ended.append(True))
    package = ModuleType("mpi4py")
    package.MPI = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    hosts = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}
    cluster = detect({**MPI, **hosts})
    assert (cluster.rank, cluster.world_size, cluster.local_rank) == (3, 4, 1)
    assert (cluster.node, cluster.nodes, cluster.local_size) == (1, 2, 2)
    assert (cluster.master_addr, cluster.master_port) == ("10.0.0.1", 20_002)
    assert ended == [True]


def test_mpi_is_not_imported_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # an import would fail
    for environ in ({}, TORCHRUN, DEEPSPEED, MPI, STEP):
        detect(environ)


def test_another_mpi_is_not_taken_for_single_processes() -> None:
    with pytest.raises(ClusterError, match="not Open MPI"):
        detect({"PMI_SIZE": "4", "PMI_RANK": "1"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "3"}, "how many tasks node 1 has"),
        ({"SLURM_STEP_NODELIST": "n[2-"}, "is not a list of nodes"),
        ({"SLURM_LOCALID": "3"}, "local rank 3 does not fit the 3 ranks"),
        ({"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}, "another machine on each of the 3"),
        ({"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID must be a whole number"),
    ],
)
def test_broken_slurm_variables_are_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        detect({**STEP, **changes})


def test_an_address_that_others_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = ("x", [], ["127.0.1.1", "10.1.2.3"])
    monkeypatch.setattr(module.socket, "gethostbyname_ex", lambda name: looked_up)
    assert module.own_address() == "10.1.2.3"
