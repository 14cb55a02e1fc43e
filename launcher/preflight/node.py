"""The program that looks at one node: `srun` or `ssh` starts it on each of them.

It reads what to do next, line by line, and writes what it has found. Every check runs in a thread
of its own, so that a disk or a name server that hangs costs one line of the table and not the node.
When its input ends, it takes away what it wrote and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launcher.hostlist import expand
from launcher.preflight import data_index, disk, gpu, locks, names, ports, ring, shared, versions
from launcher.preflight.finding import Finding, bad
from launcher.preflight.wire import Message, lines

Look = Callable[[], Finding | list[Finding]]


def main() -> None:
    """Serve until the input ends; never returns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", help="this node's name (default: what Slurm calls it)")
    name = parser.parse_args().node or os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    node = Node(name)
    for line in sys.stdin:
        node.do(json.loads(line))
    node.end()
    sys.stderr.flush()
    os._exit(0)  # threads that hang in the disk or the resolver would keep it


class Node:
    """What this node has been told so far, and the steps it can be asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._child: ring.Child | None = None
        self._settings: Message = {}
        self._ports: list[int] = []

    def do(self, message: Message) -> None:
        """One message; the steps are those of `launcher/preflight/steps.py`."""
        step = message["do"]
        if step == "start":
            self._start(message)
        elif step == "clock":  # answered at once: what passes until then is taken for the way
            self.say({"now": time.time(), "asked": message["asked"]})
        else:
            for check, look in {
                "alone": self._alone, "meet": self._meet, "pairs": self._pairs,
            }[step](message).items():  # fmt: skip
                threading.Thread(target=self._run, args=(check, look), daemon=True).start()

    def say(self, message: Message) -> None:
        """One message to the first program."""
        with self._lock:
            sys.stdout.writelines(lines(self.name, message))
            sys.stdout.flush()

    def end(self) -> None:
        """Take away what this node wrote."""
        if self._child is not None:
            self._child.end()
        if self._settings:
            shared.remove(Path(self._settings["run"]), self._settings["token"], self.name)

    def _start(self, message: Message) -> None:
        self._settings = message
        os.environ.update(message["environment"])
        self._child = ring.Child()
        listed = os.environ.get("SLURM_STEP_NODELIST") if message["slurm"] else None
        job = os.environ.get("SLURM_JOB_ID") if message["slurm"] else None
        self._ports = ports.of_job(
            int(job) if job else None, int(os.environ.get("SLURM_STEP_ID", "0")),
            int(os.environ.get("SLURM_RESTART_COUNT", "0")), message["key"],
        )  # fmt: skip
        self.say({"hello": expand(listed) if listed else None})

    def _alone(self, message: Message) -> dict[str, Look]:
        """What a node finds out by itself; the names of all are known now."""
        nodes: list[str] = message["nodes"]
        run, token = Path(self._settings["run"]), self._settings["token"]
        looks: dict[str, Look] = {
            "GPU": lambda: gpu.look(self._settings["gpus"]),
            "versions": versions.look,
            "disk": lambda: disk.look(run),
            "shared": lambda: shared.write(run, token, self.name),
            "names": lambda: names.look(self.name, nodes),
            "locks": locks.look,
            "ports": lambda: ports.Listener(self.name, self._ports).finding(
                first=self.name == nodes[0]
            ),
            "all-reduce": self._ready,
        }
        if self._settings["data"]:
            looks["data"] = lambda: data_index.look(Path(self._settings["data"]))
        return looks

    def _meet(self, message: Message) -> dict[str, Look]:
        """What needs the others: their files, and their ports."""
        run, token = Path(self._settings["run"]), self._settings["token"]
        targets = [(name, port) for name, port in message["reach"][self.name]]
        return {
            "shared": lambda: shared.see(run, token, message["nodes"]),
            "ports": lambda: ports.reach(targets),
        }

    def _pairs(self, message: Message) -> dict[str, Look]:
        """One round of all-reduces; a node without a partner in it has nothing to do."""
        mine = [pair for pair in message["pairs"] if self.name in pair[:2]]
        return {"all-reduce": lambda: [self._pair(message["backend"], *pair) for pair in mine]}

    def _ready(self) -> Finding:
        assert self._child is not None
        return ring.ready_finding(self._child.ready())

    def _pair(self, backend: str, left: str, right: str, port: int) -> Finding:
        if self._child is None:
            self._child = ring.Child()
            self._child.ready()
        answer = self._child.pair(
            {
                "address": left, "port": port, "rank": int(self.name == right),
                "backend": backend, "seconds": ring.PAIR_SECONDS,
            }
        )  # fmt: skip
        if "error" not in answer:
            speed = answer["bytes_per_second"]
            return Finding("all-reduce", "ok", f"{speed / 1e9:.2g} GB/s", facts={"speed": speed})
        # What is left of a failed group would be in the next one's way.
        self._child.end()
        self._child = None
        return Finding("all-reduce", "ok", facts={"failed": [[left, right, answer["error"]]]})

    def _run(self, check: str, look: Look) -> None:
        """One check in its thread; also a defect of its own becomes a finding."""
        findings: Sequence[Finding] | None = None
        try:
            found = look()
            findings = found if isinstance(found, list) else [found]
        finally:
            if findings is None:
                kind, value = sys.exc_info()[:2]
                name = kind.__name__ if kind is not None else "error"
                findings = [bad(check, f"the check itself failed ({name}: {value}): report it")]
            told: list[dict[str, Any]] = [asdict(finding) for finding in findings]
            self.say({"check": check, "findings": told})


if __name__ == "__main__":
    main()
