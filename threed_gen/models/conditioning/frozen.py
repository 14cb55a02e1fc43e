"""Frozen encoders out of `transformers`: found in a folder or on the hub, and never trained.

A model of the hub is looked for among what was downloaded before, so that a machine without network
works; only then is it fetched. Weights are read as safetensors and no code is fetched. A frozen
encoder is a plain object, not a module: its weights are no part of what is trained, saved,
averaged or sharded, and one copy serves all copies of the model.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from threed_gen.errors import UserError

Precision = Literal["fp32", "bf16"]
# What transformers and the hub raise for things that a user can cure.
LOADING = (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError)


class Frozen:
    """A model of `transformers` in eval mode and fp32 that computes where its input is.

    Args:
        precision: of the matrix products; weights and the residual stream stay fp32.
    """

    def __init__(self, model: Any, precision: Precision) -> None:
        self.model = model.float().eval().requires_grad_(False)
        self.precision = precision
        self._device = torch.device("cpu")

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self

    @contextmanager
    def running(self, device: torch.device) -> Iterator[Any]:
        """The model on `device`, without gradients; the caller's autocast does not reach it."""
        if device != self._device:
            self.model.to(device)
            self._device = device
        half = self.precision == "bf16"
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            yield self.model

    def digest(self) -> str:
        """sha256 of all weights with their names and shapes."""
        result = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            result.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
            result.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return result.hexdigest()


def load_frozen(source: str, classes: Mapping[str, str], key: str) -> Any:
    """The model in a folder or on the hub.

    Args:
        source: folder (written by `save_pretrained`) or hub id.
        classes: what to load for each `model_type` that is accepted.
        key: of the config, for messages.

    Raises UserError, one line: no such folder, no network, another kind of model, missing or
    damaged weights, or `transformers` is not installed.
    """
    library = transformers()
    found = from_source(library.AutoConfig.from_pretrained, source, key)
    kind = str(getattr(found, "model_type", "unknown"))
    if kind not in classes:
        wanted = " or ".join(sorted(set(classes)))
        raise UserError(f"{key}: {source} is a model of type {kind}, it must be {wanted}")
    load = getattr(library, classes[kind]).from_pretrained
    with _quiet(library):
        options = {"use_safetensors": True, "output_loading_info": True}
        model, report = from_source(load, source, key, **options)
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{key}: the weights of {source} lack {len(missing)} tensors, the first is "
            f"{missing[0]}; take a complete copy"
        )
    return model


def from_source(load: Callable[..., Any], source: str, key: str, **options: Any) -> Any:
    """`load(source)` from a folder, from earlier downloads or from the network, in this order."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        try:
            return load(str(folder), local_files_only=True, **options)
        except LOADING as err:
            raise UserError(f"{key}: no usable model in {folder}: {_first_line(err)}") from err
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(f"{key}: {source}: no such folder")
    try:
        return load(source, local_files_only=True, **options)
    except LOADING:
        pass  # not downloaded yet, or not all of it
    try:
        return load(source, **options)
    except LOADING as err:
        raise UserError(
            f"{key}: {source} is no folder, and neither earlier downloads nor the hub give it "
            f"({_first_line(err)}); connect to the network once, or give a folder that holds it"
        ) from err


def transformers() -> Any:
    """The package, or a UserError that says how to get it."""
    try:
        return importlib.import_module("transformers")
    except ImportError as err:
        raise UserError(
            f"the package transformers cannot be loaded ({_first_line(err)}); "
            "run `make setup`, or choose the encoder `patches`"
        ) from err


def as_bytes_of(settings: Mapping[str, Any]) -> bytes:
    """Settings as bytes for a digest, whatever their order."""
    return "\n".join(f"{name}={settings[name]!r}" for name in sorted(settings)).encode()


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """No bars and no table of what was loaded: what matters is checked and said here."""
    log = library.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _first_line(err: BaseException) -> str:
    lines = str(err).strip().splitlines() or [type(err).__name__]
    return lines[0].rstrip(".")
