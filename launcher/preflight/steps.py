"""The preflight itself: starts a program on each node, asks them step by step, compares, judges.

    start   each node says that it is there, and what time it has
    alone   what a node finds out by itself
    meet    whether the nodes see each other's files and reach each other's ports
    pairs   all-reduce of neighbours, in two or three rounds

Every step ends when all nodes have answered or its time is up; what has not answered by then is a
failure, by name. All together end within `LIMIT_SECONDS`.
"""

from __future__ import annotations

import queue
import secrets
import shutil
import time
from collections.abc import Callable
from typing import Any

from launcher.errors import LaunchError
from launcher.preflight import clock, data_index, locks, names, ports, ring, shared, versions
from launcher.preflight.asked import Result, Settings
from launcher.preflight.finding import Finding, Verdicts, bad, facts_of
from launcher.preflight.start import Start
from launcher.preflight.wire import Message, Wire

LIMIT_SECONDS = 55.0  # some more pass until the programs have ended
OTHERS_SECONDS = 12.0  # after the first node's answer
ALONE_SECONDS = 20.0
MEET_SECONDS = 10.0
PAIRS_SECONDS = ring.PAIR_SECONDS + 12  # after a failure torch is loaded anew
END_SECONDS = 2.0
CLOCK_ROUNDS = 3
CHECKS_ALONE = (
    "GPU", "versions", "disk", "shared", "names", "locks", "ports", "all-reduce", "data",
)  # fmt: skip
HANGS = {
    "GPU": "nvidia-smi hangs: reboot the node or leave it out",
    "disk": "a disk hangs: look at the mounts of the run directory and of TMPDIR there",
    "shared": "the run directory's disk hangs: look at its mount there",
    "data": "the data's disk hangs or is slow: look at its mount there",
    "names": "a name server does not answer: look at /etc/resolv.conf there",
}


def preflight(start: Start, settings: Settings) -> Result:
    """Look at all nodes; returns within a minute, whatever hangs where."""
    return _Preflight(start, settings).result()


