"""Which of several processes, on one node or many, prepares or encodes which asset.

Rank I of N owns the assets whose hash of the id is I modulo N. The rule looks at the id alone, not
at what is left to do, so ranks that start at different times neither overlap nor leave gaps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.cluster import ClusterError, detect
from threed_gen.errors import UserError


@dataclass(frozen=True)
class Share:
    """The part of rank `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UserError(
                f"rank {self.rank} of {self.world_size}: ranks count from 0, so rank must be "
                "less than the world size"
            )

    def owns(self, id: str) -> bool:  # noqa: A002  the word that the index uses
        """Whether the asset is this rank's."""
        digest = hashlib.sha256(f"rank {id}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.world_size == self.rank

    def __str__(self) -> str:
        return f"{self.rank}-of-{self.world_size}"  # part of the names of files


def share_of(rank: int | None, world_size: int | None, environ: Mapping[str, str]) -> Share:
    """What the options say, or else the environment of a launcher, or else everything.

    Understood are torchrun, mpirun, srun, and Slurm's array jobs (each task may use srun, too).
    """
    if (rank is None) != (world_size is None):
        raise UserError("--rank and --world-size belong together: give both, or none")
    if rank is not None and world_size is not None:
        return Share(rank, world_size)
    task, tasks = _array(environ)
    # These ranks need not talk to each other, so nothing has to be found out about hosts.
    alone = {**environ, "SLURM_NNODES": "1"}
    if "OMPI_COMM_WORLD_SIZE" in environ:
        alone["OMPI_COMM_WORLD_LOCAL_SIZE"] = environ["OMPI_COMM_WORLD_SIZE"]
    try:
        place = detect(alone)
    except ClusterError as err:
        raise UserError(f"{err}; or say --rank and --world-size") from err
    return Share(task * place.world_size + place.rank, tasks * place.world_size)


def crew_share(rank: int | None, world_size: int | None, environ: Mapping[str, str]) -> Share:
    """The part of a whole mpirun whose rank 0 hands out the work: all, or an array task's."""
    if rank is not None or world_size is not None:
        raise UserError("--mpi divides the work by itself: leave --rank and --world-size out")
    return Share(*_array(environ))


def _array(environ: Mapping[str, str]) -> tuple[int, int]:
    """Place in a Slurm array job, and the number of its tasks."""
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT", "STEP")]
    if names[0] not in environ:
        return 0, 1
    try:
        number, first, last, count = (int(environ[name]) for name in names[:4])
        step = int(environ.get(names[4], "1"))
    except (KeyError, ValueError) as err:
        raise UserError(
            f"{names[0]} is set, but not all of {', '.join(names[1:4])} are numbers; "
            "say --rank and --world-size"
        ) from err
    if step < 1 or first + (count - 1) * step != last:
        raise UserError(
            f"the array job has {count} tasks from {first} to {last} that are not evenly spaced; "
            "say --rank and --world-size (`--rank 0 --world-size 1` does everything that is left)"
        )
    return (number - first) // step, count
