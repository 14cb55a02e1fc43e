"""Runs one function over many tasks in child processes that have limits on time and memory.

Every child has one task at a time. A task that gets stuck, crashes in native code or takes too
much memory costs itself only: its child is ended and replaced, `lost` is told at once, and the
other children go on undisturbed. Children compute on one thread each and end with their parent.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from threed_gen.data.child import Child
from threed_gen.data.usage import Meter
from threed_gen.data.worker import DONE, ERROR, NO_MEMORY, READY, framed
from threed_gen.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
INTERVAL = 0.1  # seconds between two looks at the memory of a child
NOT_LOOKED = 2.0  # seconds; a longer pause of ours (Ctrl-Z, a slow disk) is not the tasks' fault
START_SECONDS = 300.0  # within which a child must have loaded the function
FAILED_STARTS = 3  # in a row, after which there is no point in trying on
CRASHES = 32  # in a row without a single result: it is not the tasks


@dataclass(frozen=True)
class Limits:
    """What one task may take. Memory is what is resident, in MB; a MB is a million bytes."""

    seconds: float = 600.0
    memory_mb: int = 8192


@dataclass(frozen=True)
class Lost:
    """Why a task has no result."""

    reason: Literal["timeout", "out_of_memory", "crashed"]
    message: str  # depends on the task and the limits alone, not on the moment
    seconds: float
    peak_mb: float


class WorkersError(UserError):
    """Child processes cannot do their work, whatever the task."""


class _ChildTracebackError(Exception):
    """Carries the traceback of an exception that was raised in a child."""


def run_tasks(
    call: Callable[[T], R],
    tasks: Iterable[T],
    workers: int,
    lost: Callable[[T, Lost], R],
    limits: Limits = Limits(),
) -> Iterator[R]:
    """Yield `call(task)` of every task, in the order of completion.

    `lost(task, why)` stands in for the result of a task that exceeds the limits or takes its
    process down. An exception of `call` ends the run, but a MemoryError costs its task alone.
    `call` and the tasks must be of modules that can be imported. With 0 workers everything
    happens in this process and in order, without limits.
    """
    if workers == 0:
        yield from _here(call, tasks, lost, limits)
        return
    pool = Pool(call, workers, lost, limits)
    try:
        yield from pool.run(tasks)
    finally:
        pool.close()


def _here(
    call: Callable[[T], R], tasks: Iterable[T], lost: Callable[[T, Lost], R], limits: Limits
) -> Iterator[R]:
    for task in tasks:
        meter = Meter()
        try:
            result = call(task)
        except MemoryError:
            result = lost(task, _too_large(limits, meter.seconds, meter.peak_mb))
        yield result


class Pool(Generic[T, R]):
    """Children for one function; they stay, for further tasks, until `close`."""

    def __init__(
        self,
        call: Callable[[T], R],
        workers: int,
        lost: Callable[[T, Lost], R],
        limits: Limits,
    ) -> None:
        self.workers, self.lost, self.limits = workers, lost, limits
        self.tasks: Iterator[T] = iter(())
        self.greeting = framed((call, limits.memory_mb))
        self.waiting: list[T] = []  # tasks that are next
        self.children: list[Child[T]] = []
        self.selector = selectors.DefaultSelector()
        self.failed_starts = self.crashes = 0
        self.looked = time.monotonic()

    def run(self, tasks: Iterable[T]) -> Iterator[R]:
        """Give out tasks and yield results until there are none left."""
        self.tasks, self.looked = iter(tasks), time.monotonic()
        for child in [child for child in self.children if not child.busy]:  # of an earlier run
            if child.process.poll() is not None:
                self._remove(child)
            elif self._more():
                child.give(self.waiting.pop())
        while self._start_children():
            for key, _ in self.selector.select(INTERVAL):
                key.data()
            for child in list(self.children):
                yield from self._attend(child)

    def close(self) -> None:
        """End all children."""
        for child in self.children:
            child.leave()
        for child in list(self.children):
            self._remove(child)
        self.selector.close()

    def _start_children(self) -> bool:
        """As many as there is work for; False when all work is done."""
        at_work = sum(child.busy or not child.ready for child in self.children)
        while at_work == len(self.children) < self.workers and self._more():
            try:
                child = Child(self.greeting, self.waiting.pop())
            except OSError as err:
                raise WorkersError(
                    f"cannot start a worker process: {err.strerror}; give fewer workers"
                ) from err
            self.children.append(child)
            at_work += 1
            self.selector.register(child.answers, selectors.EVENT_READ, child.read_answers)
            self.selector.register(
                child.chatter, selectors.EVENT_READ, partial(self._listen, child)
            )
        return at_work > 0

    def _listen(self, child: Child[T]) -> None:
        if not child.read_chatter():  # closed; it would be reported again and again
            self.selector.unregister(child.chatter)

    def _more(self) -> bool:
        if not self.waiting:
            self.waiting = [task for _, task in zip(range(1), self.tasks, strict=False)]
        return bool(self.waiting)

    def _attend(self, child: Child[T]) -> Iterator[R]:
        """Take a child's answers, give it work, and see whether it is within its limits."""
        self._forgive_our_own_pauses()
        while (answer := child.next_answer()) is not None:
            yield from self._take(child, answer)
        if child not in self.children:
            return
        if child.gone:
            yield from self._bury(child)
        elif not child.ready:
            if time.monotonic() - child.since > START_SECONDS:
                child.kill()
        elif not child.busy:
            if self._more():
                child.give(self.waiting.pop())
        else:
            yield from self._enforce(child)

    def _take(self, child: Child[T], answer: tuple[Any, ...]) -> Iterator[R]:
        tag, *rest = answer
        if tag == READY:
            child.ready, child.resting, self.failed_starts = True, rest[0], 0
            if child.resting > self.limits.memory_mb:
                raise WorkersError(
                    f"a limit of {self.limits.memory_mb} MB is less than the "
                    f"{child.resting:.0f} MB that a worker takes before it begins; raise it"
                )
            child.give(child.task)
        elif tag == DONE:
            result, resident = rest
            self.crashes = 0
            child.busy = False
            if resident > child.resting + self.limits.memory_mb / 4:
                self._remove(child)  # what this task left behind would count against the next
            elif self._more():
                child.give(self.waiting.pop())  # before the result is looked at: no idle child
            yield result
        elif tag == NO_MEMORY:
            yield from self._lose(child, _too_large(self.limits, rest[0], max(rest[1], child.peak)))
        elif tag == ERROR:
            raise rest[0] from _ChildTracebackError(rest[1])
        else:
            raise WorkersError(
                f"a worker process cannot find what it shall work on: {rest[0]}; classes and "
                "functions of your own must be in a module that can be imported, not in the "
                "script that was started (or use 0 workers)"
            )

    def _enforce(self, child: Child[T]) -> Iterator[R]:
        seconds = time.monotonic() - child.since
        if child.answering:
            return
        if child.measure() > self.limits.memory_mb:
            child.kill()
            yield from self._lose(child, _too_large(self.limits, seconds, child.peak))
        elif seconds > self.limits.seconds:
            child.kill()
            message = f"took longer than {self.limits.seconds:g} s"
            yield from self._lose(child, Lost("timeout", message, seconds, child.peak))

    def _bury(self, child: Child[T]) -> Iterator[R]:
        """The child has ended by itself, which it should not."""
        how, words = child.how_it_ended(), child.last_words()
        if not child.busy:
            self.failed_starts += not child.ready
            if self.failed_starts >= FAILED_STARTS:
                raise WorkersError(f"worker processes cannot start: {words or how}")
            if not child.ready:
                self.waiting.append(child.task)
            self._remove(child)
            return
        seconds = time.monotonic() - child.since
        if any(sign in words for sign in ("bad_alloc", "MemoryError", "out of memory")):
            yield from self._lose(child, _too_large(self.limits, seconds, child.peak))
            return
        self.crashes += 1
        yield from self._lose(child, Lost("crashed", how, seconds, child.peak))
        if self.crashes >= CRASHES:
            raise WorkersError(
                f"the last {CRASHES} tasks have all crashed, which cannot be their fault ({how}; "
                f"last words: {words or 'none'})"
            )

    def _lose(self, child: Child[T], why: Lost) -> Iterator[R]:
        self._remove(child, kill=True)
        yield self.lost(child.task, why)

    def _remove(self, child: Child[T], kill: bool = False) -> None:
        self.children.remove(child)
        for handle in (child.answers, child.chatter):
            if handle in self.selector.get_map():
                self.selector.unregister(handle)
        if kill:
            child.process.kill()
        child.leave()
        child.close()

    def _forgive_our_own_pauses(self) -> None:
        now = time.monotonic()
        if now - self.looked > NOT_LOOKED:
            for child in self.children:
                child.since += now - self.looked
        self.looked = now


def _too_large(limits: Limits, seconds: float, peak: float) -> Lost:
    return Lost("out_of_memory", f"needed more than {limits.memory_mb} MB", seconds, peak)
