"""GPUs: as many as the job asked for, all of them answering and without memory errors.

Only `nvidia-smi` is asked: it answers within a second and says what torch would hide. Where nobody
asked for GPUs, their absence is a note. Written from its documentation.
"""

from __future__ import annotations

import shutil
import subprocess

from launcher.preflight.finding import Finding, bad

SECONDS = 12  # a GPU that has fallen off the bus can keep nvidia-smi for minutes
FIELDS = "index,name,driver_version,ecc.errors.uncorrected.volatile.total"
ROWS = "gpu_bus_id,remapped_rows.pending,remapped_rows.failure"
NOTHING = {"0", "no", "[n/a]", "n/a", "[not supported]", ""}  # answers that report no error


def look(asked: int | None) -> Finding:
    """`asked` for on this node: None when nobody said, 0 when there shall be none."""
    if asked == 0:
        return Finding("GPU", "ok", "none asked")
    if shutil.which("nvidia-smi") is None:
        if asked is None:
            return Finding("GPU", "note", "none")
        return bad(
            "GPU", f"{asked} GPUs asked for, but no nvidia-smi here: install NVIDIA's driver, or "
            "leave the node out (`exclude` in cluster.yaml)",
        )  # fmt: skip
    lines, error = _ask(f"--query-gpu={FIELDS}")
    if error:
        return bad("GPU", f"nvidia-smi fails ({error}): reboot the node or leave it out")
    gpus = [[word.strip() for word in line.split(",")] for line in lines]
    if any(len(gpu) != len(FIELDS.split(",")) for gpu in gpus):
        return bad("GPU", f"nvidia-smi answers {lines[0]!r}: update NVIDIA's driver")
    if len(gpus) < (asked or 0):
        return bad(
            "GPU", f"{len(gpus)} GPUs answer, {asked} asked for: look for Xid errors in `dmesg`, "
            "then reboot the node or leave it out",
        )  # fmt: skip
    for index, name, _, errors in gpus:
        if errors.lower() not in NOTHING:
            return bad(
                "GPU", f"GPU {index} ({name}) counts {errors} uncorrected memory errors: "
                f"`nvidia-smi -i {index} --gpu-reset`, or leave the node out",
            )  # fmt: skip
    rows, error = _ask(f"--query-remapped-rows={ROWS}")
    for row in [] if error else rows:  # older drivers do not know the question
        bus, *words = [word.strip() for word in row.split(",")]
        if any(word.lower() not in NOTHING for word in words):
            return bad("GPU", f"GPU {bus} waits for spare memory rows: reset it or reboot the node")
    driver = gpus[0][2] if gpus else "none"
    return Finding("GPU", "ok", f"{len(gpus)}", facts={"driver": driver})


def _ask(query: str) -> tuple[list[str], str]:
    """nvidia-smi's lines, and the last line of its error."""
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [], f"no answer within {SECONDS} s"
    except OSError as err:
        return [], str(err.strerror)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0:
        said = [*lines, *done.stderr.splitlines()]
        return [], (said[-1].strip() if said else f"exit code {done.returncode}")
    return lines, ""
