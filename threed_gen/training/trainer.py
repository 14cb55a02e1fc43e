"""The loop: read, compute, step, say, validate, save. It owns the clock and knows no voxels."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from launcher.cluster import Cluster
from threed_gen.data.dataset import SDFDataset
from threed_gen.errors import DivergedError, UserError
from threed_gen.files import write_json
from threed_gen.training import checkpoint as ckpt
from threed_gen.training.ema import EMA
from threed_gen.training.engine import start_engine
from threed_gen.training.guard import Gate, StepGuard
from threed_gen.training.loader import StepData, StepDataset, step_data
from threed_gen.training.master import MasterState
from threed_gen.training.monitor import Monitor, memory_gib
from threed_gen.training.optim import learning_rate
from threed_gen.training.plan_sharing import node_arrays, placement_of
from threed_gen.training.run_config import RunConfig
from threed_gen.training.run_dir import Journal, RunDir, read_journal
from threed_gen.training.tasks.base import StepLoss, Task
from threed_gen.training.together import on_every_rank, on_rank_zero


class Trainer:
    """One run on one rank, from its first or its resumed step to its last."""

    def __init__(
        self, config: RunConfig, run: RunDir, task: Task, module: nn.Module, dataset: SDFDataset,
        device: torch.device, cluster: Cluster,
    ) -> None:  # fmt: skip
        self.config, self.run, self.task, self.dataset = config, run, task, dataset
        held_out = dataset.for_validation()
        self.validation_set = dataset if held_out is dataset else task.usable(held_out)
        self.cluster = cluster
        self.device, self.rank, self.ranks = device, dist.get_rank(), dist.get_world_size()
        self.engine = start_engine(module, config.train, device)
        self.master = MasterState(self.engine, config.train.zero_stage)
        self.gate = Gate(self.master.optimizer)
        self.guard = StepGuard(config.train)
        self.ema = EMA(self.master, config.train.ema_decay)
        self.start = 0
        self.substituted = 0  # bad samples replaced so far, over all ranks
        self.monitor: Monitor | None = None

    def resume(self, checkpoint: ckpt.Checkpoint) -> None:
        """Go back to a checkpoint: weights, moments, average, journals."""
        ckpt.load(checkpoint, self.master, self.ema)
        self.start = checkpoint.step
        self.substituted = int(checkpoint.state["substituted"])
        self.guard.restore(checkpoint.state.get("guard", {}))
        self.roll_back()

    def roll_back(self) -> None:
        """Remove what the journals say of steps after `self.start`."""

        def truncate() -> None:
            for path in (self.run.metrics, self.run.validation, self.run.warnings):
                Journal(path).truncate_after(self.start)

        on_rank_zero(truncate)

    def fit(self) -> None:
        """Train to the last step; writes checkpoints, journals and `finished.json`."""
        train = self.config.train
        if self.rank == 0:
            self.monitor = Monitor(self.run, self.config, self.start)
        try:
            samples = self.task.samples(self.dataset)
            placement = placement_of(self.cluster)
            with node_arrays(self.cluster, len(self.dataset)) as arrays:
                steps = StepDataset(self.config, samples, self.rank, self.ranks, placement, arrays)
                for data in step_data(steps, self.start):
                    done = data.step + 1
                    self._step(data)
                    if done % train.validate_every == 0 or done == train.steps:
                        self._validate(done)
                    if done % train.checkpoint_every == 0 or done == train.steps:
                        self._save(done)
        finally:
            if self.monitor is not None:
                self.monitor.close()
        on_rank_zero(lambda: write_json(self.run.finished, {"step": train.steps}))

    def _step(self, data: StepData) -> None:
        begin = time.monotonic()
        rate = learning_rate(self.config.train, data.step)
        for group in self.master.optimizer.param_groups:
            group["lr"] = rate
        self.engine.train()
        results: list[tuple[list[int], StepLoss]] = []
        for number, micro in enumerate(data.micro):
            batch = micro.to(self.device)
            result: StepLoss = self.engine(batch, data.step)
            # DeepSpeed averages over ranks and micro-batches; we want the mean over the samples
            # of the global batch, however unevenly the ranks hold them.
            scale = self.ranks * self.config.train.accumulation / data.batch_size
            scale = 0.0 if batch.is_padding else scale
            self.engine.backward(result.weighted.sum() * scale)
            if not batch.is_padding:
                results.append((batch.positions, result))
            if number + 1 < len(data.micro):
                self.engine.step()
        table = self._exchange(data, results)
        self._check_samples(data, table)
        loss, finite = float(table[:-1, 0].mean()), bool(torch.isfinite(table[:-1, :2]).all())
        problem = self.guard.judge_loss(loss, finite)
        norm = self._update(problem is not None)
        problem = problem or self.guard.judge_norm(norm)
        if problem is None:
            self.guard.accept(loss)
            self.ema.update(data.step + 1)
        elif self.guard.skip():
            raise self._diverged(data, problem, table)
        self._record(data, table, rate, norm, time.monotonic() - begin, problem)

    def _update(self, leave_out: bool) -> float:
        """Take the optimiser's step; returns the global gradient norm before clipping.

        No parameter moves where that norm is not finite, nor with `leave_out`.
        """
        self.gate.closed = leave_out
        if self.config.train.zero_stage == 0:
            grads = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(grads))
            self.gate.closed |= not math.isfinite(norm)
            self.engine.step()
            return norm
        # Known only once ZeRO has stepped; by itself it takes no step at one that is not finite.
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def _exchange(self, data: StepData, results: list[tuple[list[int], StepLoss]]) -> torch.Tensor:
        """All samples' results on every rank, in the order of the global batch.

        Returns:
            float64 [batch, 3 + T + W] on the CPU: weighted loss, tokens, dataset index, terms,
            watched. Each row is filled by one rank, so the sum over ranks is exact, and means
            taken from the table do not depend on the number of ranks. The last row counts bad
            samples: substituted, fatal.
        """
        names = len(self.task.term_names) + len(self.task.watched_names)
        table = torch.zeros(data.batch_size + 1, 3 + names, dtype=torch.float64)
        tokens = {p: t for m in data.micro for p, t in zip(m.positions, m.tokens, strict=True)}
        for positions, result in results:
            rows = torch.cat(
                [result.weighted.detach()[:, None], result.terms, result.watched], dim=1
            )
            for position, row in zip(positions, rows.double().cpu(), strict=True):
                table[position, 0], table[position, 3:] = row[0], row[1:]
                table[position, 1] = tokens[position]
                table[position, 2] = data.samples[position]
        table[-1, 0] = 0 if data.fatal else len(data.problems)
        table[-1, 1] = float(data.fatal)
        table = table.to(self.device)
        dist.all_reduce(table)
        return table.cpu()

    def _check_samples(self, data: StepData, table: torch.Tensor) -> None:
        """Count substituted samples, or stop all ranks alike on a bad one."""
        substituted, fatal = int(table[-1, 0]), bool(table[-1, 1])
        if not (fatal or substituted):
            return
        problems = [line for part in on_every_rank(lambda: data.problems) for line in part]
        if fatal:
            error = UserError(
                f"step {data.step + 1}: {problems[0]} (or set data.on_bad_sample=substitute "
                "to train on without such samples)"
            )
            error.shared = True
            raise error
        self.substituted += substituted
        if self.monitor is not None:
            for line in problems:
                self.monitor.note(f"step {data.step + 1}: substituted a bad sample: {line}")

    def _diverged(self, data: StepData, problem: str, table: torch.Tensor) -> DivergedError:
        names = [self.dataset.entry(int(i)).id for i in table[:-1, 2]]
        skipped = self.guard.state.in_row
        row = f", after {skipped - 1} skipped steps in a row" if skipped > 1 else ""
        error = DivergedError(
            f"{self.run.root}: step {data.step + 1}: {problem} (samples {', '.join(names)}){row}; "
            "nothing of it was saved. Lower train.learning_rate or train.clip_norm in the run's "
            "config.yaml and resume"
        )
        error.shared = True  # all ranks have seen the same numbers
        return error

    def _record(
        self, data: StepData, table: torch.Tensor, rate: float, norm: float, seconds: float,
        problem: str | None,
    ) -> None:  # fmt: skip
        if self.monitor is None:
            return
        rows, terms = table[:-1], len(self.task.term_names)
        means = rows.mean(0).tolist()
        tokens = int(rows[:, 1].sum())
        record: dict[str, Any] = {
            "step": data.step + 1,
            "loss": means[0],
            "terms": dict(zip(self.task.term_names, means[3 : 3 + terms], strict=True)),
            self.task.watched_group: dict(
                zip(self.task.watched_names, means[3 + terms :], strict=True)
            ),
            **self.task.summary(rows[:, 0], rows[:, 3 + terms :]),
            "lr": rate,
            "grad_norm": norm,
            "resolution": data.resolution,
            "tokens": tokens,
            "voxels": 512 * tokens,
            "imbalance": data.imbalance,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "memory_gib": memory_gib(self.device),
            "epoch": data.epoch,
            "samples": [self.dataset.entry(int(i)).id for i in rows[:, 2]],
            "substituted": self.substituted,
        }
        if problem is not None:
            record |= {"skipped": problem, "skipped_steps": self.guard.state.skipped}
            self.monitor.skipped(record)
            return
        self.monitor.step(record, self.task.watched_group)
        self.monitor.warn(record["step"], self.task.warnings(self.monitor.averages))

    def _validate(self, step: int) -> None:
        count = min(self.config.validation.shapes, len(self.validation_set))
        if count == 0:
            return
        weights = self.task.weights_of(self.master.gather(self.ema.averages))
        own = list(range(count))[self.rank :: self.ranks]
        dataset = self.validation_set
        parts = on_every_rank(lambda: self.task.validate(weights, dataset, own, self.device))
        shapes = sorted((shape for part in parts for shape in part), key=lambda one: one.index)
        if self.monitor is not None:
            from threed_gen.training.validate import summarize_results, write_pictures  # igl, warp

            self.monitor.validation(summarize_results(step, shapes))
            self.monitor.picture(step, write_pictures(self.run.root, step, shapes))

    def _save(self, step: int) -> None:
        if self.monitor is not None:
            self.monitor.sync()
        state = {
            "substituted": self.substituted, "seed": self.config.seed, "guard": self.guard.saved(),
        }  # fmt: skip
        ckpt.save(self.run.checkpoints, step, self.master, self.ema, state)
        if self.rank == 0:
            saved = {int(path.name[5:]) for path in ckpt.candidates(self.run.checkpoints)}
            best = best_step(self.run, saved, self.task)
            ckpt.retain(self.run.checkpoints, self.config.train.keep_checkpoints, best)


def best_step(run: RunDir, saved: set[int], task: Task) -> int | None:
    """Of the saved steps, the one that validated best; None: none was validated."""
    scored = [
        (score, record["step"])
        for record in read_journal(run.validation, torn_ok=True)
        if record["step"] in saved and (score := task.score(record["mean"])) is not None
    ]
    return max(scored)[1] if scored else None
