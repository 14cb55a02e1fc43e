"""`doctor` must see what is wrong, name a cure, and stay calm about what is optional."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from threed_gen import doctor
from threed_gen.commands import doctor as command
from threed_gen.doctor import Finding


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Findings handed to the command in place of a real examination."""
    findings = [
        Finding("torch", "ok", "2.13", essential=True),
        Finding("spconv", "missing", "optional", "pip install something"),
    ]
    monkeypatch.setattr(command, "examine", lambda: findings)
    return findings


def test_optional_things_may_be_missing(
    quick: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(argparse.Namespace(json=False)) == 0
    out = capsys.readouterr().out
    assert "this machine can train" in out
    assert "spconv: pip install something" in out


def test_essential_things_may_not(quick: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    quick.append(Finding("deepspeed", "broken", "no such file", "make setup", essential=True))
    assert command.run(argparse.Namespace(json=True)) == 2
    record = json.loads(capsys.readouterr().out)
    assert record["healthy"] is False
    assert record["findings"][-1]["cure"] == "make setup"


def test_a_left_behind_build_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert [f.state for f in doctor._build_locks()] == ["ok"]
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    (finding,) = doctor._build_locks()
    assert finding.state == "broken"
    assert str(lock) in finding.cure


def test_a_probe_reports_the_last_line_of_the_error() -> None:
    assert doctor._probe("import json; print('chatter'); print(json.dumps([1]))") == ([1], "")
    answer, error = doctor._probe("raise RuntimeError('driver too old')")
    assert answer is None
    assert error == "RuntimeError: driver too old"


def test_a_probe_survives_a_crash_and_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, error = doctor._probe("import os; os.abort()")
    assert answer is None
    assert "-6" in error
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.5)
    answer, error = doctor._probe("import time; time.sleep(30)")
    assert answer is None
    assert "did not answer" in error


def test_slow_name_lookup_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(doctor.socket, "getfqdn", lambda: time.sleep(1.2))
    (finding,) = doctor._host_name(limit=5)
    assert finding.state == "note"
    assert "/etc/hosts" in finding.cure


def test_missing_mpirun_has_a_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = doctor._mpi()
    assert finding.state == "missing"
    assert finding.cure


def test_the_whole_examination_of_this_machine() -> None:
    findings = doctor.examine()
    assert doctor.healthy(findings), findings
    named = {finding.name for finding in findings}
    assert {"Python", "torch", "deepspeed", "warp", "spconv", "mpirun", "disk"} <= named
    for finding in findings:
        assert finding.state in ("ok", "note") or finding.cure, finding
