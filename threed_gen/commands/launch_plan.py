"""What a launch would do, before it does it: ranks, environment, order of the data, memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from launcher.assignment import Placement
from launcher.balance import measure
from launcher.cluster import Cluster
from launcher.command import Ranks
from threed_gen.console import table
from threed_gen.data.dataset import SDFDataset
from threed_gen.models.official.networks import blueprint
from threed_gen.training.global_batch import mean_of
from threed_gen.training.loader import make_plan
from threed_gen.training.memory import GIB, expected_memory, state_bytes
from threed_gen.training.run_config import RunConfig, SSDiTRun

SAMPLES_DEALT = 20_000  # for the balance of ranks: a second, at most
Rows = list[tuple[str, str]]


def rank_rows(ranks: Ranks) -> list[tuple[str, str, str]]:
    """(node, ranks, GPUs) of the first two nodes and the last one."""
    nodes = range(ranks.nodes)
    chosen = list(nodes) if len(nodes) <= 4 else [0, 1, -1, ranks.nodes - 1]
    rows = []
    for node in chosen:
        if node < 0:
            rows.append(("…", "…", "…"))
            continue
        own = ranks.of_node(node)
        rows.append((f"node {node}", _span(own), _span(range(ranks.per_node))))
    return rows


def environment_rows(ranks: Ranks, address: str, port: str) -> list[tuple[str, str, str]]:
    """What the first and the last rank find in their environment (`launcher/cluster.py`)."""
    both: list[dict[str, str]] = []
    for rank in (0, ranks.world - 1):
        node, local = divmod(rank, ranks.per_node)
        place: dict[str, str] = {}
        Cluster(rank, ranks.world, local, ranks.per_node, node, ranks.nodes, address, 0, "").export(
            place
        )
        place["MASTER_PORT"] = port
        both.append(place)
    first, last = both
    return [(name, value, last[name]) for name, value in first.items()]


def data_rows(config: RunConfig, dataset: SDFDataset | None, ranks: Ranks) -> Rows:
    """The shard plan in numbers: what an epoch is, and how even the ranks' shares are."""
    train, data = config.train, config.data
    if train.batch_tokens is not None:
        batch = f"{train.batch_tokens:,} latent tokens"
    else:
        batch = f"{train.batch_samples or 1:,} samples"
    each = mean_of(config, dataset)
    share = (train.batch_tokens or (train.batch_samples or 1) * each) / ranks.world
    rows: Rows = [
        ("global batch", batch),
        ("of it on a rank", f"about {share / each:.1f} samples, {share:,.0f} tokens"),
    ]
    if dataset is None:
        where = data.path or "procedural shapes, prepared on first use"
        return [("data", where), *rows, ("plan", "made when the data is there")]
    count = len(dataset)
    epoch = count / (train.batch_samples or 1)
    if train.batch_tokens is not None:
        epoch = count * each / train.batch_tokens
    size = sum(shard.size for shard in dataset.index.shards)
    shards = len(np.unique(dataset.shard_numbers(max(data.resolutions))))
    return [
        ("data", f"{data.path}: {count:,} samples in {shards:,} shards, {size / 1e9:,.3g} GB"),
        ("streams", f"{data.streams} of whole shards, {data.streams / ranks.nodes:.3g} for a node"),
        *rows,
        ("epoch", f"{epoch:,.0f} steps; the run's {train.steps:,} are {train.steps / epoch:.3g}"),
        ("tokens of the fullest rank", _balance(config, dataset, ranks)),
    ]


def _balance(config: RunConfig, dataset: SDFDataset, ranks: Ranks) -> str:
    placement = Placement.even(ranks.nodes, ranks.per_node)
    found = measure(make_plan(config, dataset), placement, samples=SAMPLES_DEALT)
    steps = "all" if found.looked_at == found.steps else f"{found.looked_at:,} of"
    return (
        f"{found.mean:.3f} × the mean, at worst {found.worst:.3f} "
        f"({steps} {found.steps:,} steps of an epoch)"
    )


def memory_rows(config: RunConfig, ranks: Ranks) -> Rows:
    """What one GPU will hold; an estimate from the config."""
    if isinstance(config, SSDiTRun):
        return [("each rank", expected_memory(config, ranks.world).told())]
    parameters = sum(p.numel() for p in blueprint(config.model).parameters())
    states = state_bytes(parameters, config.train.zero_stage, ranks.world) / GIB
    size = f"({parameters / 1e6:.1f} M parameters, ZeRO {config.train.zero_stage})"
    return [
        ("each rank", f"{states:.2f} GiB of weights, gradients, optimiser and average {size}"),
        ("", "activations come on top; only those of the SS-DiT are estimated"),
    ]


def told(sections: Sequence[tuple[str, str]]) -> str:
    """Headlines and what stands under them."""
    return "\n\n".join(f"{head}\n\n{text}" for head, text in sections)


def plan_sections(
    config: RunConfig, dataset: SDFDataset | None, ranks: Ranks, address: str, port: str
) -> list[tuple[str, str]]:
    """Everything of this file, as (headline, text)."""
    first, last = "rank 0", f"rank {ranks.world - 1}"
    environment = environment_rows(ranks, address, port)
    headers = ["variable", first, last] if ranks.world > 1 else ["variable", first]
    rows = [row[: len(headers)] for row in environment]
    return [
        ("Ranks", table(["node", "ranks", "GPUs"], rank_rows(ranks))),
        ("Environment of a rank", table(headers, rows)),
        ("Shard plan", table(["what", "value"], data_rows(config, dataset, ranks))),
        ("Memory, expected", table(["where", "value"], memory_rows(config, ranks))),
    ]


def _span(numbers: range) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
