"""The training door with one rank made slow while it writes its part of a checkpoint.

Gives a killer the time to strike inside a checkpoint write. The rank and the seconds come from
the environment; everything else is the real program.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from threed_gen import train


def slow_down() -> None:
    from threed_gen.training import checkpoint

    original = checkpoint._write_rank_file

    def slow(temporary: Path, rank: int, *rest: object) -> object:
        if rank == int(os.environ["SLOW_RANK"]):
            (temporary / f"slow_rank_{rank}").touch()
            time.sleep(float(os.environ["SLOW_SECONDS"]) / 2)
        result = original(temporary, rank, *rest)  # type: ignore[arg-type]
        if rank == int(os.environ["SLOW_RANK"]):
            time.sleep(float(os.environ["SLOW_SECONDS"]) / 2)
            (temporary / f"slow_rank_{rank}").unlink()
        return result

    checkpoint._write_rank_file = slow  # type: ignore[assignment]


if __name__ == "__main__":
    slow_down()
    train.leave(train.main())
