"""The least time that Spatial Sparse Attention can take on a GPU, from what a batch holds.

Of each stage the slowest of three: matrix products, exponentials, memory. Counted is what must be
done: products of the definition (not the padding of tiles), one exponential for each pair of query
head and key wherever probabilities are made, and tensors read or written once. A stage that reads
few bytes for many products is bound by products; with narrow heads exponentials take longer still.

Backward of attention in which all queries of a run read all of its keys: 5 products, in one pass,
2.5 times the forward's. Of the selection 7, in two passes: gradients of queries walk lists of
blocks, those of keys walk lists of readers, and only atomics could join them.
"""

from __future__ import annotations

from dataclasses import dataclass

LSE_BYTES = 4
STAGES = ("compression", "score + top-k", "selection", "window", "gates")
BACKWARD_STAGES = ("compression", "selection", "window", "gates")


@dataclass(frozen=True)
class Ceilings:
    """What a GPU can do in a second at most."""

    flops: float  # of bf16 matrix products
    exps: float
    bytes: float  # of its memory
    source: str = ""


# One H200: matrix product and copy were measured; exponentials are 132 multiprocessors × 16 a
# clock × 1.98 GHz.
H200 = Ceilings(790e12, 132 * 16 * 1.98e9, 4.3e12, "as measured earlier on an H200")


@dataclass(frozen=True)
class Work:
    """What a stage has to do."""

    flops: float
    exps: float
    bytes: float

    def seconds(self, ceilings: Ceilings) -> float:
        """At least so long."""
        parts = (
            self.flops / ceilings.flops, self.exps / ceilings.exps, self.bytes / ceilings.bytes,
        )  # fmt: skip
        return max(parts)


@dataclass(frozen=True)
class Sizes:
    """What the plan and the chosen blocks of a batch come to; pairs are per query head."""

    tokens: int
    cells: int
    heads: int
    groups: int
    width: int  # of a head
    compression_pairs: float  # query and cell of the same sample
    selection_pairs: float  # query and token of a chosen block, mean over KV groups
    window_pairs: float  # query and token of its window
    full_pairs: float  # query and token of the same sample
    top_k: int
    element: int = 2  # bytes of a number

    @property
    def query_bytes(self) -> float:
        """One tensor [N, H, D]."""
        return self.tokens * self.heads * self.width * self.element

    @property
    def key_bytes(self) -> float:
        """One tensor [N, G, D]."""
        return self.tokens * self.groups * self.width * self.element

    @property
    def cell_bytes(self) -> float:
        """One tensor [M, G, D]."""
        return self.cells * self.groups * self.width * self.element

    @property
    def lse_bytes(self) -> float:
        return self.tokens * self.heads * LSE_BYTES

    @property
    def id_bytes(self) -> float:
        return self.tokens * self.groups * self.top_k * 4


def forward_work(sizes: Sizes) -> dict[str, Work]:
    """The stages of a forward pass."""
    per_pair = sizes.heads * sizes.width  # multiplications of one query and key, all heads
    q, lse, h = sizes.query_bytes, sizes.lse_bytes, sizes.heads
    cmp, slc, win = sizes.compression_pairs, sizes.selection_pairs, sizes.window_pairs
    return {
        "compression": Work(4 * cmp * per_pair, cmp * h, 2 * q + lse + 2 * sizes.cell_bytes),
        "score + top-k": Work(
            2 * cmp * per_pair, cmp * h, q + lse + sizes.cell_bytes + sizes.id_bytes
        ),
        "selection": Work(
            4 * slc * per_pair, slc * h, 2 * q + lse + 2 * sizes.key_bytes + sizes.id_bytes
        ),
        "window": Work(4 * win * per_pair, win * h, 2 * q + lse + 2 * sizes.key_bytes),
        "gates": Work(0, 0, 4 * q),  # three branches in, one result out
    }


def backward_work(sizes: Sizes) -> dict[str, Work]:
    """The stages of a backward pass. Blocks are chosen once: there is no score stage."""
    per_pair = sizes.heads * sizes.width
    q, lse, h = sizes.query_bytes, sizes.lse_bytes, sizes.heads
    cmp, slc, win = sizes.compression_pairs, sizes.selection_pairs, sizes.window_pairs
    keys = 4 * sizes.key_bytes  # keys and values in, their gradients out
    return {  # queries, output and its gradient in, gradient of queries out
        "compression": Work(10 * cmp * per_pair, cmp * h, 4 * q + lse + 4 * sizes.cell_bytes),
        "selection": Work(14 * slc * per_pair, 2 * slc * h, 4 * q + lse + keys + sizes.id_bytes),
        "window": Work(10 * win * per_pair, win * h, 4 * q + lse + keys),
        "gates": Work(0, 0, 7 * q),  # gradient and three branches in, three gradients out
    }


def full_work(sizes: Sizes) -> tuple[Work, Work]:
    """Forward and backward of attention from every token to every token of its sample."""
    per_pair, pairs = sizes.heads * sizes.width, sizes.full_pairs
    q, keys, lse = sizes.query_bytes, sizes.key_bytes, sizes.lse_bytes
    return (
        Work(4 * pairs * per_pair, pairs * sizes.heads, 2 * q + 2 * keys + lse),
        Work(10 * pairs * per_pair, pairs * sizes.heads, 4 * q + 4 * keys + lse),
    )


def floor_ms(work: dict[str, Work], ceilings: Ceilings) -> dict[str, float]:
    """Milliseconds of each stage at least, and of all together as `total`."""
    parts = {name: 1e3 * one.seconds(ceilings) for name, one in work.items()}
    return {**parts, "total": sum(parts.values())}
