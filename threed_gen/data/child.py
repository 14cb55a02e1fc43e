"""One child process as its parent sees it: start it, send it a task, read its answers, end it.

The child runs `worker.py` in a fresh interpreter. The script that the user started is not run
again there, so it needs no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Generic, TypeVar

from threed_gen.data.usage import peak_mb, resident_mb
from threed_gen.data.worker import LENGTH, framed

T = TypeVar("T")
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "IGL_NUM_THREADS",
)
PIECE = 1 << 20  # bytes read at once
KEPT = 4000  # bytes of what the child printed last
# The path of the parent before anything is imported: `-m` would look into the current folder
# first, where a user's file may have the name of a library.
PROGRAM = "import sys; sys.path[:] = sys.argv[3:]; from threed_gen.data.worker import main; main()"


class Child(Generic[T]):
    """A child process: starting until it is `ready`, then `busy` or idle; `gone` at the end."""

    def __init__(self, greeting: bytes, task: T) -> None:
        """Start it; `greeting` is the frame with the function and the limit on memory.

        `task` is its first one, to be given when it is ready.
        """
        self.ready = self.busy = self.gone = False
        self.task = task
        self.since = time.monotonic()  # of the task, or of the start
        self.peak = 0.0  # MB, of the task
        self.resting = 0.0  # MB, between tasks, when it was new
        self._received = bytearray()
        self._printed = b""
        self.answers, theirs = os.pipe()
        path = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100  of an entry, not a file
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs), str(os.getpid()), *path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs],
                env={**os.environ, **dict.fromkeys(THREADS, "1")},
            )
        except BaseException:
            os.close(self.answers)
            raise
        finally:
            os.close(theirs)
        assert self.process.stdout is not None
        self.chatter = self.process.stdout.fileno()
        os.set_blocking(self.answers, False)
        os.set_blocking(self.chatter, False)
        self._send(greeting)

    def give(self, task: T) -> None:
        """Send a task to the child, which waits for one."""
        self.task, self.busy, self.since, self.peak = task, True, time.monotonic(), 0.0
        self._send(framed(task))

    def read_answers(self) -> None:
        """Take in what the child has answered so far; `gone` is set when it never will again."""
        while True:
            try:
                piece = os.read(self.answers, PIECE)
            except BlockingIOError:
                return
            if not piece:
                self.gone = True
                return
            self._received += piece

    def next_answer(self) -> tuple[Any, ...] | None:
        """The next whole answer, if there is one."""
        end = LENGTH + int.from_bytes(self._received[:LENGTH], "little")
        if len(self._received) < max(end, LENGTH + 1):
            return None
        answer: tuple[Any, ...] = pickle.loads(memoryview(self._received)[LENGTH:end])  # noqa: S301
        self._received = self._received[end:]
        return answer

    @property
    def answering(self) -> bool:
        """True when a part of an answer has come."""
        return len(self._received) > 0

    def read_chatter(self) -> bool:
        """Take in what the child prints, of which the end is kept; False when it is closed."""
        while True:
            try:
                piece = os.read(self.chatter, PIECE)
            except BlockingIOError:
                return True
            if not piece:
                return False
            self._printed = (self._printed + piece)[-KEPT:]

    def measure(self) -> float:
        """Its resident memory in MB; the highest seen is kept in `peak`."""
        found = resident_mb(self.process.pid)
        self.peak = max(self.peak, found)
        return found

    def last_words(self) -> str:
        """The last line that it printed."""
        self.read_chatter()
        lines = self._printed.decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")

    def kill(self) -> None:
        """End it at once, with its peak remembered."""
        self.peak = max(self.peak, peak_mb(self.process.pid))
        self.process.kill()

    def how_it_ended(self) -> str:
        """In words; the end has begun already."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it has closed the pipe and lives on
            return "the process stopped answering"
        if code == -signal.SIGKILL:
            return "the process was killed (SIGKILL), for lack of memory or by hand"
        if code < 0:
            return f"the process died of {signal.Signals(-code).name}"
        return f"the process ended with exit code {code}"

    def leave(self) -> None:
        """Tell it that there will be no more tasks; a busy child is killed."""
        if self.busy or not self.ready:
            self.process.kill()
        with suppress(BrokenPipeError):
            if self.process.stdin is not None:
                self.process.stdin.close()

    def close(self) -> None:
        """Wait for its end, after `leave` or `kill`, and close the pipes."""
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.leave()
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self.answers)

    def _send(self, frame: bytes) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died: the end of its answers will say so
            self.process.stdin.write(frame)
            self.process.stdin.flush()
