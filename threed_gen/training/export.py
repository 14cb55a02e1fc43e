"""Writing a run as a folder to keep or to publish: weights, config, model card.

The folder names no place on the machine it was made on: of each path in the config and in
`sources.json` the last part is kept, so that a run beside the folder is found by its name.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threed_gen.config import validate
from threed_gen.data.filter import filtered
from threed_gen.data.index import INDEX_NAME, ShardIndex
from threed_gen.errors import UserError
from threed_gen.files import write_atomically, write_json
from threed_gen.training.exported import (
    exported_which,
    is_exported,
    read_as_stored,
    whole_folder,
    write_exported,
)
from threed_gen.training.load import newest_of, weights_of
from threed_gen.training.model_card import Card, render
from threed_gen.training.run_config import RUNS, RunConfig

COPIED = ("sources.json", "evaluation.json")  # of the run, where they are there
PATHS = (
    *("data.path", "init_from.path", "latents.path", "latents.run", "structure.run"),
    *("condition.source", "condition.cache", "condition.text.source", "train.deepspeed"),
)
NAMES_OF_A_HUB = ("condition.source", "condition.text.source")  # a path only where it is one


@dataclass(frozen=True)
class TrainingData:
    """What a run was trained on, by the index of its shards."""

    name: str
    samples: int
    licences: dict[str, int]  # "-": none is stated


def export_run(root: Path, out: Path, weights: str = "ema") -> Card:
    """Write the folder `out`, which appears whole or not at all.

    Args:
        weights: "ema" (the moving average) or "model" (the raw weights).

    Raises:
        UserError: no run, no whole checkpoint, or `out` is there already.
    """
    config, checkpoint = newest_of(root)
    if is_exported(root):
        tensors, which = read_as_stored(root), exported_which(root)
    else:
        tensors = weights_of(checkpoint, weights)
        which = "ema" if weights == "ema" else "model"
    card = Card(
        name=out.name, config=config, step=checkpoint.step, weights=which,
        parameters=sum(t.numel() for name, t in tensors.items() if not name.endswith("pos_emb")),
        data=training_data(config, root), metrics=metrics_of(root),
    )  # fmt: skip
    with whole_folder(out, "the export") as made:
        write_exported(made, without_places(config), tensors, checkpoint.step, which)
        for name in COPIED:
            if (root / name).is_file():
                write_json(made / name, _names_only(_read_json(root / name)))
        write_atomically(made / "README.md", render(card).encode(), "the model card")
    return card


def without_places(config: RunConfig) -> RunConfig:
    """The config with only the last part of each path in it."""
    tree = config.model_dump(mode="json")
    for key in PATHS:
        *sections, last = key.split(".")
        node: Any = tree
        for section in sections:
            node = (node or {}).get(section)
        value = (node or {}).get(last)
        if value is not None and (key not in NAMES_OF_A_HUB or Path(value).exists()):
            node[last] = Path(value).name
    return validate(RUNS[config.task], tree, "the run's config")


def training_data(config: RunConfig, root: Path) -> TrainingData | None:
    """The samples that the run saw, if their index is still at hand."""
    given = config.data.path
    folders = [Path(given)] if given is not None else sorted((root / "data").glob("*"))
    folder = next((path for path in folders if (path / INDEX_NAME).is_file()), None)
    if folder is None:
        return None
    samples, _ = filtered(ShardIndex.load(folder).samples, config.data.filter, folder)
    licences = Counter(sample.licence or "-" for sample in samples)
    return TrainingData(folder.resolve().name, len(samples), dict(licences.most_common()))


def metrics_of(root: Path) -> dict[str, float]:
    """The means of the run's evaluation, by name; empty where there is none."""
    path = root / "evaluation.json"
    if not path.is_file():
        return {}
    mean = _read_json(path).get("mean")
    return _numbers(mean) if isinstance(mean, dict) else {}


def _numbers(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = float(value)
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError("no object")
    except ValueError as err:
        raise UserError(f"{path}: damaged ({err}); write it again, or remove it") from err
    return tree


def _names_only(tree: dict[str, Any]) -> dict[str, Any]:
    """Every `run` and `data` in a JSON tree by its last part."""

    def short(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _names_only(value)
        is_path = key in ("run", "data") and isinstance(value, str)
        return Path(value).name if is_path else value

    return {key: short(key, value) for key, value in tree.items()}
