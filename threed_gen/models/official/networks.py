"""The networks of a release: where each lies, and its sizes as our config and back.

Six slots of five architectures: both VAEs and both DiTs, the sparse ones at 512³ and 1024³. What
our networks cannot be (shared modulation, rotary positions …) is an error that names the argument.
Parameter names and layouts are the released ones in our modules already (a sparse kernel is
[27, in, out] with k = (dx+1) + 3(dy+1) + 9(dz+1)), so nothing is renamed or transposed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from threed_gen.config import Config, validate
from threed_gen.errors import UserError
from threed_gen.models.official.dense_sizes import (
    dense_dit_config,
    dense_dit_params,
    dense_vae_config,
    dense_vae_params,
)
from threed_gen.models.official.params import (
    DenseDiTParams,
    DenseVAEParams,
    SparseDiTParams,
    SparseVAEParams,
)
from threed_gen.models.official.sparse_sizes import (
    sparse_dit_config,
    sparse_dit_params,
    sparse_vae_config,
    sparse_vae_params,
)
from threed_gen.models.ss_dit import SSDiT, SSDiTConfig
from threed_gen.models.ss_vae import SSVAE, SSVAEConfig
from threed_gen.models.structure_dit import StructureDiT, StructureDiTConfig
from threed_gen.models.structure_vae import StructureVAE, StructureVAEConfig

Task = Literal["ss_vae", "ss_dit", "structure_vae", "structure_dit"]


@dataclass(frozen=True)
class Slot:
    """One network's place in a release."""

    name: str  # of the run directory that it becomes
    task: Task
    section: str  # of config.yaml
    file: str
    part: str  # key in the file
    resolution: int  # of the shapes, voxels along an axis


SLOTS = (
    Slot("structure_vae", "structure_vae", "dense_vae", "model_dense.ckpt", "vae", 512),
    Slot("structure_dit", "structure_dit", "dense_dit", "model_dense.ckpt", "dit", 512),
    Slot("ss_vae_512", "ss_vae", "sparse_vae_512", "model_sparse_512.ckpt", "vae", 512),
    Slot("ss_dit_512", "ss_dit", "sparse_dit_512", "model_sparse_512.ckpt", "dit", 512),
    Slot("ss_vae_1024", "ss_vae", "sparse_vae_1024", "model_sparse_1024.ckpt", "vae", 1024),
    Slot("ss_dit_1024", "ss_dit", "sparse_dit_1024", "model_sparse_1024.ckpt", "dit", 1024),
)
PARAMS: dict[Task, type[Config]] = {
    "ss_vae": SparseVAEParams,
    "ss_dit": SparseDiTParams,
    "structure_vae": DenseVAEParams,
    "structure_dit": DenseDiTParams,
}
TARGETS: dict[Task, str] = {
    "ss_vae": "direct3d_s2.models.autoencoders.ss_vae.SparseSDFVAE",
    "ss_dit": "direct3d_s2.models.transformers.sparse_dit.SparseDiT",
    "structure_vae": "direct3d_s2.models.autoencoders.dense_vae.DenseShapeVAE",
    "structure_dit": "direct3d_s2.models.transformers.dense_dit.DenseDiT",
}


class _NoNumbers(TorchFunctionMode):
    """Leaves out initialisation, which takes seconds even where there is nothing to fill.

    Constants, which begin with `torch.arange`, are computed in earnest.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else given["tensor"]
        if func is torch.arange:
            given.setdefault("device", "cpu")
        return func(*args, **given)


def read_params(slot: Slot, tree: dict[str, Any], source: str) -> Config:
    """The `params` of a slot's section, checked; `source` is what errors call the section."""
    target = str(tree.get("target", ""))
    want = TARGETS[slot.task].rsplit(".", 1)[-1]
    if target.rsplit(".", 1)[-1] != want:
        raise UserError(f"{source}: target is '{target}', only a {want} can be converted")
    return validate(PARAMS[slot.task], tree.get("params") or {}, f"{source}.params")


def model_config(params: Config, source: str) -> Config:
    """Our config of the same network; UserError for an argument that ours has no way to say."""
    if isinstance(params, SparseVAEParams):
        return sparse_vae_config(params, source)
    if isinstance(params, SparseDiTParams):
        return sparse_dit_config(params, source)
    if isinstance(params, DenseVAEParams):
        return dense_vae_config(params, source)
    assert isinstance(params, DenseDiTParams)
    return dense_dit_config(params, source)


def official_params(config: Config, resolution: int, source: str) -> Config:
    """The official arguments of a network of ours; UserError for what they have no way to say.

    resolution: of the shapes, voxels along an axis.
    """
    if isinstance(config, SSVAEConfig):
        return sparse_vae_params(config, resolution, source)
    if isinstance(config, SSDiTConfig):
        return sparse_dit_params(config, resolution, source)
    if isinstance(config, StructureVAEConfig):
        return dense_vae_params(config, source)
    assert isinstance(config, StructureDiTConfig)
    return dense_dit_params(config, source)


def blueprint(config: Config) -> nn.Module:
    """The network with names and shapes but without weights (they are on torch's meta device).

    Its constant buffers are there.
    """
    with torch.device("meta"), _NoNumbers():
        if isinstance(config, SSVAEConfig):
            return SSVAE(config)
        if isinstance(config, SSDiTConfig):
            return SSDiT(config)
        if isinstance(config, StructureVAEConfig):
            return StructureVAE(config)
        assert isinstance(config, StructureDiTConfig)
        return StructureDiT(config)
