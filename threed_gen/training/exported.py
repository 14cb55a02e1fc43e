"""A run that is only read: its config and its weights, without optimiser, journals or checkpoints.

    config.yaml  weights.safetensors  sources.json  README.md

`threed-gen export` writes such a folder from a run, `threed-gen convert` from the official weights.
It is taken wherever a run is read only: generate, reconstruct, encode, evaluate, `init_from`. It
cannot be resumed. Tensors have the names of the trained module (`model.encoder…`), so a trained
conditioner is in the same file; half-precision tensors stay as they are and are widened on reading.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from threed_gen.config import to_yaml
from threed_gen.errors import DiskError, UserError, disk_errors
from threed_gen.files import TEMPORARY, sync_directory, sync_file, write_atomically
from threed_gen.training.run_config import RunConfig
from threed_gen.training.run_dir import RunDir

WEIGHTS = "weights.safetensors"
FORMAT = 1
TOLD = "threed-gen"  # key of the file's metadata; a single one, so that equal runs give equal bytes
Which = Literal["ema", "model", "only"]  # only: there is one set of weights, whoever asks


def is_exported(root: Path) -> bool:
    """Whether `root` holds weights only (a run of its own has checkpoints)."""
    return (root / WEIGHTS).is_file() and not RunDir(root).checkpoints.exists()


def write_exported(
    root: Path, config: RunConfig, tensors: Mapping[str, Tensor], step: int, which: Which
) -> None:
    """Write config.yaml and the weights into the folder `root`, which exists.

    tensors: by the names of the trained module; a half-precision tensor stays what it is.
    """
    path = root / WEIGHTS
    told = {"format": FORMAT, "task": config.task, "step": step, "weights": which}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with disk_errors(path, "the weights"):
        try:
            save_file(whole, str(path), metadata={TOLD: json.dumps(told)})
        except SafetensorError as err:  # its own wrapper around the system's write errors
            raise DiskError(f"{path}: could not write the weights: {err}. Free some space") from err
        sync_file(path)
    write_atomically(RunDir(root).config, to_yaml(config).encode(), "the config")
    path.chmod(RunDir(root).config.stat().st_mode)  # safetensors lets nobody else read it


def exported_step(root: Path) -> int:
    """The training step that the weights are of; 0 for weights from elsewhere.

    Raises:
        UserError: the weights file is damaged, or no one of ours.
    """
    step: int = _metadata(root)["step"]
    return step


def exported_which(root: Path) -> Which:
    """Which of a run's weights the folder holds."""
    which: Which = _metadata(root)["weights"]
    return which


def read_exported(root: Path, weights: str) -> dict[str, Tensor]:
    """All tensors by the names of the trained module, fp32 or wider, on the CPU.

    Args:
        weights: "ema" or "model"; what the folder does not have is an error.

    Raises:
        UserError: other weights than those that were exported, or a damaged file.
    """
    has = _metadata(root)["weights"]
    if has not in ("only", weights):
        raise UserError(f"{root}: was exported with the weights '{has}' alone, not '{weights}'")
    return {name: value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
            for name, value in read_as_stored(root).items()}  # fmt: skip


def read_as_stored(root: Path) -> dict[str, Tensor]:
    """All tensors by the names of the trained module, in the precision of the file."""
    _metadata(root)
    with safe_open(str(root / WEIGHTS), framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _metadata(root: Path) -> dict[str, Any]:
    path = root / WEIGHTS
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            told = json.loads((file.metadata() or {})[TOLD])
        if told["format"] != FORMAT or told["weights"] not in get_args(Which):
            raise ValueError(f"format {told['format']} of weights '{told['weights']}' is unknown")
        return {**told, "step": int(told["step"])}
    except (SafetensorError, OSError) as err:
        raise UserError(f"{path}: damaged or no safetensors file ({err}); export it again") from err
    except (KeyError, TypeError, ValueError) as err:
        raise UserError(
            f"{path}: was not written by `threed-gen export` or `convert` ({err}); a plain weights "
            "file can be given to init_from.path by its own name"
        ) from err


@contextmanager
def whole_folder(out: Path, what: str) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name when the block ends without an error.

    Raises:
        UserError: `out` is there already and is no empty folder.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already; choose another --out, or remove it first")
    temporary = out.with_name(f".{out.name}{TEMPORARY}")
    with disk_errors(out, what):
        shutil.rmtree(temporary, ignore_errors=True)  # left by a call that was killed
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if out.is_dir():
                out.rmdir()
            temporary.rename(out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room back at once
            raise
        sync_directory(out.parent)
