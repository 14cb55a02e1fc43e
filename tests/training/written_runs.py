"""Run directories as training leaves them, without any training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from threed_gen.config import to_yaml
from threed_gen.files import file_sha256, write_json
from threed_gen.training.run_config import RunConfig

State = Mapping[str, Tensor]  # by the names of the trained module
NAMES = ("rank_00000.safetensors", "state.json")


def write_checkpoint(
    root: Path, config: RunConfig, average: State, parameter: State, step: int = 5
) -> Path:
    """Config and one whole checkpoint: the moving average, and the parameters themselves."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(to_yaml(config))
    folder = root / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    tensors = {
        f"{kind}/{name}": value.detach().flatten().clone()
        for kind, state in (("average", average), ("parameter", parameter))
        for name, value in state.items()
    }
    layout = {name: [0, value.numel(), list(value.shape)] for name, value in average.items()}
    save_file(tensors, folder / NAMES[0], metadata={"layout": json.dumps(layout)})
    write_json(folder / NAMES[1], {"step": step})
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in NAMES
    }
    write_json(folder / "manifest.json", {"format": 1, "step": step, "files": files})
    return root
