"""The GPU memory that each SS-DiT config is expected to want, as its comment says.

    python -m benchmarks.config_memory           # print what the comments should say
    python -m benchmarks.config_memory --write   # and write it into them

An estimate from the config alone (threed_gen/training/memory.py), not a measurement.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from threed_gen.training.memory import expected_memory
from threed_gen.training.run_config import SSDiTRun, load_run_config

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "ss_dit"
LINE = re.compile(r"^# Expected on (?:1 GPU|each of (\d+) GPUs): .*$", re.MULTILINE)


def with_memory(path: Path) -> str:
    """The text of a config, its comment brought up to date."""
    config = load_run_config(path)
    assert isinstance(config, SSDiTRun)

    def line(found: re.Match[str]) -> str:
        ranks = int(found[1] or 1)
        told = expected_memory(config, ranks).told()
        return f"{found[0].split(':')[0]}: {told}"

    return LINE.sub(line, path.read_text())


def main() -> int:
    """Print, or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    for path in sorted(CONFIGS.glob("*.yaml")):
        text = with_memory(path)
        for found in LINE.finditer(text):
            print(f"{path.name}: {found[0].removeprefix('# ')}")
        if write:
            path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
