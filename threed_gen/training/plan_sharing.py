"""Where the ranks are, and the one copy of the data's order that the processes of a node share.

Local rank 0 of each node owns a folder on its local disk (`launcher.node_arrays`) for as long as
the run lasts; ranks and their loader processes map what the first of them has computed there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from launcher.assignment import Placement
from launcher.cluster import Cluster
from launcher.node_arrays import NodeArrays, own_folder
from threed_gen.console import say
from threed_gen.training.together import on_every_rank

SHARED_FROM = 100_000  # samples; the order of fewer takes a few MB, and each process keeps its own


def placement_of(cluster: Cluster) -> Placement:
    """The node of every rank. Called by all ranks together."""
    nodes = on_every_rank(lambda: cluster.node)
    number = {node: place for place, node in enumerate(sorted(set(nodes)))}
    return Placement(tuple(number[node] for node in nodes))


@contextmanager
def node_arrays(cluster: Cluster, samples: int) -> Iterator[NodeArrays]:
    """Arrays that this node's ranks share, or each rank's own. Called by all ranks together."""
    if samples < SHARED_FROM:
        yield NodeArrays()
        return
    with ExitStack() as stack:
        own = None
        if cluster.local_rank == 0:
            try:
                own = stack.enter_context(own_folder())
            except OSError as err:
                say(
                    f"{err.filename}: {err.strerror}; each rank of node {cluster.node} keeps the "
                    "order of the data in its own memory. Free space there or set TMPDIR"
                )
        told = on_every_rank(lambda: (cluster.node, own))
        found = [folder for node, folder in told if node == cluster.node and folder is not None]
        yield NodeArrays(found[0] if found else None, say)
