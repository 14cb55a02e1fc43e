"""Names: the own one to an address and back, each other node's one to an address, all timed.

Gloo, NCCL and Open MPI look names up when they start; a name server that does not answer makes
each of these take many seconds, and a wrong line in /etc/hosts sends ranks to the wrong machine.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from launcher.hostlist import shorten
from launcher.preflight.finding import ByNode, Finding, Verdicts, bad, facts_of, most

SLOW_SECONDS = 1.0
LIMIT_SECONDS = 8.0
WORKERS = 32


@dataclass(frozen=True)
class LookUp:
    """One question to the resolver: what it answered (None: nothing) and how long that took."""

    answer: str | None
    seconds: float


def look_up(ask: Callable[[], str], limit: float = LIMIT_SECONDS) -> LookUp:
    """Ask with a time limit, which the resolver itself does not have."""
    answers: list[str] = []

    def work() -> None:
        try:
            answers.append(ask())
        except (OSError, UnicodeError):  # no such name
            return

    start = time.monotonic()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit)
    return LookUp(answers[0] if answers else None, time.monotonic() - start)


def address_of(name: str) -> LookUp:
    """The first IPv4 address of a name."""
    return look_up(lambda: socket.gethostbyname(name))


def name_of(address: str) -> LookUp:
    """The name that an address leads back to."""
    return look_up(lambda: socket.gethostbyaddr(address)[0])


def look(node: str, nodes: Sequence[str]) -> list[Finding]:
    """Looks up this machine's own name, and the other nodes' names as the job knows them."""
    findings = [_own(node, nodes)]
    peers = [name for name in nodes if name != node]
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        answers = dict(zip(peers, pool.map(address_of, peers), strict=True))
    slow = {name: answer for name, answer in answers.items() if answer.seconds > SLOW_SECONDS}
    if slow and findings[0].state != "bad":  # the own name has said it already
        findings.append(_slow(shorten(list(slow)), max(slow.values(), key=lambda a: a.seconds)))
    lost = [name for name, answer in answers.items() if answer.answer is None and name not in slow]
    if lost:
        text = f"{shorten(lost)} leads to no address there: add it to /etc/hosts or the name server"
        findings.append(bad("names", text))
    slowest = max((answer.seconds for answer in answers.values()), default=0.0)
    leads = {name: answer.answer for name, answer in answers.items() if answer.answer}
    findings.append(Finding("names", "ok", f"{slowest * 1e3:.0f} ms", facts={"leads": leads}))
    return findings


def _own(node: str, nodes: Sequence[str]) -> Finding:
    name = socket.gethostname()
    there = address_of(name)
    if there.seconds > SLOW_SECONDS:
        return _slow(name, there)
    if there.answer is None:
        return bad("names", f"its own name {name} leads to no address: add it to /etc/hosts there")
    if len(nodes) > 1 and not _usable(there.answer):
        return bad(
            "names", f"its own name {name} leads to {there.answer}, where no other node finds it: "
            "correct /etc/hosts there, or set `interface` in cluster.yaml",
        )  # fmt: skip
    back = name_of(there.answer)
    if back.seconds > SLOW_SECONDS:
        return _slow(there.answer, back)
    other = (back.answer or "").split(".")[0]
    if other in nodes and other not in (node, name.split(".")[0]):
        return bad(
            "names", f"its own address {there.answer} leads back to {back.answer}: correct "
            "/etc/hosts or the name server there",
        )  # fmt: skip
    return Finding("names", "ok")


def _usable(address: str) -> bool:
    """Whether others can reach this machine at its own name's address."""
    if os.environ.get("GLOO_SOCKET_IFNAME"):  # then nobody asks the name
        return True
    if address.startswith("127."):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))  # works with an address of this machine only
        except OSError:
            return False
    return True


def _slow(what: str, answer: LookUp) -> Finding:
    took = f"{answer.seconds:.0f} s" if answer.seconds < LIMIT_SECONDS else "too long"
    return bad(
        "names", f"looking {what} up takes {took}: add the nodes to /etc/hosts there, or mend its "
        "name server (/etc/resolv.conf)",
    )  # fmt: skip


def compare(found: ByNode) -> Verdicts:
    """A name that leads elsewhere on one node than on most."""
    leads = {node: own["leads"] for node, own in facts_of(found, "names").items() if "leads" in own}
    verdicts = []
    for name in found:
        answers = {node: own[name] for node, own in leads.items() if name in own}
        if len(set(answers.values())) < 2:
            continue
        usual = most(answers)
        for node, address in answers.items():
            if address != usual:
                text = f"{name} leads to {address} there, elsewhere to {usual}: correct /etc/hosts"
                verdicts.append((node, bad("names", f"{text} on {node}")))
    return verdicts
