"""Retention keeps the newest and the best; warnings name a collapse; draws ignore the rank."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.training import runs
from threed_gen.randomness import sample_noise
from threed_gen.training.checkpoint import candidates, folder_name, retain
from threed_gen.training.run_config import load_run_config
from threed_gen.training.run_dir import Journal, RunDir
from threed_gen.training.tasks.ss_vae import SSVAETask
from threed_gen.training.trainer import best_step


def test_retention_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        (tmp_path / folder_name(step)).mkdir()
    (tmp_path / ".step_00000060.tmp").mkdir()
    retain(tmp_path, newest=2, best_step=20)
    assert [path.name for path in candidates(tmp_path)] == [
        folder_name(50), folder_name(40), folder_name(20),
    ]  # fmt: skip
    assert not list(tmp_path.glob(".*"))


def test_the_best_step_is_that_of_the_highest_iou(tmp_path: Path) -> None:
    run, task = RunDir(tmp_path), SSVAETask(load_run_config(runs.TINY))
    assert best_step(run, {10, 20}, task) is None
    for step, iou in ((10, 0.5), (20, 0.9), (30, 0.7), (40, None)):
        Journal(run.validation).append({"step": step, "mean": {"iou": iou}})
    assert best_step(run, {10, 20, 30, 40}, task) == 20
    assert best_step(run, {10, 30, 40}, task) == 30


def test_collapse_and_explosion_are_named() -> None:
    task = SSVAETask(load_run_config(runs.TINY))
    healthy = {"active_channels": 4.0, "posterior_std": 0.3, "latent_std": 1.2, "kl": 2.0}
    assert task.warnings(healthy) == []
    collapsed = task.warnings({**healthy, "active_channels": 0.2, "posterior_std": 0.99})
    assert len(collapsed) == 1 and "posterior collapse" in collapsed[0]
    exploded = task.warnings({**healthy, "latent_std": 300.0})
    assert len(exploded) == 1 and "without bound" in exploded[0]


def test_noise_depends_on_the_sample_and_not_on_its_company() -> None:
    together = sample_noise(0, 5, "posterior", [0, 1, 2], [3, 2, 4], 8)
    alone = sample_noise(0, 5, "posterior", [1], [2], 8)
    assert torch.equal(together[3:5], alone)
    assert not torch.equal(alone, sample_noise(0, 6, "posterior", [1], [2], 8))
    assert not torch.equal(alone, sample_noise(1, 5, "posterior", [1], [2], 8))
    assert not torch.equal(alone, sample_noise(0, 5, "other", [1], [2], 8))
