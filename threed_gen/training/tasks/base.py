"""What one trainable model must say, so that the trainer need not know voxels.

A task builds the module that DeepSpeed wraps; the module's forward turns a batch into per-sample
loss terms. The trainer weights them by the samples of the global batch, steps, saves and logs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from threed_gen.data.dataset import SDFDataset
from threed_gen.geometry.mesh import Mesh


@dataclass(frozen=True)
class ShapeResult:
    """One validated shape: its index in the data set, its metrics, and the two surfaces."""

    index: int
    metrics: dict[str, Any]
    truth: Mesh
    result: Mesh


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

    def build_module(self) -> nn.Module:
        """The module to train: `module(batch, step) -> StepLoss`."""
        ...

    def weights_of(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's own weights out of the trained module's state."""
        ...

    def warnings(self, averages: dict[str, float]) -> list[str]:
        """Lines for the user when running averages look wrong (collapse, explosion)."""
        ...

    def validate(
        self, weights: dict[str, Tensor], dataset: SDFDataset, indices: list[int], device: Any
    ) -> list[ShapeResult]:
        """Metrics and pictures of some of the fixed validation shapes."""
        ...
