"""The command line: its names are a promise, its errors are one line, its codes are documented."""

from __future__ import annotations

import argparse
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from threed_gen import cli, errors

ROOT = Path(__file__).resolve().parents[1]

# Scripts and documents rely on these. Add to the list; never rename or remove.
FROZEN = {
    "doctor": ["--json", "--nodes", "--hostfile", "--run", "--data", "--gpus", "--site"],
    "encode": [
        *("RUN", "DATA", "--out", "--resolution", "--weights", "--values", "--store", "--split"),
        *("--rank", "--world-size", "--mpi"),
    ],
    "prepare": [
        *("SRC", "OUT", "--resolution", "--workers", "--tau", "--values"),
        *("--open-surface", "--cap-extent", "--held-out", "--no-report"),
        *("--views", "--view-law", "--view-size"),
        *("--timeout", "--memory-mb", "--retry-failed", "--rank", "--world-size", "--mpi"),
        *("--licence", "--min-score", "--exclude", "--limit"),
        *("--root", "--cache", "--objaverse-url"),
    ],
    "inspect": [
        *("DATA|CONFIG|RUN|MESH", "key=value", "--extract", "--resolution", "--out", "--verify"),
        *("--nodes", "--gpus"),
    ],
    "train": ["CONFIG", "--out", "key=value"],
    "launch": [
        *("CONFIG|RUN", "--out", "--nodes", "--gpus", "--with", "--site", "--hostfile"),
        *("--dry-run", "--detach", "key=value"),
    ],
    "resume": ["RUN", "--fresh"],
    "generate": [
        *("IMAGE", "--run", "--out", "--structure", "--vae", "--cascade", "--weights"),
        *("--seed", "--steps", "--guidance", "--one-pass", "--batch", "--background"),
        *("--format", "--level", "--keep-inner", "--fill-holes", "--faces", "--chunk"),
    ],
    "reconstruct": ["MESH", "--run", "--out", "--format"],
    "evaluate": [
        *("RUN|DIR", "--meshes", "--against", "--out", "--align", "--nearest"),
        *("--points", "--paper-points", "--workers"),
    ],
    "report": ["RUN|DATA"],
    "view": ["RUN|FOLDER|FILE", "--port"],
    "convert": ["--from", "--to", "FOLDER", "--out", "--weights", "--fp16"],
    "export": ["RUN", "--out", "--weights", "--to-hub"],
    "quickstart": ["--meshes", "--out"],
}


def subparsers() -> dict[str, argparse.ArgumentParser]:
    for action in cli.build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("no commands")


def names(parser: argparse.ArgumentParser) -> list[str]:
    return [
        action.option_strings[-1] if action.option_strings else str(action.metavar)
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]


def test_commands_and_options_are_frozen() -> None:
    assert {name: names(parser) for name, parser in subparsers().items()} == FROZEN


def test_every_command_has_a_module_and_an_example() -> None:
    for name, parser in subparsers().items():
        assert (ROOT / "threed_gen" / "commands" / f"{name}.py").is_file()
        assert f"threed-gen {name}" in (parser.epilog or "")
        assert parser.get_default("after_interrupt")


def test_overrides_may_stand_anywhere() -> None:
    line = "train c.yaml train.steps=5 --out runs/a data.path=x train.zero_stage=2"
    args = cli.parse(line.split())
    assert args.overrides == ["train.steps=5", "data.path=x", "train.zero_stage=2"]
    assert (args.config, args.out) == ("c.yaml", Path("runs/a"))


@pytest.mark.parametrize("line", ["train c.yaml --out a --stpes 5", "report a b", "nonsense", ""])
def test_wrong_usage_is_code_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == errors.EXIT_USER
    assert "threed-gen" in capsys.readouterr().err


def replace_report(monkeypatch: pytest.MonkeyPatch, body: Callable[[], int]) -> None:
    fake = SimpleNamespace(run=lambda args: body())
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: fake)


def raising(error: BaseException) -> Callable[[], int]:
    def body() -> int:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.UserError("a.yaml: wrong\nin two lines"), 2, "error: a.yaml: wrong in two lines"),
        (errors.DiskError("x: full"), 74, "error: x: full"),
        (errors.DivergedError("loss is NaN"), 76, "error: loss is NaN"),
        (OSError(errno.ENOSPC, "No space left on device", "data/s.tar"), 74, "data/s.tar"),
        (
            PermissionError(errno.EACCES, "Permission denied", "out/x"),
            2,
            "out/x: Permission denied",
        ),
        (KeyboardInterrupt(), 130, "run it again"),
    ],
)
def test_what_the_user_can_cure_is_one_line(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    replace_report(monkeypatch, raising(error))
    assert cli.main(["report", "runs/a"]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert text in lines[0]


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError(errno.EMFILE, "too many", "x")])
def test_a_defect_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_report(monkeypatch, raising(error))
    with pytest.raises(type(error)):
        cli.main(["report", "runs/a"])


def test_a_command_returns_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_report(monkeypatch, lambda: 7)
    assert cli.main(["report", "runs/a"]) == 7


def test_openmp_sleeps_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    replace_report(monkeypatch, lambda: 0)
    cli.main(["report", "runs/a"])
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", "7")


def test_exit_codes_are_documented() -> None:
    text = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    defined = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert documented == defined | {cli.EXIT_INTERRUPTED, cli.EXIT_PIPE}


def test_installed_command_answers() -> None:
    command = Path(sys.executable).with_name("threed-gen")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("threed-gen 0.")
