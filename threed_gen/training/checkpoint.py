"""Checkpoints that survive a kill at any moment.

DeepSpeed's own save writes its `latest` mark before all ranks are done, keeps only rank 0's state
at stages 0–2, and pickles. So a checkpoint here is a folder of safetensors and one manifest:

    checkpoints/step_00001000/
        rank_00000.safetensors   the fragments this rank owns: parameters, Adam moments, average
        rank_00001.safetensors
        state.json               step, data position, AdamW's count, topology
        manifest.json            every file with its size and sha256; written last

Commit protocol: each rank writes its file into `.step_…tmp` and fsyncs it; the ranks exchange
outcomes (so that a full disk on one stops all with one message); rank 0 writes the manifest,
fsyncs, and renames the folder. A folder without a whole manifest is never resumed from.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from threed_gen.errors import DiskError, UserError, disk_errors
from threed_gen.files import file_sha256, sync_directory, sync_file, write_json
from threed_gen.training.ema import EMA
from threed_gen.training.master import Fragment, MasterState
from threed_gen.training.together import on_every_rank, on_rank_zero

FORMAT = 1
KINDS = ("parameter", "exp_avg", "exp_avg_sq", "average")


@dataclass(frozen=True)
class Checkpoint:
    """A whole, verified checkpoint folder and its state."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @property
    def rank_files(self) -> list[Path]:
        return sorted(self.path.glob("rank_*.safetensors"))


def folder_name(step: int) -> str:
    """`step_00001000`: sorts by step as text."""
    return f"step_{step:08d}"


def save(folder: Path, step: int, master: MasterState, ema: EMA, state: dict[str, Any]) -> Path:
    """Write and commit `folder/step_…`; a collective call of all ranks, between two steps.

    Raises:
        DiskError: on every rank when any of them could not write; nothing is left behind.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    final, temporary = folder / folder_name(step), folder / f".{folder_name(step)}.tmp"
    try:
        on_rank_zero(lambda: _prepare(temporary, step, world, master, state))
        own = rank == 0 or not master.replicated
        written = on_every_rank(
            lambda: _write_rank_file(temporary, rank, master, ema) if own else {}
        )
        files = {name: entry for part in written for name, entry in part.items()}
        on_rank_zero(lambda: _commit(temporary, final, step, files))
    except UserError:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _prepare(
    temporary: Path, step: int, world: int, master: MasterState, state: dict[str, Any]
) -> None:
    with disk_errors(temporary, "the checkpoint"):
        if temporary.exists():
            shutil.rmtree(temporary)  # left by a save that was killed
        temporary.mkdir(parents=True)
    full = {
        **state, "format": FORMAT, "step": step, "world_size": world,
        "zero_stage": master.stage, "adam_step": master.adam_step(),
    }  # fmt: skip
    write_json(temporary / "state.json", full)


def _write_rank_file(temporary: Path, rank: int, master: MasterState, ema: EMA) -> dict[str, Any]:
    sources = {
        "parameter": master.flats,
        "exp_avg": master.moments("exp_avg"),
        "exp_avg_sq": master.moments("exp_avg_sq"),
        "average": ema.averages,
    }
    tensors = {
        f"{kind}/{fragment.name}": master.view(flats, fragment).detach().cpu().clone()
        for kind, flats in sources.items()
        for fragment in master.fragments
    }
    layout = {f.name: [f.param_offset, f.numel, list(f.shape)] for f in master.fragments}
    path = temporary / f"rank_{rank:05d}.safetensors"
    with disk_errors(path, "the checkpoint"):
        try:
            save_file(tensors, path, metadata={"layout": json.dumps(layout)})
        except SafetensorError as err:  # its own wrapper around the system's write errors
            raise DiskError(
                f"{path}: could not write the checkpoint: {err}. Free some space and resume."
            ) from err
        sync_file(path)
    return {path.name: _entry(path)}


def _commit(temporary: Path, final: Path, step: int, files: dict[str, Any]) -> None:
    state = temporary / "state.json"
    listed = {**files, state.name: _entry(state)}
    write_json(temporary / "manifest.json", {"format": FORMAT, "step": step, "files": listed})
    with disk_errors(final, "the checkpoint"):
        if final.exists():
            shutil.rmtree(final)  # a damaged one of the same step, walked back over
        temporary.rename(final)
        sync_directory(final.parent)


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def verify(path: Path) -> Checkpoint:
    """Check every file of a checkpoint against its manifest.

    Raises:
        UserError: naming the file that is missing or damaged.
    """
    manifest_path = path / "manifest.json"
    try:
        manifest = json.loads(manifest_path.read_text())
        if manifest["format"] > FORMAT:
            raise UserError(f"{manifest_path}: format {manifest['format']} is newer than this "
                            f"program's {FORMAT}; update threed-gen")  # fmt: skip
        for name, entry in manifest["files"].items():
            file = path / name
            if not file.is_file() or _entry(file) != entry:
                raise UserError(f"{file}: missing or damaged (size or sha256 differs)")
        state = json.loads((path / "state.json").read_text())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise UserError(f"{manifest_path}: missing or unreadable ({err})") from err
    return Checkpoint(path, state)


def open_verified(path: Path) -> Checkpoint:
    """A checkpoint that another rank has just verified; reads only its state."""
    return Checkpoint(path, json.loads((path / "state.json").read_text()))


def candidates(folder: Path) -> list[Path]:
    """Committed checkpoint folders, newest first."""
    return sorted(folder.glob("step_*"), reverse=True)


def find_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and one line for each damaged one that was walked past."""
    problems: list[str] = []
    for path in candidates(folder):
        try:
            return verify(path), problems
        except UserError as err:
            problems.append(str(err))
    return None, problems


