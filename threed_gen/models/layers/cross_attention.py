"""Attention of packed tokens over packed condition tokens, each sample over its own.

On a GPU in half precision PyTorch's variable-length attention reads both packed sequences as they
are. Everywhere else the queries are cut into tiles of one sample each, the keys are padded to the
longest sample, and `scaled_dot_product_attention` runs over all tiles at once. A sample without
condition tokens gets zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed_gen.models.layers.head_norm import HeadRMSNorm
from threed_gen.sparse.gather import gather_sum

HALF = (torch.bfloat16, torch.float16)
TILE = 512  # queries that share one copy of their sample's keys


class PackedTokens(NamedTuple):
    """Condition tokens of B samples, one after the other. (A tuple: see `SparseTensor`.)"""

    feats: Tensor  # [T, C]
    cu_seqlens: Tensor  # int32 [B + 1], first row of each sample
    seqlens: tuple[int, ...]  # the same on the host, tokens of each sample
    positions: Tensor | None = None  # int [T, 3], where each token is in its image

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedTokens:
        """The same tokens on another device."""
        positions = self.positions
        if positions is not None:
            positions = positions.to(device, non_blocking=non_blocking)
        return PackedTokens(
            self.feats.to(device, non_blocking=non_blocking),
            self.cu_seqlens.to(device, non_blocking=non_blocking), self.seqlens, positions,
        )  # fmt: skip


def pack_tokens(
    samples: Sequence[Tensor], positions: Sequence[Tensor] | None = None
) -> PackedTokens:
    """Tokens [T_b, C] of each sample (and their positions [T_b, 3]) as one batch."""
    lengths = tuple(len(tokens) for tokens in samples)
    feats = torch.cat([*samples])
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=feats.device)
    return PackedTokens(
        feats, starts, lengths, None if positions is None else torch.cat([*positions])
    )


@dataclass(frozen=True)
class PaddedTables:
    """W tiles of L queries, and S keys of each of B samples."""

    queries: Tensor  # int64 [W * L], row of each place of a tile, N where there is none
    query_place: Tensor  # int64 [N], its inverse
    keys: Tensor  # int64 [B * S], row of each place of a sample, T where there is none
    key_place: Tensor  # int64 [T], its inverse
    sample: Tensor  # int64 [W], sample of each tile
    tiles: Tensor  # int64 [B, K], tiles of each sample, W where there is none
    mask: Tensor  # bool [W, 1, L, S], keys that count (expanded along L)


@dataclass(frozen=True)
class CrossPlan:
    """Who reads whom in one batch: built once, shared by all layers."""

    cu_queries: Tensor  # int32 [B + 1]
    cu_keys: Tensor  # int32 [B + 1]
    longest_queries: int
    longest_keys: int
    padded: PaddedTables | None  # None: variable-length attention needs no tables


def cross_plan(
    cu_queries: Tensor, queries: Sequence[int], cu_keys: Tensor, keys: Sequence[int],
    dtype: torch.dtype, head_dim: int,
) -> CrossPlan:  # fmt: skip
    """The plan for samples of queries[b] queries and keys[b] keys, computed in `dtype`.

    Sizes are Python integers, so nothing is read back from a GPU. Raises ValueError when the
    numbers of samples differ.
    """
    if len(queries) != len(keys):
        raise ValueError(f"condition: has {len(keys)} samples, the tokens have {len(queries)}")
    fits = cu_queries.is_cuda and dtype in HALF and head_dim % 8 == 0 and any(keys)
    padded = None if fits and _varlen() is not None else _tables(queries, keys, cu_queries.device)
    longest = max(queries, default=0), max(keys, default=0)
    return CrossPlan(cu_queries, cu_keys, *longest, padded)


def cross_attention(q_NHD: Tensor, kv_T2HD: Tensor, plan: CrossPlan) -> Tensor:
    """Softmax attention of each query over the keys of its sample, scale D^-0.5. [N, H, D]."""
    assert kv_T2HD.ndim == 4 and kv_T2HD.shape[1:] == (2, *q_NHD.shape[1:])
    if not len(q_NHD):
        return q_NHD + 0 * kv_T2HD.sum()  # nothing, but still a part of the graph
    tables = plan.padded
    if tables is None:
        varlen = _varlen()
        assert varlen is not None
        k, v = (part.contiguous() for part in kv_T2HD.unbind(1))
        longest = plan.longest_queries, plan.longest_keys
        out: Tensor = varlen(q_NHD.contiguous(), k, v, plan.cu_queries, plan.cu_keys, *longest)
        return out
    tiles, samples = len(tables.sample), len(tables.tiles)
    q = gather_sum(q_NHD, tables.queries, tables.query_place, padded=True)
    kv = gather_sum(kv_T2HD, tables.keys, tables.key_place, padded=True)  # [B * S, 2, H, D]
    kv = gather_sum(kv.unflatten(0, (samples, -1)), tables.sample, tables.tiles, padded=True)
    k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # each [W, H, S, D]
    q = q.unflatten(0, (tiles, -1)).transpose(1, 2)  # [W, H, L, D]
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=tables.mask)
    return gather_sum(
        mixed.transpose(1, 2).flatten(0, 1), tables.query_place, tables.queries, padded=True
    )


class CrossAttention(nn.Module):
    """Multi-head attention of tokens over condition tokens; names as in the released checkpoints.

    channels: width C of the tokens, context_channels: of the condition tokens. heads · head_dim is
    the width inside. qk_norm: RMS norm of every head of queries and keys (not in the released
    models). Linear layers have biases and start Xavier-uniform.
    """

    def __init__(
        self, channels: int, context_channels: int, heads: int, head_dim: int,
        qk_norm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        inner = heads * head_dim
        self.to_q = nn.Linear(channels, inner)
        self.to_kv = nn.Linear(context_channels, 2 * inner)  # rows: all keys, then all values
        self.to_out = nn.Linear(inner, channels)
        self.q_rms_norm = HeadRMSNorm(heads, head_dim) if qk_norm else nn.Identity()
        self.k_rms_norm = HeadRMSNorm(heads, head_dim) if qk_norm else nn.Identity()
        self.qk_norm = qk_norm
        for layer in (self.to_q, self.to_kv, self.to_out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, feats: Tensor, context: Tensor, plan: CrossPlan) -> Tensor:
        """Tokens [N, C] and condition tokens [T, C'] -> [N, C]."""
        q = self.q_rms_norm(self.to_q(feats).unflatten(1, (self.heads, self.head_dim)))
        kv = self.to_kv(context).unflatten(1, (2, self.heads, self.head_dim))
        if self.qk_norm:
            k, v = kv.unbind(1)
            kv = torch.stack([self.k_rms_norm(k), v], dim=1)
        out: Tensor = self.to_out(cross_attention(q, kv, plan).flatten(1))
        return out

    def extra_repr(self) -> str:
        return f"heads={self.heads}, head_dim={self.head_dim}"


def _tables(queries: Sequence[int], keys: Sequence[int], device: torch.device) -> PaddedTables:
    size = min(TILE, max(queries, default=1)) or 1
    # One key at least: where there is none, the zeros of the padding are attended to.
    width = max(1, max(keys, default=0))
    count, lengths = torch.tensor([*queries]), torch.tensor([*keys])  # [B]
    per_sample = (count + size - 1) // size
    sample = torch.repeat_interleave(torch.arange(len(count)), per_sample)  # [W]
    tile = torch.arange(len(sample)) - (per_sample.cumsum(0) - per_sample)[sample]
    query_rows, query_place = _padded_rows(count, tile * size, sample, size)
    zero = torch.zeros(len(keys), dtype=torch.long)
    key_rows, key_place = _padded_rows(lengths, zero, torch.arange(len(keys)), width)
    tiles, _ = _padded_rows(per_sample, zero, torch.arange(len(count)), int(per_sample.max()))
    mask = torch.arange(width) < lengths.clamp_min(1)[:, None]  # [B, S]
    spread = mask[sample][:, None, None, :].to(device).expand(-1, 1, size, -1)
    tables = PaddedTables(
        query_rows, query_place, key_rows, key_place, sample, tiles.view(len(count), -1), spread
    )
    moved = {name: part.to(device, non_blocking=True) for name, part in vars(tables).items()}
    return PaddedTables(**moved)


def _padded_rows(
    lengths: Tensor, first: Tensor, sample: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """Rows [P * width] of pieces of samples, row `lengths.sum()` for padding; and the inverse."""
    total, starts = int(lengths.sum()), lengths.cumsum(0) - lengths
    inside = first[:, None] + torch.arange(width)  # [P, width]
    valid = inside < lengths[sample][:, None]
    rows = torch.where(valid, starts[sample][:, None] + inside, total).flatten()
    place = torch.empty(total, dtype=torch.long)
    used = valid.flatten().nonzero()[:, 0]
    place[rows[used]] = used
    return rows, place


@cache
def _varlen() -> Callable[..., Any] | None:
    """PyTorch's variable-length attention (torch >= 2.10), or None.

    Called with positional arguments only, and with equal head counts: that much is the same in
    torch 2.10, 2.11 and 2.13.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn
