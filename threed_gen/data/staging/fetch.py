"""Reading byte ranges of files at a URL, with patience that is counted and an end that is clear.

Any file system of fsspec will do. A request that fails, stalls, comes back short or with other
bytes than were asked for is tried again after a pause that doubles; what a further try cannot cure
(no such file, no permission) ends at once. Whoever gives up names the URL and the cure.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, BinaryIO

from threed_gen.console import say
from threed_gen.data.config import RemoteConfig
from threed_gen.errors import UserError

PIECE = 16 << 20  # bytes of one request while a whole file is copied
FIRST_PAUSE = 0.5  # seconds, doubled after each try …
LONGEST_PAUSE = 30.0  # … up to this
SHOWN = tuple(10**k for k in range(9))  # retries of this process that get a line
PASSING = (408, 425, 429)  # answers below 500 that a later try may not get


class FetchError(UserError):
    """A file at a URL cannot be read."""


class _ShortError(OSError):
    """An answer that is not what was asked for."""


def is_url(path: str) -> bool:
    """Whether a data path names a protocol."""
    return "://" in path


class Remote:
    """A folder at a URL. `counts` has requests, bytes, retries and failures so far.

    Safe to use from several threads and, since each process connects for itself, to pickle.
    """

    def __init__(
        self, url: str, config: RemoteConfig | None = None, first_pause: float = FIRST_PAUSE
    ) -> None:
        self.url, self.config = url.rstrip("/"), config or RemoteConfig()
        self.first_pause = first_pause
        self.counts: Counter[str] = Counter()
        self.last_problem = ""
        self._connection: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}

    def read(self, name: str, start: int, size: int, sha256: str | None = None) -> bytes:
        """The bytes at (start, size) of the file `name`; FetchError after the last try.

        sha256: what they must have; others count as a failed try.
        """

        def attempt(fs: Any, root: str) -> bytes:
            path = f"{root}/{name}"
            blob: bytes = self._call(fs, "cat_file", path, start=start, end=start + size)
            if len(blob) != size:
                hint = "; does it serve ranges?" if len(blob) > size else ""
                raise _ShortError(f"it sent {len(blob):,} bytes where {size:,} were asked{hint}")
            if sha256 is not None and hashlib.sha256(blob).hexdigest() != sha256:
                raise _ShortError("the bytes are not those of the index (sha256 differs)")
            self.counts["bytes"] += size
            return blob

        return self._patiently(name, attempt) if size else b""

    def size(self, name: str) -> int:
        """Bytes of the file `name`; FetchError as `read`."""

        def attempt(fs: Any, root: str) -> int:
            size = self._call(fs, "info", f"{root}/{name}")["size"]
            if not isinstance(size, int):
                raise _ShortError("the server does not say how large it is")
            return size

        return self._patiently(name, attempt)

    def download(
        self, name: str, size: int, file: BinaryIO, between: Callable[[], None] = lambda: None
    ) -> str:
        """Append a whole file of `size` bytes to `file`, piece by piece; its sha256.

        between: called before each piece; what it raises ends the copy.
        """
        digest = hashlib.sha256()
        for start in range(0, size, PIECE):
            between()
            piece = self.read(name, start, min(PIECE, size - start))
            file.write(piece)
            digest.update(piece)
        return digest.hexdigest()

    def _patiently(self, name: str, attempt: Callable[[Any, str], Any]) -> Any:
        """What `attempt` returns, tried as often as the config allows."""
        url, tries = f"{self.url}/{name}", self.config.tries
        for number in range(1, tries + 1):
            fs, root = self._connected()
            self.counts["requests"] += 1
            try:
                return attempt(fs, root)
            except _troubles() as err:
                self.last_problem = f"{url}: {_told(err)}"
                if _is_final(err) or number == tries:
                    self.counts["failures"] += 1
                    raise FetchError(self._last_line(url, err, number)) from err
            self.counts["retries"] += 1
            if self.counts["retries"] in SHOWN:
                say(f"{self.last_problem}; trying again (retry {self.counts['retries']:,} so far)")
            pause = min(self.first_pause * 2 ** (number - 1), LONGEST_PAUSE)
            time.sleep(pause * random.uniform(0.75, 1.25))  # a thousand readers, not in step
        raise AssertionError("unreachable")

    def _last_line(self, url: str, err: BaseException, tries: int) -> str:
        if isinstance(err, FileNotFoundError) or _status(err) == 404:
            return f"{url}: no such file there; check data.path, or copy the file to it again"
        if isinstance(err, PermissionError) or _status(err) in (401, 403):
            return f"{url}: not allowed ({_told(err)}); give the access in data.remote.options"
        cure = "see whether the server answers"
        if isinstance(err, (asyncio.TimeoutError, TimeoutError)):
            cure += f", or raise data.remote.timeout ({self.config.timeout:g} s)"
        elif isinstance(err, _ShortError):
            cure = "copy the file to the server again"
        times = f"after {tries} tries" if tries > 1 else "at once"
        return f"{url}: cannot be read, given up {times} ({_told(err)}); {cure}"

    def _call(self, fs: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """One request, ended after the time that the config allows where fsspec can end one."""
        from fsspec.asyn import AsyncFileSystem, sync

        if not isinstance(fs, AsyncFileSystem):
            return getattr(fs, method)(*args, **kwargs)
        function = getattr(fs, f"_{method}")
        return sync(fs.loop, function, *args, timeout=self.config.timeout, **kwargs)

    def _connected(self) -> tuple[Any, str]:
        """The file system and the path of our folder in it; UserError if there is none such."""
        if self._connection is None or self._connection[0] != os.getpid():
            import fsspec

            try:
                fs, root = fsspec.url_to_fs(self.url, **self.config.options)
            except (ImportError, ValueError, TypeError) as err:  # a package, protocol or option
                raise UserError(
                    f"{self.url}: cannot be opened: {err}; check data.path and data.remote.options"
                ) from err
            self._connection = os.getpid(), fs, root.rstrip("/")
        return self._connection[1:]


def _troubles() -> tuple[type[BaseException], ...]:
    """What a file system raises where the network or the server fails."""
    found: tuple[type[BaseException], ...] = (OSError, EOFError, asyncio.TimeoutError)
    client = sys.modules.get("aiohttp")  # loaded by fsspec if it is used at all
    return found if client is None else (*found, client.ClientError)


def _status(err: BaseException) -> int | None:
    status = getattr(err, "status", None)
    return status if isinstance(status, int) else None


def _is_final(err: BaseException) -> bool:
    if isinstance(err, (FileNotFoundError, PermissionError)):
        return True
    status = _status(err)
    return status is not None and 400 <= status < 500 and status not in PASSING


def _told(err: BaseException) -> str:
    """An exception in a few words on one line."""
    if isinstance(err, (asyncio.TimeoutError, TimeoutError)):
        return "no answer in time"
    text = " ".join(str(err).split())
    return text or type(err).__name__
