"""Do all ranks run the same code, config and data? Asked once, before the first step.

Ranks that differ do not fail: they compute other steps than the rest, and the run is wrong without
an error. Job scripts look at their nodes before (`launcher/preflight`); other doors do not.
"""

from __future__ import annotations

import hashlib
import platform
import socket
from importlib import metadata

from launcher.cluster import Cluster
from launcher.preflight.versions import ROOT, code_digest
from threed_gen.config import to_yaml
from threed_gen.data.dataset import SDFDataset
from threed_gen.errors import UserError
from threed_gen.training.run_config import RunConfig
from threed_gen.training.together import on_every_rank

PACKAGES = ("torch", "deepspeed", "numpy")  # that decide numbers
CURES = {
    "code": f"bring its copy of {ROOT} up to date",
    "config": "give every rank the same file and overrides, from a folder that all nodes share",
    "data": "copy the same prepared data there",
}
SAME_VERSIONS = "install the same versions there (`make setup`)"


def insist_on_same_code(cluster: Cluster, config: RunConfig) -> None:
    """UserError on all ranks when code, versions or config differ. Called by all together."""
    own = {"config": _short(to_yaml(config).encode())}
    if cluster.local_rank == 0:  # the ranks of a node share the rest
        own["code"] = code_digest(ROOT)
        own["Python"] = platform.python_version()
        own.update({name: metadata.version(name) for name in PACKAGES})
    _insist(own)


def insist_on_same_data(dataset: SDFDataset) -> None:
    """UserError on all ranks when they see different samples. Called by all together."""
    with dataset.source.index.open("rb") as file:
        head = file.readline()  # it has the sha256 of all that follows, which opening has checked
    _insist({"data": f"{_short(head)} ({len(dataset):,} samples)"})


def _insist(own: dict[str, str]) -> None:
    told = on_every_rank(lambda: (socket.gethostname(), own))
    host, first = told[0]
    for rank, (other, values) in enumerate(told):
        for name, value in values.items():
            if value != first[name]:
                error = UserError(
                    f"{name} of rank {rank} on {other} is {value}, that of rank 0 on {host} "
                    f"{first[name]}: {CURES.get(name, SAME_VERSIONS)}"
                )
                error.shared = True
                raise error


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
