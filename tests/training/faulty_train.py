"""The training door with planted faults, for tests: `faulty_train.py FAULTS …` as JSON.

FAULTS maps a step (counted from 1) to "loss" (it becomes NaN), "gradient" (it becomes infinite) or
"spike" (the loss is a thousand times too large).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from launcher.cluster import detect  # noqa: E402  (only with the path above)
from threed_gen import train  # noqa: E402

FACTORS = {"loss": float("nan"), "spike": 1000.0}


def plant(faults: dict[int, str]) -> None:
    """Let the SS-VAE's module go wrong at the given steps."""
    from dataclasses import replace

    from threed_gen.training.tasks.ss_vae import SSVAEModule

    forward = SSVAEModule.forward

    def faulty(self: Any, batch: Any, step: int) -> Any:
        result = forward(self, batch, step)
        fault = faults.get(step + 1)
        if fault == "gradient":
            result.weighted.register_hook(lambda grad: grad * float("inf"))
        elif fault is not None:
            result = replace(result, weighted=result.weighted * FACTORS[fault])
        return result

    SSVAEModule.forward = faulty  # type: ignore[method-assign]


if __name__ == "__main__":
    # torch comes with the model, so what must be set before it is set first
    train.prepare_environment(detect(os.environ))
    plant({int(step): fault for step, fault in json.loads(sys.argv.pop(1)).items()})
    train.leave(train.main(sys.argv[1:]))
