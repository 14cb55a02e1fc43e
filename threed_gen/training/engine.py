"""The DeepSpeed engine: its configuration, its quiet start, and nothing about models or data.

Parameters stay in fp32 at every ZeRO stage; `precision: bf16` runs the forward pass under
autocast inside the trained module. So the optimiser's fp32 tensors *are* the parameters, one
checkpoint layout serves all stages, and gradients are reduced in fp32.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from launcher.cluster import Cluster
from threed_gen.errors import UserError
from threed_gen.training.optim import build_optimizer
from threed_gen.training.run_config import TrainConfig


def start_process_group(cluster: Cluster, timeout_seconds: float) -> torch.device:
    """Join the ranks (nccl on GPU, gloo on CPU) and return this rank's device."""
    use_cuda = torch.cuda.is_available()
    device = torch.device("cuda", cluster.local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_seconds)
    backend = "nccl" if use_cuda else "gloo"
    if cluster.world_size == 1:
        # A store in memory: one process needs no port.
        dist.init_process_group(
            backend,
            store=torch._C._distributed_c10d.HashStore(),
            rank=0,
            world_size=1,
            timeout=timeout,
        )
    else:
        dist.init_process_group(
            backend, init_method=f"tcp://{cluster.master_addr}:{cluster.master_port}",
            rank=cluster.rank, world_size=cluster.world_size, timeout=timeout,
        )  # fmt: skip
    return device


def stop_process_group() -> None:
    """Leave the group, always: a rank that just exits can abort the others' last collective."""
    if dist.is_initialized():
        dist.destroy_process_group()


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed without its chatter and without its JIT builds on the CPU."""
    if device.type == "cpu":
        # DeepSpeed would otherwise probe for a GPU toolchain when a CUDA build of torch is there.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed|torch.distributed")
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    if device.type == "cpu":
        from deepspeed.ops import __compatible_ops__

        # The first init would compile a shared-memory all-reduce for over a minute, with a
        # compiler that a laptop may not have; gloo does the same work.
        __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def deepspeed_config(config: TrainConfig, world_size: int) -> dict[str, Any]:
    """The DeepSpeed JSON of a run: the file named by `train.deepspeed` with our keys on top."""
    tree: dict[str, Any] = {"zero_optimization": {"stage": config.zero_stage}}
    if config.deepspeed is not None:
        path = Path(config.deepspeed)
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            raise UserError(f"train.deepspeed: {path}: cannot be read as JSON ({err})") from err
        stage = tree.get("zero_optimization", {}).get("stage", 0)
        if stage != config.zero_stage:
            raise UserError(
                f"{path}: zero_optimization.stage is {stage}, but train.zero_stage is "
                f"{config.zero_stage}; make them equal"
            )
    ours = {
        # Nominal only: the trainer deals samples itself and weights every loss by sample counts.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.accumulation,
        "train_batch_size": world_size * config.accumulation,
        "gradient_clipping": config.clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
    return {**tree, **ours}


def start_engine(model: nn.Module, config: TrainConfig, device: torch.device) -> Any:
    """Wrap `model` (fp32 weights, equal on all ranks) in a DeepSpeed engine with torch AdamW."""
    deepspeed = import_deepspeed(device)
    tree = deepspeed_config(config, dist.get_world_size())
    model.to(device)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=lambda _: build_optimizer(model, config),
        model_parameters=[p for p in model.parameters() if p.requires_grad],
        config=tree,
        dist_init_required=False,
    )
    _set_all_timeouts(config.timeout_seconds)
    return engine


def _set_all_timeouts(seconds: float) -> None:
    """DeepSpeed makes groups of its own with torch's default of 30 minutes; give them ours."""
    from torch.distributed import distributed_c10d as c10d

    for group in list(c10d._world.pg_map):
        c10d._set_pg_timeout(timedelta(seconds=seconds), group)
