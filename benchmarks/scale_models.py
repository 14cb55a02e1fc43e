"""What a step of each official model computes, counted from its layers, and its samples' lengths.

Only matrix products count, two FLOP for each multiply-add; a backward pass is twice the forward
pass. The sums of `benchmarks/ss_dit/flops.py` are exact for given samples; these are for a usual
sample, and need neither torch nor data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BACKWARD = 2.0  # of the forward pass
# SS-DiT 1.0, the sizes of the release (threed_gen/models/ss_dit.py).
WIDTH, BLOCKS, GROUPS, HEAD, TOP_K, MLP = 1024, 24, 2, 32, 8, 4
VAE_WIDTHS = (32, 64, 128, 512)
VAE_BLOCKS = 8  # of encoder and decoder together


def ss_dit_linear() -> float:
    """FLOP of the linear layers for one token, forward: projections, cross-attention, MLP."""
    keys = 2 * GROUPS * HEAD
    products = 2 * WIDTH * WIDTH + WIDTH * keys + 2 * WIDTH * WIDTH + 2 * MLP * WIDTH * WIDTH
    return 2.0 * BLOCKS * (products + 3 * WIDTH)  # a gate for each of three branches


def ss_dit_forward(tokens: float, ssa: Mapping[str, float]) -> float:
    """FLOP for one sample of so many tokens."""
    cells = tokens / ssa["tokens_per_cell"]
    chosen = min(TOP_K * ssa["tokens_per_cell"], tokens)
    window = min(ssa["window_keys"], tokens)
    condition = ssa["condition_tokens"]
    pairs = 4 * (cells + chosen + window + condition) + 2 * cells  # the score of cells, once more
    context = 2.0 * condition * WIDTH * 2 * WIDTH * BLOCKS  # keys and values of the picture
    return tokens * (ss_dit_linear() + pairs * WIDTH * BLOCKS) + context


def ss_vae_forward(tokens: float, vae: Mapping[str, float]) -> float:
    """FLOP for one sample: convolutions of encoder and decoder, and the window transformers."""
    a, b, c, d = VAE_WIDTHS
    down = vae["half"] * (a * b + b * b) + vae["quarter"] * (b * c + c * c) + c * d + d * d
    up = d * c + 8 * c * c + 8 * c * b + 64 * b * b + 64 * b * a + 512 * a * a
    convolutions = 2.0 * 27 * vae["neighbours"] * (down + up)
    transformer = VAE_BLOCKS * (2.0 * 12 * d * d + 4 * vae["window_keys"] * d)
    return tokens * (convolutions + transformer)


def structure_dit_forward(condition: float) -> float:
    """FLOP of one sample of the dense DiT: 16³ tokens that all see one another and the picture."""
    tokens, linear = 16**3, 2.0 * 14 * WIDTH * WIDTH  # qkv, out; cross q, out; MLP
    pairs = 4.0 * (tokens + condition) * WIDTH
    return BLOCKS * (tokens * (linear + pairs) + 2 * condition * WIDTH * 2 * WIDTH)


def forward(model: Mapping[str, Any], tokens: float, inputs: Mapping[str, Any]) -> float:
    """FLOP of one sample, forward. Dense models have the same for each."""
    if "forward_flops" in model:
        return float(model["forward_flops"])
    if model["kind"] == "structure_dit":
        return structure_dit_forward(inputs["ssa"]["condition_tokens"])
    if model["kind"] == "ss_vae":
        return ss_vae_forward(tokens, inputs["ss_vae"])
    return ss_dit_forward(tokens, inputs["ssa"])
