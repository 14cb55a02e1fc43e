"""Mean and standard deviation of each latent channel, over all tokens of a set of samples.

The release uses none of this (scale 1, shift 0); a flow wants data of unit variance. Each sample's
moments are taken in float64 and merged in the order of the data set, so the result has the same
bits whether latents are encoded on the fly, or were stored, in one go or in several. Tokens count
alike, whatever their resolution.

A draw from the posterior, z = mean + σ·ε, has a larger variance than its mean: var(mean) + E[σ²].
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from threed_gen.errors import UserError

Draw = Literal["mode", "sample"]  # what training takes as x0: the posterior's mean, or a draw
Float64s = NDArray[np.float64]
DEAD = 1e-6  # a channel whose std is at most this share of max(1, |mean|) carries nothing


@dataclass(frozen=True)
class Moments:
    """Of one or more samples' tokens, by channel [C]."""

    tokens: int
    mean: Float64s  # of the posteriors' means
    spread: Float64s  # sum over the tokens of (posterior's mean - mean)²
    noise: Float64s | None  # sum over the tokens of σ²; None where only the mode is known

    @staticmethod
    def of(mean_TC: NDArray[np.float32], logvar_TC: NDArray[np.float32] | None) -> Moments:
        """The moments of one sample's tokens [T, C]."""
        # One memory layout, so that the sums run in one order wherever the array came from.
        wide = np.ascontiguousarray(mean_TC, dtype=np.float64)
        mean = wide.mean(axis=0)
        noise = None
        if logvar_TC is not None:
            noise = np.exp(np.ascontiguousarray(logvar_TC, dtype=np.float64)).sum(axis=0)
        return Moments(len(wide), mean, np.square(wide - mean).sum(axis=0), noise)

    def __add__(self, other: Moments) -> Moments:
        """Of both sets of tokens together (Chan, Golub, LeVeque 1979)."""
        tokens = self.tokens + other.tokens
        step = other.mean - self.mean
        return Moments(
            tokens,
            self.mean + step * (other.tokens / tokens),
            self.spread + other.spread + step**2 * (self.tokens * other.tokens / tokens),
            None if self.noise is None or other.noise is None else self.noise + other.noise,
        )

    def to_text(self) -> str:
        """Base64 of little-endian float64: mean, spread and, where known, noise, [C] each."""
        rows = [self.mean, self.spread] + ([] if self.noise is None else [self.noise])
        return base64.b64encode(np.stack(rows).astype("<f8").tobytes()).decode()

    @staticmethod
    def from_text(text: str, tokens: int, channels: int) -> Moments:
        """What `to_text` wrote; ValueError if it cannot be that."""
        raw = base64.b64decode(text, validate=True)
        if len(raw) not in (16 * channels, 24 * channels):
            raise ValueError(f"moments of {len(raw)} bytes, not of {channels} channels")
        rows = np.frombuffer(raw, dtype="<f8").astype(np.float64).reshape(-1, channels)
        if not np.isfinite(rows).all():
            raise ValueError("moments that are not finite")
        if (rows[1:] < 0).any():
            raise ValueError("moments with a negative variance")
        return Moments(tokens, rows[0], rows[1], rows[2] if len(rows) == 3 else None)


@dataclass(frozen=True)
class LatentStatistics:
    """What makes x0 = (z - mean) / std have mean 0 and variance 1 in every channel.

    Attributes:
        tokens: how many it was measured over.
        mean, std: float64 [C]; std is 1 in a dead channel.
        draw: the kind of z that it is for.
        dead: channels that have the same value in every token.
    """

    tokens: int
    mean: Float64s
    std: Float64s
    draw: Draw
    dead: tuple[int, ...] = ()

    @staticmethod
    def of(moments: Iterable[Moments], draw: Draw) -> LatentStatistics:
        """Over all samples, in their order; UserError if there are none, or no σ for draws."""
        total = None
        for part in moments:
            total = part if total is None else total + part
        if total is None:
            raise UserError("there are no latents to take statistics of; encode some samples")
        variance = total.spread / total.tokens
        if draw == "sample":
            if total.noise is None:
                raise UserError(
                    "draw 'sample' needs the posterior, and only its mode was stored; encode with "
                    "`--store posterior`, or take draw 'mode'"
                )
            variance = variance + total.noise / total.tokens
        std = np.sqrt(variance)
        dead = std <= DEAD * np.maximum(1.0, np.abs(total.mean))
        return LatentStatistics(
            total.tokens,
            total.mean,
            np.where(dead, 1.0, std),
            draw,
            tuple(int(channel) for channel in np.nonzero(dead)[0]),
        )

    @staticmethod
    def plain(channels: int, draw: Draw = "mode") -> LatentStatistics:
        """Those that change nothing, x0 = z: measured over no tokens."""
        return LatentStatistics(0, np.zeros(channels), np.ones(channels), draw)

    @property
    def is_plain(self) -> bool:
        """Whether x0 = z."""
        return not self.mean.any() and bool((self.std == 1).all())

    @property
    def channels(self) -> int:
        """C."""
        return len(self.mean)

    def warning(self) -> str | None:
        """One line for the user where channels are dead."""
        if not self.dead:
            return None
        return (
            f"{len(self.dead)} of {self.channels} latent channels are dead (the same value in all "
            f"{self.tokens:,} tokens): {', '.join(map(str, self.dead))}; they are not scaled. "
            "Train the SS-VAE further, or give it fewer latent_channels"
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it without loss."""
        return {
            "tokens": self.tokens,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "draw": self.draw,
            "dead": list(self.dead),
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> LatentStatistics:
        """What `to_json` gave; ValueError, KeyError or TypeError if it cannot be that."""
        mean, std = (np.asarray(value[key], dtype=np.float64) for key in ("mean", "std"))
        if mean.ndim != 1 or mean.shape != std.shape or value["draw"] not in ("mode", "sample"):
            raise ValueError("not the statistics of latents")
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ValueError("statistics of latents need finite means and positive stds")
        dead = tuple(int(channel) for channel in value["dead"])
        return LatentStatistics(int(value["tokens"]), mean, std, value["draw"], dead)
