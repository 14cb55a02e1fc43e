"""One file for what each rank says: RUN/logs/rank_00003.log, whichever launcher started it.

Lines of several ranks that share one pipe (ssh, pdsh, srun) run into each other. So a rank writes
into a file of its own, and what comes out of the launcher is a merged view: all that rank 0 says,
and of the others each line that warns or complains, whole, with the rank and its host in front.

    [rank 3 n2] WARNING: …

Rank 0's file has what Python says; what libraries print past it goes to the launcher as always.
The other ranks' files have both. A crash inside a library leaves its stack there too.
"""

from __future__ import annotations

import faulthandler
import io
import os
import re
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TextIO

WORTH_HEARING = re.compile(r"\b(WARNING|ERROR|FATAL)\b|\berror:|\w(Error|Exception)\b")


def path_of(logs: Path, rank: int) -> Path:
    """The file of one rank."""
    return logs / f"rank_{rank:05d}.log"


class RankLog:
    """From `open` to `close`, what this process says goes into its own file."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.host = socket.gethostname().split(".")[0]
        self._before = sys.stdout, sys.stderr, sys.excepthook
        self._file: int | None = None
        self._shown: tuple[int, int] | None = None  # the launcher's stdout and stderr
        self._tells_of_crashes = False

    def open(self, logs: Path) -> None:
        """Begin to write into the folder `logs`, which exists.

        Raises:
            OSError: the file cannot be opened.
        """
        path = path_of(logs, self.rank)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = file = os.open(path, flags, 0o644)
        when = time.strftime("%Y-%m-%d %H:%M:%S %z")
        who = f"rank {self.rank} of {self.world_size} on {self.host}, process {os.getpid()}"
        os.write(file, f"─── {who}, {when}\n".encode())
        self._before = sys.stdout, sys.stderr, sys.excepthook
        if self.rank == 0:
            sys.stdout, sys.stderr = _Both(sys.stdout, file), _Both(sys.stderr, file)
        else:
            self._go_quiet(file, path)
        if not faulthandler.is_enabled():
            faulthandler.enable(file)
            self._tells_of_crashes = True

    def _go_quiet(self, file: int, path: Path) -> None:
        """Only warnings and complaints still reach the launcher."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._shown = os.dup(1), os.dup(2)
        os.dup2(file, 1)
        os.dup2(file, 2)
        shown, front = self._shown[1], f"[rank {self.rank} {self.host}] "
        sys.stdout = sys.stderr = _Quiet(file, shown, front)
        usual = sys.excepthook

        def hook(
            kind: type[BaseException], err: BaseException, trace: TracebackType | None
        ) -> None:
            usual(kind, err, trace)
            os.write(shown, f"{front}{kind.__name__}: its traceback is in {path}\n".encode())

        sys.excepthook = hook

    def close(self) -> None:
        """Everything goes again where it went before."""
        if self._file is None:
            return
        sys.stdout, sys.stderr, sys.excepthook = self._before
        if self._shown is not None:
            for number, kept in enumerate(self._shown, start=1):
                os.dup2(kept, number)
                os.close(kept)
        if self._tells_of_crashes:
            faulthandler.disable()
        os.close(self._file)
        self._file = self._shown = None


class _Lines(io.TextIOBase):
    """Whole lines, each written at once: appended lines of several processes do not mix.

    A progress bar redraws its line with carriage returns; of those the last one counts.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._begun = ""
        self._full = False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self.line(line.rstrip("\r").rsplit("\r", 1)[-1])
        return len(text)

    def line(self, text: str) -> None:
        """A whole line. A full disk ends a run where it keeps it from saving, not here."""
        if self._full:
            return
        try:
            os.write(self._file, text.encode("utf-8", errors="replace") + b"\n")
        except OSError as err:
            self._full = True
            self.complain(f"WARNING: this rank's log ends here: {err.strerror}")

    def complain(self, text: str) -> None:
        """Say a line past the file."""
        raise NotImplementedError


class _Quiet(_Lines):
    """Into the file, and what is worth hearing also to the launcher, with `front` before it."""

    def __init__(self, file: int, shown: int, front: str) -> None:
        super().__init__(file)
        self._shown, self._front = shown, front

    def line(self, text: str) -> None:
        super().line(text)
        if WORTH_HEARING.search(text):
            self.complain(text)

    def complain(self, text: str) -> None:
        # One write for one line: a pipe keeps those of up to 4 KiB whole.
        os.write(self._shown, f"{self._front}{text}\n".encode("utf-8", errors="replace"))


class _Both(_Lines):
    """To where it always went, bars and all, and into the file."""

    def __init__(self, stream: TextIO, file: int) -> None:
        super().__init__(file)
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(text)
        return super().write(text)

    def complain(self, text: str) -> None:
        self._stream.write(f"{text}\n")

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream, so that a bar draws with characters that it has."""
        return self._stream.encoding
