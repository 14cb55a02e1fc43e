"""How heads and queries are packed into the rows of a kernel's matrices."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.ssa.tables import KEY_TILE, QUERY_TILES

MAX_ROWS = 16  # heads of a KV group in one program; larger groups take several


@dataclass(frozen=True)
class Heads:
    """Rows of one program: `queries` queries times `rows` heads of one KV group."""

    share: int  # query heads per KV head
    rows: int  # a power of two; rows behind the last head are idle
    queries: int  # one of QUERY_TILES

    @classmethod
    def packed(cls, heads: int, groups: int, matrix_rows: int) -> Heads:
        """As many queries as fill a matrix of so many rows (64: one warpgroup's product)."""
        share = heads // groups
        rows = min(MAX_ROWS, 1 << (share - 1).bit_length())
        queries = min(max(QUERY_TILES), max(min(QUERY_TILES), matrix_rows // rows))
        return cls(share, rows, queries)

    @property
    def chunks(self) -> int:
        """Programs that share a KV group's heads."""
        return -(-self.share // self.rows)

    def constants(self) -> dict[str, int]:
        """Compile-time sizes of a kernel."""
        return {"QUERIES": self.queries, "ROWS": self.rows, "KEYS": KEY_TILE}

    def options(self) -> dict[str, int]:
        """Warps and pipeline stages: 4 warps per 64 rows."""
        return {"num_warps": 8 if self.queries * self.rows > 64 else 4, "num_stages": 3}
