"""`python -m launcher.preflight -- TRAIN'S WORDS`: what a job's script calls before the ranks.

The words after `--` are those that the training gets: the run directory and the data are read from
them (`--out RUN` or `--resume RUN`, and `data.path=DIR`). Nothing but the standard library is
needed, as this runs outside of a container. Exit code 2, and a line for each failure, when the job
shall not start.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import LaunchError
from launcher.preflight.asked import Settings
from launcher.preflight.start import Start, here, in_allocation, over_srun
from launcher.preflight.steps import preflight
from launcher.preflight.told import told

EXIT_UNFIT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when the job may start."""
    parser = argparse.ArgumentParser(prog="python -m launcher.preflight", description=__doc__)
    parser.add_argument("--run", type=Path, help="the run directory, when no words name it")
    parser.add_argument("--data", help="folder made by `threed-gen prepare`")
    parser.add_argument("--gpus", type=int, help="how many each node shall have")
    parser.add_argument("--python", default=sys.executable, help="the interpreter on the nodes")
    parser.add_argument("--inside", default="", help="words between srun and python: a container's")
    parser.add_argument("words", nargs="*", help="what the training will be given, after --")
    args = parser.parse_args(argv)
    try:
        settings = Settings(
            run=args.run or run_of(args.words),
            data=local(args.data) or data_of(args.words),
            gpus=args.gpus,
        )
        start = _start(args.python, shlex.split(args.inside))
        result = preflight(start, settings)
    except LaunchError as err:
        sys.stderr.write(f"preflight: {err}\n")
        return EXIT_UNFIT
    sys.stderr.write(told(result, colour=sys.stderr.isatty()) + "\n")
    return EXIT_UNFIT if result.failures else 0


def _start(python: str, inside: Sequence[str]) -> Start:
    if in_allocation(os.environ):
        return over_srun(os.environ, None, python, inside)
    return here()


def run_of(words: Sequence[str]) -> Path:
    """The run directory of a training, from its own words; here when they name none."""
    for name, value in zip(words, words[1:]):  # noqa: B905 - the second is one shorter
        if name in ("--out", "--resume"):
            return Path(value)
    return Path.cwd()


def data_of(words: Sequence[str]) -> Path | None:
    """The data of a training: named in its words, or in the config of the run that goes on."""
    for word in reversed(words):
        name, _, value = word.partition("=")
        if name == "data.path" and value:
            return local(value)
    config = run_of(words) / "config.yaml"
    if "--resume" in words and config.is_file():
        return _path_in(config)
    return None


def _path_in(config: Path) -> Path | None:
    import yaml  # only where a run goes on

    try:
        tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as err:
        raise LaunchError(f"{config}: cannot be read ({' '.join(str(err).split())})") from err
    data = tree.get("data") if isinstance(tree, dict) else None
    path = data.get("path") if isinstance(data, dict) else None
    return local(path)


def local(path: str | None) -> Path | None:
    """A folder of data; a URL is asked by the ranks, with patience."""
    return Path(path) if path and "://" not in path else None


if __name__ == "__main__":
    sys.exit(main())
