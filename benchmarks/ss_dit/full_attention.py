"""The rival: the same model, every sparse attention replaced by attention to the whole sample.

The projections and the norms of heads are those of the layer that it replaces; compression, gates
and places in cells go. On a GPU PyTorch's variable-length attention (FlashAttention kernels) runs;
a plain one, sample by sample, stands in on a CPU and where numbers must be wide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.ssa import rivals
from kernels.ssa import SSAPlan
from threed_gen.models.layers.spatial_sparse_attention import SpatialSparseAttention
from threed_gen.models.ss_dit import SSDiT
from threed_gen.sparse.sparse_tensor import SparseTensor

# q [N, H, D], k and v [N, G, D], starts int32 [B + 1], the longest sample, lengths of samples
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int, Sequence[int]], Tensor]


class FullAttention(nn.Module):
    """Grouped-query attention of every token to every token of its sample."""

    top_k = 0  # chosen blocks, of which nothing is kept for backward

    def __init__(self, sparse: SpatialSparseAttention, attend: Attend) -> None:
        super().__init__()
        self.heads, self.kv_heads = sparse.heads, sparse.kv_heads
        self.head_dim = sparse.head_dim
        self.proj_q, self.proj_k = sparse.proj_q, sparse.proj_k
        self.proj_v, self.proj_o = sparse.proj_v, sparse.proj_o
        self.q_rms_norm, self.k_rms_norm = sparse.q_rms_norm, sparse.k_rms_norm
        self._attend = attend

    def forward(self, x: SparseTensor, plan: SSAPlan) -> SparseTensor:
        """x.feats [N, C] -> [N, C]; of the plan only where samples begin."""
        q = self.q_rms_norm(self.proj_q(x.feats).unflatten(1, (self.heads, self.head_dim)))
        k = self.k_rms_norm(self.proj_k(x.feats).unflatten(1, (self.kv_heads, self.head_dim)))
        v = self.proj_v(x.feats).unflatten(1, (self.kv_heads, self.head_dim))
        mixed = self._attend(q, k, v, plan.cu_seqlens, plan.longest_sample, x.grid.seqlens)
        return x.replace(self.proj_o(mixed.flatten(1)))


def replace_attention(model: SSDiT, attend: Attend) -> SSDiT:
    """Make the model its own rival, in place."""
    for block in model.blocks:
        assert isinstance(block.self_attn, SpatialSparseAttention)
        block.self_attn = FullAttention(block.self_attn, attend)
    return model


def dense(
    q: Tensor, k: Tensor, v: Tensor, _: Tensor, __: int, lengths: Sequence[int]
) -> Tensor:  # fmt: skip
    """Sample by sample, in any precision, on any device."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    parts = zip(*(x.transpose(0, 1).split(list(lengths), dim=1) for x in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*one) for one in parts], dim=1).transpose(0, 1)


def variable_length(device: torch.device) -> tuple[str, Attend]:
    """PyTorch's, and what it is called on the page. Raises ImportError before PyTorch 2.10.

    How it is to be called is found out here, not inside of what `torch.compile` traces. A version
    that gets grouped heads wrong is given keys and values repeated.
    """
    function = rivals.torch_varlen()
    grouped = rivals.takes_groups(rivals.varlen(function), device)
    options = rivals.varlen_options(function, grouped=grouped)

    def attend(
        q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, _: Sequence[int]
    ) -> Tensor:
        if not grouped:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        q, k, v = (x.contiguous() for x in (q, k, v))
        out: Tensor = function(q, k, v, starts, starts, longest, longest, **options)
        return out

    label = f"varlen_attn of torch {torch.__version__}"
    return (label if grouped else f"{label}, KV heads repeated"), attend
