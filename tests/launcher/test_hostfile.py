"""Hostfiles: what is wrong in one is found before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher import hostfile
from launcher.errors import LaunchError
from launcher.hostfile import Host, check_names, check_ssh, choose, hostfile_text, read_hostfile


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hosts"
    path.write_text(text)
    return path


def test_it_reads_what_it_writes(tmp_path: Path) -> None:
    path = written(tmp_path, "# ours\nn1 slots=8\n\nn2   slots=4  # half\n")
    hosts = read_hostfile(path)
    assert hosts == [Host("n1", 8), Host("n2", 4)]
    assert choose(hosts, 2, 4, path) == [Host("n1", 4), Host("n2", 4)]
    assert read_hostfile(written(tmp_path, hostfile_text(hosts))) == hosts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n1\n", "hosts:1: 'n1' should look like"),
        ("n1 slots=8\nn2 slots=eight\n", "hosts:2: 'n2 slots=eight' should look like"),
        ("n1 slots=0\n", "should look like"),
        ("n1 slots=8\nn1 slots=8\n", "n1 stands there twice"),
        ("# nobody\n", "lists no host"),
        ("n1 slots=8\n", "lists 1 hosts, but --nodes is 2"),
        ("n1 slots=8\nn2 slots=4\n", "n2 has slots=4, but --gpus is 8"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(LaunchError, match=message):
        choose(read_hostfile(path), 2, 8, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="hosts: cannot be read"):
        read_hostfile(tmp_path / "hosts")


def test_names_that_lead_nowhere_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(name: str, _port: None) -> list[str]:
        if name in ("n2", "n3"):
            raise OSError("unknown")
        return [name]

    monkeypatch.setattr(hostfile.socket, "getaddrinfo", look_up)
    hosts = [Host(f"n{number}", 8) for number in range(1, 5)]
    with pytest.raises(LaunchError, match="hosts: n2 n3: no such host name"):
        check_names(hosts, Path("hosts"))
    check_names(hosts[:1], Path("hosts"))


def test_every_host_must_let_us_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    hosts = [Host("n1", 8), Host("n2", 8)]
    with pytest.raises(LaunchError, match="no ssh on this machine"):
        check_ssh(hosts, Path("hosts"))
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\ncase "$*" in *" n2 true") exit 255;; esac\n')
    ssh.chmod(0o755)
    check_ssh(hosts[:1], Path("hosts"))
    with pytest.raises(LaunchError, match="hosts: n2: ssh does not let this user in"):
        check_ssh(hosts, Path("hosts"))
