"""All-reduce between two nodes, timed: the child that the preflight starts on every node.

It loads torch, says so, and then does for each line of its input one pair: joins the other node,
adds a tensor up, and answers with the speed, or with what went wrong. It ends with its input, also
in the middle of a collective that waits for ever.

    in   {"address": "n1", "port": 15001, "rank": 0, "backend": "gloo", "seconds": 10}
    out  {"cuda": false, "meant": true}  then  {"bytes_per_second": 2e9}  or  {"error": "…"}
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from datetime import timedelta
from typing import Any, TextIO

ELEMENTS = 2**22  # float32: 16 MiB
REPEATS = 3


def main() -> None:
    """Serve until the input ends."""
    # Libraries may print what they like: answers have a way of their own.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    tasks: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read, args=(tasks,), daemon=True).start()

    import torch
    import torch.distributed

    meant = os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"  # "cpu": leave the GPUs alone
    _say(answers, {"cuda": torch.cuda.is_available(), "meant": meant})
    while True:
        _say(answers, pair(tasks.get()))


def pair(task: dict[str, Any]) -> dict[str, Any]:
    """One pair of nodes, from the meeting to the farewell."""
    import torch
    from torch import distributed as dist

    device = torch.device("cuda", 0) if task["backend"] == "nccl" else torch.device("cpu")
    try:
        dist.init_process_group(
            task["backend"],
            init_method=f"tcp://{task['address']}:{task['port']}",
            rank=task["rank"],
            world_size=2,
            timeout=timedelta(seconds=task["seconds"]),
        )
        tensor = torch.full((ELEMENTS,), float(task["rank"] + 1), device=device)
        dist.all_reduce(tensor)
        if tensor.unique().tolist() != [3.0]:
            return {"error": f"1 + 2 gives {tensor.unique().tolist()[:3]}"}
        seconds = min(_timed(tensor) for _ in range(REPEATS))
    except (RuntimeError, ValueError, OSError) as err:
        return {"error": str(err).splitlines()[0][:200] if str(err) else type(err).__name__}
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return {"bytes_per_second": tensor.nbytes / seconds}


def _timed(tensor: Any) -> float:
    from torch import distributed as dist

    start = time.perf_counter()
    dist.all_reduce(tensor)
    if tensor.is_cuda:
        import torch

        torch.cuda.synchronize()
    return time.perf_counter() - start


def _read(tasks: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)  # whoever started this is gone; a blocked collective would keep the process


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
