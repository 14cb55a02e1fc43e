"""All-reduce between neighbours: each pair in the ring of nodes adds a tensor up and times it.

torch is started in a child, at the beginning, as its import takes longest of all; the child is
`threed_gen/training/neighbours.py`, as nothing in this package may load torch. No node is in two
pairs at a time.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from launcher.preflight.finding import ByNode, Finding, Verdicts, bad, facts_of
from launcher.preflight.ports import blame

CHILD = "threed_gen.training.neighbours"
READY_SECONDS = 25.0
PAIR_SECONDS = 8.0


def rounds(nodes: Sequence[str]) -> list[list[tuple[str, str]]]:
    """The pairs of the ring, in rounds whose pairs have no node in common."""
    count = len(nodes)
    if count < 2:
        return []
    edges = [(index, (index + 1) % count) for index in range(count if count > 2 else 1)]
    last = [edges.pop()] if count % 2 and count > 2 else []
    split = [edges[::2], edges[1::2], last]
    return [[(nodes[a], nodes[b]) for a, b in pairs] for pairs in split if pairs]


class Child:
    """torch in a process of its own, spoken with in JSON lines."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", CHILD], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=work, daemon=True) for work in (self._read, self._keep_errors)
        ]
        for thread in self._readers:
            thread.start()

    def ready(self) -> dict[str, Any]:
        """{"cuda": whether it can use GPUs, "meant": whether it shall}, or {"error": …}."""
        return self._answer(READY_SECONDS)

    def pair(self, task: dict[str, Any]) -> dict[str, Any]:
        """{"bytes_per_second": …} or {"error": …}; `task` is what `neighbours.py` reads."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended: said below
        return self._answer(PAIR_SECONDS + 3)

    def end(self) -> None:
        """Returns when the process is gone."""
        self._process.kill()
        self._process.wait()

    def _answer(self, seconds: float) -> dict[str, Any]:
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            return {"error": f"no answer within {seconds:.0f} s"}

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        code = self._process.wait()
        self._readers[1].join(1)
        why = self._errors[-1].strip() if self._errors else f"exit code {code}"
        self._answers.put({"error": why, "ended": True})

    def _keep_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors += [line for line in self._process.stderr if line.strip()]


def ready_finding(answer: dict[str, Any]) -> Finding:
    """Whether torch starts on a node."""
    if "error" in answer:
        text = f"torch does not start ({answer['error']}): `make setup` there, or `threed-gen"
        return bad("all-reduce", f"{text} doctor` for more")
    return Finding("all-reduce", "ok", facts={"cuda": answer["cuda"], "meant": answer["meant"]})


def compare_gpus(found: ByNode) -> Verdicts:
    """Where `nvidia-smi` sees the GPUs that were asked for and torch, which shall, does not."""
    seen = facts_of(found, "GPU")
    ready = facts_of(found, "all-reduce")
    without = [
        node for node, own in ready.items() if own.get("meant", True) and not own.get("cuda", True)
    ]
    text = "nvidia-smi sees GPUs that torch cannot use: `threed-gen doctor` there says why"
    return [(node, bad("GPU", text)) for node in without if node in seen]


def compare(found: ByNode) -> Verdicts:
    """Failed pairs become one line for the node that most of them have in common."""
    failed = {
        (left, right): error
        for findings in found.values()
        for finding in findings
        if finding.check == "all-reduce"
        for left, right, error in finding.facts.get("failed", [])
    }
    edges = [(left, right, error) for (left, right), error in failed.items()]
    verdicts = []
    for node, guilty in blame(edges, set()):
        peers = " and ".join(right if node == left else left for left, right, _ in guilty)
        text = f"all-reduce with {peers} fails ({guilty[0][2]}): open all ports between the nodes,"
        text += " also those from 32768 on, or set `interface` in cluster.yaml"
        verdicts.append((node, bad("all-reduce", text)))
    return verdicts
