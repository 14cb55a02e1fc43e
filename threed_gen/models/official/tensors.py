"""State dicts of released networks, checked against the network they belong to.

Names, layouts and numbers pass through unchanged in both directions, so a round trip has the same
bits. Half-precision tensors stay half until they are loaded into a model, which widens them without
loss. `rounded_as_released` makes the released mixture again: under `use_fp16` the official classes
keep convolutions and linear layers in fp16, and norms, `gamma`, `intra_block_pe` and `pos_emb` in
fp32; so do they with the first and last layers of the dense VAE's encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from threed_gen.errors import UserError
from threed_gen.models.layers.resolution import PointwiseKernel
from threed_gen.models.structure_vae import StructureVAE
from threed_gen.sparse.conv import SubmanifoldConv3d

EXACT = (torch.float16, torch.bfloat16, torch.float32)  # what fp32 holds without rounding
HALVED = (nn.Linear, nn.Conv3d, SubmanifoldConv3d, PointwiseKernel)
KEPT_IN_DENSE_ENCODER = ("encoder.input_layer.", "encoder.out_layer.")


def check_tensors(network: nn.Module, found: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The tensors of `found`, if they are exactly those of `network` (which may be on `meta`).

    Raises:
        UserError: one line with the first name that is missing, left over, of another shape or
            type, or not finite, and how many more there are.
    """
    own = network.state_dict()
    problems = [
        *(f"{name} is missing" for name in own if name not in found),
        *(f"{name} is not in this network" for name in found if name not in own),
    ]
    for name, want in own.items():
        if name in found:
            problems += _problem(name, found[name], want)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"{source}: {problems[0]}{more}; {len(found)} tensors were found, the network of this "
            f"config.yaml has {len(own)}: config and weights must be of one release, and whole"
        )
    return {name: found[name] for name in own}


def _problem(name: str, tensor: Any, want: Tensor) -> list[str]:
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        return [f"{name} is a {type(tensor).__name__}, no plain tensor"]
    if tensor.shape != want.shape:
        return [f"{name} has shape {list(tensor.shape)}, it must be {list(want.shape)}"]
    if tensor.dtype not in EXACT:
        return [f"{name} is of type {tensor.dtype}, which fp32 does not hold exactly"]
    if not tensor.is_meta and not tensor.isfinite().all():
        return [f"{name} holds numbers that are not finite"]
    return []


def with_constants(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, and the network's constants: checkpoints of training lack `pos_emb`."""
    constants = {name: value for name, value in network.named_buffers() if not value.is_meta}
    return constants | dict(tensors)


def halved_names(network: nn.Module) -> set[str]:
    """Names of the tensors that the official classes keep in fp16 under `use_fp16`."""
    names = {
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if isinstance(module, HALVED)
        for name, _ in module.named_parameters(recurse=False)
    }
    if isinstance(network, StructureVAE):
        names = {name for name in names if not name.startswith(KEPT_IN_DENSE_ENCODER)}
    return names


def rounded_as_released(
    network: nn.Module, tensors: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """The released mixture of fp16 and fp32; UserError for a weight beyond fp16's range."""
    halved, result = halved_names(network), {}
    for name, tensor in tensors.items():
        result[name] = tensor.half() if name in halved else tensor.float()
        if not result[name].isfinite().all():
            raise UserError(
                f"{source}: {name} has weights beyond the range of fp16; convert without --fp16"
            )
    return result
