"""A page for this machine alone: a server on 127.0.0.1 that only reads.

It answers GET for the page itself and for the files that were chosen when it started, by their
number, so no address can name anything else. A request that was addressed to another host (a web
page elsewhere that had its name turned to 127.0.0.1) is refused.
"""

from __future__ import annotations

import http.server
import os
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from threed_gen.errors import UserError
from threed_gen.report.mesh_files import MeshFile, Reader

HOST = "127.0.0.1"
NAMES = {HOST, "localhost"}
PIECE = 1 << 20
HTML, JSON, GLB, TEXT = "text/html", "application/json", "model/gltf-binary", "text/plain"


class PageServer(http.server.ThreadingHTTPServer):
    """Serves one page and the mesh files that it shows."""

    daemon_threads = True

    def __init__(
        self, port: int, page: Callable[[], str], files: list[MeshFile], workers: int = 1
    ) -> None:
        """Listen on `port` (0: any that is free); UserError when it cannot be had.

        Args:
            page: makes the page, whenever it is asked for.
            files: at `mesh/<number>.glb` or `.json`.
            workers: processes that read files.
        """
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as err:
            reason = getattr(err, "strerror", None) or "not a port"
            raise UserError(
                f"--port {port}: {reason[0].lower()}{reason[1:]}; choose another, or 0 for any "
                "that is free"
            ) from err
        self.page, self.files, self.reader = page, files, Reader(files, workers)

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves before the end is no error."""
        import sys

        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request; nothing is logged, nothing is written."""

    server: PageServer
    server_version, sys_version = "threed-gen", ""
    timeout = 60

    def do_GET(self) -> None:
        """The page, a mesh, or one line of text with a code."""
        try:
            self._answer()
        except UserError as err:
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, TEXT, str(err).encode())

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""

    def _answer(self) -> None:
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        path = self.path.partition("?")[0]
        if host not in NAMES:
            self._send(HTTPStatus.FORBIDDEN, TEXT, b"this page is for 127.0.0.1 only")
        elif path == "/":
            self._send(HTTPStatus.OK, HTML, self.server.page().encode())
        elif (number := self._number(path)) is None:
            self._send(HTTPStatus.NOT_FOUND, TEXT, b"no such page")
        elif self.server.files[number].is_glb:
            self._send_file(self.server.files[number])
        else:
            self._send(HTTPStatus.OK, JSON, self.server.reader.content(number))

    def _number(self, path: str) -> int | None:
        """Which file `/mesh/<number>.<glb or json>` names; None for all else."""
        for number, file in enumerate(self.server.files):
            if path == f"/{address(number, file)}":
                return number
        return None

    def _send_file(self, file: MeshFile) -> None:
        if not file.inside():
            raise UserError("it is gone, or leads out of its folder")
        try:
            handle = os.open(file.path.resolve(), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as err:
            raise UserError(f"cannot be read: {err.strerror}") from err
        with os.fdopen(handle, "rb") as content:
            size = os.fstat(handle).st_size
            self._head(HTTPStatus.OK, GLB, size)
            while self.command == "GET" and (piece := content.read(min(PIECE, size))):
                size -= len(piece)
                self.wfile.write(piece)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self._head(status, kind, len(content))
        if self.command == "GET":
            self.wfile.write(content)

    def _head(self, status: HTTPStatus, kind: str, size: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind in (HTML, TEXT) else kind)
        self.send_header("Content-Length", str(size))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()


def address(number: int, file: MeshFile) -> str:
    """Where the page finds a file, below its own address."""
    return f"mesh/{number}.{'glb' if file.is_glb else 'json'}"


def newest_change(root: Path) -> int:
    """When the files that a run's page is made of last changed, in nanoseconds."""
    names = ("metrics.jsonl", "validation.jsonl", "evaluation.json", "previews", "logs")
    return max(
        (path.stat().st_mtime_ns for name in names if (path := root / name).exists()), default=0
    )
