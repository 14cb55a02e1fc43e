"""Whose folder OUT is: one `prepare` at a time, and always the same parameters."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threed_gen.errors import UserError
from threed_gen.files import write_atomically

PARAMS_NAME = "prepare.json"
PARAMS_FORMAT = "threed-gen prepare"
VERSION = 1


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a second `prepare` out of the same folder; the lock goes with the process."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("ab")
    except (PermissionError, FileExistsError, NotADirectoryError) as err:
        raise UserError(f"{out}: cannot be written to: {err.strerror}; choose another OUT") from err
    with file as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise UserError(
                f"{out}: another `prepare` is writing here; wait for it, or choose another OUT"
            ) from err
        yield


def claim(out: Path, params: dict[str, Any]) -> None:
    """Record the parameters of OUT, or insist on those that it was begun with."""
    path = out / PARAMS_NAME
    document = {"format": PARAMS_FORMAT, "version": VERSION, "params": params}
    if not path.exists():
        write_atomically(path, (json.dumps(document, indent=2) + "\n").encode(), "the parameters")
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
    for key in [*params, *old_params]:
        if old_params.get(key) != params.get(key):
            raise UserError(
                f"{out}: was made with {key} = {old_params.get(key)}, now it is "
                f"{params.get(key)}; choose another OUT, or delete this one"
            )
