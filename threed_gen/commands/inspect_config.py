"""What a config builds: parameters by part, without allocating any (the meta device)."""

from __future__ import annotations

from pathlib import Path

from threed_gen.console import table
from threed_gen.data.config import DataConfig, FilterConfig
from threed_gen.data.embedded import open_if_at_hand
from threed_gen.data.filter import told
from threed_gen.geometry.sparse_sdf import BRICK
from threed_gen.models.official.networks import blueprint
from threed_gen.training.memory import expected_memory, mean_tokens, micro_batch
from threed_gen.training.run_config import (
    RunConfig,
    SSDiTRun,
    StructureDiTRun,
    StructureVAERun,
    load_run_config,
)

Rows = list[tuple[str, str]]


def show_config(path: Path) -> None:
    """Print the model's parameter counts and what the run would do."""
    config = load_run_config(path)
    model = blueprint(config.model)
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
    settings: Rows = [
        ("data", data.path or "procedural shapes, prepared on first use"),
        *_filter(data),
        ("resolutions", ", ".join(f"{r}³" for r in data.resolutions)),
        ("steps", f"{train.steps:,}"),
        ("batch", batch),
        ("peak learning rate", f"{train.learning_rate:g}"),
        ("precision", train.precision),
        ("ZeRO stage", str(train.zero_stage)),
    ]
    if config.init_from is not None:
        settings.append(("begins with", config.init_from.path))
    print(table(["setting", "value"], settings + _of_task(config, total)))


def _of_task(config: RunConfig, parameters: int) -> Rows:
    if not isinstance(config, SSDiTRun):
        gib = parameters * 20 / 2**30
        memory = ("weights + AdamW + EMA", f"{gib:.2f} GiB in fp32, gradients too")
        return [*_of_structure(config), memory]
    latents, condition = config.latents, config.condition
    encoder = condition.source if condition.encoder == "dinov2" else "built-in patches, trained"
    tokens, samples = micro_batch(config, 8)
    return [
        ("latents", latents.path or f"encoded on the fly by {latents.run}"),
        ("image encoder", encoder),
        ("usual tokens of a shape", f"{mean_tokens(max(config.data.resolutions)):,}"),
        ("micro-batch on 1 of 8 GPUs", f"{samples} samples, {tokens:,} tokens"),
        ("expected on 1 GPU", expected_memory(config, 1).told()),
        ("expected on each of 8 GPUs", expected_memory(config, 8).told()),
    ]


def _of_structure(config: RunConfig) -> Rows:
    """The grids of the structure stage; no row for other tasks."""
    if isinstance(config, StructureVAERun):
        cells = [resolution // BRICK for resolution in config.data.resolutions]
        factor = config.model.factor
        return [
            ("cells", ", ".join(f"{n}³" for n in cells)),
            ("latent", ", ".join(f"{n // factor}³" for n in cells)),
        ]
    if not isinstance(config, StructureDiTRun):
        return []
    model, run = config.model, config.structure.run
    return [
        ("cells", f"{config.grid}³"),
        ("denoises", f"latents of {run}" if run else "occupancy itself"),
        ("tokens", f"{model.tokens:,} of {model.patch}³ cells of {model.grid}³"),
    ]


def _filter(data: DataConfig) -> Rows:
    """What `data.filter` leaves of the samples, where they are at hand; no row without a filter."""
    if data.filter == FilterConfig():
        return []
    dataset = open_if_at_hand(data)
    if dataset is None:
        return [("filter", "applied when the data is there")]
    left_out = told(dataset.left_out) or "none"
    return [("filter", f"{len(dataset):,} samples stay (left out: {left_out})")]
