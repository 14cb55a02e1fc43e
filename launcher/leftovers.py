"""What a launch has left behind on its hosts, and the end of it.

`deepspeed` over ssh stops the ranks of the node where one died, and no others; killed, it stops
none. So every process of a launch carries a mark in its environment, and at the end each host is
asked once for processes that still have it. Nothing else on those hosts is touched, whatever its
name is.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

MARK = "THREED_GEN_LAUNCH"
GRACE_SECONDS = 3  # between asking them to end and ending them
SECONDS = 60  # for one host, login included

# Linux shows each process's environment in /proc; zombies have none, and are none of our business.
_SCRIPT = """\
mine() {{ grep -slxz '{mark}' /proc/[0-9]*/environ | cut -d/ -f3; }}
found=$(mine)
[ -n "$found" ] || exit 0
echo $found
kill -TERM $found 2>/dev/null
for _ in $(seq {tenths}); do [ -n "$(mine)" ] || exit 0; sleep 0.1; done
for _ in $(seq 50); do
    found=$(mine)
    [ -n "$found" ] || exit 0
    kill -KILL $found 2>/dev/null
    sleep 0.1
done
exit 1
"""


def new_mark() -> str:
    """The value of MARK for one launch, which no other one has."""
    return secrets.token_hex(8)


def end_leftovers(mark: str, hosts: Sequence[str] | None) -> tuple[dict[str, int], list[str]]:
    """End every process that carries `mark`, on all hosts at once.

    Args:
        hosts: where to look, by ssh; None: on this machine.

    Returns:
        how many were found on each host that had any, and the hosts of which nothing is known:
        they could not be asked, or a process did not end.
    """
    script = _SCRIPT.format(mark=f"{MARK}={mark}", tenths=GRACE_SECONDS * 10)
    if hosts is None:
        count = _end(["/bin/sh", "-c", script], None)
        return ({"this machine": count} if count else {}), []
    login = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    with ThreadPoolExecutor(max_workers=min(64, len(hosts))) as pool:
        counts = list(pool.map(lambda host: _end([*login, host, "sh -s"], script), hosts))
    found = {host: count for host, count in zip(hosts, counts, strict=True) if count}
    return found, [host for host, count in zip(hosts, counts, strict=True) if count is None]


def _end(words: list[str], script: str | None) -> int | None:
    """How many processes were ended; None when the host could not be asked, or one still lives."""
    try:
        done = subprocess.run(words, input=script, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return len(done.stdout.split()) if done.returncode == 0 else None
