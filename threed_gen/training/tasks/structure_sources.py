"""The structure VAE that a structure DiT's run remembers, and the statistics of its latents.

Measured once, on rank 0, over some thousand samples spread evenly over the data set: a grid has
4,096 latent cells, so more would change nothing. `sources.json` keeps them; a resumed run reads it,
so that it goes on with the same numbers, or says what has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from threed_gen.console import Progress, say
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.statistics import LatentStatistics, Moments
from threed_gen.errors import UserError
from threed_gen.files import write_json
from threed_gen.generation.structure import StructureSpace, as_rows, occupancy_of
from threed_gen.training.encode import steady_arithmetic
from threed_gen.training.load_structure import KEY, LoadedStructureVAE, read_sources, same_vae
from threed_gen.training.run_config import StructureDiTRun
from threed_gen.training.tasks.latent_sources import SOURCES


def remember(
    config: StructureDiTRun, vae: LoadedStructureVAE | None, dataset: SDFDataset, run: Path
) -> None:
    """Write `sources.json` where there is a VAE; on rank 0. On resume: check it.

    Raises:
        UserError: the structure VAE is not the one that this run began with.
    """
    if vae is None:
        return
    path = run / SOURCES
    if path.is_file():
        same_vae(read_sources(path)[KEY], vae, path)
        return
    now: dict[str, Any] = {KEY: vae.told()}
    plain = LatentStatistics.plain(vae.config.model.latent_channels, config.structure.draw)
    statistics = measured(config, vae, dataset) if config.structure.normalise else plain
    now["statistics"] = statistics.to_json()
    write_json(path, now)


def measured(
    config: StructureDiTRun, vae: LoadedStructureVAE, dataset: SDFDataset
) -> LatentStatistics:
    """Mean and standard deviation of each latent channel, over `structure.measure` samples."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    space = StructureSpace(vae.model).on(device)
    count = min(config.structure.measure, len(dataset))
    chosen = [i * len(dataset) // count for i in range(count)]
    with steady_arithmetic():
        statistics = LatentStatistics.of(
            _moments(config, space, dataset, chosen, device), config.structure.draw
        )
    warning = statistics.warning()
    if warning is not None:
        say(f"WARNING: {warning}")
    return statistics


def _moments(
    config: StructureDiTRun, space: StructureSpace, dataset: SDFDataset, chosen: list[int],
    device: torch.device,
) -> Iterator[Moments]:  # fmt: skip
    with Progress(len(chosen), "measuring latents", "shape") as bar:
        for i in chosen:
            name = dataset.entry(i).id
            try:
                cells = dataset.load(i, config.data.resolutions[0]).bricks
            except UserError as err:
                if config.data.on_bad_sample == "stop":
                    raise
                bar.line(f"not measured: {err}")
                bar.advance(note=name)
                continue
            posterior = space.posterior(occupancy_of([cells], config.grid).to(device))
            mean, logvar = (as_rows(part).cpu().numpy() for part in posterior)  # [g³, L]
            yield Moments.of(mean, logvar)
            bar.advance(note=name)
