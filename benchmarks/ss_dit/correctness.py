"""Before anything is timed: a small model's step on the device against one in float64 on the CPU.

Both see the same weights and inputs, and the same chosen blocks: where two blocks score alike,
rounding decides, and the gradient behind another choice is that of another function. How many
choices differ is a finding of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from unittest import mock

import torch
from torch import Tensor

from benchmarks.ss_dit.cases import MODELS, TOY, Batch, Bench, build, make_batch
from benchmarks.ss_dit.flops import choices
from benchmarks.ss_dit.step import TrainingStep
from benchmarks.ssa.coordinates import ball
from benchmarks.ssa.findings import Finding, largest
from kernels.ssa import SSAPlan, ops
from threed_gen.models.ss_dit import SSDiT, SSDiTConfig

EXACT = 1e-4  # relative, of the loss and of every gradient in fp32
HALF = 0.02  # relative, of the loss in bf16
OTHER_CHOICES = 1e-3  # share of queries and KV heads that choose other blocks
SMALLEST = 1e-3  # of the norm of all gradients: one below it is measured against so much
SMALL = {
    "latent_channels": 8, "channels": 128, "blocks": 4, "heads": 4, "kv_heads": 2, "head_dim": 32,
    "condition_channels": 64, "mlp_ratio": 2.0, "top_k": 4,
}  # fmt: skip
TOKENS, TOY_TOKENS = (1500, 700), (40, 20)
CONDITION_TOKENS = 50
FIRST = ("float32", "bfloat16")  # checks without which nothing is timed

Check = Callable[[Bench], list[Finding]]


def checks() -> dict[str, Check]:
    """All checks by name; of 1.0 one top-k will do."""
    found: dict[str, Check] = {}
    for name in [name for name in MODELS if name != "1.0, top-k 8"]:
        found[f"float32 {name}"] = partial(exact, name=name)
        found[f"bfloat16 {name}"] = partial(half, name=name)
        found[f"again {name}"] = partial(again, name=name)
    return found


def exact(bench: Bench, name: str) -> list[Finding]:
    """Loss and gradients in fp32 against float64 on the CPU."""
    config = _config(bench, name)
    model, batch = _model(config), _batch(bench, config)
    here = TrainingStep(copy.deepcopy(model).to(bench.device), to(batch, bench.device), half=False)
    with choices() as found:
        loss = here.forward_backward()
    blocks = [chosen.cpu() for chosen, _ in found]
    truth = TrainingStep(_in_float64(model), batch, half=False)
    with _forced(blocks) as other:
        wanted = truth.forward_backward()
    got, exact_ones = here.gradients(), truth.gradients()
    whole = float(torch.stack([one.norm() for one in exact_ones.values()]).norm())
    errors = {
        name: float((got[name].cpu().double() - one).norm() / one.norm().clamp(SMALLEST * whole))
        for name, one in exact_ones.items()
    }
    worst = max(errors, key=lambda path: errors[path])
    return [
        Finding("loss", _relative(loss, wanted), EXACT),
        Finding(f"gradients, {worst}", largest(*errors.values()), EXACT),
        Finding("other choices", largest(*other), OTHER_CHOICES),
    ]


def half(bench: Bench, name: str) -> list[Finding]:
    """The loss in bf16 against that in fp32, on the device."""
    config = _config(bench, name)
    model, batch = _model(config).to(bench.device), to(_batch(bench, config), bench.device)
    losses = [TrainingStep(model, batch, half=False).forward_backward()]
    training = TrainingStep(model, batch, half=True)
    losses.append(training.forward_backward())
    finite = torch.stack([one.isfinite().all() for one in training.gradients().values()])
    return [
        Finding("loss in bf16", _relative(losses[1], losses[0]), HALF),
        Finding("gradients that are not finite", float((~finite).sum()), 0.0),
    ]


def again(bench: Bench, name: str) -> list[Finding]:
    """Two steps, twice from the same weights: every parameter bit for bit the same.

    FlashAttention, in cross-attention, adds up gradients of queries in any order unless PyTorch is
    told to be deterministic; without that it is looked at as well, and never fails.
    """
    config = _config(bench, name)
    batch = to(_batch(bench, config), bench.device)

    def twice() -> list[Tensor]:
        training = TrainingStep(_model(config).to(bench.device), batch, half=True)
        for _ in range(2):
            training.step()
        return [parameter.detach() for parameter in training.model.parameters()]

    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    loose = _different(twice(), twice())
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        strict = _different(twice(), twice())
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
    return [
        Finding("parameters that differ, deterministic algorithms", strict, 0.0),
        Finding("parameters that differ, usual algorithms", loose, float("inf")),
    ]


def to(batch: Batch, device: torch.device) -> Batch:
    """The same inputs on a device."""
    parts = (batch.grid, batch.x0, batch.noise, batch.t, batch.condition)
    return Batch(*(part.to(device) for part in parts))  # type: ignore[arg-type]


def _config(bench: Bench, name: str) -> SSDiTConfig:
    sizes = TOY if bench.toy else SMALL
    return MODELS[name](**sizes, backend="triton" if bench.gpu else "cpu")


def _model(config: SSDiTConfig) -> SSDiT:
    return build(config, "cpu", seed=1)


def _batch(bench: Bench, config: SSDiTConfig) -> Batch:
    sets = [ball(tokens, f"{tokens}") for tokens in (TOY_TOKENS if bench.toy else TOKENS)]
    return make_batch(sets, config, 5 if bench.toy else CONDITION_TOKENS, "cpu")


def _in_float64(model: SSDiT) -> SSDiT:
    """The same weights on the CPU, through the CPU's branches."""
    config = model.config.model_copy(update={"backend": "cpu"})
    wide = SSDiT(config).double()
    wide.load_state_dict(model.state_dict())
    return wide


@contextmanager
def _forced(blocks: Sequence[Tensor]) -> Iterator[list[float]]:
    """Calls of the attention take these blocks, in order; the share that would choose others."""
    other: list[float] = []
    original = ops.select_blocks

    def replaced(
        q: Tensor, k_cmp: Tensor, lse: Tensor, plan: SSAPlan, top_k: int, backend: str
    ) -> Tensor:
        wanted = blocks[len(other)]
        own = original(q, k_cmp, lse, plan, top_k, backend)
        other.append(float((own != wanted).any(2).double().mean()))
        return wanted

    with mock.patch.object(ops, "select_blocks", replaced):
        yield other
    assert len(other) == len(blocks), "every layer chose once"


def _relative(got: Tensor, wanted: Tensor) -> float:
    return float((got.cpu().double() - wanted.cpu()).abs() / wanted.cpu().abs())


def _different(one: Sequence[Tensor], two: Sequence[Tensor]) -> float:
    return float(sum(not torch.equal(a, b) for a, b in zip(one, two, strict=True)))
