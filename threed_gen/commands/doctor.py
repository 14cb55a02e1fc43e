"""`threed-gen doctor`: the table, with a cure for each thing that is not right."""

from __future__ import annotations

import argparse

from threed_gen.commands import doctor_nodes
from threed_gen.commands.doctor_options import NODES_ONLY
from threed_gen.console import say, table
from threed_gen.doctor import MARK, as_json, examine, healthy
from threed_gen.errors import EXIT_OK, EXIT_USER, UserError


def run(args: argparse.Namespace) -> int:
    """Exit code 0 when training can run here, also when something optional is missing."""
    given = {name for name, value in vars(args).items() if value is not None}
    if given & {"nodes", "hostfile"}:
        return doctor_nodes.run(args)
    if stray := sorted(given & NODES_ONLY):
        raise UserError(f"--{stray[0]}: belongs to --nodes or --hostfile; add one of them")
    if not args.json:
        say("looking at this machine (about ten seconds) …")
    findings = examine()
    well = healthy(findings)
    if args.json:
        print(as_json(findings))
        return EXIT_OK if well else EXIT_USER
    print(table(["", "what", "found"], [(MARK[f.state], f.name, f.found) for f in findings]))
    cures = [f for f in findings if f.cure and f.state != "ok"]
    for finding in cures:
        print(f"\n{MARK[finding.state]} {finding.name}: {finding.cure}")
    print("\nthis machine can train" if well else "\nthis machine cannot train yet: see ✗ above")
    return EXIT_OK if well else EXIT_USER
