"""The program of a child process: takes one task at a time from its parent and answers.

The parent (child.py) starts it with thread counts of one in the environment, before anything that
reads them is loaded. Tasks come over standard input and answers leave over a pipe of their own;
whatever libraries print goes where the parent keeps it apart. The child ends when there are no
more tasks and when the parent is gone, also while it computes in native code.

Frames are 8 bytes of length and a pickle; both ends are this program's own.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from threed_gen.data.usage import MB, Meter, private_mb, resident_mb

# Tags of answers.
READY = "ready"  # resident memory in MB
DONE = "done"  # result, resident memory in MB
NO_MEMORY = "no memory"  # seconds, peak in MB
ERROR = "error"  # the exception, its traceback as text
UNREADABLE = "unreadable"  # what a pickle could not be understood for
LENGTH = 8  # bytes of a frame's length
HEADROOM = 1.25  # the hard limit lies above the one that the parent watches
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """`worker ANSWERS PARENT`: the number of the pipe for answers, the parent's process id."""
    answers, parent = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    end_with(parent)
    os.set_inheritable(answers, False)
    tasks = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a library that asks the user something finds nobody there
    _volunteer_for_the_killer()
    try:
        call, memory_mb = pickle.loads(_take(tasks) or b"")  # noqa: S301
    except (AttributeError, ModuleNotFoundError) as err:
        _answer(answers, (UNREADABLE, str(err)))
        return
    _limit_memory(memory_mb)
    _answer(answers, (READY, resident_mb()))
    while (frame := _take(tasks)) is not None:
        _answer(answers, _work(call, frame))
    os._exit(0)  # nothing is open that would have to be closed in order


def _work(call: Callable[[Any], Any], frame: bytes) -> tuple[Any, ...]:
    meter = Meter()
    try:
        task = pickle.loads(frame)  # noqa: S301
    except (AttributeError, ModuleNotFoundError) as err:
        return UNREADABLE, str(err)
    try:
        result = call(task)
    except MemoryError:
        return NO_MEMORY, meter.seconds, meter.peak_mb
    except Exception as err:  # noqa: BLE001  the parent raises it again
        return ERROR, _portable(err), traceback.format_exc()
    return DONE, result, resident_mb()


def _portable(err: Exception) -> Exception:
    """The exception itself, if it survives the way to the parent."""
    try:
        pickle.loads(pickle.dumps(err))  # noqa: S301
    except Exception:  # noqa: BLE001  what an exception's class may raise here is anything
        return RuntimeError(f"{type(err).__name__}: {err}")
    return err


def _take(tasks: BinaryIO) -> bytes | None:
    """The next frame; None when there will be no more."""
    length = tasks.read(LENGTH)
    if len(length) < LENGTH:
        return None
    return tasks.read(int.from_bytes(length, "little"))


def framed(value: Any) -> bytes:
    """A value as it travels."""
    content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return len(content).to_bytes(LENGTH, "little") + content


def _answer(handle: int, answer: tuple[Any, ...]) -> None:
    rest = memoryview(framed(answer))
    while rest:
        rest = rest[os.write(handle, rest) :]


def end_with(parent: int) -> None:
    """End this process as soon as `parent` is gone."""
    if sys.platform == "linux":
        import ctypes

        # The kernel sees to it, whatever this process is doing at that moment.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was gone before that
            os._exit(1)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _volunteer_for_the_killer() -> None:
    """When the machine runs out of memory, the kernel shall take this process, not the parent."""
    if sys.platform == "linux":
        try:
            handle = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            os.write(handle, b"1000")
            os.close(handle)
        except OSError:
            return


def _limit_memory(memory_mb: int) -> None:
    """A hard limit on what may be asked for: an explosion between two looks of the parent fails.

    It counts from what is in use now, as libraries ask for more than they use.
    """
    import resource

    limit = int((private_mb() + memory_mb * HEADROOM) * MB)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
