"""The endless procedural set: shapes that are made, not read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threed_gen.data.procedural.families import LICENCE, make_mesh, shape_name
from threed_gen.data.tags import Tag
from threed_gen.errors import UserError
from threed_gen.geometry.mesh_io import LoadedMesh

if TYPE_CHECKING:  # only views need the renderer
    from threed_gen.geometry.render.paint import PaintedMesh


@dataclass(frozen=True)
class ProceduralAsset:
    """Shape number `index` of the procedural set."""

    index: int
    seed: int

    @property
    def id(self) -> str:
        """For example `mug_0003`."""
        return shape_name(self.index)

    @property
    def source(self) -> str:
        """For example `procedural/mug_0003`."""
        return f"procedural/{self.id}"

    @property
    def family(self) -> str:
        """For example `mug`."""
        return self.id.rsplit("_", 1)[0]

    @property
    def licence(self) -> str:
        """Nobody's: CC0."""
        return LICENCE

    @property
    def tags(self) -> Mapping[str, Tag]:
        """Nothing is known but the family."""
        return {}

    def stamp(self) -> list[int]:
        """Number and seed say everything."""
        return [self.index, self.seed]

    def sha256(self) -> str:
        """A hash of number and seed."""
        return hashlib.sha256(f"{self.source} {self.seed}".encode()).hexdigest()

    def load(self) -> LoadedMesh:
        """Build the mesh."""
        return LoadedMesh(make_mesh(self.index, self.seed)[1], ())

    def paint(self) -> PaintedMesh:
        """The mesh in a pleasant colour of its own."""
        from threed_gen.data.procedural.colors import shape_color
        from threed_gen.geometry.render.paint import in_unit_frame, plain

        mesh = self.load().mesh
        return in_unit_frame(plain(mesh, shape_color(self.sha256())), mesh)


class ProceduralSource:
    """The first `count` shapes of the procedural set."""

    def __init__(self, count: int, seed: int = 0) -> None:
        if count < 1:
            raise UserError(f"a procedural set needs at least 1 shape, got {count}")
        self.count, self.seed = count, seed

    def describe(self) -> dict[str, Any]:
        """The set may grow, its seed may not change."""
        return {"kind": "procedural", "seed": self.seed}

    def __iter__(self) -> Iterator[ProceduralAsset]:
        return (ProceduralAsset(index, self.seed) for index in range(self.count))

    def __len__(self) -> int:
        return self.count
