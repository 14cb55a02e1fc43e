"""A real HTTP server with byte ranges, and the ways in which real ones fail.

`http.server` has no ranges. This one serves a folder from a thread on the loopback address, notes
each request, and plays the faults that it is given, one per request.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class RangeServer:
    """`url` serves `root`. `faults` are played in order, each on one GET; `always` on all others.

    die: half of the bytes, then the connection is cut. short: fewer bytes, and a header to match.
    wrong: a flipped bit. error: status 500. denied: 403. whole: the range is ignored. slow: stalls.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults: deque[str] = deque()
        self.always = ""
        self.requests: list[tuple[str, int, int]] = []  # (path, first byte, bytes)
        self.stall = threading.Event()  # set: those that stall go on
        handler = partial(_Handler, self)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self.stall.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def serving(root: Path) -> Iterator[RangeServer]:
    server = RangeServer(root)
    try:
        yield server
    finally:
        server.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: RangeServer, *args: Any) -> None:
        self.of = server
        super().__init__(*args)

    def do_HEAD(self) -> None:
        file = self.of.root / self.path.lstrip("/")
        if not file.is_file():
            self._head(404, 0)
            return
        self._head(200, file.stat().st_size)

    def do_GET(self) -> None:
        file = self.of.root / self.path.lstrip("/")
        if not file.is_file():
            self._head(404, 0)
            return
        whole = file.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(match[1]), int(match[2]) + 1) if match else (0, len(whole))
        self.of.requests.append((self.path, start, min(end, len(whole)) - start))
        fault = self.of.faults.popleft() if self.of.faults else self.of.always
        if fault in ("error", "denied"):
            self._head(500 if fault == "error" else 403, 0)
            return
        if fault == "whole":
            self._head(200, len(whole))
            self.wfile.write(whole)
            return
        body = whole[start:end]
        if fault == "wrong":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "short":
            body = body[: len(body) // 2]
        if fault == "slow":
            self.of.stall.wait(20)
            self.close_connection = True
            return
        self._head(206 if match else 200, len(body))
        self.wfile.write(body[: len(body) // 2] if fault == "die" else body)
        if fault == "die":
            self.wfile.flush()
            time.sleep(0.01)
            self.close_connection = True

    def _head(self, status: int, size: int) -> None:
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Not into the test's output."""
