"""What one trainable model must say, so that the trainer need not know voxels.

A task reads and packs the samples of a micro-batch, and builds the module that DeepSpeed wraps; the
module's forward turns a micro-batch into per-sample loss terms. The trainer weights them by the
samples of the global batch, steps, saves and logs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, device, nn

from threed_gen.data.dataset import SDFDataset
from threed_gen.geometry.mesh import Mesh
from threed_gen.training.run_config import RunConfig


def seed_weights(config: RunConfig) -> None:
    """First weights are drawn from `init_seed`, or else from the run's seed."""
    torch.manual_seed(config.seed if config.init_seed is None else config.init_seed)


class MicroBatch(Protocol):
    """Packed samples, as the module takes them."""

    @property
    def tokens(self) -> list[int]:
        """Latent tokens of each sample."""

    @property
    def positions(self) -> list[int]:
        """Each sample's index in the global batch."""

    @property
    def is_padding(self) -> bool:
        """A stand-in that keeps the ranks' collective calls in step; its loss counts 0."""

    def to(self, device: device) -> MicroBatch:
        """The same on another device."""


class Samples(Protocol):
    """How one step reads what it trains on. Lives in the loader's workers: it can be pickled."""

    @property
    def dataset(self) -> SDFDataset:
        """The samples; their order is planned from its index."""

    def load(self, index: int, resolution: int, step: int, position: int) -> Any:
        """Sample `index` of the data set as it is shown at place `position` of step `step`.

        Raises UserError for a bad sample; `data.on_bad_sample` decides what comes of it.
        """

    def pack(self, items: list[Any], names: list[str], positions: list[int]) -> MicroBatch:
        """Loaded samples as one micro-batch, with every index table that the model will need."""

    def padding(self, resolution: int) -> MicroBatch:
        """The smallest micro-batch that the module can take."""


@dataclass(frozen=True)
class Panel:
    """One picture of a validated shape: a surface to be drawn, or an image as it is."""

    title: str
    content: Mesh | NDArray[np.uint8]  # image: [H, W, 3 or 4]
    is_truth: bool = False


@dataclass(frozen=True)
class ShapeResult:
    """One validated shape: its index in the data set, its metrics, and what to look at."""

    index: int
    metrics: dict[str, Any]
    panels: list[Panel]
    note: str = ""


@dataclass(frozen=True)
class StepLoss:
    """Per-sample results of one micro-batch.

    Attributes:
        weighted: [B] the training loss of each sample, carrying the gradient.
        terms: [B, T] the unweighted terms, detached.
        watched: [B, W] further numbers to watch (latent statistics), detached.
    """

    weighted: Tensor
    terms: Tensor
    watched: Tensor


class Task(Protocol):
    """One trainable model family."""

    term_names: tuple[str, ...]
    watched_names: tuple[str, ...]
    watched_group: str  # under which the watched numbers stand in metrics.jsonl

    def prepare(self, dataset: SDFDataset, run: Path) -> None:
        """Do once what all ranks rely on (on rank 0, before anything else)."""
        ...

    def open(self, dataset: SDFDataset, run: Path) -> SDFDataset:
        """Look at what training needs besides the samples (on every rank, after `prepare`).

        Returns the samples that can be trained on: `dataset`, or a part of it.
        """
        ...

    def usable(self, dataset: SDFDataset) -> SDFDataset:
        """Of another choice of samples those that can be used, after `open`."""
        ...

    def samples(self, dataset: SDFDataset) -> Samples:
        """The reader of training samples."""
        ...

    def build_module(self) -> nn.Module:
        """The module to train: `module(micro_batch, step) -> StepLoss`."""
        ...

    def weights_of(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `validate` takes, out of the trained module's state."""
        ...

    def summary(self, loss: Tensor, watched: Tensor) -> dict[str, Any]:
        """More to journal of a step, from losses [B] and watched numbers [B, W] of its samples."""
        ...

    def warnings(self, averages: dict[str, float]) -> list[str]:
        """Lines for the user when running averages look wrong (collapse, explosion)."""
        ...

    def validate(
        self, weights: dict[str, Tensor], dataset: SDFDataset, indices: list[int], device: Any
    ) -> list[ShapeResult]:
        """Metrics and pictures of some of the fixed validation shapes."""
        ...

    def score(self, mean: dict[str, Any]) -> float | None:
        """How good a validation is, larger is better; the best checkpoint is kept."""
        ...
