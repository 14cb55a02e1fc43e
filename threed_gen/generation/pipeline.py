"""From pictures to meshes: cells, latents, field, surface; and all but the first again, finer.

Every stage goes over all pictures before the next begins, so a GPU holds the models of one stage
only. A picture's draws belong to the picture and the seed. What else is in its batch changes its
numbers by rounding (float32, about 1e-5 of a latent) and no more, except where rounding decides: a
cell whose probability lies that near the threshold, or two blocks of equal score in attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from threed_gen.console import Progress
from threed_gen.errors import UserError
from threed_gen.generation.account import Account
from threed_gen.generation.cascade import finer_cells
from threed_gen.generation.latents import decode_latents
from threed_gen.generation.stages import Cells, LatentStage, Picture, StructureStage, grid_of
from threed_gen.generation.surface import surface_of_field
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.sparse_sdf import BRICK_VOXELS, SparseSDF
from threed_gen.sparse.sparse_tensor import SparseTensor

CENTRED = (-0.5, -0.5, -0.5)  # the unit cube, its middle in the origin
CHUNK = 32  # latent cells; the released 1024 model decodes in cubes of that size
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Settings:
    """What a person chooses."""

    seed: int = 0
    batch: int = 1  # pictures that are sampled together
    chunk: int = CHUNK  # see `decode_latents`
    level: float = 0.0  # of the surface, in units of τ
    keep_inner: bool = False  # see `surface_of_field`


@dataclass(frozen=True)
class Made:
    """What became of one picture: a mesh, or the reason why there is none."""

    picture: Picture
    mesh: Mesh | None
    tokens: int  # latent cells
    problem: str = ""


@dataclass(frozen=True)
class Pipeline:
    """The stages of one generation."""

    structure: StructureStage
    latent: LatentStage
    cascade: LatentStage | None
    settings: Settings
    device: torch.device

    def __post_init__(self) -> None:
        """Raises UserError when the stages do not fit together."""
        settings, cells = self.settings, self.structure.structure.grid
        if settings.batch < 1 or settings.chunk < 1:
            raise UserError("--batch and --chunk must be at least 1")
        if not abs(settings.level) < 1:
            raise UserError(f"--level {settings.level:g}: must lie between -1 and 1")
        if cells * 8 != self.latent.resolution:
            raise UserError(
                f"{self.structure.told} predicts {cells}³ latent cells and {self.latent.told} "
                f"wants {self.latent.resolution // 8}³; give a --structure of that grid"
            )
        if self.cascade is not None and self.cascade.resolution <= self.latent.resolution:
            raise UserError(
                f"{self.cascade.told} has resolution {self.cascade.resolution}, which is not finer "
                f"than the {self.latent.resolution} of {self.latent.told}"
            )

    def steps(self, pictures: int) -> int:
        """How far a progress bar goes: sampler steps of all stages, and decodes."""
        stages = [self.latent] if self.cascade is None else [self.latent, self.cascade]
        of_one = self.structure.sampler.steps + sum(stage.sampler.steps + 1 for stage in stages)
        return pictures * of_one

    def run(self, pictures: Sequence[Picture], account: Account, bar: Progress) -> Iterator[Made]:
        """Make a mesh of each picture; those without one come as soon as that is known."""
        works = [_Work(picture) for picture in pictures]
        self._structures(works, account, bar)
        yield from _lost(works)
        works = [work for work in works if not work.problem]
        for stage in (self.latent, self.cascade):
            if stage is None:
                continue
            self._latents(stage, works, account, bar)
            last = stage is self.cascade or self.cascade is None
            for work in self._decoded(stage, works, last, account, bar):
                if work.problem or last:
                    yield Made(work.picture, work.mesh, len(work.cells), work.problem)
                    work.mesh = None
            works = [work for work in works if not work.problem]

    def _structures(self, works: list[_Work], account: Account, bar: Progress) -> None:
        stage = self.structure
        with account.of("structure"), _placed(stage, self.device):
            for batch in _batches(works, self.settings.batch):
                pictures = [work.picture for work in batch]
                step = _teller(bar, len(batch), pictures[0].name)
                found = stage.cells(pictures, self.settings.seed, self.device, step)
                for work, cells in zip(batch, found, strict=True):
                    work.cells = cells
                    if not len(cells):
                        work.problem = (
                            f"{work.picture.name}: the structure stage found no latent cells; try "
                            f"another --seed, or train {stage.told} further"
                        )

    def _latents(
        self, stage: LatentStage, works: list[_Work], account: Account, bar: Progress
    ) -> None:
        if not works:
            return
        with account.of(f"latents {stage.resolution}"), _placed(stage, self.device):
            for batch in _batches(works, self.settings.batch):
                pictures = [work.picture for work in batch]
                step = _teller(bar, len(batch), pictures[0].name)
                cells = [work.cells for work in batch]
                found = stage.latents(pictures, cells, self.settings.seed, self.device, step)
                for work, latents in zip(batch, found, strict=True):
                    work.latents = latents
                    work.problem = _not_finite(latents, work.picture, "latents", stage.told)

    def _decoded(
        self, stage: LatentStage, works: list[_Work], last: bool, account: Account, bar: Progress
    ) -> Iterator[_Work]:
        """Every work with its surface and, unless this is the last stage, its finer cells."""
        vae = stage.vae.to(self.device)
        for work in works:
            with account.of(f"decode {stage.resolution}"):
                if not work.problem:
                    self._decode(stage, work, last)
                if not work.problem and not last and self.cascade is not None:
                    self._refine(self.cascade, work)
            work.latents = None
            bar.advance(note=work.picture.name)
            yield work
        vae.to(CPU)

    def _decode(self, stage: LatentStage, work: _Work, last: bool) -> None:
        assert work.latents is not None
        grid = grid_of([work.cells], stage.resolution).to(self.device)
        z = SparseTensor(work.latents.to(self.device), grid)
        like = _blank(work.cells, stage)
        made = decode_latents(stage.vae, z, like, self.settings.chunk)
        values = torch.from_numpy(made.sdf)
        work.problem = _not_finite(values, work.picture, "decoded values", stage.told)
        if work.problem:
            return
        # The coarse shape of a cascade is always cleaned: an inner wall would cost latent cells.
        keep = self.settings.keep_inner and last
        work.mesh = surface_of_field(made, self.settings.level, keep)
        if not len(work.mesh.faces):
            work.mesh = None
            work.problem = (
                f"{work.picture.name}: the decoded field has no surface; try another --seed, or "
                f"train {stage.told} further"
            )

    def _refine(self, cascade: LatentStage, work: _Work) -> None:
        assert work.mesh is not None
        try:
            work.cells = finer_cells(work.mesh, cascade.resolution, cascade.tau)
        except UserError as err:
            work.problem = f"{work.picture.name}: {err}"
        work.mesh = None


@dataclass
class _Work:
    """One picture on its way."""

    picture: Picture
    cells: Cells = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    latents: Tensor | None = None
    mesh: Mesh | None = None
    problem: str = ""


@contextmanager
def _placed(stage: StructureStage | LatentStage, device: torch.device) -> Iterator[None]:
    """A stage's models on the device for as long as they are needed."""
    stage.to(device)
    yield
    stage.to(CPU)


def _lost(works: Sequence[_Work]) -> Iterator[Made]:
    return (Made(work.picture, None, 0, work.problem) for work in works if work.problem)


def _batches(works: Sequence[_Work], size: int) -> list[Sequence[_Work]]:
    return [works[start : start + size] for start in range(0, len(works), size)]


def _teller(bar: Progress, count: int, name: str) -> Callable[[], object]:
    return lambda: bar.advance(count, name)


def _not_finite(values: Tensor, picture: Picture, what: str, told: str) -> str:
    wrong = int((~values.isfinite()).sum())
    if not wrong:
        return ""
    return (
        f"{picture.name}: {wrong:,} of {values.numel():,} {what} of {told} are not finite; take an "
        "earlier checkpoint, or train with precision fp32"
    )


def _blank(cells: Cells, stage: LatentStage) -> SparseSDF:
    """Where the field of a shape will be, around the origin."""
    none = np.zeros((len(cells), BRICK_VOXELS), dtype=bool)
    return SparseSDF(
        cells, none.astype(np.float32), none, none, stage.resolution, stage.tau, 1.0, CENTRED
    )
