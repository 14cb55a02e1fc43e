"""The configs that come with the project: complete, valid, and at the stage their names say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from threed_gen import cli
from threed_gen.errors import UserError
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


@pytest.mark.parametrize(
    ("name", "millions"),
    [("direct3d-s2-v1.0", "520.08"), ("direct3d-s2-v1.1", "509.29")],
)
def test_inspect_prints_the_released_sizes(
    name: str, millions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(CONFIGS / "ss_dit" / f"{name}.yaml")]) == 0
    told = capsys.readouterr().out
    assert f"ss_dit, {millions} M parameters" in told
    assert "expected on each of 8 GPUs" in told


def test_expected_memory_in_the_comments_is_what_the_script_says() -> None:
    from benchmarks.config_memory import LINE, with_memory

    for path in sorted((CONFIGS / "ss_dit").glob("*.yaml")):
        assert with_memory(path) == path.read_text(), f"run benchmarks/config_memory.py: {path}"
        assert LINE.search(path.read_text()) or path.stem == "tiny", path


def test_each_stage_begins_with_the_one_before() -> None:
    stages = ["recommended", *(f"recommended-{r}" for r in (384, 512, 1024))]
    configs = [load_run_config(CONFIGS / "ss_dit" / f"{stage}.yaml") for stage in stages]
    assert [config.data.resolutions for config in configs] == [[256], [384], [512], [1024]]
    assert configs[0].init_from is None
    for before, config in zip(stages[:-1], configs[1:], strict=True):
        assert config.init_from is not None and config.init_from.path == f"runs/ss_dit/{before}"
    # Weights of one stage fit the next: everything that sizes a tensor is the same.
    sizes = [
        {k: v for k, v in c.model_dump()["model"].items() if not k.startswith("checkpoint")}
        for c in configs
    ]
    assert all(size == sizes[0] for size in sizes)


def test_a_misspelt_task_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("task: ss_ditt\n")
    with pytest.raises(UserError, match="no task 'ss_ditt'; did you mean 'ss_dit'"):
        load_run_config(path)
    path.write_text("seed: 1\n")
    with pytest.raises(UserError, match="key 'task' is missing; known are ss_vae, ss_dit"):
        load_run_config(path)
