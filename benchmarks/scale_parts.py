"""Closed forms that `scale_sim.py` is made of: collectives, ZeRO's traffic, checkpoints, failures.

Times are seconds, sizes bytes, rates per second. Every formula names where it is from; none of them
was fitted to a measurement of this project.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Links:
    """What one GPU has to send over, in its node and between nodes."""

    intra: float  # bytes/s of one GPU
    inter: float
    intra_latency: float  # of one hop
    inter_latency: float
    per_node: int
    bucket: float  # bytes of one collective

    def nodes(self, gpus: int) -> int:
        """Nodes of so many GPUs."""
        return math.ceil(gpus / self.per_node)


def ring_half(size: float, ranks: int, rate: float, latency: float, calls: int = 1) -> float:
    """A ring's reduce-scatter, or its all-gather, of `size` bytes (the whole vector).

    (n - 1)/n · size/rate + (n - 1) · latency (Patarasuk and Yuan 2009); an all-reduce is both.
    """
    if ranks == 1:
        return 0.0
    return (ranks - 1) / ranks * size / rate + calls * (ranks - 1) * latency


def half(size: float, gpus: int, links: Links) -> float:
    """One reduce-scatter or all-gather over all GPUs by the faster of two ways.

    A single ring through all of them, as slow as its slowest link; or first in each node, then
    between the nodes with the part that each GPU holds then (hierarchical; ZeRO++, Wang et al.
    2023, and NCCL do the like).
    """
    calls = max(1, math.ceil(size / links.bucket))
    nodes = links.nodes(gpus)
    if nodes == 1:
        return ring_half(size, gpus, links.intra, links.intra_latency, calls)
    flat = ring_half(size, gpus, min(links.intra, links.inter), links.inter_latency, calls)
    inside = ring_half(size, links.per_node, links.intra, links.intra_latency, calls)
    part = size / links.per_node
    between = ring_half(part, nodes, links.inter, links.inter_latency, calls)
    return min(flat, inside + between)


def zero_halves(stage: int, accumulation: int) -> int:
    """Reduce-scatters and all-gathers of all weights in one step (ZeRO, Rajbhandari et al. 2020).

    Section 7 there: stages 0 to 2 send 2 Ψ, stage 3 sends 3 Ψ (weights are gathered for the forward
    and for the backward pass). With accumulation, stages 2 and 3 reduce the gradients of every
    micro-batch, because nobody keeps them all, and stage 3 gathers the weights for each as well.
    """
    if stage < 2:
        return 2
    return accumulation + 1 if stage == 2 else 3 * accumulation


def communication(
    parameters: float, element: float, stage: int, accumulation: int, gpus: int, links: Links
) -> float:
    """Seconds that a step communicates for, were nothing hidden behind computing."""
    return zero_halves(stage, accumulation) * half(parameters * element, gpus, links)


def sent(parameters: float, element: float, stage: int, accumulation: int, gpus: int) -> float:
    """Bytes that each GPU sends in a step."""
    return zero_halves(stage, accumulation) * parameters * element * (gpus - 1) / gpus


def mean_time_between_stops(gpus: int, stops: float, days: float, of_gpus: float) -> float:
    """Seconds between unexpected stops of a job, if every GPU-hour is as likely to bring one."""
    return days * 86_400 * of_gpus / stops / gpus


def young(write: float, between: float) -> float:
    """Young's interval (1974): √(2 · write · mean time between stops), seconds of work."""
    return math.sqrt(2 * write * between)


def goodput(interval: float, write: float, restart: float, between: float) -> float:
    """Share of the time that is work that counts (Daly 2006, with stops at a constant rate).

    A segment of `interval` seconds of work and `write` of saving is begun again until it passes:
    expected time M · e^(restart/M) · (e^((interval + write)/M) - 1).
    """
    spent = between * math.exp(restart / between) * math.expm1((interval + write) / between)
    return interval / spent


def best_interval(write: float, restart: float, between: float) -> float:
    """The interval of the highest goodput, by golden section around Young's."""
    low, high = young(write, between) / 20, young(write, between) * 5
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-4 * high:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if goodput(a, write, restart, between) > goodput(b, write, restart, between):
            high = b
        else:
            low = a
    return (low + high) / 2
