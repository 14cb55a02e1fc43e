"""One launch at a time into a run directory, also while its job still waits in a queue.

`RUN/launch/launch.json` says which launch was the last. A job that waits or runs, or another
`threed-gen launch` that is at work, keeps a second one out.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import slurm
from launcher.errors import LaunchError
from threed_gen.errors import UserError, disk_errors
from threed_gen.files import write_json

FOLDER = "launch"


@dataclass(frozen=True)
class Claim:
    """The right to launch into `run`.

    Attributes:
        folder: RUN/launch, where scripts and logs go.
        attempt: how many launches there were before.
    """

    folder: Path
    attempt: int

    def record(self, launcher: str, job: int | None = None) -> None:
        """Remember this launch, and the job that stands for it from now on."""
        record = {"attempt": self.attempt, "with": launcher, "job": job}
        write_json(self.folder / "launch.json", record)


def attempts(run: Path) -> int:
    """How many launches into `run` there were."""
    record = _read(run / FOLDER / "launch.json")
    return 0 if record is None else int(record["attempt"]) + 1


@contextmanager
def claimed(run: Path) -> Iterator[Claim]:
    """Hold `run` for one launch. The operating system lets go of it at any end.

    Raises:
        UserError: somebody else launches into it, or a job of it waits or runs.
    """
    folder = run / FOLDER
    with disk_errors(folder, "the launch"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{run}: another `threed-gen launch` is at work here; wait for it, or choose "
                "another --out"
            ) from None
        _no_living_job(run, _read(folder / "launch.json"))
        yield Claim(folder, attempts(run))
    finally:
        os.close(lock)


def _no_living_job(run: Path, record: dict[str, Any] | None) -> None:
    if record is None or record.get("job") is None:
        return
    job = int(record["job"])
    try:
        found = slurm.state(job)
    except LaunchError as err:
        raise UserError(f"{run}: was launched as job {job}, and {err}") from err
    if not found.ended:
        raise UserError(
            f"{run}: job {job} was launched into it and is {found.told()}; `scancel {job}` ends "
            "it, or choose another --out"
        )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise UserError(f"{path}: cannot be read ({err}); delete it and try again") from err
    if not isinstance(record, dict) or not isinstance(record.get("attempt"), int):
        raise UserError(f"{path}: is not what was written; delete it and try again")
    return record
