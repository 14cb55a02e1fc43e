"""One file from the web into a cache: checked, retried, never half there.

A file is written under a temporary name, flushed, checked and renamed, so that a kill at any
moment leaves nothing under its final name. Errors that may pass (a time-out, a server that is
busy, a body that ends early) are retried with growing pauses; what stays an error then is a
`TryAgainError`. What the server says is not there is a MeshError `not_found`, and a file that
arrives whole but is not the right one is a MeshError of the check.

Only http and https are spoken, also after a redirect: a table cannot make us read a local file.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from threed_gen import __version__
from threed_gen.data.source_kinds.asset import TryAgainError
from threed_gen.errors import disk_errors
from threed_gen.files import sync_directory
from threed_gen.geometry.mesh import MeshError

Check = Callable[[Path], None]  # raises MeshError when the file is not what it should be
GONE = {404, 410, 451}  # not there, removed, removed by law
FINAL = ("not_found", "too_large")  # reasons that a second attempt would not change
PIECE = 1 << 18


@dataclass(frozen=True)
class DownloadPolicy:
    """How patient a download is."""

    attempts: int = 5
    silence: float = 30.0  # seconds without a byte after which an attempt is given up
    seconds: float = 400.0  # for all attempts together: below the time limit of an asset
    pause: float = 1.0  # before the second attempt; doubled before each further one
    max_bytes: int = 4_000_000_000


class _PassingError(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait  # seconds that the server asked for


def fetch(url: str, target: Path, key: str, check: Check, policy: DownloadPolicy) -> None:
    """Make `target` hold what `url` gives, or raise. A good file that is there is kept.

    `check` is put to every file before it gets its name, and to one that is there already.
    `key` names the asset; the pauses between attempts are drawn from it.
    """
    if not url.startswith(("https://", "http://")):
        raise MeshError(f"{url[:200]}: not a web address", "not_found")
    with _in_the_making(target) as file:
        if _is_good(target, check):
            return
        deadline = time.monotonic() + policy.seconds
        wrong: MeshError | None = None
        for attempt in range(1, policy.attempts + 1):
            try:
                _receive(url, file, deadline, policy)
                check(_name(target))
            except MeshError as err:
                if err.reason in FINAL or wrong is not None:
                    raise  # a file that arrives whole and wrong twice is wrong at its source
                wrong, wait = err, 0.0
            except _PassingError as err:
                if attempt == policy.attempts:
                    raise TryAgainError(f"{url}: {err} ({attempt} attempts)") from err
                wait = err.wait
            else:
                os.fsync(file.fileno())
                _name(target).replace(target)
                sync_directory(target.parent)
                return
            if attempt == policy.attempts:
                break
            pause = max(wait, policy.pause * 2 ** (attempt - 1) * _jitter(key, attempt))
            if time.monotonic() + pause >= deadline:
                break
            time.sleep(pause)
        if wrong is not None:
            raise wrong
        raise TryAgainError(f"{url}: not received within {policy.seconds:g} s")


def _receive(url: str, file: BinaryIO, deadline: float, policy: DownloadPolicy) -> None:
    """One attempt: the whole body into `file`."""
    file.seek(0)
    file.truncate()
    headers = {"User-Agent": f"threed-gen/{__version__}", "Accept-Encoding": "identity"}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  see _opener
        with _opener().open(request, timeout=policy.silence) as response:
            stated = response.headers.get("Content-Length", "")
            length = int(stated) if stated.isdecimal() else None
            if length is not None and length > policy.max_bytes:
                raise MeshError(f"{url}: {length} bytes are too many", "too_large")
            received = 0
            while piece := response.read1(PIECE):
                received += len(piece)
                if received > policy.max_bytes:
                    raise MeshError(f"{url}: over {policy.max_bytes} bytes", "too_large")
                if time.monotonic() > deadline:
                    raise _PassingError(f"only {received} bytes within {policy.seconds:g} s")
                with disk_errors(file.name, "a download"):
                    file.write(piece)
            if length is not None and received != length:
                raise _PassingError(f"the body ended after {received} of {length} bytes")
    except urllib.error.HTTPError as err:
        err.close()
        if err.code in GONE:
            raise MeshError(f"{url}: not there (HTTP {err.code})", "not_found") from err
        asked = err.headers.get("Retry-After", "")
        raise _PassingError(f"HTTP {err.code}", float(asked) if asked.isdecimal() else 0.0) from err
    except TimeoutError as err:
        raise _PassingError(f"no answer within {policy.silence:g} s") from err
    except urllib.error.URLError as err:
        raise _PassingError(f"cannot be reached ({err.reason})") from err
    except ValueError as err:
        raise MeshError(f"{url[:200]}: not a web address ({err})", "not_found") from err
    except (http.client.HTTPException, OSError) as err:  # a failing disk is a DiskError by now
        raise _PassingError(f"the connection broke ({type(err).__name__})") from err
    with disk_errors(file.name, "a download"):
        file.flush()


def _opener() -> urllib.request.OpenerDirector:
    """Speaks http and https, and neither file: nor ftp: nor data:, whatever a redirect says."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _jitter(key: str, attempt: int) -> float:
    """0.5 to 1.5, the same in every run, so that a crowd does not come back all at once."""
    digest = hashlib.sha256(f"pause {key} {attempt}".encode("utf-8", "surrogateescape")).digest()
    return 0.5 + int.from_bytes(digest[:4], "big") / 2**32


def _is_good(target: Path, check: Check) -> bool:
    """True for a file in the cache that passes the check; one that does not is removed."""
    if not target.is_file():
        return False
    try:
        check(target)
    except MeshError:
        target.unlink(missing_ok=True)
        return False
    return True


def _name(target: Path) -> Path:
    """Where `target` is made. Always the same name, so that a kill leaves one leftover at most."""
    return target.with_name(f".{target.name}.part")


@contextmanager
def _in_the_making(target: Path) -> Iterator[BinaryIO]:
    """The temporary file, locked: of two processes that want `target`, one waits for the other."""
    part = _name(target)
    with disk_errors(part, "a download"):
        part.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _still_named(file, part):  # the other one has finished: look again
                continue
            try:
                yield file
            finally:
                if _still_named(file, part):
                    part.unlink()  # not the target itself: that has its own name by now
            return


def _still_named(file: BinaryIO, path: Path) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