class _Preflight:
    def __init__(self, start: Start, settings: Settings) -> None:
        self._start, self._settings = start, settings
        self._inbox: queue.Queue[tuple[str, Message]] = queue.Queue()
        self._token = secrets.token_hex(6)
        self._began = time.monotonic()
        self._nodes: list[str] = []  # all that there should be
        self._there: list[str] = []  # those that have answered
        self._offsets: dict[str, clock.Offset] = {}
        self._found: dict[str, list[Finding]] = {}
        self._wires: dict[str, Wire] = {}

    def result(self) -> Result:
        self._wires = {
            name: Wire(words, self._inbox) for name, words in self._start.commands.items()
        }
        try:
            self._gather()
            self._look()
        finally:
            for wire in self._wires.values():
                wire.close()
            for wire in self._wires.values():
                wire.end(END_SECONDS)
            self._clean()
        self._compare()
        return Result(self._found, time.monotonic() - self._began)

    def _gather(self) -> None:
        """Wait for the nodes' first words."""
        told = self._settings
        self._tell(
            "start",
            run=str(told.folder),
            key=str(told.run.absolute()),
            token=self._token,
            data=str(told.data.absolute()) if told.data is not None else None,
            gpus=told.gpus,
            environment=dict(told.environment),
            slurm=self._start.slurm,
        )
        self._nodes = list(self._start.nodes or [])
        deadline = self._began + self._start.wait

        def hello(node: str, message: Message) -> None:
            nonlocal deadline
            if "hello" not in message:
                return
            self._nodes = self._nodes or message["hello"] or [node]
            if not self._there:
                now = time.monotonic()
                deadline = now + OTHERS_SECONDS
                if self._start.queues:  # nodes were waited for until now
                    self._began = now
            self._there.append(node)

        def all_there() -> bool:
            missing = set(self._nodes) - set(self._there)
            if self._start.slurm or not self._inbox.empty():
                return bool(self._nodes) and not missing
            return all(self._wires[node].ended for node in missing)  # no word will come any more

        self._listen(lambda: deadline, hello, lambda: all_there() or self._all_ended())
        if not self._nodes:
            said = self._wires[""].said or ["no node answers"]
            raise LaunchError(f"{said[-1]}; try `srun hostname` with the same options")
        self._there = [node for node in self._nodes if node in self._there]
        for node in self._nodes:
            up = node in self._there
            self._found[node] = [Finding("up", "ok") if up else bad("up", self._silence(node))]

    def _look(self) -> None:
        if not self._there:
            return
        for _ in range(CLOCK_ROUNDS):
            self._ask_time()
        there = self._there
        self._step("alone", CHECKS_ALONE, ALONE_SECONDS, nodes=there)
        self._step("meet", ("shared", "ports"), MEET_SECONDS, nodes=there, reach=self._targets())
        self._judge(names.compare(self._found))
        self._judge(ports.compare(self._found))
        self._ring()

    def _ring(self) -> None:
        """All-reduce of neighbours that can be expected to meet: others would only wait."""
        ready = facts_of(self._found, "all-reduce")
        spare = {node: own.get("spare") for node, own in facts_of(self._found, "ports").items()}
        lost = self._with_trouble("names", "ports")
        able = [node for node in self._there if node in ready and spare.get(node)]
        able = [node for node in able if node not in lost]
        for node in set(self._there) & lost:
            self._found[node].append(Finding("all-reduce", "note", "not tried"))
        usable = all(own["cuda"] and own["meant"] for own in ready.values())
        gpus = self._settings.gpus != 0 and usable
        for pairs in ring.rounds(able):
            listed = [[left, right, spare[left]] for left, right in pairs]
            backend = "nccl" if gpus else "gloo"
            self._step("pairs", ("all-reduce",), PAIRS_SECONDS, pairs=listed, backend=backend)

    def _step(self, do: str, checks: tuple[str, ...], seconds: float, **more: Any) -> None:
        """One step on all nodes; a check without an answer at its end has failed."""
        if self._settings.data is None:
            checks = tuple(check for check in checks if check != "data")
        open_checks = {(node, check) for node in self._there for check in checks}

        def answer(node: str, message: Message) -> None:
            if "check" in message and (node, message["check"]) in open_checks:
                open_checks.remove((node, message["check"]))
                self._found[node] += [Finding(**told) for told in message["findings"]]

        self._tell(do, **more)
        begin = time.monotonic()
        deadline = min(begin + seconds, self._began + LIMIT_SECONDS)
        self._listen(lambda: deadline, answer, lambda: not open_checks or self._all_ended())
        waited = time.monotonic() - begin
        for node, check in sorted(open_checks):
            why = HANGS.get(check, "look whether the node is still up")
            self._found[node].append(bad(check, f"no answer within {waited:.0f} s: {why}"))

    def _ask_time(self) -> None:
        waiting = set(self._there)

        def answer(node: str, message: Message) -> None:
            if "now" in message:
                own = clock.offset(message["asked"], time.time(), message["now"])
                best = self._offsets.get(node)
                self._offsets[node] = own if best is None or own.doubt < best.doubt else best
                waiting.discard(node)

        self._tell("clock", asked=time.time())
        deadline = time.monotonic() + 3
        self._listen(lambda: deadline, answer, lambda: not waiting or self._all_ended())

    def _targets(self) -> dict[str, list[tuple[str, int]]]:
        """Whom each node connects to: its right neighbour, and the first node."""
        port = {node: own.get("port", 0) for node, own in facts_of(self._found, "ports").items()}
        targets = {}
        for index, node in enumerate(self._there):
            right = self._there[(index + 1) % len(self._there)]
            wanted = dict.fromkeys([right, self._there[0]])
            targets[node] = [(n, port[n]) for n in wanted if n != node and port.get(n, 0)]
        return targets

    def _compare(self) -> None:
        """What only all nodes together show."""
        self._judge(clock.compare(self._offsets))
        self._judge(versions.compare(self._found))
        self._judge(locks.compare(self._found))
        self._judge(shared.compare(self._settings.folder, self._found))
        self._judge(data_index.compare(self._found))
        self._judge(ring.compare(self._found))
        if self._settings.gpus:
            self._judge(ring.compare_gpus(self._found))

    def _judge(self, verdicts: Verdicts) -> None:
        for node, finding in verdicts:
            self._found[node].append(finding)

    def _with_trouble(self, *checks: str) -> set[str]:
        """Nodes on which one of these checks has failed."""
        return {
            node
            for node, findings in self._found.items()
            if any(finding.state == "bad" and finding.check in checks for finding in findings)
        }

    def _listen(
        self, deadline: Callable[[], float], take: Callable[[str, Message], None],
        enough: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Take messages until there are enough, or the time is up."""
        while not enough() and (left := deadline() - time.monotonic()) > 0:
            try:
                node, message = self._inbox.get(timeout=min(left, 0.2))
            except queue.Empty:
                continue
            take(node, message)

    def _all_ended(self) -> bool:
        return self._inbox.empty() and all(wire.ended for wire in self._wires.values())

    def _silence(self, node: str) -> str:
        """Why a node says nothing, as far as its starter knows."""
        wire = self._wires.get(node) or self._wires[""]
        said = [line for line in wire.said if not self._start.slurm or node in line.split()]
        why = f" ({said[-1]})" if said else ""
        seconds = f"{time.monotonic() - self._began:.0f}"
        return f"does not answer{why or f' within {seconds} s'}: see whether it is up"

    def _tell(self, do: str, **more: Any) -> None:
        for wire in self._wires.values():
            wire.send({"do": do, **more})

    def _clean(self) -> None:
        """What a node that died has left."""
        shutil.rmtree(shared.folder(self._settings.folder, self._token), ignore_errors=True)
