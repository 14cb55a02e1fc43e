"""From a command line to a running trainer: config, ranks, lock, data, checkpoint, go."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from launcher.cluster import Cluster
from launcher.rank_log import RankLog
from threed_gen.config import changes, to_yaml
from threed_gen.console import say
from threed_gen.data.embedded import ensure_prepared, open_if_at_hand, open_prepared
from threed_gen.data.filter import told
from threed_gen.errors import UserError, disk_errors
from threed_gen.files import write_atomically, write_json
from threed_gen.training import checkpoint as ckpt
from threed_gen.training.agreement import insist_on_same_code, insist_on_same_data
from threed_gen.training.engine import start_process_group, stop_process_group
from threed_gen.training.global_batch import check_batch
from threed_gen.training.init_from import load_initial
from threed_gen.training.loader import set_threads
from threed_gen.training.master import parameter_shapes
from threed_gen.training.run_config import (
    RunConfig,
    SSDiTRun,
    StructureDiTRun,
    StructureVAERun,
    load_run_config,
)
from threed_gen.training.run_dir import RunDir, RunLock
from threed_gen.training.tasks.base import Task
from threed_gen.training.together import everywhere, on_rank_zero
from threed_gen.training.trainer import Trainer

if TYPE_CHECKING:
    from threed_gen.data.views.params import ViewParams

# A killed launcher's ranks end within 10 s; a little longer than that is worth waiting for.
LOCK_WAIT_SECONDS = 15.0


def run_training(
    cluster: Cluster,
    run_root: Path,
    config_path: Path | None,
    overrides: list[str],
    fresh: bool,
    log: RankLog,
) -> None:
    """Start a new run (`config_path` given) or go on with the one in `run_root`.

    Args:
        fresh: on resume, allow a start from step 0 when there is no whole checkpoint.
        log: is opened as soon as this run is ours.

    Raises:
        UserError: on every rank alike.
    """
    run = RunDir(run_root)
    resuming = config_path is None
    if resuming:
        run.require()
    config = load_run_config(run.config if resuming else config_path, overrides)  # type: ignore[arg-type]
    set_threads(config.train.threads or max(1, (os.cpu_count() or 1) // cluster.local_size))
    device = start_process_group(cluster, config.train.timeout_seconds)
    lock = RunLock(run.root)
    try:
        insist_on_same_code(cluster, config)
        _enter(run, lock, config, config_path, cluster, device)
        everywhere(lambda: _open_log(run, log))
        if resuming and run.finished.exists():
            if cluster.rank == 0:
                say(f"{run.root}: already finished; nothing to do")
            return
        checkpoint = on_rank_zero(lambda: _find(run, fresh)) if resuming else None
        trainer = _build(run, config, device, checkpoint, cluster)
        trainer.fit()
    finally:
        lock.release()
        stop_process_group()


def _enter(
    run: RunDir, lock: RunLock, config: RunConfig, config_path: Path | None, cluster: Cluster,
    device: torch.device,
) -> None:  # fmt: skip
    """Make or check the run directory and take its lock, together."""

    def first() -> None:
        data = open_if_at_hand(config.data)
        if config.train.batch_tokens is None or data is not None:
            many = f"there are {cluster.world_size} ranks on {cluster.nodes} nodes"
            check_batch(config, data, cluster.world_size, many)
        if config_path is not None:
            run.create()
        lock.acquire(LOCK_WAIT_SECONDS)
        if config_path is not None:
            if run.config.exists():
                raise UserError(f"{run.root}: another process has just started a run here")
            write_atomically(run.config, to_yaml(config).encode(), "the config")
            lines = changes(config, load_run_config(config_path))
            text = "".join(f"{line}\n" for line in lines)
            write_atomically(run.root / "config_changes.txt", text.encode(), "the changes")
            for line in lines:
                say(f"  override {line}")
        write_json(run.environment, environment(cluster, device))

    on_rank_zero(first)
    if dist.get_rank() != 0:
        lock.share()
    dist.barrier()


def _open_log(run: RunDir, log: RankLog) -> None:
    with disk_errors(run.root, "the logs"):
        logs = run.root / "logs"
        logs.mkdir(exist_ok=True)
        log.open(logs)


def _build(
    run: RunDir, config: RunConfig, device: torch.device, checkpoint: Path | None,
    cluster: Cluster,
) -> Trainer:  # fmt: skip
    """The trainer at the step of `checkpoint`, or at step 0."""
    path = on_rank_zero(
        lambda: ensure_prepared(config.data, run.root / "data", os.cpu_count() or 1, _views(config))
    )
    dataset = everywhere(lambda: open_prepared(config.data, path))
    insist_on_same_data(dataset)
    task = task_of(config)
    on_rank_zero(lambda: task.prepare(dataset, run.root))
    dataset = everywhere(lambda: task.open(dataset, run.root))
    module = everywhere(task.build_module)
    init = config.init_from
    if init is not None and checkpoint is None:
        for line in everywhere(lambda: load_initial(module, init)):
            if dist.get_rank() == 0:
                say(line)
    trainer = Trainer(config, run, task, module, dataset, device, cluster)
    if checkpoint is not None:
        # Rank 0 has verified the files; the others only need the state.
        trainer.resume(ckpt.open_verified(checkpoint))
    else:
        trainer.roll_back()
    on_rank_zero(lambda: _announce(trainer))
    return trainer


def _views(config: RunConfig) -> ViewParams | None:
    """The pictures that procedural shapes need for this task."""
    if not isinstance(config, SSDiTRun | StructureDiTRun) or config.data.path is not None:
        return None
    from threed_gen.data.views.params import ViewParams  # brings the renderer

    asked = config.data.procedural
    return ViewParams(asked.views, asked.view_law, asked.view_size)


def task_of(config: RunConfig) -> Task:
    """The task that a config is for."""
    if isinstance(config, SSDiTRun):
        from threed_gen.training.tasks.ss_dit import SSDiTTask

        return SSDiTTask(config)
    if isinstance(config, StructureDiTRun):
        from threed_gen.training.tasks.structure_dit import StructureDiTTask

        return StructureDiTTask(config)
    if isinstance(config, StructureVAERun):
        from threed_gen.training.tasks.structure_vae import StructureVAETask

        return StructureVAETask(config)
    from threed_gen.training.tasks.ss_vae import SSVAETask

    return SSVAETask(config)


def _announce(trainer: Trainer) -> None:
    config, ranks = trainer.config, trainer.ranks
    shapes = parameter_shapes(trainer.engine.module).values()
    parameters = sum(torch.Size(shape).numel() for shape in shapes)
    say(
        f"{config.task}: {parameters / 1e6:.2f} M parameters, {len(trainer.dataset)} samples, "
        f"{ranks} rank{'s' if ranks > 1 else ''} on {trainer.device.type}, "
        f"ZeRO {config.train.zero_stage}, {config.train.precision}"
    )
    if trainer.dataset.left_out:
        say(f"  data.filter leaves out: {told(trainer.dataset.left_out)}")
    if config.data.filter.split == "train":
        if trainer.validation_set is trainer.dataset:
            say("  no sample is held out: validation looks at samples that are trained on")
        else:
            say(f"  {len(trainer.validation_set)} held-out samples, for validation")
    if config.validation.shapes:
        from threed_gen.training.validate import write_data_sheet_once  # igl, warp

        write_data_sheet_once(trainer.run.root, trainer.dataset, config)


def _find(run: RunDir, fresh: bool) -> Path | None:
    """The newest whole checkpoint; None to begin again from step 0."""
    found, problems = ckpt.find_newest(run.checkpoints)
    for line in problems:
        say(f"WARNING: walked past a damaged checkpoint: {line}")
    if found is None and not fresh:
        raise UserError(
            f"{run.checkpoints}: no whole checkpoint to resume from; add --fresh to start "
            "this run again from step 0"
        )
    say(f"resuming {run.root} from " + (found.path.name if found else "step 0"))
    return found.path if found else None


def environment(cluster: Cluster, device: torch.device) -> dict[str, Any]:
    """Versions and devices, for whoever reads this run later."""
    packages = (
        "torch", "deepspeed", "triton", "transformers", "warp-lang", "numpy", "trimesh", "libigl",
        "spconv-cu120", "safetensors",
    )  # fmt: skip
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    device_name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "device": device.type,
        "device_name": device_name or platform.machine(),
        "cpu_threads": torch.get_num_threads(),
        "ranks": cluster.world_size,
        "nodes": cluster.nodes,
        "launched_by": cluster.source,
        "command": " ".join(sys.argv),
    }
