"""What converted diffusion transformers remember of their autoencoders: `sources.json`.

The release normalises latents by nothing. So a converted run has mean 0 and deviation 1 for every
channel, and a run whose latents were normalised has no place in a release: the official code would
decode them as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.errors import UserError
from threed_gen.files import write_json
from threed_gen.models.weights import state_sha256, weights_sha256
from threed_gen.training.load import load_vae, newest_of, weights_of
from threed_gen.training.load_structure import KEY, load_structure_vae
from threed_gen.training.tasks.latent_sources import SOURCES


def write_ss_dit_sources(root: Path, vae: str, structure: str, out: Path) -> None:
    """Write `sources.json` into the converted SS-DiT `root`.

    vae, structure: names of the runs beside it; the second one is left out where it is not there.
    out: where all of them will lie.
    """
    loaded, beside = load_vae(root.parent / vae), root.parent / structure
    told = _told(out / vae, loaded.step, weights_sha256(loaded.model))
    tree = {"ss_vae": told, "statistics": _plain(loaded.config.model.latent_channels)}
    if beside.is_dir():
        sha256 = state_sha256(weights_of(newest_of(beside)[1], "ema"))
        tree["structure"] = _told(out / structure, 0, sha256)
    write_json(root / SOURCES, tree)


def write_structure_sources(root: Path, vae: Path, named: Path) -> None:
    """Write `sources.json` into the converted structure DiT `root`; as `write_ss_dit_sources`."""
    loaded = load_structure_vae(vae)
    told = _told(named, loaded.step, loaded.sha256)
    statistics = _plain(loaded.config.model.latent_channels)
    write_json(root / SOURCES, {KEY: told, "statistics": statistics})


def _told(run: Path, step: int, sha256: str) -> dict[str, Any]:
    return {"run": str(run), "weights": "ema", "step": step, "sha256": sha256}


def _plain(channels: int) -> dict[str, Any]:
    return LatentStatistics.plain(channels).to_json()


def refuse_normalised(root: Path) -> None:
    """UserError unless the run `root` was trained on latents as its autoencoder says them."""
    path = root / SOURCES
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        statistics = LatentStatistics.from_json(told["statistics"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise UserError(f"{path}: missing or damaged ({type(err).__name__}: {err})") from err
    if not statistics.is_plain:
        raise UserError(
            f"{path}: this run's latents are normalised by their statistics; a release normalises "
            "by nothing and has no place for them"
        )
