"""Looking at the fixed validation shapes with an SS-DiT: its loss, and samples beside the truth.

Noise and times are drawn from a shape's name alone, so the loss of two checks, and of two runs,
differs by the model and by nothing else. Samples are given the true latent cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from threed_gen.console import say
from threed_gen.errors import UserError
from threed_gen.evaluation.evaluate import Shape, drawable, finite, judge
from threed_gen.evaluation.metrics import field_metrics
from threed_gen.flow.loss import flow_loss
from threed_gen.flow.path import draw_noise, interpolate, velocity_target
from threed_gen.generation.latents import decode_latents, sample_latents
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.models.layers.cross_attention import PackedTokens
from threed_gen.models.ss_dit import SSDiT
from threed_gen.randomness import generator
from threed_gen.training.run_config import SSDiTRun
from threed_gen.training.tasks.base import Panel, ShapeResult
from threed_gen.training.tasks.latent_samples import LatentBatch, LatentSamples
from threed_gen.training.tasks.latent_sources import Decoder


def validate_flow(
    module: Any, samples: LatentSamples, decoder: Decoder | None, config: SSDiTRun,
    indices: list[int], device: torch.device,
) -> list[ShapeResult]:  # fmt: skip
    """Metrics and pictures of the samples `indices`, at the largest resolution of the run.

    Args:
        module: the trained module, in eval mode on `device`.
        decoder: the SS-VAE's; None: there is none, and no surface to look at.
    """
    resolution, results = max(config.data.resolutions), []
    for index in indices:
        entry = samples.dataset.entry(index)
        name = entry.id
        try:
            truth = samples.dataset.load(index, resolution)
            item = samples.fixed(index, resolution)
        except UserError as err:
            if config.data.on_bad_sample == "stop":
                raise
            say(f"validation leaves out a bad sample: {err}")
            continue
        batch = samples.pack([item], [name], [0]).to(device)
        bf16 = config.train.precision == "bf16"
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            condition = module.conditioner(batch.shown)
            loss = fixed_loss(module.model, batch, condition, config.validation.times)
            sampled = sample_latents(
                module.model, batch.latents.grid, condition, config.validation.sampler,
                _draw_of(name),
            )  # fmt: skip
        distance = relative_l2(sampled, batch.latents.feats)
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


def fixed_loss(model: SSDiT, batch: LatentBatch, condition: PackedTokens, times: int) -> float:
    """Mean loss of one shape at the times (k + ½) / `times`, each with its own fixed noise."""
    x0, lengths = batch.latents.feats, batch.tokens
    draw, losses = _draw_of(batch.names[0]), []
    for k in range(times):
        noise = draw_noise(draw, [k], lengths, x0.shape[1]).to(x0.device)
        t = torch.full((1,), (k + 0.5) / times, device=x0.device)
        x_t = batch.latents.replace(interpolate(x0, noise, t, lengths))
        velocity = model(x_t, t, condition).feats
        losses.append(flow_loss(velocity, velocity_target(x0, noise), lengths))
    return float(torch.cat(losses).double().mean())


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


def _draw_of(name: str) -> Callable[[str, int], torch.Generator]:
    """Draws that belong to a shape, whatever the run, the step and the rank."""
    return lambda purpose, index: generator(0, index, f"validation {purpose} of {name}")
