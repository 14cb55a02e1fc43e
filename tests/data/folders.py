"""Assets, sources and helpers for the tests of `prepare`; importable in its child processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from threed_gen.data.procedural.solids import boxes, revolve
from threed_gen.data.sources import Asset, ProceduralAsset, Tag, TryAgainError
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.mesh_io import LoadedMesh

CUBE = "OFF\n8 6 0\n" + "".join(f"{x} {y} {z}\n" for x in (0, 1) for y in (0, 1) for z in (0, 1))
CUBE += "4 0 1 3 2\n4 4 6 7 5\n4 0 4 5 1\n4 2 3 7 6\n4 0 2 6 4\n4 1 5 7 3\n"


def products(out: Path) -> dict[str, bytes]:
    """The files that must not depend on how `prepare` came to its end."""
    files = [out / "index.jsonl", out / "rejects.jsonl", *sorted((out / "shards").iterdir())]
    return {file.name: file.read_bytes() for file in files}


@dataclass(frozen=True)
class TestAsset:
    """A shape, or a misdeed."""

    __test__ = False
    id: str
    deed: str = "box"
    family: str | None = None
    licence: str | None = None
    tags: Mapping[str, Tag] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return f"test/{self.id}"

    def stamp(self) -> list[int]:
        return [len(self.deed)]

    def sha256(self) -> str:
        return self.deed

    def load(self) -> LoadedMesh:
        return LoadedMesh(self._mesh())

    def _mesh(self) -> Mesh:
        if self.deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.deed == "raise":
            raise IndexError("list index\nout of range")
        if self.deed == "busy":
            raise TryAgainError("the server is busy", "network")
        if self.deed == "flat":
            return Mesh(boxes([(0, 1, 0, 1, 0, 1)]).vertices, boxes([(0, 1, 0, 1, 0, 1)]).faces[:1])
        if self.deed == "hang":
            time.sleep(1000)
        if self.deed == "explode":
            return Mesh(np.ones((10**11, 3)), np.zeros((1, 3), dtype=np.int64))
        if self.deed == "swell":
            pieces = []
            while True:
                pieces.append(np.ones(2_000_000))
                time.sleep(0.01)
        if self.deed == "box":
            return boxes([(0, 1, 0, 1, 0, 1 + min(len(self.id), 40) / 10)])
        return revolve([(0, 0), (0.5, 0), (0.2, 1), (0, 1)], 12)


class ListSource:
    """Any assets, in the order given."""

    def __init__(self, *assets: Asset) -> None:
        self.assets = assets

    def describe(self) -> dict[str, Any]:
        return {"kind": "list"}

    def __iter__(self) -> Iterator[Asset]:
        return iter(self.assets)

    def __len__(self) -> int:
        return len(self.assets)


def procedural(*indices: int) -> ListSource:
    """Some shapes of the procedural set."""
    return ListSource(*(ProceduralAsset(index, 0) for index in indices))
