"""Looking at the fixed validation shapes with an SS-DiT: its loss, and samples beside the truth.

Samples are given the true latent cells.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from threed_gen.evaluation.evaluate import Shape, drawable, finite, judge
from threed_gen.evaluation.metrics import field_metrics
from threed_gen.flow.path import on_grid
from threed_gen.generation.latents import decode_latents, sample_latents
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.training.run_config import SSDiTRun
from threed_gen.training.tasks.base import Panel, ShapeResult
from threed_gen.training.tasks.latent_samples import LatentBatch, LatentItem, LatentSamples
from threed_gen.training.tasks.latent_sources import Decoder
from threed_gen.training.validation_set import draws_of, fixed_loss, precision, readable


def validate_flow(
    module: Any, samples: LatentSamples, decoder: Decoder | None, config: SSDiTRun,
    indices: list[int], device: torch.device,
) -> list[ShapeResult]:  # fmt: skip
    """Metrics and pictures of the samples `indices`, at the largest resolution of the run.

    Args:
        module: the trained module, in eval mode on `device`.
        decoder: the SS-VAE's; None: there is none, and no surface to look at.
    """
    results = []

    def read(index: int, resolution: int) -> tuple[SparseSDF, LatentItem]:
        return samples.dataset.load(index, resolution), samples.fixed(index, resolution)

    for index, (truth, item) in readable(indices, read, config):
        entry = samples.dataset.entry(index)
        name = entry.id
        batch = samples.pack([item], [name], [0]).to(device)
        grid, x0 = batch.latents.grid, batch.latents.feats
        with torch.no_grad(), precision(config, device):
            condition = module.conditioner(batch.shown)
            velocity = on_grid(module.model, grid)
            loss = fixed_loss(velocity, x0, condition, name, config.validation.times)
            sampled = sample_latents(
                module.model, grid, condition, config.validation.sampler, draws_of(name)
            )
        distance = relative_l2(sampled, x0)
        metrics = finite({"name": name, "loss": loss, "relative_l2": distance})
        panels = samples.reader.panels(entry)
        note = f"{samples.reader.note(entry)} rel. L2 {distance:.3f}".strip()
        if decoder is None:
            panels.append(Panel("truth", extract_mesh(truth), is_truth=True))
        else:
            more, shown = _decoded(decoder, batch, sampled, truth, config)
            metrics, panels = metrics | more, panels + shown
            note += f" · IoU {metrics['iou']:.3f} (round trip {metrics['roundtrip_iou']:.3f})"
        results.append(ShapeResult(index, metrics, panels, note))
    return results


def relative_l2(found: Tensor, truth: Tensor) -> float:
    """|found − truth| / |truth|, over all tokens and channels of normalised latents."""
    return float((found.double() - truth.double()).norm() / truth.double().norm())


def _decoded(
    decoder: Decoder, batch: LatentBatch, sampled: Tensor, truth: SparseSDF, config: SSDiTRun
) -> tuple[dict[str, Any], list[Panel]]:
    """Metrics and surfaces of a sample and of the true latents, through the SS-VAE's decoder."""
    again, made = (
        decode_latents(decoder.vae, batch.latents.replace(decoder.denormalised(x)), truth)
        for x in (batch.latents.feats, sampled)
    )
    judged = judge(Shape(batch.names[0], truth, made), config.validation.surface_samples)
    metrics = dict(judged.metrics)
    metrics["roundtrip_iou"] = field_metrics(again, truth)["iou"]
    return metrics, [
        Panel("truth", judged.truth, is_truth=True),
        Panel("VAE round trip", extract_mesh(drawable(again))),
        Panel("sample", judged.reconstruction),
    ]
