"""The shared directory: every node writes, flushes and renames a file that every other node sees.

A folder of the same name that is another disk on each node is the usual mistake: all goes well
until the first checkpoint, of which every node then has a part.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from launcher.preflight.finding import ByNode, Finding, Verdicts, bad, facts_of

APPEARS_SECONDS = 5.0  # network file systems show a new file late


def folder(run: Path, token: str) -> Path:
    """Where the nodes' files of one preflight lie; removed at its end."""
    return run / f".preflight-{token}"


def write(run: Path, token: str, node: str) -> Finding:
    """Leave this node's file there, as checkpoints are written: aside, flushed, renamed."""
    place = folder(run, token)
    try:
        place.mkdir(exist_ok=True)
        temporary = place / f"{node}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(token)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place / node)
        _sync(place)
        again = (place / node).read_text(encoding="utf-8")
    except OSError as err:
        return bad("shared", f"cannot write to {run}: {err.strerror}: make it writable there")
    if again != token:
        return bad("shared", f"{run} gives back other bytes than were written: repair that disk")
    return Finding("shared", "ok")


def see(run: Path, token: str, nodes: Sequence[str]) -> Finding:
    """Which of the nodes' files are seen from here, within some seconds."""
    deadline = time.monotonic() + APPEARS_SECONDS
    missing = list(nodes)
    while missing:
        missing = [node for node in missing if not _is_there(folder(run, token) / node, token)]
        if time.monotonic() > deadline:
            break
        if missing:
            time.sleep(0.05)
    return Finding("shared", "ok", facts={"missing": missing})


def compare(run: Path, found: ByNode) -> Verdicts:
    """Who is apart: a node that does not see the others' files, or whose file they do not see."""
    wrote = {node for node, own in found.items() if not _failed(own)}
    missing = {node: set(own["missing"]) & wrote for node, own in facts_of(found, "shared").items()}
    apart = [node for node, unseen in missing.items() if 2 * len(unseen) >= len(wrote)]
    if len(apart) == len(missing) > 1:  # every node sees its own file only: the first one counts
        apart = apart[1:]
    cure = f"{run} is not the same disk on all nodes: mount it there, or choose a shared one"
    verdicts = [
        (node, bad("shared", f"does not see what {_few(missing[node])} wrote; {cure}"))
        for node in apart
    ]
    for node, unseen in missing.items():
        if node not in apart and (late := unseen - set(apart)):
            text = f"does not see what {_few(late)} wrote {APPEARS_SECONDS:.0f} s ago; {cure}"
            verdicts.append((node, bad("shared", text)))
    return verdicts


def remove(run: Path, token: str, node: str) -> None:
    """Take this node's file away again; the last one takes the folder."""
    for name in (node, f"{node}.tmp"):
        with suppress(OSError):  # it could not be written
            (folder(run, token) / name).unlink()
    with suppress(OSError):  # others' files are still there, or it is gone
        folder(run, token).rmdir()


def _is_there(path: Path, token: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == token
    except OSError:
        return False


def _failed(findings: list[Finding]) -> bool:
    return any(finding.check == "shared" and finding.state == "bad" for finding in findings)


def _few(nodes: set[str]) -> str:
    names = sorted(nodes)
    return " ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
