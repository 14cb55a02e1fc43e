"""How heads and queries are packed into the rows of a kernel's matrices, and what runs them.

The figures come from compiling for sm_80, sm_90 and sm_100 (`python -m kernels.offline`): the most
rows with which nothing spills, then the most programs on a multiprocessor. Both the launchers and
the offline table take them from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from triton import knobs
from triton.runtime import driver

from kernels.ssa.tables import KEY_TILE, QUERY_TILES

MAX_ROWS = 16  # heads of a KV group in one program; larger groups take several
DENSE_ROWS = 128  # rows of a program where every query reads the same keys
CHOSEN_ROWS = 64  # rows of a program whose queries read different blocks: few, to read few in vain
READER_ROWS = 64  # rows that a tile of keys gathers at a time: two gradients lie in registers
EXACT_ROWS = 16  # rows in fp32, which has no matrix unit: factors lie in registers as well


@dataclass(frozen=True)
class Heads:
    """Rows of one program: `queries` queries times `rows` heads of one KV group."""

    share: int  # query heads per KV head
    rows: int  # a power of two; rows behind the last head are idle
    queries: int  # a power of two; one of QUERY_TILES in a walk
    warps: int
    stages: int  # of the pipeline that loads keys, or readers, ahead

    @property
    def chunks(self) -> int:
        """Programs that share a KV group's heads."""
        return -(-self.share // self.rows)

    def constants(self) -> dict[str, int]:
        """Compile-time sizes of a kernel."""
        return {"QUERIES": self.queries, "ROWS": self.rows, "KEYS": KEY_TILE}

    def options(self) -> dict[str, int | bool]:
        """Options of a launch. Triton's default of fusing a product with a sum changes in 3.10."""
        return {
            "num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True,
        }  # fmt: skip


def dense_heads(q: Tensor, k: Tensor) -> Heads:
    """For q [N, H, D] that reads runs of k [M, G, D] as a whole: compression and windows."""
    if _exact(q):
        return _exact_heads(q, k)
    width, unit = q.shape[2], _matrix_unit()
    rows = DENSE_ROWS if width <= 64 or unit != "mma" else DENSE_ROWS // 2
    # Two stages leave room for two programs on a multiprocessor, or for the large keys of D = 128.
    # With D = 64 there is one program either way, which a third stage helps to wait less.
    return _pack(q, k, rows, warps=8, stages=3 if width == 64 and unit != "tcgen05" else 2)


def chosen_heads(q: Tensor, k: Tensor) -> Heads:
    """For q [N, H, D] that reads the blocks of k [N, G, D] which it chose."""
    if _exact(q):
        return _exact_heads(q, k)
    if q.shape[2] > 64:
        return _pack(q, k, CHOSEN_ROWS, warps=8, stages=2)
    return _pack(q, k, CHOSEN_ROWS, warps=4, stages=2 if _matrix_unit() == "tcgen05" else 3)


def score_heads(q: Tensor, k: Tensor) -> Heads:
    """For the scores of q [N, H, D] on k [M, G, D]."""
    if _exact(q):
        return _pack(q, k, EXACT_ROWS, warps=4, stages=1)
    if q.shape[2] > 64:
        return _pack(q, k, DENSE_ROWS // 2, warps=8, stages=2)
    return _pack(q, k, DENSE_ROWS, warps=8, stages=3)


def reader_heads(q: Tensor, k: Tensor, listed: bool) -> Heads:
    """For tiles of k [M, G, D] that gather their readers q [N, H, D], from a list or in a row."""
    if _exact(q):
        return _pack(q, k, EXACT_ROWS, warps=8, stages=2, tiled=False)
    width, unit = q.shape[2], _matrix_unit()
    if width > 64:
        return _pack(q, k, READER_ROWS // 2, warps=8, stages=2, tiled=False)
    rows = READER_ROWS // 2 if width == 64 and unit == "mma" else READER_ROWS
    return _pack(q, k, rows, warps=4, stages=3 if listed or unit == "tcgen05" else 2, tiled=False)


def _exact_heads(q: Tensor, k: Tensor) -> Heads:
    # D = 128 with 8 warps: ptxas gives a thread 64 registers on sm_100, 80 before, and 64 spill.
    scarce = q.shape[2] > 64 and _matrix_unit() == "tcgen05"
    return _pack(q, k, EXACT_ROWS, warps=4 if scarce else 8, stages=2)


def _pack(q: Tensor, k: Tensor, rows: int, warps: int, stages: int, tiled: bool = True) -> Heads:
    """Heads first, then as many queries as fill `rows`; tiled: one of QUERY_TILES."""
    share = q.shape[1] // k.shape[1]
    members = min(MAX_ROWS, 1 << (share - 1).bit_length(), rows // min(QUERY_TILES))
    queries = rows // members
    if tiled and queries > max(QUERY_TILES):  # few heads share a key: fewer rows, fewer warps
        queries = max(QUERY_TILES)
        warps = 4 if queries * members < 64 else warps
    return Heads(share, members, queries, warps, stages)


def _exact(q: Tensor) -> bool:
    """Whether products are of fp32, and registers are scarce.

    The interpreter computes in fp32 alone and has none: it takes the tiles of 16-bit numbers.
    """
    return q.element_size() > 2 and not knobs.runtime.interpret


def _matrix_unit() -> str:
    """The unit of the GPU at hand, which decides where factors and results of a product lie.

    mma (before sm_90, and on consumer cards): both in registers; wgmma: factors in shared memory;
    tcgen05: results in a memory of their own as well.
    """
    if knobs.runtime.interpret:
        return "wgmma"
    target = driver.active.get_current_target()
    if target.backend != "cuda" or not 90 <= target.arch < 120:
        return "mma"
    return "wgmma" if target.arch < 100 else "tcgen05"
