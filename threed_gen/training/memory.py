"""How much GPU memory a run will want: an estimate from the config alone.

    states       parameters, gradients, Adam's two moments and the average, in fp32, as the ZeRO
                 stage shares them between the ranks
    activations  what the blocks keep for backward (`DiTBlock.bytes_per_token`), as checkpointing
                 leaves it, and the condition's keys and values
    encoder      a frozen image encoder's weights

Not in it: the CUDA context, what the allocator holds in reserve, buckets of collective calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from threed_gen.models.conditioning.config import ConditionConfig
from threed_gen.models.layers.dit_block import DiTBlock
from threed_gen.models.ss_dit import SSDiT, recomputed_blocks
from threed_gen.training.run_config import SSDiTRun

# Mean latent tokens of a shape (Direct3D-S2, table 3).
MEAN_TOKENS = {256: 2058, 384: 5510, 512: 10655, 1024: 45904}
GIB = 2**30
DINO_LARGE = 304_372_736  # parameters of facebook/dinov2-with-registers-large
PREFIX = 5  # cls and four registers
PATCH = 14


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank."""

    states: float
    activations: float
    encoder: float

    @property
    def total(self) -> float:
        return self.states + self.activations + self.encoder

    def told(self) -> str:
        """In GiB, as it stands in the comments of the configs."""
        return (
            f"{self.total / GIB:.1f} GiB (states {self.states / GIB:.1f}, activations "
            f"{self.activations / GIB:.1f}, image encoder {self.encoder / GIB:.1f})"
        )


def mean_tokens(resolution: int) -> int:
    """Latent tokens of a usual shape: the paper's figure, or from that of 512 by the surface."""
    known = MEAN_TOKENS.get(resolution)
    return known or max(1, round(MEAN_TOKENS[512] * (resolution / 512) ** 2))


def expected_memory(config: SSDiTRun, ranks: int) -> Memory:
    """What one of `ranks` GPUs will hold in the step of the run's largest resolution."""
    with torch.device("meta"):
        model = SSDiT(config.model)
    parameters = sum(p.numel() for p in model.parameters())
    tokens, samples = micro_batch(config, ranks)
    return Memory(
        states=state_bytes(parameters, config.train.zero_stage, ranks),
        activations=_activation_bytes(model, config, tokens, samples),
        encoder=_encoder_bytes(config.condition),
    )


def micro_batch(config: SSDiTRun, ranks: int) -> tuple[int, int]:
    """(tokens, samples) that one rank computes at once."""
    train, each = config.train, mean_tokens(max(config.data.resolutions))
    parts = ranks * train.accumulation
    if train.batch_tokens is not None:
        tokens = math.ceil(train.batch_tokens / parts)
        return tokens, math.ceil(tokens / each)
    samples = math.ceil((train.batch_samples or 1) / parts)
    return samples * each, samples


def state_bytes(parameters: int, stage: int, ranks: int) -> float:
    """fp32 parameters, gradients, moments and average of one rank.

    From stage 1 on ZeRO keeps an fp32 copy of its own share; stage 2 shares gradients, stage 3 also
    the parameters themselves.
    """
    if stage == 0:
        return 20.0 * parameters
    shared = 16.0 * parameters / ranks  # copy, two moments, average
    gradients = 4.0 * parameters / (1 if stage == 1 else ranks)
    return shared + gradients + 4.0 * parameters / (1 if stage < 3 else ranks)


def _activation_bytes(model: SSDiT, config: SSDiTRun, tokens: int, samples: int) -> float:
    sizes, itemsize = config.model, 2 if config.train.precision == "bf16" else 4
    block = model.blocks[0]
    assert isinstance(block, DiTBlock)
    plain, thin = block.bytes_per_token(itemsize)
    again = 0
    if sizes.checkpoint == "blocks":
        budget = sizes.checkpoint_budget
        again = sum(recomputed_blocks(sizes.blocks, tokens, plain, thin, budget))
    rows = (sizes.blocks - again) * plain + again * thin + (plain if again else 0)
    context = 2 * sizes.heads * sizes.head_dim * itemsize * _condition_tokens(config.condition)
    return float(tokens * rows + samples * context * (sizes.blocks - again + bool(again)))


def _condition_tokens(config: ConditionConfig) -> int:
    """Of one picture, at most."""
    if config.encoder == "patches":
        return (config.size // config.patches.patch) ** 2 + 1
    return (config.size // PATCH) ** 2 + PREFIX


def _encoder_bytes(config: ConditionConfig) -> float:
    """Held only where features are not all stored; the large DINOv2, whatever the folder has."""
    return 4.0 * DINO_LARGE if config.encoder == "dinov2" else 0.0