def load(checkpoint: Checkpoint, master: MasterState, ema: EMA) -> None:
    """Fill this rank's parameters, moments and average in place; any topology may have written.

    Raises:
        UserError: naming the parameters that the checkpoint lacks or that differ in shape.
    """
    targets = {
        "parameter": [flat.data for flat in master.flats],
        "exp_avg": master.moments("exp_avg"),
        "exp_avg_sq": master.moments("exp_avg_sq"),
        "average": ema.averages,
    }
    filled = dict.fromkeys(master.fragments, 0)
    for path in checkpoint.rank_files:
        with safe_open(path, framework="pt") as file:
            layout = json.loads(file.metadata()["layout"])
            for fragment in master.fragments:
                piece = layout.get(fragment.name)
                if piece is None:
                    continue
                if tuple(piece[2]) != fragment.shape:
                    raise UserError(f"{path}: '{fragment.name}' has shape {tuple(piece[2])}, the "
                                    f"model of this run wants {fragment.shape}")  # fmt: skip
                filled[fragment] += _copy_overlap(file, piece, fragment, master, targets)
    missing = [fragment.name for fragment, count in filled.items() if count != fragment.numel]
    if missing:
        raise UserError(f"{checkpoint.path}: lacks values of {', '.join(missing[:8])}")
    master.set_adam_step(int(checkpoint.state["adam_step"]))
    master.publish()


def _copy_overlap(
    file: Any, piece: list[Any], fragment: Fragment, master: MasterState,
    targets: dict[str, list[Tensor]],
) -> int:  # fmt: skip
    start = max(piece[0], fragment.param_offset)
    stop = min(piece[0] + piece[1], fragment.param_offset + fragment.numel)
    if start >= stop:
        return 0
    for kind, flats in targets.items():
        values = file.get_slice(f"{kind}/{fragment.name}")[start - piece[0] : stop - piece[0]]
        view = master.view(flats, fragment)
        view.narrow(0, start - fragment.param_offset, stop - start).copy_(values)
    return stop - start


def read_weights(checkpoint: Checkpoint, kind: str = "average") -> dict[str, Tensor]:
    """Full tensors by name from a checkpoint's files, without any engine.

    Args:
        kind: "average" (the moving average) or "parameter" (the raw weights).
    """
    result: dict[str, Tensor] = {}
    for path in checkpoint.rank_files:
        with safe_open(path, framework="pt") as file:
            for name, (offset, numel, shape) in json.loads(file.metadata()["layout"]).items():
                full = result.setdefault(name, torch.zeros(shape))
                values = file.get_tensor(f"{kind}/{name}")
                full.view(-1).narrow(0, offset, numel).copy_(values)
    return result


def retain(folder: Path, newest: int, best_step: int | None) -> None:
    """Delete all but the `newest` checkpoints and the best one; rank 0 only."""
    keep = set(candidates(folder)[:newest])
    if best_step is not None:
        keep.add(folder / folder_name(best_step))
    for path in candidates(folder):
        if path not in keep:
            # Rename first: a kill in the middle must not leave half a folder under a good name.
            doomed = path.with_name(f".{path.name}.deleted")
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
    for leftover in [*folder.glob(".step_*.deleted"), *folder.glob(".step_*.tmp")]:
        shutil.rmtree(leftover, ignore_errors=True)
