"""What `threed-gen launch` is asked for: read, checked against itself, and put into commands."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import threed_gen
from launcher import command as lines
from launcher import hostfile, ports
from launcher.command import Master, Ranks, Training
from launcher.leftovers import MARK
from launcher.sbatch import Batch, rank_lines, render, resuming_body, training_body
from launcher.site import Site, load_site
from threed_gen.commands.configs import find_config
from threed_gen.commands.launch_claim import FOLDER
from threed_gen.errors import UserError
from threed_gen.training.run_config import RunConfig, load_run_config
from threed_gen.training.run_dir import RunDir


@dataclass(frozen=True)
class Launch:
    """What was asked for, checked.

    Attributes:
        run: the run directory.
        config_path: the YAML of a new run; None: `run` is resumed.
        hosts: the file of --hostfile, and the hosts chosen from it; None: Slurm's or this machine.
    """

    run: RunDir
    config_path: Path | None
    config: RunConfig
    overrides: list[str]
    ranks: Ranks
    launcher: str
    site: Site
    hosts: tuple[Path, list[hostfile.Host]] | None

    @property
    def folder(self) -> Path:
        return self.run.root / FOLDER

    @property
    def training(self) -> Training:
        """What every rank runs."""
        door = ["--resume", str(self.run.root)]
        if self.config_path is not None:
            door = ["--config", str(self.config_path), "--out", str(self.run.root)]
        own = _near(sys.executable) if self.site.container is None else "python3"
        python = self.site.python or own
        script = _near(str(Path(threed_gen.__file__).resolve().parent / "train.py"))
        return Training(python, script, (*door, *self.overrides))

    @property
    def hostfile(self) -> Path | None:
        """The file that the launcher gets."""
        return None if self.hosts is None else self.folder / "hosts"

    def master(self, attempt: int) -> Master:
        """Where rank 0 listens; a Slurm job and mpirun agree on it themselves."""
        key = str(self.run.root.absolute())
        if self.hosts is None:
            return Master("127.0.0.1", ports.free_port(key, attempt))
        return Master(self.hosts[1][0].name, ports.key_port(key, attempt))

    def marked(self, mark: str) -> Launch:
        """The same launch; every process of it has this mark in its environment."""
        environment = {**self.site.environment, MARK: mark}
        return replace(self, site=self.site.model_copy(update={"environment": environment}))

    def commands(self, master: Master) -> list[list[str]]:
        """The command line, or for torchrun the one of each node."""
        if self.launcher == "deepspeed":
            return [lines.deepspeed(self.training, self.ranks, self.hostfile, master)]
        if self.launcher == "mpirun":
            return [lines.mpirun(self.training, self.ranks, self.hostfile, self.site)]
        return lines.torchrun(self.training, self.ranks, master)

    def script(self) -> str:
        """The batch script."""
        run, train = str(self.run.root), self.training
        data = self.config.data.path
        ranks = rank_lines(self.site, train.python, train.script, self.ranks.per_node, data)
        if self.config_path is None:
            body = resuming_body((f"run={shlex.quote(run)}", "set --"), ranks)
        else:
            words = shlex.join(self.overrides)
            head = (
                f"config={shlex.quote(str(self.config_path))}",
                f"run={shlex.quote(run)}",
                f"set -- {words}".rstrip(),
            )
            body = training_body(head, ranks)
        about = ("Written by `threed-gen launch`. Submit it from the folder it was made in.",)
        batch = Batch(
            name=self.run.root.name, about=about, nodes=self.ranks.nodes,
            tasks=self.ranks.per_node, gpus=self.ranks.per_node,
            log=f"{run}/{FOLDER}/job-%j.log", body=body,
        )  # fmt: skip
        return render(batch, self.site)


def asked(args: argparse.Namespace) -> Launch:
    """The launch that the options describe; what contradicts itself is refused."""
    site = load_site(args.site)
    ranks = Ranks(args.nodes, args.gpus)
    resuming = Path(args.what).is_dir()
    if resuming:
        if args.out is not None or args.overrides:
            raise UserError(
                f"{args.what}: a run goes on with its own config; leave --out and key=value out"
            )
        run, config_path = RunDir(Path(args.what)), None
        run.require()
        if run.finished.exists():
            raise UserError(f"{run.root}: is finished; there is nothing to go on with")
        config = load_run_config(run.config)
    else:
        if args.out is None:
            raise UserError("--out RUN is needed: the run directory of the new run")
        run, config_path = RunDir(args.out), _near_path(find_config(args.what))
        config = load_run_config(config_path, args.overrides)
        if run.config.exists():
            raise UserError(
                f"{run.root}: already holds a run; go on with `threed-gen launch {run.root} …`, or "
                "choose another --out"
            )
    hosts = None
    if args.hostfile is not None:
        if args.launcher == "sbatch":
            raise UserError("--hostfile: with sbatch Slurm chooses the nodes; leave it out")
        listed = hostfile.read_hostfile(args.hostfile)
        hosts = args.hostfile, hostfile.choose(listed, ranks.nodes, ranks.per_node, args.hostfile)
    elif args.launcher != "sbatch" and ranks.nodes > 1:
        raise UserError(
            f"--nodes {ranks.nodes} --with {args.launcher} needs --hostfile FILE, which names the "
            "nodes: one 'node1 slots=8' a line"
        )
    launch = Launch(run, config_path, config, args.overrides, ranks, args.launcher, site, hosts)
    _fits(launch)
    return launch


def _fits(launch: Launch) -> None:
    root = str(launch.run.root)
    if launch.launcher == "sbatch":
        if any(mark in root for mark in "%\\'\" \t\n"):
            raise UserError(
                f"{root!r}: Slurm reads %, quotes and spaces in a log's name; rename it"
            )
        return
    if launch.site.container is not None:
        raise UserError(
            f"container: --with {launch.launcher} starts ranks outside of it; take sbatch"
        )


def _near(path: str) -> str:
    """Relative to here when it lies below: sbatch starts in the folder it was called in."""
    here = str(Path.cwd())
    return os.path.relpath(path, here) if path.startswith(here + os.sep) else path


def _near_path(path: Path) -> Path:
    return Path(_near(str(path)))
