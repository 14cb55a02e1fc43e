"""The configs that come with the project: complete, valid, and at the stage their names say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from threed_gen.training.run_config import load_run_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEEPSPEED = ["zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"]


@pytest.mark.parametrize("name", DEEPSPEED)
def test_deepspeed_accepts_every_key(name: str) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    tree: dict[str, Any] = json.loads((CONFIGS / "deepspeed" / f"{name}.json").read_text())
    assert set(tree) == {"zero_optimization"}, "batch, clipping and precision belong to the run"
    parsed = DeepSpeedZeroConfig(**tree["zero_optimization"])
    assert parsed.stage == int(name[4])
    assert (parsed.offload_optimizer is not None) == name.endswith("_offload")
    assert (parsed.offload_param is not None) == (name == "zero3_offload")


def test_deepspeed_would_refuse_a_misspelt_key() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    with pytest.raises(ValueError, match="overlap_com"):
        DeepSpeedZeroConfig(stage=2, overlap_com=True)


def test_no_deepspeed_config_is_untested() -> None:
    assert {path.stem for path in (CONFIGS / "deepspeed").iterdir()} == set(DEEPSPEED)


@pytest.mark.parametrize("name", ["tiny", "direct3d-s2"])
def test_run_config_is_valid(name: str) -> None:
    config = load_run_config(CONFIGS / "ss_vae" / f"{name}.yaml")
    assert config.task == "ss_vae"
    if config.train.deepspeed is not None:
        assert (CONFIGS.parent / config.train.deepspeed).is_file()


def test_every_run_config_is_valid() -> None:
    for path in sorted(CONFIGS.glob("*/*.yaml")):
        load_run_config(path)
