"""Weights on disk: safetensors, loaded strictly, with every mismatch named.

No pickle is ever written or read. A file appears under its name only when it is whole: it is
written beside it, synced and renamed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from threed_gen.errors import UserError, disk_errors
from threed_gen.files import sync_directory, sync_file


def save_weights(module: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write all parameters and buffers of `module` to `path`."""
    tensors = {name: value.detach().contiguous() for name, value in module.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    with disk_errors(path, "the weights"):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(partial), metadata=dict(metadata or {}))
        sync_file(partial)
        partial.replace(path)
        sync_directory(path.parent)


def load_weights(module: nn.Module, path: Path) -> None:
    """Copy the weights of `path` into `module`, in the module's own precision and device.

    Raises UserError when the file is missing or damaged, and when names or shapes differ, naming
    all that are missing, unknown or of another shape. Nothing is changed in that case.
    """
    tensors = read_weights_file(path)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    _compare(path, module.state_dict(), shapes)
    with torch.no_grad():
        for name, target in module.state_dict().items():
            target.copy_(tensors[name])


def read_weights_file(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU; UserError when it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as err:
        raise UserError(f"{path}: damaged or no safetensors file ({err})") from err


def wanted(module: nn.Module, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `found` must hold to be loaded: constant buffers may be missing from checkpoints."""
    constants = {name for name, _ in module.named_buffers()}
    return {n: v for n, v in module.state_dict().items() if n in found or n not in constants}


def mismatches(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """One line for each name that is missing, left over, or of another shape."""
    return [
        *(f"{name} is missing" for name in own if name not in found),
        *(f"{name} is not in this model" for name in found if name not in own),
        *(
            f"{name} has shape {list(found[name].shape)}, here {list(value.shape)}"
            for name, value in own.items()
            if name in found and found[name].shape != value.shape
        ),
    ]


def weights_sha256(model: nn.Module) -> str:
    """Of all weights by name, type and shape; the same however they were stored."""
    return state_sha256(model.state_dict())


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """`weights_sha256` of a model with these tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _compare(path: Path, own: Mapping[str, Tensor], found: Mapping[str, tuple[int, ...]]) -> None:
    problems = [f"{name} is missing" for name in own if name not in found]
    problems += [f"{name} is unknown to the model" for name in found if name not in own]
    problems += [
        f"{name} has shape {list(found[name])}, the model's has {list(value.shape)}"
        for name, value in own.items()
        if name in found and tuple(value.shape) != found[name]
    ]
    if problems:
        raise UserError(f"{path}: the weights do not fit this model: " + "; ".join(problems))
