"""What a config builds: parameters by part, without allocating any (the meta device)."""

from __future__ import annotations

from pathlib import Path

import torch

from threed_gen.console import table
from threed_gen.data.config import DataConfig, FilterConfig
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.filter import told
from threed_gen.models.ss_vae import SSVAE
from threed_gen.training.run_config import load_run_config


def show_config(path: Path) -> None:
    """Print the model's parameter counts and what the run would do."""
    config = load_run_config(path)
    with torch.device("meta"):
        model = SSVAE(config.model)
    rows = [
        (name, f"{sum(p.numel() for p in part.parameters()):,}")
        for name, part in model.named_children()
        if any(True for _ in part.parameters())
    ]
    total = sum(p.numel() for p in model.parameters())
    rows.append(("total", f"{total:,}"))
    data, train = config.data, config.train
    batch = (
        f"{train.batch_tokens} latent tokens"
        if train.batch_tokens is not None
        else f"{train.batch_samples or 1} samples"
    )
    print(f"{path}: {config.task}, {total / 1e6:.2f} M parameters\n")
    print(table(["part", "parameters"], rows))
    print()
    print(
        table(
            ["setting", "value"],
            [
                ("data", data.path or "procedural shapes, prepared on first use"),
                *_filter(data),
                ("resolutions", ", ".join(f"{r}³" for r in data.resolutions)),
                ("steps", f"{train.steps:,}"),
                ("batch", batch),
                ("peak learning rate", f"{train.learning_rate:g}"),
                ("precision", train.precision),
                ("ZeRO stage", str(train.zero_stage)),
                ("weights + AdamW + EMA", f"{total * 20 / 2**30:.2f} GiB in fp32, gradients too"),
            ],
        )
    )


def _filter(data: DataConfig) -> list[tuple[str, str]]:
    """What `data.filter` leaves of the samples, where they are at hand; no row without a filter."""
    if data.filter == FilterConfig():
        return []
    if data.path is None or not Path(data.path).is_dir():
        return [("filter", "applied when the data is there")]
    dataset = SDFDataset(Path(data.path), data.tau, data.filter)
    left_out = told(dataset.left_out) or "none"
    return [("filter", f"{len(dataset):,} samples stay (left out: {left_out})")]
