"""How a preflight is started, what the job's script says, and what people are shown."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import LaunchError
from launcher.preflight import job, steps
from launcher.preflight.__main__ import data_of, main, run_of
from launcher.preflight.asked import Result, Settings
from launcher.preflight.finding import CHECKS, Finding, bad
from launcher.preflight.start import Start, in_allocation, over_srun, over_ssh
from launcher.preflight.told import as_json, told
from launcher.site import Container, Site
from tests.launcher.programs import Programs

IN_JOB = {"SLURM_JOB_NODELIST": "n[1-4]"}


def test_one_clear_line_where_nothing_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    with pytest.raises(LaunchError, match="no Slurm on this machine .* name the nodes with --host"):
        over_srun({}, 4, "python")
    with pytest.raises(LaunchError, match="no ssh on this machine"):
        over_ssh(["n1"], "python")
    programs.add("srun")
    with pytest.raises(LaunchError, match="--nodes: say how many"):
        over_srun({}, None, "python")
    with pytest.raises(LaunchError, match="--nodes 5: this allocation has 4 .* ask for fewer"):
        over_srun(IN_JOB, 5, "python")


def test_srun_in_an_allocation_and_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Programs(tmp_path, monkeypatch).add("srun")
    assert in_allocation(IN_JOB) and not in_allocation({})
    start = over_srun(IN_JOB, None, "py", ["apptainer", "exec", "a.sif"])
    assert start.nodes == ["n1", "n2", "n3", "n4"] and start.slurm and not start.queues
    words = shlex.join(start.commands[""])
    assert words.startswith("srun --overlap --nodes=4 --ntasks=4 --ntasks-per-node=1")
    assert words.endswith("apptainer exec a.sif py -m launcher.preflight.node")
    assert over_srun(IN_JOB, 2, "py").nodes is None  # Slurm chooses which
    start = over_srun({}, 2, "py", options=["--partition=gpu"])
    assert start.queues and "--partition=gpu" in start.commands[""]


def test_the_trainings_own_words_name_run_and_data(tmp_path: Path) -> None:
    new = ["--config", "a.yaml", "--out", "runs/a", "data.path=old", "data.path=data/b", "x=1"]
    assert run_of(new) == Path("runs/a") and data_of(new) == Path("data/b")
    assert data_of(["--out", "runs/a"]) is None
    (tmp_path / "config.yaml").write_text("data: {path: data/c}\n")
    again = ["--resume", str(tmp_path), "--fresh"]
    assert run_of(again) == tmp_path and data_of(again) == Path("data/c")
    (tmp_path / "config.yaml").write_text("data: [}\n")
    with pytest.raises(LaunchError, match="config.yaml: cannot be read"):
        data_of(again)


def test_a_run_that_is_not_there_yet(tmp_path: Path) -> None:
    assert Settings(tmp_path / "runs" / "new").folder == tmp_path


def test_a_launch_error_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Programs(tmp_path, monkeypatch)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    assert main(["--", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[0].startswith("preflight: no Slurm on this machine")


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (Site(), ["--data=d e", "--gpus=8"]),
        (Site(ask_for_gpus=False), ["--data=d e"]),
        (
            Site(container=Container(image="a b.sif", mounts=["/data"])),
            ["--data=d e", "--inside=apptainer exec --nv --bind /data 'a b.sif'", "--gpus=8"],
        ),
        (
            Site(container=Container(image="x.sqsh", runtime="pyxis")),
            [
                "--data=d e",
                "--inside=--container-image=x.sqsh '--container-workdir=HERE'",
                "--gpus=8",
            ],
        ),
    ],
)
def test_the_line_of_a_job(site: Site, expected: list[str], tmp_path: Path) -> None:
    """As the shell reads it."""
    python = tmp_path / "py thon"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    script = f"PWD=HERE; door=(--out 'a run' x=1)\n{job.line(site, str(python), 8, 'd e')}\n"
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)
    head = ["-m", "launcher.preflight", f"--python={python}"]
    assert done.stdout.splitlines() == [*head, *expected, "--", "--out", "a run", "x=1"]


def result(nodes: int, ill: dict[str, Finding]) -> Result:
    found = {
        f"n{i}": [Finding("up", "ok"), Finding("disk", "ok", "90 MB/s")]
        for i in range(1, nodes + 1)
    }
    for node, finding in ill.items():
        found[node].append(finding)
    return Result(found, 12.3)


def test_the_table_and_the_lines() -> None:
    text = told(result(2, {"n2": bad("disk", "is full: free some")}), colour=False)
    head, _, one, two, line, verdict = text.splitlines()
    assert head.split() == ["node", *CHECKS]
    assert one.split()[:6] == ["n1", "✓", "–", "–", "✓", "90"] and "✗" not in one
    assert two.split()[:5] == ["n2", "✓", "–", "–", "✗"]
    assert line == "n2: is full: free some"
    assert verdict == "2 nodes looked at in 12 s: 1 not fit to start on"
    assert told(result(1, {}), colour=False).endswith("1 node looked at in 12 s: all is well")
    coloured = told(result(2, {"n2": bad("disk", "is full")}), colour=True)
    assert "\033[31m✗" in coloured and "\033[31mn2: is full\033[0m" in coloured


def test_many_healthy_nodes_share_a_row() -> None:
    text = told(result(512, {"n300": bad("disk", "is full")}), colour=False)
    rows = [line.split()[0] for line in text.splitlines()]
    assert rows == ["node", rows[1], "n300", "511", "n300:", "512"]


def test_json_for_programs() -> None:
    record = json.loads(as_json(result(2, {"n2": bad("disk", "is full")})))
    assert record["healthy"] is False
    assert record["nodes"]["n2"][-1]["trouble"] == "is full"


def test_the_command_needs_only_the_standard_library() -> None:
    """It runs outside of a container, on whatever Python the nodes have."""
    code = (
        "import sys, launcher.preflight.__main__ as m, launcher.preflight.node; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"pydantic", "numpy", "yaml"} & set(done.stdout.split())


def test_options_of_many_nodes_alone_mean_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from threed_gen import cli

    assert cli.main(["doctor", "--run", "runs/a"]) == 2
    assert "--run: belongs to --nodes or --hostfile; add one of them" in capsys.readouterr().err
    assert cli.main(["doctor", "--hostfile", "no-such-file"]) == 2
    assert "no-such-file: cannot be read" in capsys.readouterr().err


MUTE = """
import json, sys
from launcher.preflight.wire import lines
for text in sys.stdin:
    message = json.loads(text)
    if message["do"] == "start":
        sys.stdout.writelines(lines("n1", {"hello": None}))
    if message["do"] == "alone":
        print("a greeting")
        sys.stdout.writelines(lines("n1", {"check": "locks", "findings": []}))
    sys.stdout.flush()
