"""Self-attention over voxels through three branches: Spatial Sparse Attention as a layer.

Projections, the position inside a compression cell, one compressed key and value per cell, and a
gate per branch, around the kernels of `kernels.ssa`. Parameter names are those of the released
checkpoints. (Direct3D-S2, arXiv 2505.17412 §3.3; details from the official code.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.ssa import SSAPlan, spatial_sparse_attention
from kernels.ssa.attention import Backend
from threed_gen.models.layers.cell_compression import Compression, make_compression
from threed_gen.models.layers.head_norm import HeadRMSNorm
from threed_gen.sparse.conv import Backend as ConvBackend
from threed_gen.sparse.pool import Pooling
from threed_gen.sparse.sparse_tensor import SparseTensor


class SpatialSparseAttention(nn.Module):
    """Grouped-query attention of N tokens over cells, chosen blocks and windows of their sample.

    channels: width C of the tokens. heads H query heads of head_dim D share kv_heads G keys and
    values, H / G each. top_k: 8³ blocks that each token and KV head selects. cell: edge m of a
    compression cell, 4 or 8. compression: "linear" (released models 1.1, with cell 8) or "residual"
    (models 1.0, with cell 4). qk_norm: RMS norm of every head of queries and keys before anything
    else sees them (not in the released models). backend: of `spatial_sparse_attention`;
    conv_backend: of the convolutions in "residual". pooling: of compression cells, see
    `sparse.pool`.

    Initialised as the official code: linear layers Xavier-uniform, the position table zero,
    convolutions uniform within ±1/sqrt(taps·channels).
    """

    def __init__(
        self, channels: int, *, heads: int, kv_heads: int, head_dim: int, top_k: int, cell: int,
        compression: Compression = "linear", qk_norm: bool = False, backend: Backend = "auto",
        conv_backend: ConvBackend = "auto", pooling: Pooling = "mean",
    ) -> None:  # fmt: skip
        super().__init__()
        if kv_heads < 1 or heads % kv_heads:
            raise ValueError(f"kv_heads: got {kv_heads}, they must divide the {heads} heads")
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.top_k, self.cell, self.backend = top_k, cell, backend
        shared = kv_heads * head_dim
        gate = nn.Linear(channels, 3, bias=False)
        self.proj_q = nn.Linear(channels, heads * head_dim, bias=False)
        self.proj_k = nn.Linear(channels, shared, bias=False)
        self.proj_v = nn.Linear(channels, shared, bias=False)
        self.proj_o = nn.Linear(heads * head_dim, channels, bias=False)
        self.gate = nn.Sequential(gate, nn.Sigmoid())
        self.intra_block_pe = nn.Parameter(torch.zeros(cell, cell, cell, shared))
        self.compression_key = make_compression(compression, shared, conv_backend, pooling)
        self.compression_value = make_compression(compression, shared, conv_backend, pooling)
        self.q_rms_norm = HeadRMSNorm(heads, head_dim) if qk_norm else nn.Identity()
        self.k_rms_norm = HeadRMSNorm(kv_heads, head_dim) if qk_norm else nn.Identity()
        for layer in (self.proj_q, self.proj_k, self.proj_v, self.proj_o, gate):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: SparseTensor, plan: SSAPlan) -> SparseTensor:
        """x.feats [N, C] -> [N, C]; `plan` is that of x.grid, with the window shift of this call.

        Every index comes from the plan and from what is cached with x.grid (`prepare_cells`).
        Raises ValueError for a plan of other voxels or of another cell.
        """
        if plan.tokens != x.grid.num_voxels or plan.cell != self.cell:
            raise ValueError(
                f"plan: is for {plan.tokens} tokens and cell {plan.cell}, "
                f"needed are {x.grid.num_voxels} tokens and cell {self.cell}"
            )
        q = self.q_rms_norm(self.proj_q(x.feats).unflatten(1, (self.heads, self.head_dim)))
        if not plan.tokens:
            return x.replace(self.proj_o(q.flatten(1)))  # nothing, but still a part of the graph
        k = self.k_rms_norm(self.proj_k(x.feats).unflatten(1, (self.kv_heads, self.head_dim)))
        v = self.proj_v(x.feats).unflatten(1, (self.kv_heads, self.head_dim))
        placed = k.flatten(1) + self._position(plan).to(k.dtype)
        k_cmp = self.compression_key(x.replace(placed), plan).to(q.dtype)
        v_cmp = self.compression_value(x.replace(v.flatten(1)), plan).to(q.dtype)
        mixed = spatial_sparse_attention(
            q, k, v, k_cmp.view(-1, *k.shape[1:]), v_cmp.view(-1, *v.shape[1:]),
            self.gate(x.feats).to(q.dtype), plan=plan, top_k=self.top_k, backend=self.backend,
        )  # fmt: skip
        return x.replace(self.proj_o(mixed.flatten(1)))

    def _position(self, plan: SSAPlan) -> Tensor:
        """P[c mod m] of every token's coordinates c, [N, G·D]."""
        # A lookup of an embedding: its backward pass sums the many tokens of a place sorted, in
        # fp32 and without atomics.
        return F.embedding(plan.place_in_cell, self.intra_block_pe.flatten(0, 2))

    def extra_repr(self) -> str:
        return (
            f"heads={self.heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}, "
            f"top_k={self.top_k}, cell={self.cell}, backend={self.backend!r}"
        )
