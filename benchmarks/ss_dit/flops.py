"""Matrix products of a step, counted from the tokens, cells and chosen blocks of its samples.

Two sums. `model`: what the mathematics needs, a backward pass being two products for each one of
the forward pass (one where the input is given); MFU is that over the time and the card's peak.
`executed`: what the kernels do, which make attention scores again in backward (5 products for 2; 7
in the selection) and, with checkpointing, whole blocks. The score of blocks has no gradient and is
kept by checkpointing. Additions, norms, exponentials and the optimiser are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from torch import Tensor

from benchmarks.ss_dit.cases import Batch
from benchmarks.ssa.problem import Problem, sizes_of
from benchmarks.ssa.roofline import Sizes, backward_work, forward_work, full_work
from kernels.ssa import SSAPlan, ops
from threed_gen.models.layers.modulation import TIME_FREQUENCIES
from threed_gen.models.ss_dit import SSDiTConfig, attention_plan
from threed_gen.sparse.cells import cell_grid

# Dense bf16 products in FLOP/s, data sheets of NVIDIA; the first name that the card's has counts.
PEAKS = (
    ("H200", 989.4e12), ("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989.4e12),
)  # fmt: skip


@dataclass(frozen=True)
class Products:
    """FLOP of one part of the model."""

    forward: float
    backward: float  # that the gradient needs
    executed: float  # in the backward pass
    again: float  # forward once more, where blocks are checkpointed

    def __add__(self, other: Products) -> Products:
        return Products(
            self.forward + other.forward, self.backward + other.backward,
            self.executed + other.executed, self.again + other.again,
        )  # fmt: skip


NOTHING = Products(0, 0, 0, 0)


@dataclass(frozen=True)
class Total:
    """FLOP of a step."""

    model: float
    executed: float
    parts: Mapping[str, Products]


def peak_of(card: str) -> float | None:
    """What the card could do at most; None where it is not known here."""
    return next((peak for name, peak in PEAKS if name in card), None)


@contextmanager
def choices() -> Iterator[list[tuple[Tensor, Sizes]]]:
    """Blocks [N, G, k] that each call of the attention chooses, and what they come to, in order."""
    found: list[tuple[Tensor, Sizes]] = []
    original = ops.select_blocks

    def watched(
        q: Tensor, k_cmp: Tensor, lse: Tensor, plan: SSAPlan, top_k: int, backend: str
    ) -> Tensor:
        blocks = original(q, k_cmp, lse, plan, top_k, backend)
        # The sizes ask for shapes alone: of queries and of KV heads.
        shapes = Problem(plan, q, k_cmp, k_cmp, k_cmp, k_cmp, q, q, top_k)
        found.append((blocks, sizes_of(shapes, blocks)))
        return blocks

    with mock.patch.object(ops, "select_blocks", watched):
        yield found


def count(config: SSDiTConfig, batch: Batch, layers: Sequence[Sizes] | None) -> Total:
    """A step's products. layers: what each attention came to; None for full attention."""
    parts = {"ends": _ends(config, batch), "modulation": _modulation(config, batch)}
    parts |= {"cross-attention": _cross(config, batch), "MLP": _mlp(config, batch)}
    parts["projections"] = _projections(config, batch, gates=layers is not None)
    if layers is None:
        parts["attention"] = _full(config, batch)
    else:
        assert len(layers) == config.blocks
        parts["cells"] = _cells(config, batch)
        parts |= _branches(layers)
    model = sum(one.forward + one.backward for one in parts.values())
    executed = sum(one.forward + one.executed for one in parts.values())
    if config.checkpoint == "blocks":
        executed += sum(one.again for one in parts.values())
    return Total(model, executed, parts)


def _linear(rows: float, inside: int, outside: int, times: int, first: bool = False) -> Products:
    """`times` layers on `rows` rows. first: nobody asks for the gradient of the input."""
    forward = 2.0 * rows * inside * outside * times
    backward = forward if first else 2 * forward
    return Products(forward, backward, backward, forward)


def _ends(config: SSDiTConfig, batch: Batch) -> Products:
    """Before and behind the blocks, which checkpointing leaves alone."""
    width, latent, tokens = config.channels, config.latent_channels, batch.grid.num_voxels
    found = _linear(len(batch.t), TIME_FREQUENCIES, width, 1, first=True)
    found += _linear(len(batch.t), width, width, 1)
    found += _linear(tokens, latent, width, 1, first=True) + _linear(tokens, width, latent, 1)
    if config.project_condition:
        context = len(batch.condition.feats)
        found += _linear(context, config.condition_channels, width, 1, first=True)
    return replace(found, again=0.0)


def _modulation(config: SSDiTConfig, batch: Batch) -> Products:
    return _linear(len(batch.t), config.channels, 6 * config.channels, config.blocks)


def _mlp(config: SSDiTConfig, batch: Batch) -> Products:
    hidden = int(config.channels * config.mlp_ratio)
    return _linear(batch.grid.num_voxels, config.channels, hidden, 2 * config.blocks)


def _projections(config: SSDiTConfig, batch: Batch, gates: bool) -> Products:
    """Queries and results, keys and values, and a gate for each branch."""
    outputs = 2 * (config.heads + config.kv_heads) * config.head_dim + (3 if gates else 0)
    return _linear(batch.grid.num_voxels, config.channels, outputs, config.blocks)


def _cross(config: SSDiTConfig, batch: Batch) -> Products:
    inner = config.heads * config.head_dim
    context = config.channels if config.project_condition else config.condition_channels
    found = _linear(batch.grid.num_voxels, config.channels, inner, 2 * config.blocks)
    given = not config.project_condition
    found += _linear(len(batch.condition.feats), context, 2 * inner, config.blocks, first=given)
    each = zip(batch.lengths, batch.condition.seqlens, strict=True)
    forward = 4.0 * sum(queries * keys for queries, keys in each) * inner * config.blocks
    return found + Products(forward, 2 * forward, 2.5 * forward, forward)


def _cells(config: SSDiTConfig, batch: Batch) -> Products:
    """Compression of keys and of values: a 1³ convolution of tokens, or two 3³ ones of cells."""
    shared = config.kv_heads * config.head_dim
    if config.compression == "linear":
        return _linear(batch.grid.num_voxels, shared, shared, 2 * config.blocks)
    cells = cell_grid(batch.grid, attention_plan(batch.grid, config)).grid
    pairs = int((cells.neighbour_rows() < cells.num_voxels).sum())
    return _linear(pairs, shared, shared, 4 * config.blocks)


def _branches(layers: Sequence[Sizes]) -> dict[str, Products]:
    found: dict[str, Products] = {}
    for sizes in layers:
        back = backward_work(sizes)
        for name, work in forward_work(sizes).items():
            part = Products(work.flops, 0, 0, 0)  # the score of blocks
            if name in back:
                part = Products(work.flops, 2 * work.flops, back[name].flops, work.flops)
            found[name] = found.get(name, NOTHING) + part
    return found


def _full(config: SSDiTConfig, batch: Batch) -> Products:
    unused: dict[str, Any] = dict.fromkeys(
        ("cells", "compression_pairs", "selection_pairs", "window_pairs", "top_k"), 0
    )
    pairs = float(sum(length**2 for length in batch.lengths))
    ahead, back = full_work(
        Sizes(
            tokens=batch.grid.num_voxels, heads=config.heads, groups=config.kv_heads,
            width=config.head_dim, full_pairs=pairs, **unused,
        )
    )  # fmt: skip
    forward = ahead.flops * config.blocks
    return Products(forward, 2 * forward, back.flops * config.blocks, forward)
