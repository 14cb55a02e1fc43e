"""The line that a batch script has before its ranks."""

from __future__ import annotations

import shlex

from launcher.command import srun
from launcher.site import Site


def line(site: Site, python: str, gpus: int) -> str:
    """Shell: looks at the nodes, and ends the job (by `set -e`) when one of them is not fit.

    `door` is the script's array of words for `train.py`. `gpus` on each node count only where
    Slurm is asked for them.
    """
    words = [python, "-m", "launcher.preflight", f"--python={python}"]
    if gpus and site.ask_for_gpus:
        words.append(f"--gpus={gpus}")
    if words_inside := inside(site):
        words.append(f"--inside={shlex.join(words_inside)}")
    # $PWD is for the shell that runs the script.
    quoted = [f'"{word}"' if "$PWD" in word else shlex.quote(word) for word in words]
    return f'{" ".join(quoted)} -- "${{door[@]}}"'


def inside(site: Site) -> list[str]:
    """What stands between `srun` and the interpreter: the words of a container."""
    if site.container is None:
        return []
    plain = srun(None, Site(), [])
    return srun(None, site, [])[len(plain) :]
