"""The latent of one shape: a Gaussian per active brick, as the SS-VAE says it, not normalised.

Each shape is encoded alone, so nothing depends on what it is batched with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from threed_gen.data.frame import CorruptSampleError
from threed_gen.errors import UserError

OnBadSample = Literal["stop", "substitute"]


@dataclass(frozen=True)
class Latent:
    """One shape at one resolution.

    Attributes:
        bricks: [T, 3] active 8³ bricks in the order of `SparseSDF.bricks` (lexicographic).
        mean, logvar: [T, C]; `logvar` is None where only the mode was stored.
        resolution: of the voxels; the latent grid has resolution // 8 cells along a side.
    """

    bricks: NDArray[np.int32]
    mean: NDArray[np.float32]
    logvar: NDArray[np.float32] | None
    resolution: int

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.bricks)


class NotFiniteError(UserError):
    """A latent has a NaN or an infinity."""


@dataclass(frozen=True)
class Reject:
    """A sample without a latent, and why."""

    id: str
    reason: Literal["not_finite", "corrupt"]
    message: str


def check_finite(latent: Latent, name: str) -> None:
    """NotFiniteError that names the sample, unless all of its numbers are finite."""
    for what, values in (("mean", latent.mean), ("logvar", latent.logvar)):
        if values is None:
            continue
        bad = np.count_nonzero(~np.isfinite(values).all(axis=1))
        if bad:
            raise NotFiniteError(
                f"sample '{name}' at resolution {latent.resolution}: the latent's {what} is not "
                f"finite in {bad} of {len(values)} tokens"
            )


def latents_of(
    name: str,
    resolutions: Sequence[int],
    load: Callable[[int], Latent],
    on_bad_sample: OnBadSample = "stop",
) -> list[Latent] | Reject:
    """A sample at all resolutions, or why it is left out at all of them.

    CorruptSampleError passes through under `stop`; a latent that is not finite never does.
    """
    try:
        return [load(resolution) for resolution in resolutions]
    except NotFiniteError as err:
        return Reject(name, "not_finite", str(err))
    except CorruptSampleError as err:
        if on_bad_sample == "stop":
            raise
        return Reject(name, "corrupt", str(err))
