"""Looking at the fixed validation shapes with the structure stage: which cells exist, and did it
find them.

Of cells, recall counts most: a cell that is missed is a hole in the shape, one too many is only
work. Both are judged at the threshold of the run, with their intersection over union.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from threed_gen.evaluation.evaluate import finite
from threed_gen.generation.structure import as_rows, cells_of, on_dense_grid, sample_space
from threed_gen.geometry.blocks import block_mesh
from threed_gen.models.structure_vae import StructureVAE
from threed_gen.training.run_config import RunConfig, StructureDiTRun, StructureVAERun
from threed_gen.training.tasks.base import Panel, ShapeResult
from threed_gen.training.tasks.structure_samples import (
    OccupancyBatch,
    OccupancyItem,
    OccupancySamples,
)
from threed_gen.training.tasks.structure_vae import loss_terms
from threed_gen.training.validation_set import draws_of, fixed_loss, precision, readable

Cells = NDArray[np.int32]


def validate_structure_vae(
    model: StructureVAE, samples: OccupancySamples, config: StructureVAERun, indices: list[int],
    device: torch.device,
) -> list[ShapeResult]:  # fmt: skip
    """Reconstruct the samples `indices` by the posterior's mean, at the largest resolution."""
    results = []
    for index, item, batch in _shapes(samples, config, indices, device):
        name = batch.names[0]
        with torch.no_grad(), precision(config, device):
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

    module: the trained module, in eval mode on `device`.
    """
    reader, results = samples.reader, []
    assert reader is not None
    space = module.space.on(device)
    for index, item, batch in _shapes(samples, config, indices, device):
        name, entry = batch.names[0], samples.dataset.entry(index)
        with torch.no_grad(), precision(config, device):
            condition = module.conditioner(batch.shown)
            x0 = as_rows(module.x0(batch, None))
            velocity = on_dense_grid(module.model, config.model.grid)
            loss = fixed_loss(velocity, x0, condition, name, config.validation.times)
            sampled = sample_space(
                module.model, condition, config.validation.sampler, draws_of(name)
            )
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


def _shapes(
    samples: OccupancySamples, config: RunConfig, indices: list[int], device: torch.device
) -> Iterator[tuple[int, OccupancyItem, OccupancyBatch]]:
    """The readable ones of the samples `indices`, each as a batch of its own."""
    for index, item in readable(indices, samples.fixed, config):
        yield index, item, samples.pack([item], [samples.dataset.entry(index).id], [0]).to(device)


def _note(metrics: dict[str, Any]) -> str:
    recall = metrics["recall"]
    return f"IoU {metrics['iou']:.3f} · recall {'-' if recall is None else f'{recall:.3f}'}"
