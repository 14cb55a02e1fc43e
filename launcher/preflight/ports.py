"""Ports: the ones that the job will listen on are free, and other nodes reach them.

Each node listens on the port that the next step of the job will take for rank 0, and answers with
its name. Its left neighbour in the ring of nodes connects, and so do all nodes to the first one,
where rank 0 will be: a firewall, a name that leads to the wrong machine or a cut cable shows here
by name, and not as a time-out of half an hour.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from launcher.ports import FIRST_PORT, PORTS, SLOTS, job_port, key_port
from launcher.preflight.finding import ByNode, Finding, Verdicts, bad, facts_of

CONNECT_SECONDS = 4.0
ANSWER_BYTES = 256
IN_PLACE = "answers in its place"
RANGE = f"{FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
Edge = tuple[str, str, str]  # from, to, and what went wrong


def of_job(job: int | None, step: int, restarts: int, run: str) -> list[int]:
    """The ports of this start of a job, the next step's first; without Slurm those of the run."""
    if job is None:
        return [key_port(run, attempt) for attempt in range(SLOTS // 2)]
    return [job_port(job, step + 1 + further, restarts) for further in range(SLOTS // 2)]


@dataclass
class Listener:
    """Answers on one of the job's ports with this node's name, until it is closed."""

    node: str
    wanted: Sequence[int]

    def __post_init__(self) -> None:
        self.busy: list[int] = []
        free: list[socket.socket] = []
        for port in self.wanted:
            door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            # As rank 0 will do: a port whose last connection has just ended is free.
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                door.bind(("", port))
                door.listen(socket.SOMAXCONN)  # without it two sockets may share a port
                free.append(door)
            except OSError:
                door.close()
                self.busy.append(port)
        self.port = free[0].getsockname()[1] if free else 0
        self.spare = free[1].getsockname()[1] if len(free) > 1 else 0  # for the all-reduce
        for door in free[1:]:
            door.close()
        if free:
            threading.Thread(target=self._serve, args=(free[0],), daemon=True).start()

    def _serve(self, door: socket.socket) -> None:
        while True:
            guest, _ = door.accept()
            threading.Thread(target=self._answer, args=(guest,), daemon=True).start()

    def _answer(self, guest: socket.socket) -> None:
        with guest:
            guest.settimeout(CONNECT_SECONDS)
            try:
                guest.sendall(self.node.encode())
                guest.shutdown(socket.SHUT_WR)
                guest.recv(1)  # the guest leaves first, so that the port is free at once
            except OSError:  # a guest that hung up, or some other program
                return

    def finding(self, *, first: bool) -> Finding:
        """On the first node, where rank 0 will listen, all ports have to be free."""
        if (first and self.busy) or not (self.port and self.spare):
            port = self.busy[0]
            return bad(
                "ports", f"port {port} is taken by another process: end it (`ss -ltnp 'sport = "
                f":{port}'` there shows which)",
            )  # fmt: skip
        return Finding("ports", "ok", facts={"port": self.port, "spare": self.spare})


def reach(targets: Iterable[tuple[str, int]]) -> Finding:
    """Connect to other nodes by name; what went wrong goes to the comparison."""
    wanted = list(targets)
    with ThreadPoolExecutor(max_workers=max(1, len(wanted))) as pool:
        answers = list(pool.map(lambda target: _timed(*target), wanted))
    failed = [[*target, error] for target, (error, _) in zip(wanted, answers, strict=True) if error]
    slowest = max((seconds for _, seconds in answers), default=0.0)
    return Finding("ports", "ok", f"{slowest * 1e3:.0f} ms", facts={"failed": failed})


def _timed(name: str, port: int) -> tuple[str, float]:
    start = time.monotonic()
    return _connect(name, port), time.monotonic() - start


def _connect(name: str, port: int) -> str:
    """What keeps this node from speaking with `name`; empty when nothing does."""
    try:
        with socket.create_connection((name, port), timeout=CONNECT_SECONDS) as wire:
            answer = b""
            while piece := wire.recv(ANSWER_BYTES):
                answer += piece
    except OSError as err:
        return (err.strerror or str(err)).lower()
    said = answer.decode(errors="replace")
    return "" if said == name else f"{said or 'another program'} {IN_PLACE}"


def compare(found: ByNode) -> Verdicts:
    """One line for each node that cannot be reached, or reaches nobody or the wrong one."""
    edges = [
        (node, name, f"{port} ({error})")
        for node, own in facts_of(found, "ports").items()
        for name, port, error in own.get("failed", [])
    ]
    misled = {source for source, _, error in edges if error.endswith(f"{IN_PLACE})")}
    verdicts = []
    for node, guilty in blame(edges, misled):
        source, target, what = guilty[0]
        way = f"is not reached from {source}" if node == target else f"does not reach {target}"
        cure = f"open the ports {RANGE} between the nodes (firewall), or correct the name there"
        verdicts.append((node, bad("ports", f"{way} on port {what}: {cure}")))
    return verdicts


def blame(edges: Sequence[Edge], suspects: set[str]) -> list[tuple[str, list[Edge]]]:
    """Who explains the failures between pairs: whoever takes part in most of those left.

    Of equals it is one of `suspects`, else the one that was to be reached.
    """
    left = list(edges)
    guilty = []
    while left:
        nodes = sorted({end for edge in left for end in edge[:2]})
        part = {node: [edge for edge in left if node in edge[:2]] for node in nodes}
        reached = {edge[1] for edge in left}
        node = max(nodes, key=lambda n: (len(part[n]), n in suspects, n in reached))
        guilty.append((node, part[node]))
        left = [edge for edge in left if node not in edge[:2]]
    return guilty
