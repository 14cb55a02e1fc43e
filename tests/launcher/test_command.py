"""The command lines: what is started, where, and with what."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher import command as lines
from launcher.command import Master, Ranks, Training
from launcher.errors import LaunchError
from launcher.site import Container, Site

TRAIN = Training("python3", "threed_gen/train.py", ("--config", "a b.yaml", "--out", "r"))
RANKS, MASTER = Ranks(2, 4), Master("n1", 15_007)
END = "python3 -u threed_gen/train.py --config 'a b.yaml' --out r"


def test_ranks_fill_one_node_after_the_other() -> None:
    assert RANKS.world == 8
    assert [*RANKS.of_node(0), *RANKS.of_node(1)] == list(range(8))


def test_srun() -> None:
    words = lines.srun(RANKS, Site(), ["python3", "x.py"])
    assert lines.shown(words) == (
        "srun --nodes=2 --ntasks=8 --kill-on-bad-exit=1 --label python3 x.py"
    )
    assert lines.srun(None, Site(), ["x"]) == ["srun", "--kill-on-bad-exit=1", "--label", "x"]


def test_containers() -> None:
    box = Container(image="t.sif", mounts=["/data", "/a:/b"])
    words = lines.srun(None, Site(container=box), ["x"])
    expected = "apptainer exec --nv --bind /data --bind /a:/b t.sif x"
    assert lines.shown(words).endswith(expected)
    box = Container(image="t.sqsh", runtime="pyxis", mounts=["/data", "/a:/b"])
    words = lines.srun(None, Site(container=box), ["x"])
    assert "--container-mounts=/data:/data,/a:/b" in words
    assert words[-2:] == ["--container-mounts=/data:/data,/a:/b", "x"]
    assert "apptainer" not in words


def test_deepspeed_here_and_over_hosts() -> None:
    here = lines.shown(lines.deepspeed(TRAIN, Ranks(1, 4), None, MASTER))
    assert here == (
        "deepspeed --num_gpus=4 --master_port=15007 threed_gen/train.py --config 'a b.yaml' --out r"
    )
    there = lines.deepspeed(TRAIN, RANKS, Path("hosts"), MASTER)
    assert there[:5] == [
        "deepspeed", "--hostfile=hosts", "--master_addr=n1", "--no_ssh_check",
        "--master_port=15007",
    ]  # fmt: skip
    # A single host of a file may be another machine than this one.
    assert "--force_multi" in lines.deepspeed(TRAIN, Ranks(1, 4), Path("hosts"), MASTER)


def test_mpirun_here_and_over_hosts() -> None:
    here = lines.shown(lines.mpirun(TRAIN, Ranks(1, 4), None, Site()))
    assert here == f"mpirun -n 4 --host localhost:4 --map-by slot --bind-to none {END}"
    site = Site(interface="ib0", environment={"A": "1"})
    there = lines.shown(lines.mpirun(TRAIN, RANKS, Path("hosts"), site))
    assert there.startswith("mpirun -n 8 --hostfile hosts --map-by slot --bind-to none --mca btl")
    for words in ("btl_tcp_if_include ib0", "-x NCCL_SOCKET_IFNAME", "-x A", END):
        assert words in there


def test_torchrun_has_a_command_for_each_node() -> None:
    first, second = map(lines.shown, lines.torchrun(TRAIN, RANKS, MASTER))
    assert first.startswith(
        "torchrun --nnodes=2 --node-rank=0 --nproc-per-node=4 --master-addr=n1 --master-port=15007 "
    )
    assert second == first.replace("--node-rank=0", "--node-rank=1")


def test_programs_come_from_the_environment_of_python(tmp_path: Path) -> None:
    (tmp_path / "torchrun").touch()
    train = Training(str(tmp_path / "python"), "t.py", ())
    assert lines.torchrun(train, RANKS, MASTER)[0][0] == str(tmp_path / "torchrun")
    assert lines.mpirun(train, RANKS, None, Site())[0] == "mpirun"


def test_a_missing_program_is_named() -> None:
    lines.require_programs(["sh"])
    with pytest.raises(LaunchError, match="pdsh-none: not found on this machine"):
        lines.require_programs(["sh", "pdsh-none"])
