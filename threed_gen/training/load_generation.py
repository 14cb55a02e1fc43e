"""The stages of a generation out of run directories: what an SS-DiT's run remembers, and finds.

`sources.json` of an SS-DiT's run names its SS-VAE and its structure stage by the sha256 of their
weights, and holds the statistics of its latents. Another place may be given for either; other
weights of the SS-VAE are refused, because the latents would mean something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.errors import UserError
from threed_gen.generation.stages import LatentStage, StructureStage
from threed_gen.geometry.sparse_sdf import default_tau
from threed_gen.models.conditioning.conditioner import Conditioner
from threed_gen.models.conditioning.config import ConditionConfig
from threed_gen.models.ss_dit import SSDiT
from threed_gen.models.ss_vae import SSVAE
from threed_gen.models.weights import state_sha256, weights_sha256
from threed_gen.training.load import check_finite, fill, find_run, load_vae, newest_of, weights_of
from threed_gen.training.load_structure import load_structure
from threed_gen.training.run_config import SSDiTRun, load_run_config
from threed_gen.training.run_dir import RunDir
from threed_gen.training.tasks.latent_sources import SOURCES
from threed_gen.training.tasks.shown import conditioner_of


@dataclass(frozen=True)
class Remembered:
    """What an SS-DiT's run says of where it came from."""

    root: Path
    ss_vae: Mapping[str, Any]
    statistics: LatentStatistics
    structure: Mapping[str, Any] | None

    @property
    def path(self) -> Path:
        """Where it says so."""
        return self.root / SOURCES


def load_latent_stage(
    root: Path, weights: str = "ema", vae: Path | None = None, resolution: int | None = None
) -> LatentStage:
    """The newest checkpoint of an SS-DiT's run, with the SS-VAE that it remembers; on the CPU.

    Args:
        weights: "ema" (the moving average) or "model" (the raw weights).
        vae: where the run of its SS-VAE lies, if not where it was.
        resolution: one of the run's; None: its largest.

    Raises:
        UserError: not such a run, or conditioned by captions; no whole checkpoint; weights that do
            not fit or are not finite; another SS-VAE than it was trained with.
    """
    check_task(root)
    refuse_captions(root)
    config, checkpoint = newest_of(root)
    assert isinstance(config, SSDiTRun)
    remembered = read_remembered(root)
    chosen = max(config.data.resolutions) if resolution is None else resolution
    if chosen not in config.data.resolutions:
        known = ", ".join(map(str, config.data.resolutions))
        raise UserError(f"{root}: was not trained at resolution {chosen} (only {known})")
    module = nn.Module()
    module.model = dit = SSDiT(config.model)
    module.conditioner = conditioner = conditioner_of(config.condition)
    assert isinstance(conditioner, Conditioner)
    fill(module, weights_of(checkpoint, weights), checkpoint.path, RunDir(root).config)
    check_finite(module, root)
    module.eval().requires_grad_(False)
    decoder = _remembered_vae(remembered, vae)
    statistics = remembered.statistics
    channels = decoder.config.latent_channels
    if not channels == statistics.channels == config.model.latent_channels:
        raise UserError(
            f"{remembered.path}: statistics of {statistics.channels} latent channels, an SS-VAE of "
            f"{channels} and an SS-DiT of {config.model.latent_channels} do not fit together"
        )
    tau = config.data.tau or default_tau(chosen)
    return LatentStage(
        dit, decoder, statistics, conditioner, config.validation.sampler, chosen, tau,
        config.train.precision == "bf16", str(root),
    )  # fmt: skip


def load_structure_stage(root: Path, weights: str = "ema") -> StructureStage:
    """The newest whole checkpoint of a structure DiT's run, on the CPU; errors as `load_structure`.

    Raises UserError as well when it is conditioned by captions, or its weights are not finite.
    """
    refuse_captions(root)
    loaded = load_structure(root, weights)
    assert isinstance(loaded.conditioner, Conditioner)
    for module in (loaded.structure.dit, loaded.conditioner):
        check_finite(module, root)
        module.requires_grad_(False)
    return StructureStage(
        loaded.structure, loaded.conditioner, loaded.config.validation.sampler,
        loaded.config.train.precision == "bf16", str(root),
    )  # fmt: skip


def structure_of(root: Path) -> Path:
    """The run of the structure stage that an SS-DiT's run remembers.

    Raises UserError if it remembers none, or that run has other weights by now.
    """
    check_task(root)
    told = read_remembered(root).structure
    if told is None:
        raise UserError(
            f"{root}: this run remembers no structure stage, which says where there is something; "
            "give --structure RUN, a run of task structure_dit"
        )
    found = _found(told, root, "structure stage", "--structure")
    _, checkpoint = newest_of(found)
    if state_sha256(weights_of(checkpoint, str(told.get("weights", "ema")))) != told.get("sha256"):
        raise UserError(
            f"{found}: its weights (step {checkpoint.step}) are not those that {root} remembers "
            f"(step {told.get('step')}); put that checkpoint back, or give it as --structure"
        )
    return found


def check_task(root: Path) -> None:
    """UserError unless `root` is the run of an SS-DiT."""
    RunDir(root).require()
    task = load_run_config(RunDir(root).config).task
    if task != "ss_dit":
        raise UserError(f"{root}: a run of task {task}; this needs one of task ss_dit")


def read_remembered(root: Path) -> Remembered:
    """What `sources.json` of an SS-DiT's run holds; UserError when it is missing or damaged."""
    path = root / SOURCES
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        vae, structure = tree["ss_vae"], tree.get("structure")
        if not isinstance(vae, dict) or not isinstance(structure, dict | None):
            raise TypeError("ss_vae or structure is no object")
        statistics = LatentStatistics.from_json(tree["statistics"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise UserError(
            f"{path}: missing or damaged ({type(err).__name__}: {err}); it says which SS-VAE the "
            "run belongs to: restore it, or resume the run"
        ) from err
    return Remembered(root, vae, statistics, structure)


def shared(stage: LatentStage, other: StructureStage | LatentStage) -> LatentStage:
    """`stage` with the conditioner of `other`, where both have the same frozen one."""
    mine, theirs = stage.conditioner, other.conditioner
    if mine.trains or theirs.trains or mine.source.config != theirs.source.config:
        return stage
    return replace(stage, conditioner=theirs)


def refuse_captions(root: Path) -> None:
    """UserError if the run was trained on captions."""
    RunDir(root).require()
    config = load_run_config(RunDir(root).config)
    condition = getattr(config, "condition", None)
    if isinstance(condition, ConditionConfig) and condition.encoder == "text":
        raise UserError(
            f"{root}: was trained on captions (condition.encoder: text), and images are given"
        )


def _remembered_vae(told: Remembered, given: Path | None) -> SSVAE:
    root = _found(told.ss_vae, told.root, "SS-VAE", "--vae") if given is None else given
    loaded = load_vae(root, str(told.ss_vae.get("weights", "ema")))
    if weights_sha256(loaded.model) != told.ss_vae.get("sha256"):
        raise UserError(
            f"{root}: its weights (step {loaded.step}) are not those that {told.root} was trained "
            f"with (step {told.ss_vae.get('step')} of {told.ss_vae.get('run')}); put that "
            "checkpoint back"
        )
    check_finite(loaded.model, root)
    loaded.model.requires_grad_(False)
    return loaded.model


def _found(told: Mapping[str, Any], root: Path, what: str, option: str) -> Path:
    run = Path(str(told.get("run")))
    found = find_run(run, root)
    if found is None:
        raise UserError(f"{root / SOURCES}: the {what} {run} is not there; give {option} RUN")
    return found
