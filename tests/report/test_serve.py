"""The server behind `view`: this machine only, what was chosen only, and nothing is written."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trimesh

from tests.report.conftest import EVIL
from tests.report.pages import Page
from threed_gen import cli
from threed_gen.commands.view import RunPage, serving
from threed_gen.errors import UserError
from threed_gen.report.mesh_files import choose
from threed_gen.report.serve import PageServer

BALL = trimesh.creation.icosphere(subdivisions=2)


@contextmanager
def running(server: PageServer) -> Iterator[PageServer]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outside = tmp_path_factory.mktemp("outside")
    BALL.export(outside / "secret.glb")
    root = tmp_path_factory.mktemp("meshes")
    BALL.export(root / "a.glb")
    BALL.export(root / f"{EVIL.replace('/', '_')}.glb")
    (root / "sub").mkdir()
    BALL.export(root / "sub" / "b.ply")
    (root / "torn.ply").write_text("ply\nnot really")
    (root / "notes.txt").write_text("private")
    (root / "leak.glb").symlink_to(outside / "secret.glb")
    (root / "dangling.glb").symlink_to(root / "nowhere.glb")
    (root / "inner.glb").symlink_to("a.glb")
    (root / "up").symlink_to(outside)
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[PageServer]:
    with running(serving([folder], 0)) as found:
        yield found


def get(
    server: PageServer, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    headers = {} if host is None else {"Host": host}
    connection.request(method, path, headers=headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, content, dict(reply.getheaders())


def test_page_lists_the_files_and_what_it_left_out(server: PageServer) -> None:
    status, content, headers = get(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = Page(content.decode())
    names = [file.name for file in server.files]
    assert sorted(names) == sorted(
        ["a.glb", "inner.glb", "sub/b.ply", "torn.ply", f"{EVIL.replace('/', '_')}.glb"]
    )
    sources = [a["data-src"] for a in page.with_class("view")]
    assert sources == [f"mesh/{k}.{'glb' if n.endswith('glb') else 'json'}"
                       for k, n in enumerate(names)]  # fmt: skip
    assert "2 links lead out of their folder" in page.text
    assert "<script>document" not in content.decode()


def test_a_glb_comes_as_it_is_and_other_files_packed(server: PageServer, folder: Path) -> None:
    number = {file.name: k for k, file in enumerate(server.files)}
    assert get(server, f"/mesh/{number['a.glb']}.glb")[1] == (folder / "a.glb").read_bytes()
    status, content, _ = get(server, f"/mesh/{number['sub/b.ply']}.json")
    assert (status, json.loads(content)["faces"]) == (200, len(BALL.faces))
    status, content, _ = get(server, f"/mesh/{number['torn.ply']}.json")
    assert status == 422
    assert content.startswith(b"torn.ply: ")
    assert str(folder).encode() not in content
    assert get(server, f"/mesh/{number['a.glb']}.glb", "HEAD")[:2] == (200, b"")


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/notes.txt", "/a.glb", "/mesh/99.glb",
     "/mesh/0.json", "/mesh/-1.glb", "/mesh/../notes.txt", "//etc/passwd", "/mesh/0.glb/../../x",
     "/mesh/%EF%BC%90.glb"],
)  # fmt: skip
def test_nothing_else_can_be_asked_for(server: PageServer, path: str) -> None:
    assert get(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_only_reads(server: PageServer, method: str) -> None:
    assert get(server, "/", method)[0] == 501


def test_other_hosts_are_refused(server: PageServer) -> None:
    for host in (
        "evil.example",
        f"evil.example:{server.server_port}",
        "",
        "127.0.0.1.evil.example",
    ):
        assert get(server, "/", host=host)[0] == 403
    assert get(server, "/", host="localhost:1234")[0] == 200


def test_a_file_that_becomes_a_way_out_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    BALL.export(tmp_path / "in" / "a.glb")
    BALL.export(tmp_path / "secret.glb")
    with running(serving([tmp_path / "in"], 0)) as server:
        assert get(server, "/mesh/0.glb")[0] == 200
        (tmp_path / "in" / "a.glb").unlink()
        (tmp_path / "in" / "a.glb").symlink_to(tmp_path / "secret.glb")
        status, content, _ = get(server, "/mesh/0.glb")
        assert (status, content) == (422, b"it is gone, or leads out of its folder")


def test_it_listens_on_this_machine_only(server: PageServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_one_clear_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["view", str(folder), "--port", str(port)]) == 2
    line = capsys.readouterr().err
    assert line == (
        f"threed-gen: error: --port {port}: address already in use; choose another, or 0 for any "
        "that is free\n"
    )
    assert cli.main(["view", str(folder), "--port", "99999"]) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: [root / "nowhere"], "no such file or folder"),
        (lambda root: [root], "no meshes in it"),
        (lambda root: [root / "a.txt"], "not a mesh format"),
    ],
)
def test_nothing_to_show_is_an_error(make, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=message):
        choose(make(tmp_path))


def test_a_run_is_shown_and_made_anew_when_it_went_on(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("task: ss_vae\n")
    page = RunPage(tmp_path)
    assert "no step yet" in Page(page()).text
    first = page()
    assert page() is first
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "terms": {}}\n')
    assert "step 1" in Page(page()).text
    with running(serving([tmp_path], 0)) as server:
        assert get(server, "/")[0] == 200
        assert get(server, "/config.yaml")[0] == 404
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "metrics.jsonl"]
    with pytest.raises(UserError, match="a run is shown alone"):
        serving([tmp_path, tmp_path], 0)


def test_ctrl_c_ends_it_with_one_line(tmp_path: Path) -> None:
    BALL.export(tmp_path / "a.glb")
    # Ctrl-C is ignored by what a shell starts in the background, and so by its children.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from threed_gen import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "view", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith("http://127.0.0.1:")
        assert "Ctrl-C ends" in child.stderr.readline()
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 0
    assert said.strip() == "threed-gen: stopped; nothing was written"
