"""Set-up: it chooses, announces, explains, and does nothing the second time.

The real installation is tested by every fresh `make setup`; here pip and venv are stood in for.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher import bootstrap
from launcher.bootstrap import Interpreter, SetupError

ROOT = Path(__file__).resolve().parents[2]


def interpreter(minor: int = 11, has_venv: bool = True) -> Interpreter:
    return Interpreter(f"/opt/python3.{minor}", (3, minor), has_venv)


def test_a_second_run_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    stamp = {"key": bootstrap.fingerprint(None), "root": str(ROOT)}
    (tmp_path / bootstrap.STAMP).write_text(json.dumps(stamp))
    start = time.perf_counter()
    script = ROOT / "launcher" / "bootstrap.py"
    done = subprocess.run(
        [sys.executable, str(script), "--venv", str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert time.perf_counter() - start < 0.5
    assert done.stdout == ""


def test_a_changed_requirement_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "bootstrap.py").write_text("")
    (tmp_path / "setup.py").write_text("a")
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    before = bootstrap.fingerprint(None)
    (tmp_path / "setup.py").write_text("b")
    assert bootstrap.fingerprint(None) != before


def test_constraints_reach_pip_and_are_part_of_the_stamp(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "constraints.txt"
    with pytest.raises(SetupError, match="no such file"):
        bootstrap.set_up(tmp_path, None, file)
    file.write_text("triton==3.9.0\n")
    first = bootstrap.fingerprint(None, file)
    file.write_text("triton==3.8.0\n")
    assert len({first, bootstrap.fingerprint(None, file), bootstrap.fingerprint(None)}) == 3
    assert bootstrap.pinned(file, "cpu") == ["--constraint", str(file)]
    assert bootstrap.pinned(None, "cpu") == []
    assert bootstrap.pinned(file, "cuda") == []
    assert "torch's CUDA build chooses its own Triton" in capsys.readouterr().out


def test_ci_pins_a_triton_that_users_may_have() -> None:
    pins = (ROOT / ".ci" / "constraints.txt").read_text()
    version = re.search(r"^triton==(\d+)\.(\d+)\.\d+$", pins, re.MULTILINE)
    allowed = re.search(r'"triton>=3\.6,<(\d+)\.(\d+);', (ROOT / "setup.py").read_text())
    assert version and allowed
    assert (3, 6) <= tuple(map(int, version.groups())) < tuple(map(int, allowed.groups()))


def test_a_torn_stamp_means_start_again(tmp_path: Path) -> None:
    stamp = tmp_path / "stamp"
    assert bootstrap.read_stamp(stamp) == {}
    stamp.write_text('{"key": ')
    assert bootstrap.read_stamp(stamp) == {}


def test_probe_tells_a_python_from_something_else(tmp_path: Path) -> None:
    found = bootstrap.probe(sys.executable)
    assert found is not None
    assert found.version == sys.version_info[:2]
    dead = tmp_path / "python3.12"
    dead.write_text("#!/bin/sh\nexit 127\n")
    dead.chmod(0o755)
    assert bootstrap.probe(str(dead)) is None
    assert bootstrap.probe("no-such-python") is None


def test_on_linux_a_python_that_spconv_supports_is_preferred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = {"python3.11": interpreter(11), "python3.13": interpreter(13)}
    monkeypatch.setattr(bootstrap, "probe", lambda name: here.get(name, interpreter(12)))
    monkeypatch.setattr(bootstrap, "on_linux_x86", lambda: True)
    assert bootstrap.choose_python(None).version == (3, 11)
    monkeypatch.setattr(bootstrap, "on_linux_x86", lambda: False)
    assert bootstrap.choose_python(None).version == (3, 12)  # the one that runs the set-up


def test_no_usable_python_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "probe", lambda name: interpreter(8))
    with pytest.raises(SetupError, match=r"3\.10 is needed"):
        bootstrap.choose_python("python3.8")
    monkeypatch.setattr(bootstrap, "OLDEST", (9, 0))
    with pytest.raises(SetupError, match="without root"):
        bootstrap.choose_python(None)


def test_missing_ensurepip_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="apt install python3.11-venv"):
        bootstrap.make_venv(tmp_path / "venv", interpreter(has_venv=False), clear=False)


def test_a_broken_environment_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is broken"):
        bootstrap.make_venv(tmp_path, interpreter(), clear=False)


def test_disk_is_checked(tmp_path: Path) -> None:
    bootstrap.check_disk(tmp_path, 1)
    with pytest.raises(SetupError, match="are needed"):
        bootstrap.check_disk(tmp_path, 10**9)


@pytest.mark.parametrize(
    ("gpu", "official", "report", "expected"),
    [
        (False, True, None, "cpu"),
        (True, True, None, "cuda"),
        (False, False, "2.13.0+cpu", "cpu"),
        (False, False, "2.13.0", "cuda"),
        (False, False, None, "cuda"),
    ],
)
def test_the_build_is_known_before_the_download(
    gpu: bool, official: bool, report: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = report and json.dumps({"install": [{"metadata": {"version": report}}]})
    monkeypatch.setattr(bootstrap, "output", lambda *command: answer)
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    assert bootstrap.torch_build("python", gpu=gpu, official=official) == expected


def test_the_download_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"gpu": False, "official": False, "build": "cpu"}
    bootstrap.announce(tmp_path, interpreter(), spconv=True, **facts)  # type: ignore[arg-type]
    text = capsys.readouterr().out
    assert "about 990 MB" in text
    assert "configured package index" in text
    bootstrap.announce(tmp_path, interpreter(12), spconv=False, **facts)  # type: ignore[arg-type]
    left_out = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(left_out) == 1


def test_an_unreachable_index_is_given_up_soon() -> None:
    start = time.perf_counter()
    assert not bootstrap.answers("https://127.0.0.1:9/", seconds=2)
    assert time.perf_counter() - start < 5


def test_torch_falls_back_to_the_configured_index(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def fake(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 1 if "uv" in command[1:3] else 0)

    monkeypatch.setattr(bootstrap.subprocess, "run", fake)
    bootstrap.install_torch("python", official=True)
    assert "--torch-backend=auto" in ran[-2]
    assert ran[-1][-2:] == ["install", f"torch=={bootstrap.TORCH}"]
    ran.clear()
    bootstrap.install_torch("python", official=False)
    assert len(ran) == 1


def test_a_failed_pip_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SetupError, match="same command goes on"):
        bootstrap.pip("python", "install", "x")
