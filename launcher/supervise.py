"""Run a launcher (`deepspeed`, `mpirun`, `torchrun`) to its end, and leave no rank behind.

Four things that the launchers do not see to themselves:

- A signal to this process (Ctrl-C, a terminal that closes, SIGTERM, SIGUSR1) ends the launcher and
  all ranks, on every host. Alone, `deepspeed` dies of SIGUSR1 or SIGKILL and its ranks live on.
- A rank that dies on one host of `deepspeed` over ssh leaves the ranks of the others waiting for
  it. They have some seconds to notice, and are ended then.
- When this process is killed outright, the launcher ends its ranks (`launcher/leash.py`).
- Whatever way it ended, each host is asked for what is left (`launcher/leftovers.py`).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from launcher import leash
from launcher.hostlist import shorten
from launcher.leftovers import MARK, end_leftovers

STOP_SECONDS = 10.0  # a launcher has so long to end its ranks before it is killed
SURVIVOR_SECONDS = 10.0  # ranks have so long to notice that those of another host are gone
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
EVERY_SECONDS = 0.1
# pdsh, when the command on one host has failed; deepspeed starts one such command on each.
_HOST_ENDED = re.compile(r"pdsh@\S+: (\S+): ssh exited with exit code ([1-9]\d*)")


class Stopped(Exception):  # noqa: N818 - nothing is wrong: somebody has asked for it
    """A signal came, and everything has been ended."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def supervise(
    words: Sequence[str],
    environ: Mapping[str, str],
    hosts: Sequence[str] | None,
    tell: Callable[[str], None],
) -> int:
    """Run a launcher; every line that it and its ranks say goes through `tell`.

    Args:
        environ: with MARK in it, which must also reach ranks on other hosts.
        hosts: where ranks run, by ssh; None: on this machine.

    Returns:
        The launcher's exit code, 128 + signal when one has killed it. `deepspeed` says 0 when its
        child was killed, so this is no proof of success.

    Raises:
        Stopped: by a signal.
        OSError: `tell` could not go on; the launcher and all ranks were ended.
    """
    with _noted_signals() as came:
        leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid())]
        # A session of its own: Ctrl-C comes to this process only, which then ends all in order.
        child = subprocess.Popen(
            [*leashed, *words], env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        listener = _Listener(child, tell)
        while child.poll() is None and not came and not listener.given_up():
            time.sleep(EVERY_SECONDS)
        said = ""
        if child.poll() is None:
            why = signal.Signals(came[0]).name if came else listener.trouble
            said = f"{why}: ended all ranks"
            _stop(child)
        listener.thread.join(1.0)  # not longer: a rank that lives on may hold the pipe open
        found, silent = end_leftovers(environ[MARK], hosts)
    if listener.deaf is not None:
        raise listener.deaf
    if said:
        tell(said)
    for host, count in found.items():
        tell(f"{host}: ended {count} processes that were left")
    if silent:
        tell(f"WARNING: {shorten(silent)}: processes of this launch may be left there")
    if came:
        raise Stopped(came[0])
    code = child.returncode
    return code if code >= 0 else 128 - code


class _Listener:
    """Passes on what a launcher says, and notices when it says that a host's ranks have failed."""

    def __init__(self, child: subprocess.Popen[bytes], tell: Callable[[str], None]) -> None:
        self.trouble = ""
        self.deaf: OSError | None = None  # why nothing can be told any more: a full disk, `| head`
        self._since = 0.0
        self._child, self._tell = child, tell
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            text = line.decode("utf-8", errors="replace").rstrip("\r\n")
            try:
                self._tell(text)
            except OSError as err:
                self.deaf = err
                return
            match = _HOST_ENDED.search(text)
            if match is not None and not self.trouble:
                self._since, self.trouble = time.monotonic(), f"ranks on {match[1]} are gone"

    def given_up(self) -> bool:
        """Whether nobody hears, or the other hosts' ranks have had their time."""
        late = time.monotonic() - self._since > SURVIVOR_SECONDS
        return self.deaf is not None or (bool(self.trouble) and late)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End a launcher in the way that lets it end its ranks; then its whole session."""
    child.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Inside, signals are noted instead of ending this process, the second Ctrl-C included."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    # `nohup` ignores SIGHUP, and means it.
    wanted = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in wanted}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
