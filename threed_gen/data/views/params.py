"""What decides the content of views, apart from the asset."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from threed_gen.errors import UserError
from threed_gen.geometry.render.camera import LAWS, Law

RENDERER = 1  # raised when the same asset would give other pictures than before
SIZES: dict[Law, int] = {"paper": 1024, "trellis": 512}  # pixels, where none are asked for
MOST_VIEWS, LARGEST, MOST_RAYS = 1000, 4096, 8


@dataclass(frozen=True)
class ViewParams:
    """How many pictures of each shape, from where, and how fine."""

    count: int = 24  # TRELLIS's number; the paper's is 45
    law: Law = "trellis"
    size: int | None = None  # pixels per side; None: 1024 for the paper's law, 512 for TRELLIS's
    supersample: int = 2  # rays per pixel and axis

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_VIEWS:
            raise UserError(f"views: give 1 to {MOST_VIEWS} of them, not {self.count}")
        if self.law not in LAWS:
            raise UserError(f"views: the law is {' or '.join(LAWS)}, not {self.law!r}")
        if self.size is None:
            object.__setattr__(self, "size", SIZES[self.law])
        if not 8 <= self.pixels <= LARGEST:
            raise UserError(f"views: their size is 8 to {LARGEST} pixels, not {self.size}")
        if not 1 <= self.supersample <= MOST_RAYS:
            raise UserError(f"views: supersample is 1 to {MOST_RAYS}, not {self.supersample}")

    @property
    def pixels(self) -> int:
        """Pixels per side."""
        assert self.size is not None
        return self.size

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "renderer": RENDERER}
