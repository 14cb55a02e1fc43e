"""Looking at the fixed validation shapes with the structure stage: which cells exist, and did it
find them.

Of cells, recall counts most: a cell that is missed is a hole in the shape, one too many is only
work. Both are judged at the threshold of the run, with their intersection over union.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from threed_gen.console import say
from threed_gen.errors import UserError
from threed_gen.evaluation.evaluate import finite
from threed_gen.flow.loss import flow_loss
from threed_gen.flow.path import draw_noise, interpolate, velocity_target
from threed_gen.generation.structure import as_grid, as_rows, cells_of, sample_space
from threed_gen.geometry.blocks import block_mesh
from threed_gen.models.structure_vae import StructureVAE
from threed_gen.randomness import generator
from threed_gen.training.run_config import RunConfig, StructureDiTRun, StructureVAERun
from threed_gen.training.tasks.base import Panel, ShapeResult
from threed_gen.training.tasks.structure_samples import (
    OccupancyBatch,
    OccupancyItem,
    OccupancySamples,
)
from threed_gen.training.tasks.structure_vae import loss_terms

Cells = NDArray[np.int32]


def validate_structure_vae(
    model: StructureVAE, samples: OccupancySamples, config: StructureVAERun, indices: list[int],
    device: torch.device,
) -> list[ShapeResult]:  # fmt: skip
    """Reconstruct the samples `indices` by the posterior's mean, at the largest resolution."""
    results = []
    for index, item, batch in _shapes(samples, config, indices, device):
        name = batch.names[0]
        with torch.no_grad(), _precision(config, device):
            posterior = model.encode(batch.occupancy)
            logits = model.decode(posterior.mean)
            bce, dice, kl = loss_terms(logits, batch.occupancy, posterior)[0].tolist()
        (found,) = cells_of(torch.sigmoid(logits), config.threshold)
        metrics = finite({"name": name, "bce": bce, "dice": dice, "kl": kl})
        metrics |= cell_metrics(found, item.cells)
        panels = [
            Panel("true cells", block_mesh(item.cells, item.grid), is_truth=True),
            Panel("reconstructed cells", block_mesh(found, item.grid)),
        ]
        results.append(ShapeResult(index, metrics, panels, _note(metrics)))
    return results


def validate_structure_dit(
    module: Any, samples: OccupancySamples, config: StructureDiTRun, indices: list[int],
    device: torch.device,
) -> list[ShapeResult]:  # fmt: skip
    """Metrics and pictures of the samples `indices`.

    module: the trained module, in eval mode on `device`. Noise and times are drawn from a shape's
    name alone, so two checks, and two runs, differ by the model and by nothing else.
    """
    reader, results = samples.reader, []
    assert reader is not None
    space = module.space.on(device)
    for index, item, batch in _shapes(samples, config, indices, device):
        name, entry = batch.names[0], samples.dataset.entry(index)
        draw = partial(_draw, name)
        with torch.no_grad(), _precision(config, device):
            condition = module.conditioner(batch.shown)
            loss = _fixed_loss(module, batch, condition, config.validation.times)
            sampled = sample_space(module.model, condition, config.validation.sampler, draw)
            (found,) = cells_of(space.probability(sampled), config.structure.threshold)
        metrics = finite({"name": name, "loss": loss}) | cell_metrics(found, item.cells)
        panels = [
            *reader.panels(entry),
            Panel("true cells", block_mesh(item.cells, item.grid), is_truth=True),
        ]
        if space.vae is not None:
            (again,) = cells_of(
                space.probability(module.x0(batch, None)), config.structure.threshold
            )
            metrics["roundtrip_iou"] = cell_metrics(again, item.cells)["iou"]
            panels.append(Panel("VAE round trip", block_mesh(again, item.grid)))
        panels.append(Panel("sampled cells", block_mesh(found, item.grid)))
        note = f"{reader.note(entry)} {_note(metrics)}".strip()
        results.append(ShapeResult(index, metrics, panels, note))
    return results


def cell_metrics(found: Cells, truth: Cells) -> dict[str, Any]:
    """IoU, precision and recall of lists of cells [T, 3], and how many were found.

    Precision is None where nothing was found, recall where nothing was to be found; the IoU of two
    empty lists is 1.
    """
    a, b = ({tuple(row) for row in cells.tolist()} for cells in (found, truth))
    shared, either = len(a & b), len(a | b)
    return {
        "iou": shared / either if either else 1.0,
        "precision": shared / len(a) if a else None,
        "recall": shared / len(b) if b else None,
        "cells": len(a),
        "true_cells": len(b),
    }


def _fixed_loss(module: Any, batch: OccupancyBatch, condition: Any, times: int) -> float:
    """Mean loss of one shape at the times (k + ½) / `times`, each with its own fixed noise."""
    x0, grid = as_rows(module.x0(batch, None)), module.config.model.grid
    lengths, draw, losses = [len(x0)], partial(_draw, batch.names[0]), []
    for k in range(times):
        noise = draw_noise(draw, [k], lengths, x0.shape[1]).to(x0.device)
        t = torch.full((1,), (k + 0.5) / times, device=x0.device)
        x_t = as_grid(interpolate(x0, noise, t, lengths), grid)
        velocity = as_rows(module.model(x_t, t, condition))
        losses.append(flow_loss(velocity, velocity_target(x0, noise), lengths))
    return float(torch.cat(losses).double().mean())


def _shapes(
    samples: OccupancySamples, config: RunConfig, indices: list[int], device: torch.device
) -> Iterator[tuple[int, OccupancyItem, OccupancyBatch]]:
    """The readable ones of the samples `indices`, each as a batch of its own."""
    resolution = max(config.data.resolutions)
    for index in indices:
        try:
            item = samples.fixed(index, resolution)
        except UserError as err:
            if config.data.on_bad_sample == "stop":
                raise
            say(f"validation leaves out a bad sample: {err}")
            continue
        yield index, item, samples.pack([item], [samples.dataset.entry(index).id], [0]).to(device)


def _precision(config: RunConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16")


def _note(metrics: dict[str, Any]) -> str:
    recall = metrics["recall"]
    return f"IoU {metrics['iou']:.3f} · recall {'-' if recall is None else f'{recall:.3f}'}"


def _draw(name: str, purpose: str, index: int) -> torch.Generator:
    """Draws that belong to a shape, whatever the run, the step and the rank."""
    return generator(0, index, f"validation {purpose} of {name}")
