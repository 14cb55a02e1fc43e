"""What a run says while it goes: one line per step, metrics.jsonl, TensorBoard, W&B, warnings."""

from __future__ import annotations

import importlib.util
import math
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from threed_gen.console import Progress, say
from threed_gen.errors import UserError
from threed_gen.training.run_config import RunConfig
from threed_gen.training.run_dir import Journal, RunDir

AVERAGING = 0.98  # of the running averages that warnings look at
GRACE_STEPS = 200  # no warnings before the averages mean something


class Monitor:
    """Rank 0's mouth. Other ranks have none."""

    def __init__(self, run: RunDir, config: RunConfig, start: int) -> None:
        self.run, self.config = run, config
        self.metrics, self.warned = Journal(run.metrics), Journal(run.warnings)
        self.progress = Progress(config.train.steps, "training", "step", initial=start)
        self.averages: dict[str, float] = {}
        self._seen: set[str] = set()
        self._writer = _tensorboard(run.root, start)
        self._wandb = _wandb(run.root, config)

    def step(self, record: dict[str, Any], watched: str) -> None:
        """Journal one step and show it; `watched` is the key of the numbers to watch."""
        self.metrics.append(record)
        step = record["step"]
        flat = {"loss": record["loss"], "lr": record["lr"], "grad_norm": record["grad_norm"],
                "tokens_per_second": record["tokens_per_second"],
                **{f"terms/{k}": v for k, v in record["terms"].items()},
                **{f"{watched}/{k}": v for k, v in record[watched].items()}}  # fmt: skip
        for name, value in flat.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log(flat, step=step)
        for name, value in {**record["terms"], **record[watched]}.items():
            old = self.averages.get(name, value)
            self.averages[name] = AVERAGING * old + (1 - AVERAGING) * value
        line = step_line(record, self.config.train.steps)
        self.progress.advance(note=f"loss {record['loss']:.4f}")
        with (self.run.root / "logs" / "train.log").open("a") as log:
            log.write(line + "\n")
        if step % self.config.train.log_every == 0 or step == self.config.train.steps:
            self.progress.line(line)

    def skipped(self, record: dict[str, Any]) -> None:
        """Journal and show a step that did not count; numbers that are not finite become null."""
        self.metrics.append(_finite(record))
        self.progress.advance(note="skipped")
        self._writer.add_scalar("train/skipped_steps", record["skipped_steps"], record["step"])
        line = f"step {record['step']} left out: {record['skipped']}"
        self.warned.append({"step": record["step"], "warning": line})
        self.progress.line(f"WARNING: {line} ({record['skipped_steps']} so far)")

    def validation(self, result: dict[str, Any]) -> None:
        """Journal and show one validation."""
        Journal(self.run.validation).append(result)
        for name, value in result["mean"].items():
            if value is not None:
                self._writer.add_scalar(f"validation/{name}", value, result["step"])
        if self._wandb is not None:
            self._wandb.log({f"validation/{k}": v for k, v in result["mean"].items()})
        shown = ("loss", "relative_l2", "iou", "error_voxels", "f@0.02")
        numbers = "  ".join(
            f"{name} {result['mean'][name]:.4f}" for name in shown
            if result["mean"].get(name) is not None
        )  # fmt: skip
        self.progress.line(f"validation at step {result['step']}: {numbers}")

    def picture(self, step: int, path: Path) -> None:
        """Show a contact sheet in TensorBoard."""
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        self._writer.add_image("previews", pixels, step, dataformats="HWC")

    def warn(self, step: int, lines: list[str]) -> None:
        """Show and journal each distinct warning once."""
        if step <= GRACE_STEPS:
            return
        for line in lines:
            if line[:40] not in self._seen:
                self._seen.add(line[:40])
                self.warned.append({"step": step, "warning": line})
                self.progress.line(f"WARNING at step {step}: {line}")

    def note(self, text: str) -> None:
        """A full line between the steps."""
        self.progress.line(text)

    def sync(self) -> None:
        """Everything said so far is on the disk (a checkpoint is about to count on it)."""
        self.metrics.sync()
        Journal(self.run.validation).sync()
        self._writer.flush()

    def close(self) -> None:
        """Finish the bar and the writers."""
        self.progress.__exit__(None, None, None)
        self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()


def step_line(record: dict[str, Any], steps: int) -> str:
    """`step 120/2500 │ loss 0.0312 │ in … │ lr … │ grad … │ 512 tok/s │ 0.8 GiB`."""
    width = len(str(steps))
    terms = " ".join(f"{name} {value:.4f}" for name, value in record["terms"].items())
    return (
        f"step {record['step']:>{width}}/{steps} │ loss {record['loss']:.5f} │ {terms} │ "
        f"lr {record['lr']:.2e} │ grad {record['grad_norm']:.3f} │ "
        f"{record['tokens_per_second']:.0f} tok/s │ {record['memory_gib']:.2f} GiB"
    )


def _finite(value: Any) -> Any:
    """Numbers that JSON has no word for become None, however deep they lie."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def memory_gib(device: torch.device) -> float:
    """Peak memory of this process: of the GPU where there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30


def _tensorboard(root: Path, start: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(root / "tensorboard"), purge_step=start + 1)


def _wandb(root: Path, config: RunConfig) -> Any:
    project = config.train.wandb_project
    if project is None:
        return None
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            "train.wandb_project is set, but wandb is not installed: pip install wandb, or remove "
            "the key"
        )
    import wandb

    say(f"logging to Weights & Biases project {project}")
    return wandb.init(project=project, dir=str(root), name=root.name,
                      config=config.model_dump(mode="json"), resume="allow")  # fmt: skip
