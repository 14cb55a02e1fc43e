"""What is timed: which model, which samples, which attention; and the inputs of a step.

Samples are tokens of real shapes (see `prepare.py`). Latents, noise and condition are random, and
so are the weights; parameters that start at zero are drawn too, or whole branches would multiply
zeros, which a GPU does faster, and every gradient behind a closed gate would be zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.ssa import coordinates
from benchmarks.ssa.coordinates import CoordinateSet
from threed_gen.models.layers.cross_attention import PackedTokens, pack_tokens
from threed_gen.models.ss_dit import (
    SSDiT,
    SSDiTConfig,
    prepare_grid,
    recommended,
    release_1_0,
    release_1_1,
)
from threed_gen.randomness import generator
from threed_gen.sparse.voxel_grid import VoxelGrid

MODELS: Mapping[str, Callable[..., SSDiTConfig]] = {
    "1.1": release_1_1, "recommended": recommended, "1.0, top-k 32": release_1_0,
    "1.0, top-k 8": lambda **changes: release_1_0(**({"top_k": 8} | changes)),
}  # fmt: skip
# Whose full attention a model is compared with: blocks that nobody chooses make no difference.
RIVALS = {**{name: name for name in MODELS}, "1.0, top-k 8": "1.0, top-k 32"}
TOKENS = {"10k": 10_655, "46k": 45_904}  # of a sample at 512³ and at 1024³ (Direct3D-S2)
CONDITION_TOKENS = 1374  # DINOv2 at 518²: 37² patches, one class token, four registers
PATCHES = 37
SPREAD = 0.02  # standard deviation of what would start at zero
TOY: dict[str, Any] = {
    "latent_channels": 4, "channels": 32, "blocks": 2, "heads": 4, "kv_heads": 2, "head_dim": 16,
    "mlp_ratio": 2.0, "condition_channels": 16, "top_k": 3,
}  # fmt: skip
TOY_TOKENS = {"10k": 30, "46k": 90}

Attention = Literal["ssa", "full"]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    model: str
    size: str  # tokens of a sample, by name
    samples: int
    attention: Attention = "ssa"
    checkpoint: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        ways = [self.model, f"{self.samples} × {self.size}", self.attention]
        ways += ["checkpoint"] if self.checkpoint else []
        return "; ".join([*ways, "compiled"] if self.compiled else ways)

    def record(self) -> dict[str, Any]:
        """For the file of records."""
        return asdict(self)


@dataclass(frozen=True)
class Batch:
    """The inputs of a step, on the device."""

    grid: VoxelGrid
    x0: Tensor  # [N, L]
    noise: Tensor  # [N, L]
    t: Tensor  # [B]
    condition: PackedTokens

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample."""
        return self.grid.seqlens


@dataclass(frozen=True)
class Bench:
    """A device and the shapes; toy: small models and spheres, to try the program out on a CPU."""

    device: torch.device
    sets: Mapping[str, Sequence[CoordinateSet]]
    toy: bool = False

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def half(self) -> bool:
        """Whether what is timed runs in bf16."""
        return not self.toy

    @property
    def seconds(self) -> float:
        """Of runs for one median."""
        return 0.0 if self.toy else 5.0

    def config(self, case: Case) -> SSDiTConfig:
        """The model's sizes. Full attention has no use for compressed keys: `build` drops them."""
        changes = dict(TOY) if self.toy else {}
        changes["checkpoint"] = "blocks" if case.checkpoint else "none"
        changes["backend"] = "triton" if self.gpu else "cpu"
        return MODELS[case.model](**changes)

    def batch(self, case: Case, config: SSDiTConfig) -> Batch:
        """The samples of a case."""
        tokens = 7 if self.toy else CONDITION_TOKENS
        return make_batch(self.sets[case.size][: case.samples], config, tokens, self.device)


def toy_bench() -> Bench:
    """Spheres of a few dozen tokens, on the CPU in fp32."""
    sets = {
        name: [coordinates.ball(tokens, f"{name}-{i}") for i in range(8)]
        for name, tokens in TOY_TOKENS.items()
    }
    return Bench(torch.device("cpu"), sets, toy=True)


def make_batch(
    sets: Sequence[CoordinateSet], config: SSDiTConfig, condition_tokens: int,
    device: torch.device | str,
) -> Batch:  # fmt: skip
    """One sample per set; all tables are built on the CPU, as a loader's worker does it."""
    resolution = max(-(-one.resolution // 8) for one in sets)
    coords = coordinates.batch(sets)
    grid, _ = VoxelGrid.from_coords(coords, resolution, len(sets), sort=False)
    prepare_grid(grid, config)

    def draw(purpose: str, *shape: int) -> Tensor:
        return torch.randn(shape, generator=generator(0, 0, f"benchmark {purpose}"))

    contexts = draw("condition", len(sets), condition_tokens, config.condition_channels)
    number = torch.arange(condition_tokens)
    places = torch.stack([number // PATCHES, number % PATCHES, 0 * number], dim=1)
    condition = pack_tokens(list(contexts), [places] * len(sets))
    shape = grid.num_voxels, config.latent_channels
    t = (torch.arange(len(sets)) + 0.5) / len(sets)
    return Batch(
        grid.to(device), draw("latents", *shape).to(device), draw("noise", *shape).to(device),
        t.to(device), condition.to(device),
    )  # fmt: skip


def build(config: SSDiTConfig, device: torch.device | str, seed: int = 0) -> SSDiT:
    """A model with random fp32 weights, none of its parameters all zero."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = SSDiT(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=SPREAD)
    return model
