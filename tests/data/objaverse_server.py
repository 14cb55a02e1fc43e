"""A web server with the layout of Objaverse's tables and objects, and bad days on request."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from threed_gen.data.procedural.families import make_mesh

V1 = "/datasets/allenai/objaverse/resolve/main"
XL = "/datasets/allenai/objaverse-xl/resolve/main"
LICENCES = ("by", "by-nc", "cc0")


@dataclass
class Web:
    """What the server has, by path. `asked` counts requests; `bad` says how one goes wrong.

    A bad day is a status code, "stall" (headers, a few bytes, then silence), "cut" (half of the
    body), "slow" (the body in small pieces, 2 s in all) or "redirect:URL"; `until` ends it after
    so many requests.
    """

    pages: dict[str, bytes] = field(default_factory=dict)
    bad: dict[str, int | str] = field(default_factory=dict)
    until: dict[str, int] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(web: Web) -> Iterator[Web]:
    """The server, on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path
            web.asked[path] += 1
            trouble = web.bad.get(path) if web.asked[path] <= web.until.get(path, 10**9) else None
            body = web.pages.get(path)
            if body is None or isinstance(trouble, int):
                self.send_error(404 if body is None else int(trouble or 0))
                return
            if isinstance(trouble, str) and trouble.startswith("redirect:"):
                self.send_response(302)
                self.send_header("Location", trouble.partition(":")[2])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if trouble == "stall":
                self.wfile.write(body[:20])
                self.wfile.flush()
                web.closing.wait(30)
                self.close_connection = True
            elif trouble == "cut":
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            elif trouble == "slow":
                for start in range(0, len(body), len(body) // 20 + 1):
                    self.wfile.write(body[start : start + len(body) // 20 + 1])
                    self.wfile.flush()
                    time.sleep(0.1)
            else:
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client was killed, or has given up
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield web
    finally:
        web.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@cache
def glb(number: int) -> bytes:
    """A glb of a procedural shape."""
    import trimesh

    mesh = make_mesh(number, 0)[1]
    data = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).export(file_type="glb")
    assert struct.unpack("<I", data[8:12])[0] == len(data)
    return bytes(data)


def uid(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def v1_path(number: int) -> str:
    """Two objects to a folder, as the real ones lie in 160 folders."""
    return f"glbs/000-{number // 2:03d}/{uid(number)}.glb"


def v1_pages(count: int) -> dict[str, bytes]:
    """Objaverse 1.0: object-paths.json.gz, lvis-annotations.json.gz, metadata/, glbs/."""
    return dict(_v1_pages(count))


@cache
def _v1_pages(count: int) -> dict[str, bytes]:
    web = Web()
    paths = {uid(n): v1_path(n) for n in range(count)}
    web.pages[f"{V1}/object-paths.json.gz"] = packed(paths)
    web.pages[f"{V1}/lvis-annotations.json.gz"] = packed(
        {"mug": [uid(n) for n in range(0, count, 2)], "vase": [uid(1)]}
    )
    for folder in sorted({path.split("/")[1] for path in paths.values()}):
        table = {
            uid(n): {
                "uid": uid(n),
                "name": f"Shape {n}",
                "viewerUrl": f"https://sketchfab.com/3d-models/{uid(n)}",
                "license": LICENCES[n % 3],
                "user": {"username": f"u{n}", "displayName": f"Author {n}"},
                "tags": [{"name": "x"}],
            }
            for n in range(count)
            if paths[uid(n)].split("/")[1] == folder
        }
        web.pages[f"{V1}/metadata/{folder}.json.gz"] = packed(table)
    for n in range(count):
        web.pages[f"{V1}/{v1_path(n)}"] = glb(n)
    return web.pages


def add_xl(web: Web, part: str, rows: list[dict[str, Any]]) -> None:
    """One table of Objaverse-XL, with the columns of the real one."""
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"source": part, "license": None, "fileType": "glb", "metadata": "{}", **row}
        for row in rows
    ]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    web.pages[f"{XL}/{part}/{part}.parquet"] = buffer.getvalue()


def packed(table: dict[str, Any]) -> bytes:
    return gzip.compress(json.dumps(table).encode())
