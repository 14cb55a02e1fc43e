"""Work for the ranks of one `mpirun`: rank 0 hands out tasks, the others do one at a time.

This is mpi4py.futures, so whoever is free takes what is next, and unlike tasks leave nobody idle.
MPI is imported only when a crew is asked for: in a process that no mpirun started, that import may
end it. Nobody but rank 0 decides what is done, or writes more than the result of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from threed_gen.data.worker import framed
from threed_gen.data.workers import Limits, Lost, Pool
from threed_gen.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
STARTED_BY_MPI = "OMPI_COMM_WORLD_SIZE"
AHEAD = 2  # tasks under way or waiting for each rank, so that none waits for rank 0


class Crew:
    """The other ranks, as rank 0 sees them."""

    def __init__(self, executor: Executor, hands: int) -> None:
        self.executor, self.hands = executor, hands

    def run(self, call: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield `call(task)` of every task, in the order of completion.

        Few tasks are under way at a time, however many there are. An exception of `call` ends the
        run; what is under way is finished, what waits is not begun.
        """
        waiting = iter(tasks)
        finished: SimpleQueue[Future[R]] = SimpleQueue()
        under_way: set[Future[R]] = set()
        try:
            while True:
                for task in islice(waiting, AHEAD * self.hands - len(under_way)):
                    future = self.executor.submit(call, task)
                    under_way.add(future)
                    future.add_done_callback(finished.put)
                if not under_way:
                    return
                future = finished.get()
                under_way.remove(future)
                yield future.result()
        finally:
            for future in under_way:
                future.cancel()

    def run_apart(
        self,
        call: Callable[[T], R],
        tasks: Iterable[T],
        lost: Callable[[T, Lost], R],
        limits: Limits,
    ) -> Iterator[R]:
        """As `workers.run_tasks`: each rank keeps one child process, which may crash alone."""
        for result in self.run(partial(_in_child, call, limits), tasks):
            yield lost(result.task, result.why) if isinstance(result, _LostTask) else result


@contextmanager
def mustered(environ: Mapping[str, str]) -> Iterator[Crew | None]:
    """The crew on rank 0; on any other rank None, after the last task has been done.

    Raises:
        UserError: mpirun did not start this process, or only this one.
    """
    size = environ.get(STARTED_BY_MPI)
    if size is None or size == "1":
        was = "was not started by mpirun" if size is None else "is the only rank of its mpirun"
        raise UserError(
            f"--mpi: this process {was}; start it as `mpirun -n N threed-gen … --mpi` with N of 2 "
            "or more (rank 0 hands out, the others work), or leave --mpi out"
        )
    from mpi4py import MPI
    from mpi4py.futures import MPICommExecutor

    with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
        hands = MPI.COMM_WORLD.Get_size() - 1
        yield None if executor is None else Crew(cast(Executor, executor), hands)
    _dismiss()


@dataclass(frozen=True)
class _LostTask:
    task: Any
    why: Lost


# A rank's child process lives as long as the rank: it takes a second to load what it needs.
_pools: dict[bytes, Pool[Any, Any]] = {}


def _in_child(call: Callable[[T], R], limits: Limits, task: T) -> R | _LostTask:
    """Do one task in this rank's child process."""
    key = framed((call, limits))
    if key not in _pools:
        _dismiss()
        _pools[key] = Pool(call, 1, _LostTask, limits)
    (result,) = _pools[key].run([task])
    return result


def _dismiss() -> None:
    while _pools:
        _pools.popitem()[1].close()
