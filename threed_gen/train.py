"""The file that python, deepspeed, torchrun, mpirun and srun start; everything else is behind it.

python threed_gen/train.py --config configs/ss_vae/tiny.yaml --out runs/a
torchrun --nproc-per-node 2 threed_gen/train.py --config … --out runs/a train.zero_stage=2
deepspeed --num_gpus 8 threed_gen/train.py --resume runs/a
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Started as a file: this folder is sys.path[0], where `config` or `data` would shadow others.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from launcher import orphan
from launcher.cluster import Cluster, ClusterError, detect
from launcher.rank_log import RankLog
from threed_gen.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_ORPHAN, EXIT_USER, UserError


def parser() -> argparse.ArgumentParser:
    """The command line of the training door."""
    result = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    start = result.add_mutually_exclusive_group(required=True)
    start.add_argument("--config", type=Path, help="YAML of a new run")
    start.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run directory")
    result.add_argument("--out", type=Path, metavar="RUN", help="run directory of a new run")
    result.add_argument(
        "--fresh", action="store_true", help="with --resume: allow step 0 if no checkpoint is whole"
    )
    result.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. train.steps=100")
    # The deepspeed launcher adds this to every rank's command line; the environment says it too.
    result.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run one rank; returns the exit code."""
    arguments = parser().parse_intermixed_args(argv)
    if arguments.config is not None and arguments.out is None:
        parser().error("--config needs --out RUN")
    if arguments.resume is not None and (arguments.overrides or arguments.out is not None):
        parser().error("--resume takes everything from the run directory; no --out, no key=value")
    orphan.watch(EXIT_ORPHAN)
    try:
        cluster = detect(os.environ)
    except ClusterError as err:
        print(f"threed-gen: error: {err}", file=sys.stderr)
        return EXIT_USER
    prepare_environment(cluster)
    log = RankLog(cluster.rank, cluster.world_size)
    code = _train(cluster, arguments, log)
    log.close()  # not after an exception that nobody foresaw: its traceback belongs there
    return code


def _train(cluster: Cluster, arguments: argparse.Namespace, log: RankLog) -> int:
    try:
        from threed_gen.training.start import run_training

        run_training(
            cluster, arguments.resume or arguments.out, arguments.config, arguments.overrides,
            arguments.fresh, log,
        )  # fmt: skip
    except UserError as err:
        if cluster.rank == 0 or not err.shared:
            where = f"[rank {cluster.rank}] " if cluster.rank else ""
            print(f"threed-gen: error: {where}{err}", file=sys.stderr, flush=True)
        return err.exit_code
    except KeyboardInterrupt:
        run = arguments.resume or arguments.out
        if cluster.rank == 0:
            print(f"\nthreed-gen: stopped; 'threed-gen resume {run}' goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_OK


def prepare_environment(cluster: Cluster) -> None:
    """Set what must be there before torch loads.

    Spinning OpenMP threads make a step twenty times slower as soon as another process wants a
    core (two ranks on two cores, a browser), so they sleep instead.
    """
    cluster.export(os.environ)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def leave(code: int) -> None:
    """End this process at once, after everything was written.

    The interpreter's own farewell destroys gloo threads that DeepSpeed still refers to, and about
    one rank in ten then aborts ("terminate called without an active exception").
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
