"""`threed-gen launch CONFIG|RUN --nodes N --gpus G`: a run on many GPUs, by the tool a lab has.

Everything that can be wrong is looked for first; then the script or hostfile is written into
RUN/launch/ and submitted or started. `--dry-run` prints it all and does nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex

from launcher import command as lines
from launcher import hostfile, slurm
from launcher.command import Master
from launcher.errors import LaunchError
from launcher.leftovers import new_mark
from launcher.supervise import Stopped, supervise
from threed_gen.commands import launch_plan as plan
from threed_gen.commands.launch_claim import Claim, attempts, claimed
from threed_gen.commands.launch_follow import Following
from threed_gen.commands.launch_request import Launch, asked
from threed_gen.console import printable, say
from threed_gen.data.embedded import open_if_at_hand
from threed_gen.errors import UserError, disk_errors
from threed_gen.files import write_atomically
from threed_gen.training.global_batch import check_batch


def run(args: argparse.Namespace) -> int:
    """Returns 0 when the run has ended well, or when there is nothing to wait for."""
    try:
        launch = asked(args)
        dataset = open_if_at_hand(launch.config.data)
        ranks = launch.ranks
        many = f"{ranks.nodes} nodes × {ranks.per_node} are {ranks.world} ranks"
        check_batch(launch.config, dataset, ranks.world, many)
        if args.dry_run:
            print(dry_run(launch, plan.told(plan.plan_sections(
                launch.config, dataset, launch.ranks, *_where(launch)
            ))))  # fmt: skip
            return 0
        check(launch)
        if launch.config_path is not None:
            launch.run.create()
        with claimed(launch.run.root) as claim:
            if launch.launcher != "sbatch":
                return start(launch, claim)
            job = submit(launch, claim)
        return 0 if args.detach else follow(launch, job)
    except LaunchError as err:
        raise UserError(str(err)) from err


def check(launch: Launch) -> None:
    """Everything that this machine must have; raises before anything is written."""
    if launch.launcher == "sbatch":
        slurm.require()
        return
    if launch.launcher == "torchrun" and launch.ranks.nodes > 1:
        raise UserError(
            "torchrun starts the ranks of its own node only: --dry-run prints the command for each "
            "node; start it there, or launch --with deepspeed, mpirun or sbatch"
        )
    program = launch.commands(Master("127.0.0.1", 0))[0][0]
    needed = [program, *(["pdsh"] if launch.launcher == "deepspeed" and launch.hosts else [])]
    lines.require_programs(needed)
    if launch.hosts is not None:
        path, hosts = launch.hosts
        hostfile.check_names(hosts, path)
        hostfile.check_ssh(hosts, path)


def dry_run(launch: Launch, sections: str) -> str:
    """The whole plan, with the script or command at the end."""
    if launch.launcher == "sbatch":
        last = f"{launch.folder}/job.sbatch\n\n{launch.script()}".rstrip()
        return f"{sections}\n\n{last}\n\n{_slurm_says(launch)}"
    shown = [lines.shown(words) for words in launch.commands(launch.master(_next(launch)))]
    if launch.hosts is not None:
        sections += f"\n\n{launch.hostfile}\n\n{hostfile.hostfile_text(launch.hosts[1]).rstrip()}"
    names = "\n".join(f"{k}={shlex.quote(v)}" for k, v in launch.site.variables.items())
    if names:
        sections += f"\n\nVariables of every rank\n\n{names}"
    head = "Command" if len(shown) == 1 else "Commands, one for each node"
    return f"{sections}\n\n{head}\n\n" + "\n".join(shown)


def _slurm_says(launch: Launch) -> str:
    """What `sbatch --test-only` thinks of it, where there is a Slurm."""
    try:
        slurm.require()
    except LaunchError:
        return "Not asked of Slurm: there is none on this machine."
    try:
        return f"Slurm: {slurm.test_only(launch.script())}"
    except LaunchError as err:  # the plan is worth seeing all the same
        return f"Slurm: {err}"


def _where(launch: Launch) -> tuple[str, str]:
    """Address and port of rank 0, as far as they are known beforehand."""
    if launch.launcher == "sbatch":
        return "first node", "by job and start"
    if launch.launcher == "mpirun":
        return "first node", "by mpirun"
    master = launch.master(_next(launch))
    return master.address, str(master.port)


def submit(launch: Launch, claim: Claim) -> int:
    """Write the script and give it to Slurm; the job's number."""
    script = claim.folder / "job.sbatch"
    write_atomically(script, launch.script().encode(), "the batch script")
    job = slurm.submit(script)
    claim.record("sbatch", job)
    say(f"job {job} submitted: {script}")
    return job


