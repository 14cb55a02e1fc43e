"""Watch a submitted job: its log as it grows, how it is, and how far the training has come."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launcher import slurm
from launcher.errors import LaunchError
from threed_gen.console import printable, say
from threed_gen.training.run_dir import RunDir

EVERY_SECONDS = 1.0
QUIET_SECONDS = 30.0  # in a log file: at most one unchanged progress line in that time
LAST_BYTES = 1 << 16  # longer than any line of metrics.jsonl
AT_ONCE = 1 << 20  # of the log; what is more comes the next time


class Following:
    """Copies a log to stdout and keeps one progress line below it (stderr)."""

    def __init__(
        self, run: RunDir, log: Path, steps: int, ask: Callable[[], slurm.JobState]
    ) -> None:
        self.run, self.log, self.steps, self.ask = run, log, steps, ask
        self._offset = 0
        self._shown, self._when = "", -QUIET_SECONDS
        self._terminal = sys.stderr.isatty()

    def until_the_end(self, every: float = EVERY_SECONDS) -> slurm.JobState:
        """Follow until Slurm says that the job is over; a controller that is away is waited for."""
        complaint = ""
        while True:
            self.copy()
            try:
                now = self.ask()
            except LaunchError as err:
                if str(err) != complaint:
                    complaint = str(err)
                    self._line("")
                    say(f"{complaint}; asking again")
                time.sleep(every)
                continue
            complaint = ""
            self.copy()
            if now.ended:
                while self.copy(torn=True):
                    pass
                self._line("")
                return now
            self.progress(now)
            time.sleep(every)

    def copy(self, torn: bool = False) -> bool:
        """Print the lines that the log has gained; whether there were any.

        A line without its end waits for it, or the progress line would be written over it, unless
        `torn`: nothing follows any more.
        """
        try:
            with self.log.open("rb") as file:
                file.seek(self._offset)
                gained = file.read(AT_ONCE)
        except FileNotFoundError:  # the job has not started
            return False
        if not torn and len(gained) < AT_ONCE:
            gained = gained[: gained.rfind(b"\n") + 1]
        if not gained:
            return False
        self._line("")
        self._offset += len(gained)
        sys.stdout.write(gained.decode("utf-8", errors="replace"))
        sys.stdout.flush()
        return True

    def progress(self, now: slurm.JobState) -> None:
        """One line: how the job is and which step it has done."""
        step = last_step(self.run)
        steps = f", step {step:,} of {self.steps:,}" if step is not None else ""
        text = f"job {now.job}: {now.told()}{steps}"
        if self._terminal:
            self._line(text)
        elif text != self._shown and (
            time.monotonic() - self._when >= QUIET_SECONDS or not self._shown
        ):
            say(text)
            self._shown, self._when = text, time.monotonic()

    def _line(self, text: str) -> None:
        """Redraw the bottom line of a terminal; nothing elsewhere."""
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{printable(text)[:width]}")
            sys.stderr.flush()


def last_step(run: RunDir) -> int | None:
    """The step of the newest whole line of metrics.jsonl; None before the first."""
    try:
        with run.metrics.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LAST_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    for line in reversed(lines[:-1]):  # what follows the last line end is not whole
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return None
