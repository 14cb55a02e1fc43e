"""The prepared coordinates: real latent tokens for every size, in one file of a few MiB.

Written by `prepare.py` where a geometry library is at hand, read where there is a GPU and no such
library. One set per size, each of one mesh, as three small unsigned integers per token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from kernels.ssa import sort_coords

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "benchmarks" / "gpu_data" / "ssa_coordinates.safetensors"
LIMIT = 40 * 2**20  # bytes
SIZES = {
    "8k": 8_192, "16k": 16_384, "32k": 32_768, "64k": 65_536, "100k": 100_000, "128k": 131_072,
    "200k": 200_000,
}  # fmt: skip


@dataclass(frozen=True)
class CoordinateSet:
    """The latent tokens of one mesh."""

    name: str  # the size it stands for, such as 128k
    mesh: str
    resolution: int  # of the SDF grid; tokens live on a grid of an eighth of it
    xyz: NDArray[np.int32]  # [N, 3]

    @property
    def tokens(self) -> int:
        """N."""
        return len(self.xyz)

    def per_cell(self, edge: int) -> float:
        """Mean tokens of an occupied cell of edge³ latent voxels."""
        cells = np.unique(self.xyz // edge, axis=0)
        return self.tokens / max(len(cells), 1)


def save(sets: Sequence[CoordinateSet], path: Path) -> int:
    """Write the sets; returns the bytes. Raises ValueError for more than 40 MiB."""
    arrays = {one.name: _narrow(one.xyz) for one in sets}
    size = sum(array.nbytes for array in arrays.values())
    if size > LIMIT:
        raise ValueError(
            f"these coordinates take {size / 2**20:.1f} MiB, more than {LIMIT / 2**20:.0f}: a GPU "
            "machine could not be sent them; use fewer sizes"
        )
    about = {one.name: {"mesh": one.mesh, "resolution": one.resolution} for one in sets}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path, metadata={"sets": json.dumps(about)})
    return path.stat().st_size


def load(path: Path = FILE) -> dict[str, CoordinateSet]:
    """The sets by name, smallest first."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not there. `python -m benchmarks.ssa prepare` makes it, on a machine that "
            "has the project's geometry libraries"
        )
    sets = []
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["sets"])
        for name, what in about.items():
            xyz = file.get_tensor(name).astype(np.int32)
            sets.append(CoordinateSet(name, what["mesh"], what["resolution"], xyz))
    return {one.name: one for one in sorted(sets, key=lambda one: one.tokens)}


def batch(sets: Sequence[CoordinateSet], device: torch.device | str = "cpu") -> Tensor:
    """One sample per set: coordinates (batch, x, y, z) in the kernels' order, int32 [N, 4]."""
    parts = [
        torch.cat([torch.full((one.tokens, 1), number), torch.from_numpy(one.xyz)], dim=1)
        for number, one in enumerate(sets)
    ]
    return sort_coords(torch.cat(parts).int().to(device))[0]


def ball(tokens: int, name: str) -> CoordinateSet:
    """About so many tokens of a sphere's shell: for trying the program out, never for figures."""
    for radius in range(2, 64):
        axis = np.arange(2 * radius + 3) - (radius + 1)
        x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
        shell = np.abs(np.sqrt(x * x + y * y + z * z) - radius) < 0.9
        if shell.sum() >= tokens:
            break
    # off the blocks' borders, so that blocks and cells hold different numbers
    xyz = np.argwhere(shell).astype(np.int32) + (9 - (radius + 1)) % 8
    return CoordinateSet(name, "sphere (synthetic)", 8 * (len(axis) + 8), xyz)


def _narrow(xyz: NDArray[np.int32]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    if xyz.size and int(xyz.min()) < 0:
        raise ValueError(f"coordinates must not be negative, got {int(xyz.min())}")
    return xyz.astype(np.uint8 if xyz.size == 0 or int(xyz.max()) < 256 else np.uint16)
