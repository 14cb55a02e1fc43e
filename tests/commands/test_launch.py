"""`threed-gen launch`: what it would do, what it does, and what it refuses before it does anything.

Slurm and the other launchers are stand-ins here that note how they were called.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher import hostfile, slurm
from launcher.site import Container, Site, load_site
from tests.data.folders import ListSource, TestAsset
from tests.launcher.programs import Programs
from tests.launcher.test_slurm import PENDING, RUNNING
from threed_gen.cli import main
from threed_gen.commands.launch_claim import claimed
from threed_gen.commands.launch_follow import Following, last_step
from threed_gen.config import to_yaml
from threed_gen.data.prepare import prepare
from threed_gen.training.run_config import load_run_config
from threed_gen.training.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]
TINY = "configs/ss_vae/tiny.yaml"
ENDED = RUNNING.replace("RUNNING", "COMPLETED")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """An empty PATH, and a folder to be in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Programs(tmp_path, monkeypatch)


def launch(*words: str, config: str = TINY, out: str = "runs/a", ranks: int = 2) -> int:
    """Launch a new run on 2 nodes."""
    size = ["--nodes", "2", "--gpus", str(ranks // 2)]
    return main(["launch", config, "--out", out, *size, *words, f"train.batch_samples={ranks}"])


def site(text: str = "python: no-python\n") -> list[str]:
    Path("cluster.yaml").write_text(text)
    return ["--site", "cluster.yaml"]


def nothing_was_written() -> bool:
    return not Path("runs").exists()


def finish(run: str = "runs/a") -> str:
    """A shell line that does what a training does at its end."""
    return f"/bin/mkdir -p {run}; echo '{{}}' > {run}/finished.json"


def test_the_dry_run_of_the_document_is_what_comes_out(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "launching.md").read_text()
    found = re.search(
        r"```\n\$ threed-gen (launch .*?--dry-run.*?)\n\n(Ranks\n.*?)```", text, re.DOTALL
    )
    assert found
    monkeypatch.chdir(ROOT)
    before = set(ROOT.glob("runs/*"))
    assert main(found[1].replace("\\\n", " ").split()) == 0
    assert capsys.readouterr().out == found[2]
    assert set(ROOT.glob("runs/*")) == before


def test_the_dry_run_asks_slurm(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    programs.add("scontrol")
    programs.add("sbatch", err="sbatch: Job 9 to start at 12:00 on nodes n[1-2]")
    assert launch(*site(), "--dry-run") == 0
    assert capsys.readouterr().out.endswith("Slurm: Job 9 to start at 12:00 on nodes n[1-2]\n")
    programs.add("sbatch", err="allocation failure: Too big", code=1)
    assert launch(*site(), "--dry-run") == 0
    assert "Slurm: sbatch refused the script: allocation failure: Too big" in (
        capsys.readouterr().out
    )
    assert programs.calls("sbatch") == ["--test-only"] * 2 and nothing_was_written()


def test_every_key_of_the_example_is_known() -> None:
    path = ROOT / "slurm" / "cluster.example.yaml"
    assert load_site(path).partition == "gpu"
    named = set(re.findall(r"^(?:# )?([a-z_]+):", path.read_text(), re.MULTILINE))
    assert named == set(Site.model_fields)
    assert all(key in path.read_text() for key in Container.model_fields)


def test_a_job_is_submitted_followed_and_ends(
    programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.add("sbatch", out="7", then="echo hello > runs/a/launch/job-7.log; " + finish())
    programs.add("scontrol", out=ENDED)
    assert launch(*site(), "seed=3") == 0
    output = capsys.readouterr()
    assert "hello" in output.out
    assert "job 7 submitted" in output.err and "finished (job 7: COMPLETED)" in output.err
    assert programs.calls("sbatch") == ["--parsable runs/a/launch/job.sbatch"]
    script = Path("runs/a/launch/job.sbatch").read_text()
    for line in (
        "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=1",
        "#SBATCH --output=runs/a/launch/job-%j.log", "set -- seed=3 train.batch_samples=2",
    ):  # fmt: skip
        assert line in script
    assert "--wait" not in script


def test_one_run_is_launched_once(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    programs.add("sbatch", out="7")
    programs.add("scontrol", out=PENDING)
    assert launch(*site(), "--detach") == 0
    assert launch(*site(), "--detach") == 2
    assert "job 7 was launched into it and is PENDING (Resources); `scancel 7`" in (
        capsys.readouterr().err
    )
    programs.add("scontrol", out=PENDING.replace("PENDING", "CANCELLED"))
    assert launch(*site(), "--detach") == 0, "the first one never began"
    assert len(programs.calls("sbatch")) == 2
    Path("runs/a/config.yaml").touch()
    assert launch(*site(), "--detach") == 2
    assert "already holds a run; go on with `threed-gen launch runs/a" in capsys.readouterr().err
    assert launch(*site(), "--detach", out="runs/b") == 0
    with claimed(Path("runs/c")):
        assert launch(*site(), "--detach", out="runs/c") == 2
    assert "another `threed-gen launch` is at work here" in capsys.readouterr().err


def test_a_run_that_ends_early_is_an_error_whatever_slurm_says(
    programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.add("sbatch", out="7")
    programs.add("scontrol", out=ENDED)
    assert launch(*site()) == 2
    assert (
        "COMPLETED ended with code 0, but the run is not finished; see runs/a/launch/job-7.log"
        in (capsys.readouterr().err)
    )


def test_control_c_detaches(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Following.progress

    def pressed(self: Following, now: slurm.JobState) -> None:
        shown(self, now)
        raise KeyboardInterrupt

    monkeypatch.setattr(Following, "progress", pressed)
    programs.add("sbatch", out="7")
    programs.add("scontrol", out=RUNNING)
    assert launch(*site()) == 0
    output = capsys.readouterr().err
    assert (
        "detached: job 7 goes on. Its log: runs/a/launch/job-7.log; `scancel 7` ends it" in output
    )
    assert "job 7: RUNNING on n[1-4], start 2" in output
    assert programs.calls("scancel") == []


def test_following_shows_every_line_once_and_the_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, log = RunDir(tmp_path), tmp_path / "log"
    states = iter([PENDING, "", "", RUNNING, ENDED])

    def ask() -> slurm.JobState:
        state = slurm.parse_state(7, next(states))  # nothing: as when the controller is away
        with log.open("a") as file:
            file.write(f"{state.state}\n")
        return state

    Following(run, log, 10, ask).until_the_end(every=0)
    output = capsys.readouterr()
    assert output.out == "PENDING\nRUNNING\nCOMPLETED\n"
    assert output.err.count("asking again") == 1
    log.write_text("whole\nhal")
    following = Following(run, log, 10, ask)
    assert following.copy() and not following.copy()
    assert capsys.readouterr().out == "whole\n"
    assert following.copy(torn=True)
    assert capsys.readouterr().out == "hal"
    assert last_step(run) is None
    run.metrics.write_text('{"step": 4}\n{"step": 5}\n{"st')
    assert last_step(run) == 5


HOSTS = "n1 slots=1\nn2 slots=1\n"


@pytest.fixture
def hosts(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two hosts that let us in."""
    monkeypatch.setattr(hostfile.socket, "getaddrinfo", lambda name, port: [name])
    for name in ("ssh", "pdsh"):
        programs.add(name)
    Path("hosts").write_text(HOSTS)
    return ["--hostfile", "hosts"]


@pytest.mark.parametrize("launcher", ["deepspeed", "mpirun"])
def test_over_hosts(
    programs: Programs, hosts: list[str], launcher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.add(launcher, then=f"/usr/bin/env > seen; {finish()}")
    text = "python: no-python\nenvironment: {A: b c}\n"
    assert launch("--with", launcher, *hosts, *site(text)) == 0
    assert f"finished ({launcher})" in capsys.readouterr().err
    (call,) = programs.calls(launcher)
    assert "runs/a/launch/hosts" in call
    assert call.endswith(f"train.py --config {ROOT / TINY} --out runs/a train.batch_samples=2")
    assert Path("runs/a/launch/hosts").read_text() == HOSTS
    if launcher == "deepspeed":
        assert "--master_addr=n1" in call
        passed_on = Path("runs/a/launch/environment")
        marked = r"A=b c\nTHREED_GEN_LAUNCH=[0-9a-f]{16}\n"
        assert re.fullmatch(marked, passed_on.read_text())
        assert f"DS_ENV_FILE={passed_on.absolute()}\n" in Path("seen").read_text()
        first = re.search(r"master_port=(\d+)", call)
        programs.add("deepspeed", then=finish())
        assert launch("--with", launcher, *hosts, *site(text)) == 0
        second = re.search(r"master_port=(\d+)", programs.calls(launcher)[1])
        assert first and second and first[1] != second[1], "a new port for each attempt"


def test_code_0_of_a_killed_launcher_is_no_success(
    programs: Programs, hosts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    programs.add("deepspeed", code=0)
    assert launch("--with", "deepspeed", *hosts, *site()) == 2
    assert "deepspeed ended with code 0, but the run is not finished" in capsys.readouterr().err


def test_a_run_directory_goes_on(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir(Path("runs/old"))
    run.create()
    run.config.write_text(to_yaml(load_run_config(ROOT / TINY, ["train.batch_samples=8"])))
    line = ["launch", "runs/old", "--nodes", "2", "--gpus", "2", "--dry-run"]
    assert main(line) == 0
    output = capsys.readouterr().out
    assert 'door=(--resume "$run" "$@")' in output and "run=runs/old" in output
    assert main([*line, "train.steps=5"]) == 2
    assert "goes on with its own config" in capsys.readouterr().err
    run.finished.touch()
    assert main(line) == 2
    assert "runs/old: is finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no Slurm on this machine"),
        (["--with", "deepspeed"], "needs --hostfile FILE"),
        (["--with", "deepspeed", "--hostfile", "few"], "lists 1 hosts, but --nodes is 2"),
        (["--with", "deepspeed", "--hostfile", "small"], "n2 has slots=1, but --gpus is 2"),
        (["--with", "mpirun", "--hostfile", "none"], "none: cannot be read"),
        (["--with", "mpirun", "--hostfile", "good"], "mpirun: not found"),
        (["--with", "torchrun", "--hostfile", "good"], "--dry-run prints the command for each"),
        (["--hostfile", "good"], "with sbatch Slurm chooses the nodes"),
        (["train.batch_samples=3"], "batch_samples is 3, but 2 nodes × 2 are 4 ranks"),
        (
            ["train.batch_samples=null", "train.batch_tokens=600"],
            "batch_tokens is 600, about 3.6 samples",
        ),
        (["--site", "bad.yaml"], "unknown key 'acount', did you mean 'account'"),
        (["--out", "runs/a b"], "Slurm reads %, quotes and spaces"),
    ],
)
def test_refused_with_nothing_begun(
    programs: Programs, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("few").write_text("n1 slots=8\n")
    Path("small").write_text("n1 slots=8\nn2 slots=1\n")
    Path("good").write_text("n1 slots=8\nn2 slots=8\n")
    Path("bad.yaml").write_text("acount: x\n")
    batch = [] if any("batch_" in word for word in words) else ["train.batch_samples=4"]
    out = [] if "--out" in words else ["--out", "runs/a"]
    line = ["launch", TINY, *out, "--nodes", "2", "--gpus", "2", *site(), *words, *batch]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert nothing_was_written()


def test_names_and_logins_are_looked_at_before_anything_starts(
    programs: Programs, hosts: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    programs.add("deepspeed")
    programs.add("ssh", code=255)
    assert launch("--with", "deepspeed", *hosts, *site()) == 2
    assert "hosts: n1 n2: ssh does not let this user in" in capsys.readouterr().err

    def unknown(name: str, _port: None) -> list[str]:
        raise OSError

    monkeypatch.setattr(hostfile.socket, "getaddrinfo", unknown)
    assert launch("--with", "deepspeed", *hosts, *site()) == 2
    assert "hosts: n1 n2: no such host name" in capsys.readouterr().err
    assert programs.calls("deepspeed") == [] and nothing_was_written()


def test_an_unknown_partition(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    programs.add("scontrol")
    programs.add("sbatch", err="sbatch: error: invalid partition specified: x", code=1)
    programs.add("sinfo", out="gpu")
    assert launch(*site("python: no-python\npartition: x\n")) == 2
    assert "no such partition (known: gpu); set 'partition'" in capsys.readouterr().err


def test_the_plan_of_data_that_is_there(
    programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    assets = [TestAsset("x" * length) for length in (1, 8, 20, 40)]
    prepare(ListSource(*assets), Path("data"), [16], workers=0)
    capsys.readouterr()
    words = ["data.path=data", "data.resolutions=[16]", "train.steps=6", "--dry-run"]
    assert launch(*site(), *words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "data: 4 samples in 1 shards", "1 of whole shards, 0.5 for a node",
        "epoch 2 steps; the run's 6 are 3", "about 1.0 samples", "(all 2 steps of an epoch)",
    ):  # fmt: skip
        assert text in shown
    assert launch(*site(), *words, "data.streams=2") == 2
    assert "lower data.streams to 1" in capsys.readouterr().err
