"""The line that a batch script has before its ranks."""

from __future__ import annotations

import shlex

from launcher.command import srun
from launcher.site import Site


def line(site: Site, python: str, gpus: int, data: str | None = None) -> str:
    """Shell: looks at the nodes, and ends the job (by `set -e`) when one of them is not fit.

    `door` is the script's array of words for `train.py`; `data`, if given, comes before what they
    say. Of GPUs a node must have what Slurm has given it, where it was asked for `gpus`.
    """
    words = [python, "-m", "launcher.preflight", f"--python={python}"]
    if data is not None:
        words.append(f"--data={data}")
    if words_inside := inside(site):
        words.append(f"--inside={shlex.join(words_inside)}")
    # $PWD is for the shell that runs the script.
    quoted = [f'"{word}"' if "$PWD" in word else shlex.quote(word) for word in words]
    if gpus and site.ask_for_gpus:
        quoted.append(f'--gpus="${{SLURM_GPUS_ON_NODE:-{gpus}}}"')
    return f'{" ".join(quoted)} -- "${{door[@]}}"'


def inside(site: Site) -> list[str]:
    """What stands between `srun` and the interpreter: the words of a container."""
    if site.container is None:
        return []
    plain = srun(None, Site(), [])
    return srun(None, site, [])[len(plain) :]