"""


def test_a_check_that_hangs_fails_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that answers one check of all, and one that cannot be started."""
    monkeypatch.setattr(steps, "ALONE_SECONDS", 3.0)
    monkeypatch.setattr(steps, "MEET_SECONDS", 0.1)
    monkeypatch.setattr(steps, "CLOCK_ROUNDS", 0)
    commands = {
        "n1": [sys.executable, "-S", "-c", MUTE],
        "n2": ["sh", "-c", "echo no route to n2 >&2; exit 255"],
    }
    found = steps.preflight(Start(commands, ["n1", "n2"]), Settings(tmp_path))
    told = {(node, finding.check): finding.trouble for node, finding in found.failures}
    hanging = {"GPU", "versions", "disk", "shared", "names", "ports", "all-reduce"}
    assert set(told) == {("n1", check) for check in hanging} | {("n2", "up")}
    assert ": a disk hangs: look at the mounts of the run directory" in told["n1", "disk"]
    assert told["n2", "up"] == "does not answer (no route to n2): see whether it is up"


def test_nobody_answers(tmp_path: Path) -> None:
    start = Start({"": ["sh", "-c", "echo 'srun: error: invalid partition' >&2; exit 1"]}, None)
    with pytest.raises(LaunchError, match="srun: error: invalid partition; try `srun hostname`"):
        steps.preflight(start, Settings(tmp_path))
