"""`threed-gen doctor --nodes`: a job's preflight by hand, on many nodes or this machine."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from launcher import hostfile
from launcher.errors import LaunchError
from launcher.preflight import start, steps
from launcher.preflight.asked import Settings
from launcher.preflight.job import inside
from launcher.preflight.told import as_json, told
from launcher.site import Site, load_site
from threed_gen.console import say
from threed_gen.errors import EXIT_OK, EXIT_USER, UserError


def run(args: argparse.Namespace) -> int:
    """Exit code 0 when a job may start on these nodes."""
    try:
        site = load_site(args.site)
        run = args.run or Path.cwd()
        settings = Settings(run, args.data, args.gpus, site.variables)
        found = _start(args, site)
        say("looking at the nodes (a minute at most) …")
        result = steps.preflight(found, settings)
    except LaunchError as err:
        raise UserError(str(err)) from err
    print(as_json(result) if args.json else told(result, colour=sys.stdout.isatty()))
    return EXIT_USER if result.failures else EXIT_OK


def _start(args: argparse.Namespace, site: Site) -> start.Start:
    python = site.python or sys.executable
    nodes = args.nodes or None  # `--nodes` alone: all there are
    if args.hostfile is not None:
        hosts = hostfile.read_hostfile(args.hostfile)
        chosen = hostfile.choose(hosts, nodes or len(hosts), 1, args.hostfile)
        return start.over_ssh([host.name for host in chosen], python)
    if start.in_allocation(os.environ):
        return start.over_srun(os.environ, nodes, python, inside(site))
    if nodes in (None, 1) and site == Site():
        return start.here()
    return start.over_srun(os.environ, nodes, python, inside(site), _options(site))


def _options(site: Site) -> list[str]:
    """What Slurm is told by whoever has no allocation yet."""
    given = [
        ("account", site.account),
        ("partition", site.partition),
        ("qos", site.qos),
        ("constraint", site.constraint),
        ("exclude", ",".join(site.exclude) or None),
    ]
    return [f"--{name}={value}" for name, value in given if value is not None] + site.options
