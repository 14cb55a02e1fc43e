"""Trainings as child processes: OpenMP reads its settings when torch loads.

Two that do not need each other run side by side, one core each. The first one speaks; what the
other says goes into a log file beside its run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import threed_gen
from threed_gen.console import say
from threed_gen.errors import UserError

DOOR = Path(threed_gen.__file__).resolve().parent / "train.py"


@dataclass(frozen=True)
class Training:
    """One run: begun with a config and overrides, or gone on with."""

    config: Path
    run: Path
    overrides: tuple[str, ...]

    @property
    def is_finished(self) -> bool:
        """Whether it has nothing left to do."""
        return (self.run / "finished.json").is_file()

    @property
    def log(self) -> Path:
        """Where its lines go while another one speaks."""
        return self.run.with_name(f"{self.run.name}.log")

    def command(self) -> list[str]:
        """A run that was begun goes on where it was."""
        if (self.run / "config.yaml").is_file():
            arguments = ["--resume", str(self.run), "--fresh"]
        else:
            arguments = ["--config", str(self.config), "--out", str(self.run), *self.overrides]
        return [sys.executable, str(DOOR), *arguments]


def train_side_by_side(trainings: Sequence[Training]) -> None:
    """Train those that are not finished; UserError with the exit code of one that fails.

    All are ended when one fails, or on Ctrl-C: they go on where they were the next time.
    """
    left = [training for training in trainings if not training.is_finished]
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", **os.environ}
    children: list[tuple[Training, subprocess.Popen[bytes]]] = []
    try:
        for training in left[1:]:
            say(f"beside it: {training.run.name}, its lines go to {training.log}")
            with training.log.open("ab") as log:
                child = subprocess.Popen(
                    training.command(), env=environment, stdout=log, stderr=subprocess.STDOUT
                )
            children.append((training, child))
        for training in left[:1]:
            children.insert(0, (training, subprocess.Popen(training.command(), env=environment)))
        for training, child in children:
            if training is not left[0] and child.poll() is None:
                say(f"waiting for {training.run.name} …")
            _ended(training, child.wait(), spoke=training is left[0])
    except KeyboardInterrupt:
        for _, child in children:
            child.wait()  # Ctrl-C reached them too; let them finish their files
        raise
    finally:
        for _, child in children:
            if child.poll() is None:
                child.terminate()
                child.wait()


def _ended(training: Training, code: int, spoke: bool) -> None:
    if code == 0:
        return
    where = "above" if spoke else f"in {training.log}"
    error = UserError(f"{training.run}: training ended with code {code}; its reason is {where}")
    error.exit_code = code if code > 0 else 1
    raise error
