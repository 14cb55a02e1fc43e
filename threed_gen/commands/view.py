"""`threed-gen view RUN|FOLDER|FILE…`: a page of meshes that can be turned, on this machine only."""

from __future__ import annotations

import argparse
from pathlib import Path

from threed_gen.console import say
from threed_gen.errors import UserError
from threed_gen.machine import cores
from threed_gen.report.files_page import files_html
from threed_gen.report.mesh_files import choose
from threed_gen.report.page import report_html
from threed_gen.report.run_data import read_run
from threed_gen.report.serve import PageServer, newest_change


def run(args: argparse.Namespace) -> int:
    """Prints the address and serves until Ctrl-C."""
    try:
        with serving(args.what, args.port) as server:
            print(server.url, flush=True)
            say("open this address in a browser on this machine; Ctrl-C ends")
            server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        say("\nthreed-gen: stopped; nothing was written")
    return 0


def serving(paths: list[Path], port: int) -> PageServer:
    """A server, ready to listen, for a run or for meshes."""
    runs = [path for path in paths if (path / "config.yaml").is_file()]
    if runs and len(paths) > 1:
        raise UserError(f"{runs[0]}: a run is shown alone; give it without anything else")
    if runs:
        return PageServer(port, RunPage(runs[0]), [])
    chosen = choose(paths)
    name = paths[0].resolve().name if len(paths) == 1 else f"{len(chosen.files)} meshes"
    html = files_html(name, chosen)
    return PageServer(port, lambda: html, chosen.files, min(cores(), 4))


class RunPage:
    """The page of a run, made anew when the run has gone on."""

    def __init__(self, root: Path) -> None:
        self._root, self._made, self._html = root, -1, ""

    def __call__(self) -> str:
        """The page as text; what the run wrote while it was made is in the next one."""
        changed = newest_change(self._root)
        if changed != self._made:
            self._html, self._made = report_html(read_run(self._root)), changed
        return self._html
