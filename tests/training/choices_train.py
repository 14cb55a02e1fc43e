"""The training door that also writes which blocks each sample chose: `choices_train.py FOLDER …`.

FOLDER/<process>.jsonl gets one line per step, layer and sample: the sha256 of the chosen blocks
[tokens, KV heads, top-k], numbered within the sample.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from launcher.cluster import detect  # noqa: E402  (only with the path above)
from threed_gen import train  # noqa: E402


def record(folder: Path) -> None:
    """Listen at both doors: that of the definition and that of the operators."""
    import torch

    from kernels.ssa import ops, reference
    from threed_gen.training.tasks.ss_dit import SSDiTModule

    now: dict[str, Any] = {}
    file = (folder / f"{os.getpid()}.jsonl").open("w")
    forward = SSDiTModule.forward

    def announced(self: Any, batch: Any, step: int) -> Any:
        now.update(step=step, positions=batch.positions, padding=batch.is_padding, layer=0)
        return forward(self, batch, step)

    def listening(select: Any) -> Any:
        def listened(q: Any, k: Any, lse: Any, plan: Any, *rest: Any) -> Any:
            ids = select(q, k, lse, plan, *rest)
            first_row, first_block = plan.cu_seqlens.tolist(), plan.blocks.of_sample.tolist()
            for number, position in enumerate(now["positions"]):
                own = ids[first_row[number] : first_row[number + 1]].to(torch.int64)
                own = torch.where(own < 0, own, own - first_block[number])
                line = {
                    "step": now["step"], "layer": now["layer"], "position": position,
                    "blocks": first_block[number + 1] - first_block[number],
                    "chosen": hashlib.sha256(own.contiguous().numpy().tobytes()).hexdigest(),
                }  # fmt: skip
                if not now["padding"]:
                    file.write(json.dumps(line) + "\n")
            file.flush()
            now["layer"] += 1
            return ids

        return listened

    SSDiTModule.forward = announced  # type: ignore[method-assign]
    ops.select_blocks = listening(ops.select_blocks)
    reference.select_blocks = listening(reference.select_blocks)


if __name__ == "__main__":
    target = Path(sys.argv.pop(1))
    target.mkdir(parents=True, exist_ok=True)
    train.prepare_environment(detect(os.environ))
    record(target)
    train.leave(train.main(sys.argv[1:]))
