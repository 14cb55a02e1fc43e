"""The trained models that a generation goes through, and what each is asked for.

A stage is a model with all that it needs beside a picture: its conditioner, its sampler, and for
latents the decoder and the statistics that lead back to what the decoder speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed_gen.data.latents.source import denormalise
from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.flow.path import Draw
from threed_gen.flow.sampler import SamplerConfig
from threed_gen.generation.latents import sample_latents
from threed_gen.generation.structure import Structure, sample_structure
from threed_gen.models.conditioning.conditioner import Conditioner
from threed_gen.models.conditioning.frozen import Frozen
from threed_gen.models.layers.cross_attention import PackedTokens
from threed_gen.models.ss_dit import SSDiT
from threed_gen.models.ss_vae import SSVAE
from threed_gen.randomness import generator
from threed_gen.sparse.voxel_grid import VoxelGrid

Cells = NDArray[np.int32]  # [T, 3] in [0, G), lexicographic
OnStep = Callable[[], object]


@dataclass(frozen=True)
class Picture:
    """What a shape is made from."""

    name: str
    rgba: NDArray[np.uint8]  # [H, W, 4]
    key: str  # of all its random draws: the same picture and seed, the same shape


@dataclass(frozen=True)
class StructureStage:
    """From pictures to latent cells."""

    structure: Structure
    conditioner: Conditioner
    sampler: SamplerConfig
    bf16: bool  # matrix products of the sampling run in bf16, as in training
    told: str  # which run, for people

    def to(self, device: torch.device) -> StructureStage:
        """Itself, with its models on `device`."""
        self.structure.dit.to(device)
        if self.structure.vae is not None:
            self.structure.vae.to(device)
        move_conditioner(self.conditioner, device)
        return self

    def cells(
        self, pictures: Sequence[Picture], seed: int, device: torch.device, on_step: OnStep
    ) -> list[Cells]:
        """The latent cells of each picture's shape; may be empty."""
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            condition = conditions(self.conditioner, pictures, device)
            return sample_structure(
                self.structure, condition, self.sampler, draw_of(pictures, seed, "structure"),
                on_step=on_step,
            )  # fmt: skip


@dataclass(frozen=True)
class LatentStage:
    """From pictures and latent cells to latents, and the decoder that makes fields of them."""

    dit: SSDiT
    vae: SSVAE
    statistics: LatentStatistics
    conditioner: Conditioner
    sampler: SamplerConfig
    resolution: int  # R; there are R/8 latent cells per axis
    tau: float
    bf16: bool
    told: str

    def to(self, device: torch.device) -> LatentStage:
        """Itself, with what samples on `device`; the decoder goes there by itself."""
        self.dit.to(device)
        move_conditioner(self.conditioner, device)
        return self

    def latents(
        self, pictures: Sequence[Picture], cells: Sequence[Cells], seed: int,
        device: torch.device, on_step: OnStep,
    ) -> list[Tensor]:  # fmt: skip
        """z [T, L] of the cells of each picture, in canonical order, float32 on the CPU."""
        grid = grid_of(cells, self.resolution).to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            condition = conditions(self.conditioner, pictures, device)
            x0 = sample_latents(
                self.dit, grid, condition, self.sampler,
                draw_of(pictures, seed, f"latents {self.resolution}"), on_step=on_step,
            )  # fmt: skip
        return list(denormalise(x0, self.statistics).float().cpu().split(grid.seqlens))


def with_changes(
    sampler: SamplerConfig, steps: int | None, guidance: float | None, one_pass: bool
) -> SamplerConfig:
    """The sampler of a run's config with what a person wants otherwise."""
    told = sampler.guidance.model_copy(
        update={"one_pass": one_pass or sampler.guidance.one_pass}
        | ({} if guidance is None else {"scale": guidance})
    )
    return sampler.model_copy(
        update={"guidance": told} | ({} if steps is None else {"steps": steps})
    )


def move_conditioner(conditioner: Conditioner, device: torch.device) -> None:
    """A trained encoder is a part of the conditioner; a frozen one goes where it computes."""
    conditioner.to(device)
    if isinstance(conditioner.encoder, Frozen):
        with conditioner.encoder.running(device):
            pass


def conditions(
    conditioner: Conditioner, pictures: Sequence[Picture], device: torch.device
) -> PackedTokens:
    """The tokens of the pictures, prepared as when testing."""
    source = conditioner.source
    tokens: PackedTokens = conditioner(
        source.pack([source.read(picture.rgba) for picture in pictures]).to(device)
    )
    return tokens


def draw_of(pictures: Sequence[Picture], seed: int, stage: str) -> Draw:
    """Draws that belong to a picture, whatever its batch."""
    keys = [picture.key for picture in pictures]
    return lambda purpose, index: generator(seed, 0, f"{stage} {purpose} of {keys[index]}")


def grid_of(cells: Sequence[Cells], resolution: int) -> VoxelGrid:
    """The latent grid of several shapes."""
    rows = [np.insert(xyz, 0, number, axis=1) for number, xyz in enumerate(cells)]
    coords = torch.from_numpy(np.concatenate(rows).astype(np.int32))
    return VoxelGrid.from_coords(coords, resolution // 8, len(cells))[0]
