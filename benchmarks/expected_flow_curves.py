"""Make or check the expected curves of the tiny SS-DiT (docs/expected/ss_dit_cpu.*).

    python -m benchmarks.expected_flow_curves make --work /tmp/flow     # 7 seeds, then 2 to check
    python -m benchmarks.expected_flow_curves check RUN
    python -m benchmarks.expected_flow_curves break --work /tmp/flow    # three defects leave it

Eight shapes on one common token set with one image each (docs/expected/ss_dit_data, made by
benchmarks/common_tokens.py), so that only the image tells them apart. Beside the training loss
there are two curves of validation: the loss at fixed noise and times, and the relative L2 of
samples. A target of the wrong sign is learned as well as the right one: only its samples are wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.common_tokens import DATA
from benchmarks.curves import ROOT, Case, main

MODULE = "from threed_gen.training.tasks import flow, ss_dit\n"
FLIPPED = (
    MODULE
    + """
target = flow.velocity_target
flow.velocity_target = lambda x0, noise: -target(x0, noise)
"""
)
# In training alone, and as a defect of the loop: the model is told t² where it should be told t.
TWICE = (
    MODULE
    + """
forward = ss_dit.SSDiT.forward
ss_dit.SSDiT.forward = lambda self, x, t, c: forward(self, x, t * t if self.training else t, c)
"""
)
SHUFFLED = (
    MODULE
    + """
from threed_gen.training.tasks.latent_samples import LatentSamples
pack = LatentSamples.pack
def shuffled(self, items, names, positions):
    from dataclasses import replace
    shown = [item.shown for item in items]
    moved = shown[1:] + shown[:1]
    items = [replace(item, shown=other) for item, other in zip(items, moved)]
    return pack(self, items, names, positions)
LatentSamples.pack = shuffled
"""
)


def overrides(_: Path) -> list[str]:
    """The committed data, as it is; eight shapes in a step, all of them validated."""
    return [
        f"data.path={DATA}", f"latents.path={DATA}", "latents.run=null", "data.resolutions=[32]",
        "train.batch_samples=8", "train.validate_every=100", "validation.shapes=8",
        "condition.held_out_views=0",
    ]  # fmt: skip


CASE = Case(
    config=ROOT / "configs" / "ss_dit" / "tiny.yaml",
    expected=ROOT / "docs" / "expected" / "ss_dit_cpu.json",
    # 0 to 4 alone did not hold 6, which is a fifth slower between steps 100 and 300. So seven make
    # the band, and 7 and 8 were trained for the first time after that was settled.
    seeds=(0, 1, 2, 3, 4, 5, 6),
    extra_seeds=(7, 8),
    overrides=overrides,
    defects={
        "a flipped target": (FLIPPED, []),
        "a time fed twice": (TWICE, []),
        "conditions shuffled within the batch": (SHUFFLED, []),
    },
    defect_windows=6,
    drawn=("total", "validation: loss", "validation: relative L2"),
)

if __name__ == "__main__":
    sys.exit(main(CASE, __doc__))
