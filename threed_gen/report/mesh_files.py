"""The mesh files that `view` shows: which ones, and what the browser is given of each.

Of a folder every file counts whose real place is inside it; links that lead out are counted and
left alone. GLB files go to the browser as they are: it draws what the file says, with its
materials. All others are read in a child process with limits, and packed as on every page.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from threed_gen.data.workers import Limits, Lost, run_tasks
from threed_gen.errors import UserError
from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.mesh_io import MESH_SUFFIXES, load_mesh
from threed_gen.geometry.render.clay import SLATE, frame_of
from threed_gen.report.meshes import coarser, viewable
from threed_gen.report.text import plain

MOST_FILES = 200  # on one page
LIMITS = Limits(seconds=120.0, memory_mb=4096)


@dataclass(frozen=True)
class MeshFile:
    """One file, and the folder that it must not leave."""

    name: str
    path: Path
    root: Path

    @property
    def is_glb(self) -> bool:
        return self.path.suffix.lower() == ".glb"

    def inside(self) -> bool:
        """Whether its real place, links followed, is (still) in its folder."""
        try:
            return self.path.resolve(strict=True).is_relative_to(self.root)
        except (OSError, RuntimeError):  # it is gone, or a link that leads to itself
            return False


@dataclass(frozen=True)
class Chosen:
    """What is shown, and how many files are not."""

    files: list[MeshFile]
    led_out: int = 0  # links that lead out of their folder
    too_many: int = 0  # beyond MOST_FILES


def choose(paths: Sequence[Path]) -> Chosen:
    """The mesh files among `paths` and below the folders among them.

    UserError when a path does not exist or is no mesh file, or when nothing is left.
    """
    files: list[MeshFile] = []
    led_out = 0
    for path in paths:
        if path.is_dir():
            root = path.resolve()
            for found in sorted(path.rglob("*")):
                if found.suffix.lower() not in MESH_SUFFIXES or found.is_dir():
                    continue
                file = MeshFile(found.relative_to(path).as_posix(), found, root)
                if file.inside() and found.is_file():
                    files.append(file)
                else:
                    led_out += 1
        elif not path.is_file():
            raise UserError(f"{path}: no such file or folder")
        elif path.suffix.lower() not in MESH_SUFFIXES:
            known = " ".join(MESH_SUFFIXES)
            raise UserError(f"{path}: not a mesh format that can be shown (known: {known})")
        else:
            real = path.resolve()
            files.append(MeshFile(path.name, real, real))
    if not files:
        raise UserError(
            f"{', '.join(map(str, paths))}: no meshes in it; it should hold "
            f"{' '.join(MESH_SUFFIXES)} files"
        )
    return Chosen(files[:MOST_FILES], led_out, max(0, len(files) - MOST_FILES))


@dataclass
class Packed:
    """What the browser is given of one file; `ready` is set when it is there."""

    ready: threading.Event = field(default_factory=threading.Event)
    content: bytes = b""
    problem: str = ""


class Reader:
    """Packs all files but GLB, in their order, in child processes, while the page is shown."""

    def __init__(self, files: Sequence[MeshFile], workers: int) -> None:
        self._packed = {k: Packed() for k, file in enumerate(files) if not file.is_glb}
        tasks = [(k, files[k]) for k in self._packed]
        self._thread = threading.Thread(target=self._work, args=(tasks, workers), daemon=True)
        self._thread.start()

    def content(self, number: int) -> bytes:
        """The packed mesh as JSON, waited for; UserError says why there is none."""
        packed = self._packed[number]
        packed.ready.wait()
        if packed.problem:
            raise UserError(packed.problem)
        return packed.content

    def _work(self, tasks: list[tuple[int, MeshFile]], workers: int) -> None:
        try:
            for number, content, problem in run_tasks(
                pack_file, tasks, min(workers, len(tasks)), _lost, LIMITS
            ):
                self._settle(number, content, problem)
        except UserError as err:  # no child can be started: every file that waits is told so
            self._give_up(str(err))
        finally:
            self._give_up("the reading of files ended before this one")

    def _settle(self, number: int, content: bytes, problem: str) -> None:
        packed = self._packed[number]
        packed.content, packed.problem = content, problem
        packed.ready.set()

    def _give_up(self, problem: str) -> None:
        for number, packed in self._packed.items():
            if not packed.ready.is_set():
                self._settle(number, b"", problem)


def pack_file(task: tuple[int, MeshFile]) -> tuple[int, bytes, str]:
    """Runs in a child: (number, JSON for the viewer, problem)."""
    number, file = task
    if not file.inside():
        return number, b"", "it leads out of its folder"
    try:
        mesh = coarser(load_mesh(file.path))
    except MeshError as err:
        return number, b"", plain(str(err).replace(str(file.path), file.name))
    data, _ = viewable(mesh, frame_of(mesh), SLATE)
    return number, json.dumps(data, allow_nan=False).encode(), ""


def _lost(task: tuple[int, MeshFile], why: Lost) -> tuple[int, bytes, str]:
    return task[0], b"", f"{why.reason}: {why.message}"
