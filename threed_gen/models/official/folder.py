"""The folder of a release on disk: `config.yaml` and one pickle of tensors per stage.

The files come from strangers. YAML is read by `safe_load`, and pickles only by torch's weights-only
reader, which rebuilds tensors and containers and runs nothing that a file names.
"""

from __future__ import annotations

import errno
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from threed_gen.errors import UserError
from threed_gen.files import atomic_file, write_atomically
from threed_gen.models.official.networks import SLOTS

CONFIG = "config.yaml"
LARGEST_CONFIG = 1 << 20  # bytes; a released one has 4,000
# What a damaged or hostile pickle can make the reader raise.
DAMAGE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError,
    AttributeError, OverflowError, MemoryError, AssertionError, zipfile.BadZipFile,
)  # fmt: skip
REFINERS = "refiner"  # sections and files of networks that are not ours begin so, or with model_


def read_config(folder: Path) -> dict[str, dict[str, Any]]:
    """All sections of a release's config.yaml; UserError when it is none."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; give the folder of one release, as direct3d-s2-v-1-1, with "
            "config.yaml and model_*.ckpt in it"
        )
    if path.stat().st_size > LARGEST_CONFIG:
        raise UserError(f"{path}: has more than {LARGEST_CONFIG:,} bytes, so is no config")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as err:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(err).split())[:300]}") from err
    sections = tree if isinstance(tree, dict) else {}
    if not any(slot.section in sections for slot in SLOTS):
        raise UserError(f"{path}: has no section {' or '.join(slot.section for slot in SLOTS)}")
    for name, value in sections.items():
        if not isinstance(value, dict) or not isinstance(value.get("params") or {}, dict):
            raise UserError(f"{path}: section '{name}' has no 'target' and 'params'")
    return {str(name): value for name, value in sections.items()}


def read_parts(path: Path) -> dict[str, dict[str, Any]]:
    """The state dicts in one file of a release, by part ("vae", "dit"); nothing of it is run.

    Raises:
        UserError: no such file, no pickle of tensors, or one that wants to run code.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; config.yaml says that it is a part of this release")
    try:
        # Mapped, not read: a tensor is brought into memory when it is looked at.
        mapped = zipfile.is_zipfile(path)
        with warnings.catch_warnings():  # of pickle protocols that end as an error anyway
            warnings.simplefilter("ignore")
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as err:
        # The reason is the last line before the pointer to torch's documentation.
        lines = str(err).split("Check the documentation")[0].strip().splitlines() or [""]
        raise UserError(
            f"{path}: refused: not a file of tensors alone ({lines[-1][:200]}); nothing in it was "
            "run. Get it from the official release"
        ) from err
    except (*DAMAGE, OSError) as err:
        if isinstance(err, OSError) and err.errno != errno.EINVAL:  # a file that was cut short
            raise
        said = " ".join(str(err).split())[:200]
        raise UserError(f"{path}: damaged, or no torch file ({said}); download it again") from err
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds a {type(tree).__name__}, not the parts of a release")
    for part, state in tree.items():
        if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
            raise UserError(f"{path}: '{part}' is no state dict of named tensors")
    return {str(part): dict(state) for part, state in tree.items()}


def write_parts(path: Path, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Write one file of a release, whole or not at all."""
    with atomic_file(path, "the weights") as file:
        torch.save({part: dict(state) for part, state in parts.items()}, file)


def write_config(folder: Path, sections: Mapping[str, Any]) -> None:
    """Write config.yaml."""
    text = yaml.safe_dump(dict(sections), sort_keys=False, allow_unicode=True)
    write_atomically(folder / CONFIG, text.encode(), "the config")


def left_out(folder: Path, sections: Iterable[str]) -> list[str]:
    """Names of the refiners' sections and files: networks of the release that are not ours."""
    named = [name for name in sections if name.startswith(REFINERS)]
    return [*named, *sorted(path.name for path in folder.glob(f"model_{REFINERS}*"))]
