"""Which rank gets which sample of a finished batch: nodes own streams, ranks share by length.

What a step contains is decided before (`launcher.shard_plan`); this file only splits it, and may
split it otherwise after a resume on other nodes. With N nodes and C streams there are gcd(C, N)
groups of consecutive nodes. A group owns whole streams, in proportion to its ranks, and deals their
samples to its ranks, longest first. So when N divides C every shard is read by one node; with one
node, or where only 1 divides both, a batch is dealt to all ranks alike.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd


@dataclass(frozen=True)
class Placement:
    """Where the ranks are: `node_of[r]` is the node of rank r; every node 0 … N-1 has one."""

    node_of: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.node_of or set(self.node_of) != set(range(max(self.node_of) + 1)):
            raise ValueError(f"nodes must be numbered from 0 without gaps, got {self.node_of}")

    @classmethod
    def even(cls, nodes: int, per_node: int) -> Placement:
        """Rank r on node r // per_node."""
        return cls(tuple(node for node in range(nodes) for _ in range(per_node)))

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return max(self.node_of) + 1

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.node_of)


@dataclass(frozen=True)
class Groups:
    """Who owns which stream.

    Attributes:
        ranks: the ranks of each group, ascending.
        of_stream: [C] the group that owns each stream.
    """

    ranks: tuple[tuple[int, ...], ...]
    of_stream: tuple[int, ...]


def make_groups(streams: int, placement: Placement) -> Groups:
    """gcd(streams, nodes) groups of consecutive nodes, each with whole streams.

    Neighbouring streams go to different groups: they weigh about the same, and where a batch has no
    sample left for each stream, those that go without lie in different groups.
    """
    count = gcd(streams, placement.nodes)
    size = placement.nodes // count
    members: list[list[int]] = [[] for _ in range(count)]
    for rank, node in enumerate(placement.node_of):
        members[node // size].append(rank)
    owned = [1] * count  # every group has one; the others go where a rank has the least
    of_stream = list(range(count))
    for _ in range(count, streams):
        group = min(range(count), key=lambda g: ((owned[g] + 1) / len(members[g]), g))
        owned[group] += 1
        of_stream.append(group)
    return Groups(tuple(tuple(ranks) for ranks in members), tuple(of_stream))


def assign(tokens: Sequence[int], streams: Sequence[int], groups: Groups) -> list[list[int]]:
    """Split one global batch: the positions of each rank, ascending; some may be empty.

    Args:
        tokens: of each position of the batch.
        streams: the stream of each position.
    """
    held: list[list[int]] = [[] for _ in groups.ranks]
    for position, stream in enumerate(streams):
        held[groups.of_stream[stream]].append(position)
    result: list[list[int]] = [[] for _ in range(sum(map(len, groups.ranks)))]
    for ranks, positions in zip(groups.ranks, held, strict=True):
        dealt = deal([tokens[position] for position in positions], len(ranks))
        for rank, places in zip(ranks, dealt, strict=True):
            result[rank] = [positions[place] for place in places]
    return result


def deal(tokens: Sequence[int], ranks: int) -> list[list[int]]:
    """Split samples over ranks, longest sample first to the least loaded rank.

    `tokens[p]` belongs to position p; returns the positions of each rank, ascending. A rank is left
    empty only when there are fewer samples than ranks.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {ranks}")
    result: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, 0, rank) for rank in range(ranks)]  # (tokens, samples, rank): a heap
    for position in sorted(range(len(tokens)), key=lambda p: (-tokens[p], p)):
        load, count, rank = loads[0]
        heapq.heapreplace(loads, (load + int(tokens[position]), count + 1, rank))
        result[rank].append(position)
    return [sorted(positions) for positions in result]


def imbalance(tokens: Sequence[int], dealt: Sequence[Sequence[int]]) -> float:
    """Tokens of the fullest rank over their mean; 1: all have the same."""
    loads = [sum(tokens[position] for position in positions) for positions in dealt]
    return max(loads) * len(loads) / max(sum(loads), 1)


def streams_of_nodes(streams: int, placement: Placement) -> list[int]:
    """How many streams each node reads: those of its group."""
    groups = make_groups(streams, placement)
    owned = Counter(groups.of_stream)
    size = placement.nodes // len(groups.ranks)
    return [owned[node // size] for node in range(placement.nodes)]
