"""Run directories of SS-VAEs as training leaves them, without any training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from threed_gen.config import to_yaml
from threed_gen.data.config import DataConfig
from threed_gen.files import file_sha256, write_json
from threed_gen.models.ss_vae import SSVAE, SSVAEConfig
from threed_gen.training.run_config import SSVAERun


def write_run(
    root: Path, model: SSVAEConfig, resolutions: list[int], step: int = 5,
    change: Callable[[SSVAE], object] | None = None,
) -> Path:  # fmt: skip
    """One whole checkpoint: its average is one model, its weights another; `change` alters both."""
    config = SSVAERun(task="ss_vae", model=model, data=DataConfig(resolutions=resolutions))
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(to_yaml(config))
    folder = root / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    tensors, layout = {}, {}
    for kind, seed in (("average", step), ("parameter", step + 1)):
        torch.manual_seed(seed)
        vae = SSVAE(model)
        if change is not None:
            change(vae)
        for name, tensor in vae.state_dict().items():
            tensors[f"{kind}/model.{name}"] = tensor.flatten()
            layout[f"model.{name}"] = [0, tensor.numel(), list(tensor.shape)]
    save_file(tensors, folder / "rank_00000.safetensors", metadata={"layout": json.dumps(layout)})
    write_json(folder / "state.json", {"step": step})
    names = ("rank_00000.safetensors", "state.json")
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in names
    }
    write_json(folder / "manifest.json", {"format": 1, "step": step, "files": files})
    return root
