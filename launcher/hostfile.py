"""Hostfiles (`node1 slots=8`, one node a line): read, chosen from, and checked before a launch.

`deepspeed` and `mpirun` find out about a wrong name or a missing login one by one, late, or never:
DeepSpeed looks at the first host only, and then waits for the second for ever.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LaunchError
from launcher.hostlist import shorten

_LINE = re.compile(r"(\S+)\s+slots=(\d+)(\s.*)?")
SSH_SECONDS = 10


@dataclass(frozen=True)
class Host:
    """One node and how many ranks it takes."""

    name: str
    slots: int


def read_hostfile(path: Path) -> list[Host]:
    """The hosts in order; LaunchError names the line that makes no sense."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise LaunchError(f"{path}: cannot be read ({err})") from err
    hosts: dict[str, Host] = {}
    for number, line in enumerate(lines, start=1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None or int(match[2]) < 1:
            raise LaunchError(f"{path}:{number}: {text!r} should look like 'node1 slots=8'")
        if match[1] in hosts:
            raise LaunchError(f"{path}:{number}: {match[1]} stands there twice; give it one line")
        hosts[match[1]] = Host(match[1], int(match[2]))
    if not hosts:
        raise LaunchError(f"{path}: lists no host; write one 'node1 slots=8' a line")
    return list(hosts.values())


def choose(hosts: list[Host], nodes: int, per_node: int, path: Path) -> list[Host]:
    """The first `nodes` hosts with `per_node` slots each; LaunchError when they do not fit."""
    if len(hosts) < nodes:
        raise LaunchError(
            f"{path}: lists {len(hosts)} hosts, but --nodes is {nodes}; add hosts or lower --nodes"
        )
    chosen = hosts[:nodes]
    for host in chosen:
        if host.slots < per_node:
            raise LaunchError(
                f"{path}: {host.name} has slots={host.slots}, but --gpus is {per_node}; "
                "correct the line or lower --gpus"
            )
    return [Host(host.name, per_node) for host in chosen]


def hostfile_text(hosts: list[Host]) -> str:
    """What `deepspeed` and `mpirun` both read."""
    return "".join(f"{host.name} slots={host.slots}\n" for host in hosts)


def check_names(hosts: list[Host], path: Path) -> None:
    """Look all names up, at once; LaunchError lists those that lead nowhere."""
    _raise(path, _failing(hosts, _resolves), "no such host name; correct it here or in /etc/hosts")


def check_ssh(hosts: list[Host], path: Path) -> None:
    """Log in to all hosts, at once, without a password; LaunchError lists where it fails."""
    if shutil.which("ssh") is None:
        raise LaunchError(
            "no ssh on this machine, which starts the ranks of other nodes; install openssh-client,"
            " or launch --with sbatch"
        )
    cure = f"ssh does not let this user in without a password; try `ssh {hosts[0].name} true`"
    _raise(path, _failing(hosts, _logs_in), cure)


def _failing(hosts: list[Host], works: Callable[[str], bool]) -> list[str]:
    with ThreadPoolExecutor(max_workers=min(64, len(hosts))) as pool:
        answers = pool.map(works, [host.name for host in hosts])
        return [host.name for host, fine in zip(hosts, answers, strict=True) if not fine]


def _raise(path: Path, failing: list[str], cure: str) -> None:
    if failing:
        raise LaunchError(f"{path}: {shorten(failing)}: {cure}")


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True


def _logs_in(name: str) -> bool:
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_SECONDS}"]
    try:
        done = subprocess.run(
            ["ssh", *options, name, "true"], capture_output=True, timeout=2 * SSH_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
