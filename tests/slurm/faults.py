"""What is wrong on one node of the test cluster, and put right again after the test."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.slurm.lab import SlurmLab


class Faults:
    """Each method plants one."""

    def __init__(self, lab: SlurmLab, folder: Path, undo: ExitStack) -> None:
        self._lab, self._folder, self._undo = lab, folder, undo

    def instead(self, node: str, target: Path, text: str) -> None:
        """That node sees other content in a file."""
        source = self._folder / f"{node}{str(target).replace('/', '_')}"
        source.write_text(text)
        self.other(node, target, source)

    def other(self, node: str, target: Path, source: Path) -> None:
        """That node sees another file or folder there."""
        self._run(node, ["mount", "--bind", str(source), str(target)])
        self._undo.callback(self._run, node, ["umount", str(target)])

    def own_disk(self, node: str, target: Path, options: str) -> None:
        """That node has a disk of its own there."""
        self._run(node, ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(target)])
        self._undo.callback(self._run, node, ["umount", str(target)])

    def firewall(self, node: str, *what: str) -> None:
        """That node throws these packets away instead of sending them."""
        rule = ["ipproto", "tcp", *what, "blackhole", "pref", "10"]
        self._run(node, ["ip", "rule", "add", *rule])
        self._undo.callback(self._run, node, ["ip", "rule", "del", *rule])

    def slow_names(self, node: str) -> None:
        """That node asks a name server that is not there before it looks into /etc/hosts."""
        text = "passwd: files\ngroup: files\nhosts: dns files\n"
        self.instead(node, Path("/etc/nsswitch.conf"), text)
        text = "nameserver 10.99.0.1\noptions timeout:2 attempts:1\n"
        self.instead(node, Path("/etc/resolv.conf"), text)

    def listener(self, node: str, port: int) -> None:
        """Somebody on that node has the port already."""
        text = (
            f"import socket; s = socket.create_server(('', {port})); print(s, flush=True); input()"
        )
        other = subprocess.Popen(
            [*self._lab.inside(node), sys.executable, "-S", "-c", text],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._undo.callback(other.communicate, b"\n")
        assert other.stdout is not None and other.stdout.readline()

    def _run(self, node: str, words: list[str]) -> None:
        self._lab.run(words, node)
