"""Direct3D-S2's released folder as runs of ours, and runs of ours as such a folder.

    config.yaml                       ss_vae_512/     config.yaml weights.safetensors
    model_dense.ckpt        <->       ss_dit_512/     config.yaml weights.safetensors sources.json
    model_sparse_512.ckpt             ...
    model_sparse_1024.ckpt            structure_dit/

The networks pass through `models/official`, which checks every name and shape; here the sections
around them (image encoders, schedulers) become keys of a run's config and back. Refiners are no
networks of ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from threed_gen.config import Config, validate
from threed_gen.errors import UserError
from threed_gen.models.official.folder import (
    CONFIG,
    read_config,
    read_parts,
    write_config,
    write_parts,
)
from threed_gen.models.official.networks import (
    SLOTS,
    TARGETS,
    Slot,
    blueprint,
    model_config,
    official_params,
    read_params,
)
from threed_gen.models.official.params import section
from threed_gen.models.official.tensors import (
    check_tensors,
    rounded_as_released,
    with_constants,
)
from threed_gen.training.exported import (
    is_exported,
    read_as_stored,
    whole_folder,
    write_exported,
)
from threed_gen.training.load import newest_of, weights_of
from threed_gen.training.official_sections import condition_of, official_sections, sampler_of
from threed_gen.training.official_sources import (
    refuse_normalised,
    write_ss_dit_sources,
    write_structure_sources,
)
from threed_gen.training.run_config import RUNS, RunConfig, StructureDiTRun

MODEL = "model."  # before every name of the network, among the names of the trained module


@dataclass(frozen=True)
class Converted:
    """One network that went through."""

    slot: Slot
    path: Path
    tensors: int
    parameters: int
    precision: str  # how many tensors of which type


def convert_from(folder: Path, out: Path) -> list[Converted]:
    """A release's networks as runs in the new folder `out`, which appears whole or not at all.

    Networks whose section config.yaml lacks are left out.

    Raises:
        UserError: a file that is missing, damaged or hostile, or a network that is not as its
            section says; naming the file and the first tensor.
    """
    sections = read_config(folder)
    present = [slot for slot in SLOTS if slot.section in sections]
    for slot in present:
        if (vae := vae_of(slot)) not in present:
            raise UserError(f"{folder / CONFIG}: {slot.section} needs its section {vae.section}")
    done = []
    with whole_folder(out, "the runs") as made:
        parts: dict[str, dict[str, Any]] = {}
        read = ""
        for slot in present:
            if slot.file != read:
                parts, read = read_parts(folder / slot.file), slot.file
            done.append(_from_slot(slot, folder, sections, parts, made, out))
    return done


def _from_slot(
    slot: Slot, folder: Path, sections: dict[str, Any], parts: dict[str, dict[str, Any]],
    made: Path, out: Path,
) -> Converted:  # fmt: skip
    where, source = f"{folder / slot.file}: {slot.part}", f"{folder / CONFIG}: {slot.section}"
    if slot.part not in parts:
        known = ", ".join(parts) or "nothing"
        raise UserError(f"{folder / slot.file}: has no part '{slot.part}' (it has {known})")
    model = model_config(read_params(slot, sections[slot.section], source), source)
    tensors = check_tensors(blueprint(model), parts[slot.part], where)
    config = _run_config(slot, model, sections, folder, out)
    root = made / slot.name
    root.mkdir()
    named = {f"{MODEL}{name}": tensor for name, tensor in tensors.items()}
    write_exported(root, config, named, step=0, which="only")
    vae = vae_of(slot).name
    if slot.task == "structure_dit":
        write_structure_sources(root, made / vae, out / vae)
    if slot.task == "ss_dit":
        structure = next(s.name for s in SLOTS if s.task == "structure_dit")
        write_ss_dit_sources(root, vae, structure, out)
    return _told(slot, out / slot.name, tensors)


def _run_config(
    slot: Slot, model: Config, sections: dict[str, Any], folder: Path, out: Path
) -> RunConfig:
    tree: dict[str, Any] = {
        "task": slot.task,
        "data": {"resolutions": [slot.resolution]},
        "model": model.model_dump(mode="json"),
    }
    source = f"{folder / CONFIG}"
    if slot.task in ("ss_dit", "structure_dit"):
        tree["condition"] = condition_of(slot, sections, source)
        tree["validation"] = {"sampler": sampler_of(slot, sections, source)}
    if slot.task == "ss_dit":
        tree["latents"] = {"run": str(out / vae_of(slot).name), "normalise": False}
    if slot.task == "structure_dit":
        tree["structure"] = {"run": str(out / vae_of(slot).name), "normalise": False}
    return validate(RUNS[slot.task], tree, source)


def convert_to(
    roots: Sequence[Path], out: Path, weights: str = "ema", half: bool = False
) -> list[Converted]:
    """Runs as a release's folder `out`, which appears whole or not at all.

    Args:
        roots: run directories or exported folders, at most one for each place in a release.
        weights: of a run: "ema" or "model".
        half: round to the released mixture of fp16 and fp32; else tensors stay as they are.

    Raises:
        UserError: not such a run, two for one place, or what a release has no way to say.
    """
    placed: dict[Slot, tuple[Path, RunConfig]] = {}
    for root in roots:
        config, _ = newest_of(root)
        slot = slot_of(config, root)
        if slot in placed:
            raise UserError(f"{root} and {placed[slot][0]} are both {slot.name}; give one of them")
        placed[slot] = root, config
    done, sections = [], dict[str, Any]()
    with whole_folder(out, "the release") as made:
        for file in dict.fromkeys(slot.file for slot in SLOTS if slot in placed):
            parts: dict[str, dict[str, Tensor]] = {}
            for slot in (s for s in SLOTS if s in placed and s.file == file):
                root, config = placed[slot]
                parts[slot.part] = _to_slot(slot, root, config, weights, half, sections)
                done.append(_told(slot, out / file, parts[slot.part]))
            write_parts(made / file, parts)
        write_config(made, sections)
    return done


def _to_slot(
    slot: Slot, root: Path, config: RunConfig, weights: str, half: bool, sections: dict[str, Any]
) -> dict[str, Tensor]:
    if isinstance(config, StructureDiTRun) and config.structure.run is None:
        raise UserError(
            f"{root}: denoises occupancy itself; a release decodes latents of its dense VAE"
        )
    if slot.part == "dit":
        refuse_normalised(root)
    model = config.model
    params = official_params(model, slot.resolution, str(root))
    sections[slot.section] = section(TARGETS[slot.task], params)
    sections |= official_sections(slot, config, str(root))
    network = blueprint(model)
    tensors = read_as_stored(root) if is_exported(root) else weights_of(newest_of(root)[1], weights)
    plain = {name.removeprefix(MODEL): tensor for name, tensor in tensors.items()}
    whole = check_tensors(network, with_constants(network, plain), str(root))
    return rounded_as_released(network, whole, str(root)) if half else whole


def vae_of(slot: Slot) -> Slot:
    """The autoencoder that a diffusion transformer works in (of a VAE: itself)."""
    return next(other for other in SLOTS if other.file == slot.file and other.part == "vae")


def slot_of(config: RunConfig, root: Path) -> Slot:
    """The place of a run in a release: by its task, and by its finest resolution."""
    fitting = [slot for slot in SLOTS if slot.task == config.task]
    if not fitting:
        raise UserError(f"{root}: a run of task {config.task}, which is no part of a release")
    finest = max(config.data.resolutions)
    return next((s for s in fitting if finest <= s.resolution), fitting[-1])


def _told(slot: Slot, path: Path, tensors: dict[str, Tensor]) -> Converted:
    kinds = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    precision = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    parameters = sum(t.numel() for name, t in tensors.items() if name != "pos_emb")
    return Converted(slot, path, len(tensors), parameters, precision)
