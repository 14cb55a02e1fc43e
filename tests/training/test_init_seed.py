"""The first weights come from `init_seed`, and from `seed` where it is not given."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.training import runs
from threed_gen.training.run_config import load_run_config
from threed_gen.training.tasks.ss_vae import SSVAETask

CONFIG = runs.ROOT / "tests" / "training" / "tiny.yaml"


def first_weights(*overrides: str) -> list[Tensor]:
    module = SSVAETask(load_run_config(CONFIG, list(overrides))).build_module()
    return [p.detach().clone() for p in module.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_seed_decides_when_nothing_else_does() -> None:
    assert equal(first_weights("seed=1"), first_weights("seed=1"))
    assert not equal(first_weights("seed=1"), first_weights("seed=2"))


def test_init_seed_decides_when_it_is_given() -> None:
    assert equal(first_weights("seed=1", "init_seed=5"), first_weights("seed=2", "init_seed=5"))
    assert equal(first_weights("seed=1", "init_seed=5"), first_weights("seed=5"))
    assert not equal(first_weights("init_seed=5"), first_weights("init_seed=6"))
