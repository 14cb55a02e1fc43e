"""The fp32 parameters that this rank owns, whatever the ZeRO stage.

A ZeRO optimiser keeps flat tensors: many parameters one behind the other, cut at rank borders.
`MasterState` describes them as named fragments of parameters. The moving average, the
checkpoint and the gathering of full weights speak only of fragments, so none of them knows the
stage, and a checkpoint written by one topology can be read by another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Fragment:
    """`numel` values of parameter `name` from `param_offset` on, at `flat_offset` of `flat`."""

    name: str
    shape: tuple[int, ...]
    param_offset: int
    numel: int
    flat: int  # number of the flat tensor in MasterState.flats
    flat_offset: int


class MasterState:
    """This rank's fp32 parameters and their optimiser state as named fragments."""

    def __init__(self, engine: Any, stage: int) -> None:
        self.engine, self.stage = engine, stage
        self.optimizer: torch.optim.AdamW = (
            engine.optimizer if stage == 0 else engine.optimizer.optimizer
        )
        self.flats, self.fragments = _layout(engine, stage)

    @property
    def replicated(self) -> bool:
        """At stage 0 every rank owns everything, so that one rank may speak for all."""
        return self.stage == 0

    def view(self, flats: list[Tensor], fragment: Fragment) -> Tensor:
        """The fragment's values [numel] inside a list of tensors shaped like `flats`."""
        return flats[fragment.flat].view(-1).narrow(0, fragment.flat_offset, fragment.numel)

    def moments(self, key: str) -> list[Tensor]:
        """AdamW's `exp_avg` or `exp_avg_sq`, one tensor per flat; made if it is not there yet."""
        self._create_moments()
        return [self.optimizer.state[flat][key] for flat in self.flats]

    def adam_step(self) -> int:
        """How many updates AdamW has counted."""
        self._create_moments()
        return int(self.optimizer.state[self.flats[0]]["step"].item()) if self.flats else 0

    def set_adam_step(self, step: int) -> None:
        """Set AdamW's count of updates (it enters the bias correction)."""
        self._create_moments()
        for flat in self.flats:
            self.optimizer.state[flat]["step"].fill_(float(step))

    def publish(self) -> None:
        """After the flats were written to: bring the model's own parameters in line."""
        optimizer = self.engine.optimizer
        if self.stage in (1, 2):
            optimizer.update_lp_params()
        elif self.stage == 3:
            for group in range(len(self.flats)):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)

    def gather(self, flats: list[Tensor]) -> dict[str, Tensor]:
        """Full tensors by parameter name, on the CPU of every rank; a collective call.

        Args:
            flats: tensors shaped like `self.flats`: the parameters themselves or their average.
        """
        result: dict[str, Tensor] = {}
        own: dict[str, list[Fragment]] = {}
        for fragment in self.fragments:
            own.setdefault(fragment.name, []).append(fragment)
        for name, shape in parameter_shapes(self.engine.module).items():
            device = self.flats[0].device if self.flats else torch.device("cpu")
            full = torch.zeros(torch.Size(shape).numel(), device=device)
            for fragment in own.get(name, []):
                full.narrow(0, fragment.param_offset, fragment.numel).copy_(
                    self.view(flats, fragment)
                )
            if not self.replicated:
                dist.all_reduce(full)  # each value is owned by one rank; the others add zero
            result[name] = full.view(shape).cpu()
        return result

    def _create_moments(self) -> None:
        """AdamW makes its state lazily in the first step; make it the same way beforehand."""
        for flat in self.flats:
            state = self.optimizer.state[flat]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(flat.data)
                state["exp_avg_sq"] = torch.zeros_like(flat.data)


def parameter_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and full shapes of all trained parameters (ZeRO-3 hides the shape in `ds_shape`)."""
    return {
        name: tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _layout(engine: Any, stage: int) -> tuple[list[Tensor], list[Fragment]]:
    named = [(n, p) for n, p in engine.module.named_parameters() if p.requires_grad]
    if stage == 0:
        flats = [p for _, p in named]
        fragments = [
            Fragment(name, tuple(p.shape), 0, p.numel(), number, 0)
            for number, (name, p) in enumerate(named)
        ]
        return flats, fragments
    optimizer = engine.optimizer
    fragments = []
    if stage in (1, 2):
        flats = list(optimizer.single_partition_of_fp32_groups)
        storage = {flat.data_ptr(): number for number, flat in enumerate(flats)}
        for name, parameter in named:
            mapping = parameter._hp_mapping
            if mapping is None:
                continue  # this rank owns no part of it
            start = mapping.get_hp_fragment_address().start
            pointer = mapping.hp_fragment.data_ptr() - start * mapping.hp_fragment.element_size()
            fragments.append(
                Fragment(
                    name, tuple(parameter.shape), mapping.lp_fragment_address.start,
                    mapping.lp_fragment_address.numel, storage[pointer], start,
                )
            )  # fmt: skip
        return flats, fragments
    flats = list(optimizer.fp32_partitioned_groups_flat)
    rank = dist.get_rank()
    for name, parameter in named:
        group, offset, numel = optimizer.grad_position[optimizer.get_param_id(parameter)]
        first = rank * numel  # equal shares per parameter; the last one may be padded
        real = max(0, min(numel, parameter.ds_numel - first))
        if real:
            fragments.append(Fragment(name, tuple(parameter.ds_shape), first, real, group, offset))
    return flats, fragments
