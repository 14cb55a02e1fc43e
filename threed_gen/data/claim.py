"""Whose folder OUT is: always of the same parameters, and each rank's once at a time.

Three kinds of locks lie in OUT. `.lock` guards short steps and packing. `work/ranks.lock` is shared
by all ranks at work and says how many there are: another number would divide the assets otherwise,
and two ranks could build the same one. `work/rank.I-of-N.lock` keeps a second rank I out.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from threed_gen.console import say
from threed_gen.data.ledger import ledger_name
from threed_gen.data.locks import (
    BusyError,
    holder,
    locked,
    opened,
    read_note,
    sign,
    take,
)
from threed_gen.data.ranks import Share
from threed_gen.errors import UserError
from threed_gen.files import write_atomically

PARAMS_NAME = "prepare.json"
PARAMS_FORMAT = "threed-gen prepare"
VERSION = 1
WORK = "work"


def params_hash(params: dict[str, Any]) -> str:
    """A short name for parameters, the same for equal ones."""
    text = json.dumps(params, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def taking_part(
    out: Path, params: dict[str, Any], share: Share, assets: int, command: str = "prepare"
) -> Iterator[bool]:
    """Be rank I of N at OUT; True when nobody else is at work there at the start."""
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
        (out / ".lock").open("ab").close()
    except (PermissionError, FileExistsError, NotADirectoryError) as err:
        raise UserError(f"{out}: cannot be written to: {err.strerror}; choose another OUT") from err
    note = {
        "rank": share.rank,
        "world_size": share.world_size,
        "assets": assets,
        "started": time.time(),
        "lines": _lines(out / WORK / ledger_name(share)),  # so that others can tell our rate
    }
    with ExitStack() as held:
        try:
            held.enter_context(locked(rank_lock(out, share), note))
        except BusyError as err:
            raise UserError(
                f"{out}: another `{command}` is writing here as rank {share.rank} of "
                f"{share.world_size} ({holder(err.note)}); wait for it, or choose another OUT"
            ) from err
        ranks = held.enter_context(opened(out / WORK / "ranks.lock"))
        with packing_lock(out):
            alone = take(ranks)
            if alone:
                sign(ranks, note)
            else:
                _check_world(out, Path(ranks.name), share, command)
            take(ranks, shared=True)
        insist(out, params)
        yield alone


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rank_lock(out: Path, share: Share) -> Path:
    """The lock of one rank."""
    return out / WORK / f"rank.{share}.lock"


@contextmanager
def packing_lock(out: Path) -> Iterator[None]:
    """Be the only one to change what belongs to all ranks; waits for whoever does so now."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(out / ".lock", {}))
        except BusyError as err:
            say(f"{out}: waiting for {holder(err.note)}, which is packing")
            held.enter_context(locked(out / ".lock", {}, wait=True))
        yield


def _check_world(out: Path, lock: Path, share: Share, command: str) -> None:
    note = read_note(lock)
    if note.get("world_size") != share.world_size:
        raise UserError(
            f"{out}: another `{command}` is at work here with --world-size "
            f"{note.get('world_size')} ({holder(note)}); this one has --world-size "
            f"{share.world_size}: use the same, or wait for it"
        )


def claim(out: Path, params: dict[str, Any]) -> None:
    """Record the parameters of OUT, or insist on those that it was begun with."""
    with packing_lock(out):
        insist(out, params)
        path = out / PARAMS_NAME
        if not path.exists():
            document = {"format": PARAMS_FORMAT, "version": VERSION, "params": params}
            content = (json.dumps(document, indent=2) + "\n").encode()
            write_atomically(path, content, "the parameters")


def insist(out: Path, params: dict[str, Any]) -> None:
    """UserError if OUT was begun with other parameters."""
    path = out / PARAMS_NAME
    if not path.exists():
        return
    try:
        old = json.loads(path.read_bytes())
        version, old_params = old["version"], old["params"]
        assert isinstance(old_params, dict)
    except (ValueError, KeyError, TypeError, AssertionError) as err:
        raise UserError(
            f"{path}: not readable; delete the folder {out} and prepare it again"
        ) from err
    if version != VERSION:
        raise UserError(f"{path}: format version {version}, this threed-gen reads {VERSION}")
    refuse_others(out, old_params, params)


def refuse_others(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """UserError that names the first parameter in which `new` differs from `old`."""
    for key in [*new, *old]:
        if old.get(key) != new.get(key):
            raise UserError(
                f"{out}: was made with {key} = {old.get(key)}, now it is "
                f"{new.get(key)}; choose another OUT, or delete this one"
            )
