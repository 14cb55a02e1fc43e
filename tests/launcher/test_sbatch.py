"""Batch scripts: those in slurm/ are what the code renders, and bash does what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from launcher.command import srun
from launcher.sbatch import Batch, render, step_line
from launcher.scripts import SCRIPTS, write
from launcher.site import Container, Site

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["ss_vae", "structure", "ss_dit", "prepare", "encode", "resume"]
# Takes the place of srun and python: says how it was called.
SAYS = """\
#!/bin/sh
[ -z "$UNFIT" ] || exit 2
for word in "$(basename "$0")" "$@"; do echo "$word"; done
"""


def test_the_scripts_in_the_repository_are_the_rendered_ones(tmp_path: Path) -> None:
    assert list(SCRIPTS) == NAMES
    for path in write(tmp_path):
        assert (ROOT / "slurm" / path.name).read_text() == path.read_text(), (
            "run `python -m launcher.scripts slurm/`"
        )
    assert {path.stem for path in (ROOT / "slurm").glob("*.sbatch")} == set(NAMES)


def test_configs_that_scripts_name_exist() -> None:
    for name in ("ss_vae", "structure", "ss_dit"):
        line = next(line for line in SCRIPTS[name].body if line.startswith("config="))
        assert (ROOT / line.removeprefix("config=${1:-").removesuffix("}")).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_bash_and_shellcheck_accept_it(name: str) -> None:
    path = str(ROOT / "slurm" / f"{name}.sbatch")
    subprocess.run(["bash", "-n", path], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, path], check=True)


def ran(
    tmp_path: Path, script: Path, *arguments: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a batch script in `tmp_path`, as Slurm would, with srun and python that only say so."""
    for name in ("bin/srun", ".venv/bin/python"):
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(SAYS)
        program.chmod(0o755)
    job = {"SLURM_JOB_ID": "12", "SLURM_CPUS_PER_TASK": "3"}
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(script), *arguments],
        cwd=tmp_path, env={"PATH": path, **job, **environ}, capture_output=True, text=True,
    )  # fmt: skip


def door(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What train.py was given."""
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    begin = words.index("srun")
    assert words[:3] == ["python", "-m", "launcher.preflight"], "the nodes are looked at first"
    assert words[begin + 1] == "--cpus-per-task=3"
    given = words[words.index("threed_gen/train.py") + 1 :]
    assert words[words.index("--") + 1 : begin] == given, "preflight is told the same"
    return given


def test_ranks_do_not_start_on_nodes_that_are_not_fit(repository: Path) -> None:
    done = ran(repository, ROOT / "slurm" / "ss_vae.sbatch", UNFIT="1")
    assert done.returncode == 2 and "srun" not in done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "threed_gen").mkdir()
    (tmp_path / "threed_gen" / "train.py").touch()
    return tmp_path


def test_a_training_script_starts_and_goes_on_after_a_requeue(repository: Path) -> None:
    script = ROOT / "slurm" / "ss_vae.sbatch"
    usual = ["--config", "configs/ss_vae/direct3d-s2.yaml", "--out", "runs/ss_vae-12"]
    assert door(ran(repository, script)) == usual
    asked = ["--config", "c.yaml", "--out", "runs/a b", "train.steps=5", "data.path=x y"]
    assert door(ran(repository, script, "c.yaml", "runs/a b", *asked[4:])) == asked

    again = {"SLURM_RESTART_COUNT": "1"}
    assert door(ran(repository, script, **again)) == usual, "it had not begun"
    run = repository / "runs" / "ss_vae-12"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    resumed = ["--resume", "runs/ss_vae-12"]
    assert door(ran(repository, script, **again)) == [*resumed, "--fresh"]
    (run / "checkpoints" / "step_00000005").mkdir(parents=True)
    assert door(ran(repository, script, **again)) == resumed
    assert door(ran(repository, script)) == usual, "a first start never resumes by itself"


def test_the_resume_script(repository: Path) -> None:
    script = ROOT / "slurm" / "resume.sbatch"
    assert door(ran(repository, script, "runs/a", "--fresh")) == ["--resume", "runs/a", "--fresh"]
    done = ran(repository, script)
    assert done.returncode != 0 and "sbatch slurm/resume.sbatch RUN" in done.stderr


def test_prepare_is_an_array_that_uses_its_cores(repository: Path) -> None:
    text = (ROOT / "slurm" / "prepare.sbatch").read_text()
    assert "#SBATCH --array=0-7" in text and "gpus" not in text
    done = ran(repository, ROOT / "slurm" / "prepare.sbatch", "meshes", "out")
    expected = ["python", "-m", "threed_gen.cli", "prepare", "meshes", "out", "--workers", "3"]
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_wrong_folder_is_said(tmp_path: Path, name: str) -> None:
    done = ran(tmp_path, ROOT / "slurm" / f"{name}.sbatch")
    assert done.returncode == 2
    assert done.stderr == "submit this from the folder of the repository\n"


def test_the_site_is_in_the_script(tmp_path: Path) -> None:
    site = Site(
        account="lab", partition="gpu", exclude=["n3", "n4"], gres="a100", memory="0",
        options=["--mail-type=END"], setup=["echo unset: $nothing"],
        environment={"A": "it's"}, container=Container(image="t.sif"),
    )  # fmt: skip
    step = step_line(srun(None, site, ["python3", "t.py"]))
    batch = Batch("x", ("About.",), 2, 8, 8, "x-%j.log", ("door=(a)", step, 'echo "A=$A"'))
    script = tmp_path / "x.sbatch"
    script.write_text(render(batch, site))
    options = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    for option in (
        "--account=lab", "--partition=gpu", "--exclude=n3,n4", "--gpus-per-node=a100:8", "--mem=0",
        "--mail-type=END", "--nodes=2", "--ntasks-per-node=8", "--requeue", "--open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH {option}" in options
    done = ran(tmp_path, script)
    assert done.returncode == 0, "a set-up line may use variables that are not set"
    assert "A=it's" in done.stdout and "apptainer" in done.stdout
    none = render(batch, Site(ask_for_gpus=False))
    assert "gpus-per-node" not in none
