"""What a rank of the tests does: ask who it is, and note it as FOLDER/RANK.json."""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from launcher.cluster import detect  # noqa: E402  (only with the path above)

cluster = detect(os.environ)
note = {
    **asdict(cluster),
    "host": socket.gethostname(),
    "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    "said": os.environ.get("WHO_SAYS"),
    "address": socket.gethostbyname(cluster.master_addr),
}
place = Path(sys.argv[-1])  # deepspeed puts --local_rank in front
place.mkdir(exist_ok=True)
(place / f"{cluster.rank}.json").write_text(json.dumps(note))
os._exit(0)  # as training leaves: an MPI that is still open would make mpirun call it a failure