def follow(launch: Launch, job: int) -> int:
    """Follow a job's log to its end; Ctrl-C leaves it alone."""
    log = launch.folder / f"job-{job}.log"
    steps = launch.config.train.steps
    following = Following(launch.run, log, steps, lambda: slurm.state(job))
    try:
        now = following.until_the_end()
    except KeyboardInterrupt:
        say(f"\ndetached: job {job} goes on. Its log: {log}; `scancel {job}` ends it")
        return 0
    ended = f"job {job}: {now.state}"
    return _ended(launch, ended, now.exit_code, str(log))


def start(launch: Launch, claim: Claim) -> int:
    """Run the launcher to its end, ranks and all; nothing of it is left on any host afterwards."""
    claim.record(launch.launcher)
    launch = launch.marked(new_mark())
    environ = {**os.environ, **launch.site.variables}
    if launch.site.setup:
        say("setup: its lines are for sbatch; this shell is taken as it is")
    if launch.hostfile is not None and launch.hosts is not None:
        text = hostfile.hostfile_text(launch.hosts[1])
        write_atomically(launch.hostfile, text.encode(), "the hostfile")
        _to_remote_ranks(launch, environ)
    if os.getuid() == 0:  # Open MPI asks twice
        environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
        environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    words = launch.commands(launch.master(claim.attempt))[0]
    log = claim.folder / f"{launch.launcher}-{claim.attempt}.log"
    say(lines.shown(words))
    hosts = None if launch.hosts is None else [host.name for host in launch.hosts[1]]
    with disk_errors(log, "the log"), log.open("a", encoding="utf-8") as file:

        def tell(line: str) -> None:
            print(printable(line), flush=True)
            print(line, file=file, flush=True)

        try:
            code = supervise(words, environ, hosts, tell)
        except Stopped as stopped:
            root = launch.run.root
            say(f"{root}: {stopped}, no rank is left; `threed-gen launch {root} …` goes on")
            return 128 + stopped.number
    return _ended(launch, launch.launcher, code, str(log))


def _to_remote_ranks(launch: Launch, environ: dict[str, str]) -> None:
    """DeepSpeed passes on PYTHON* and little else, except what stands in this file of its own."""
    if launch.launcher == "deepspeed":
        file = launch.folder / "environment"
        text = "".join(f"{name}={value}\n" for name, value in launch.site.variables.items())
        write_atomically(file, text.encode(), "the environment of ranks")
        environ["DS_ENV_FILE"] = str(file.absolute())


def _ended(launch: Launch, who: str, code: int, where: str) -> int:
    """The run's own mark decides: `deepspeed` says 0 when its child was killed."""
    # Listing the folder makes a network file system look again for what other nodes have written.
    if launch.run.finished in launch.run.root.iterdir():
        say(f"{launch.run.root}: finished ({who})")
        return 0
    raise UserError(
        f"{launch.run.root}: {who} ended with code {code}, but the run is not finished; see "
        f"{where}. `threed-gen launch {launch.run.root} …` goes on from the newest checkpoint"
    )


def _next(launch: Launch) -> int:
    return attempts(launch.run.root)
