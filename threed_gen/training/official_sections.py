"""The sections of a released config around its networks: image encoders and schedulers.

Steps and guidance are arguments of the official pipeline, not in its config: 50 steps for the dense
stage, 30 at 512³, 15 at 1024³, guidance 7.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from threed_gen.config import validate
from threed_gen.errors import UserError
from threed_gen.models.official.networks import Slot
from threed_gen.models.official.params import ImageEncoderParams, SchedulerParams, section
from threed_gen.models.official.refuse import refuse_unless
from threed_gen.training.run_config import RunConfig

ENCODER = "facebook/dinov2-with-registers-large"  # the same network as the released `version`
VERSION = "dinov2_vitl14_reg"
IMAGE_SIZE = 518
STEPS = {"structure_dit": 50, "ss_dit_512": 30, "ss_dit_1024": 15}
GUIDANCE = 7.0
SCHEDULERS = {
    "structure_dit": "dense_scheduler",
    "ss_dit_512": "sparse_scheduler_512",
    "ss_dit_1024": "sparse_scheduler_1024",
}
SCHEDULER_TARGET = "diffusers.schedulers.FlowMatchEulerDiscreteScheduler"
ENCODER_TARGET = "direct3d_s2.models.conditioner.DinoEncoder"


def condition_of(slot: Slot, sections: dict[str, Any], source: str) -> dict[str, Any]:
    """The `condition` section of the run of a released DiT."""
    name = _encoder_section(slot)
    params = validate(ImageEncoderParams, _params(sections, name, source), f"{source}: {name}")
    refuse_unless(f"{source}: {name}", {
        "version": (params.version, VERSION), "size": (params.size, IMAGE_SIZE),
    })  # fmt: skip
    sparse = bool(_params(sections, slot.section, source).get("sparse_conditions", False))
    return {"encoder": "dinov2", "source": ENCODER, "size": IMAGE_SIZE, "sparse": sparse}


def sampler_of(slot: Slot, sections: dict[str, Any], source: str) -> dict[str, Any]:
    """The released way to sample a DiT, as the keys of a `SamplerConfig`."""
    name = SCHEDULERS[slot.name]
    params = validate(SchedulerParams, _params(sections, name, source), f"{source}: {name}")
    refuse_unless(f"{source}: {name}", {
        "num_train_timesteps": (params.num_train_timesteps, 1000),
    })  # fmt: skip
    return {
        "method": "euler", "spacing": "diffusers", "steps": STEPS[slot.name],
        "shift": params.shift, "guidance": {"scale": GUIDANCE},
    }  # fmt: skip


def official_sections(slot: Slot, config: RunConfig, source: str) -> dict[str, Any]:
    """The sections that go with a run's network; none for a VAE."""
    if slot.name not in SCHEDULERS:
        return {}
    condition, sampler = config.condition, config.validation.sampler  # type: ignore[attr-defined]
    refuse_unless(source, {
        "condition.encoder": (condition.encoder, "dinov2"),
        "condition.source": (Path(condition.source).name, Path(ENCODER).name),
        "condition.size": (condition.size, IMAGE_SIZE),
        "validation.sampler.spacing": (sampler.spacing, "diffusers"),
    })  # fmt: skip
    if slot.task == "ss_dit":
        told = config.model.project_condition  # type: ignore[attr-defined]
        refuse_unless(source, {"condition.sparse": (condition.sparse, told)})
    return {
        SCHEDULERS[slot.name]: section(SCHEDULER_TARGET, SchedulerParams(shift=sampler.shift)),
        _encoder_section(slot): section(ENCODER_TARGET, ImageEncoderParams()),
    }


def _encoder_section(slot: Slot) -> str:
    return "dense_image_encoder" if slot.task == "structure_dit" else "sparse_image_encoder"


def _params(sections: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    if name not in sections:
        raise UserError(f"{source}: section '{name}' is missing; it goes with its network")
    return dict(sections[name].get("params") or {})
