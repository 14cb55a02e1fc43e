"""One row: a model built, warmed up, timed three ways, and what its step needs and waits for."""

from __future__ import annotations

import gc
import math
import time
from typing import Any

import torch

from benchmarks.ss_dit.cases import Bench, Case, build
from benchmarks.ss_dit.flops import Total, choices, count, peak_of
from benchmarks.ss_dit.full_attention import dense, replace_attention, variable_length
from benchmarks.ss_dit.step import TrainingStep
from benchmarks.ss_dit.timing import operator_ms, spread_ms, waits
from benchmarks.ssa.machine import device_name
from benchmarks.ssa.rivals import first_line
from benchmarks.ssa.timing import peak_gib

WARM_UP = 2  # steps behind the first, which compiles and fills allocators


def measure(bench: Bench, case: Case) -> dict[str, Any]:
    """Everything about a row as numbers for a record; or that there is no memory for it."""
    _release(bench.gpu)  # what the last row left
    try:
        return {**case.record(), **_measured(bench, case)}
    except torch.OutOfMemoryError as err:
        reason = f"out of memory ({first_line(err)})"
    finally:
        if case.compiled:
            torch.compiler.reset()
    return {**case.record(), "refused": reason}


def _release(gpu: bool) -> None:
    """A model and its optimiser refer to themselves in circles; their memory is needed now."""
    gc.collect()
    if gpu:
        torch.cuda.empty_cache()


def _measured(bench: Bench, case: Case) -> dict[str, Any]:
    device, config = bench.device, bench.config(case)
    batch = bench.batch(case, config)
    model, label = build(config, device), "Spatial Sparse Attention"
    if case.attention == "full":
        label, attend = variable_length(device) if bench.gpu else ("plain attention", dense)
        model = replace_attention(model, attend)
    training = TrainingStep(model, batch, bench.half)
    total, keys = _products(training, case)
    if case.compiled:
        model.compile_blocks(**({"backend": "eager"} if bench.toy else {}))
    begin = time.monotonic()
    loss = float(training.step())
    first = time.monotonic() - begin
    for _ in range(WARM_UP):
        loss = float(training.step())
    ways = {name: getattr(training, name) for name in ("forward", "forward_backward", "step")}
    result: dict[str, Any] = {
        "label": label, "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": batch.grid.num_voxels, "lengths": list(batch.lengths), "keys": keys,
        "first_seconds": first, "peak_gib": peak_gib(training.step, device),
        **{name: spread_ms(way, device, bench.seconds) for name, way in ways.items()},
        "waits": waits(training.step, device),
    }  # fmt: skip
    if case.attention == "ssa":
        result["operators"] = operator_ms(training.step, device)
    result["losses"] = [loss, float(training.step())]
    if not all(map(math.isfinite, result["losses"])):
        raise ValueError(f"losses {result['losses']} are not finite: no time of this row counts")
    return result | _rates(total, result, device)


def _products(training: TrainingStep, case: Case) -> tuple[Total, float | None]:
    """Matrix products of a step; mean tokens that a query reads in its chosen blocks."""
    config, batch = training.model.config, training.batch
    if case.attention == "full":
        return count(config, batch, None), None
    with torch.no_grad(), choices() as found:
        training.forward()
    layers = [sizes for _, sizes in found]
    chosen = sum(sizes.selection_pairs for sizes in layers) / (len(layers) * batch.grid.num_voxels)
    return count(config, batch, layers), chosen


def _rates(total: Total, result: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Tokens and products per second; shares of the card's peak where that is known."""
    seconds = result["step"]["median"] / 1e3
    peak = peak_of(device_name(device)) if device.type == "cuda" else None
    return {
        "tokens_per_second": result["tokens"] / seconds,
        "model_flops": total.model, "executed_flops": total.executed,
        "forward_flops": {name: part.forward for name, part in total.parts.items()},
        "peak_flops": peak,
        "mfu": None if peak is None else total.model / seconds / peak,
        "executed_share": None if peak is None else total.executed / seconds / peak,
    }  # fmt: skip
