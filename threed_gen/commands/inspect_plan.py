"""`threed-gen inspect plan`: who would read what, and how evenly ranks would share their tokens.

Nothing is started and no shard is read; the index of the prepared data says it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.assignment import Groups, Placement, make_groups, streams_of_nodes
from launcher.balance import Balance, measure, shards_of_groups
from launcher.shard_plan import ShardPlan
from threed_gen.commands.configs import find_config
from threed_gen.config import Tree, merge, parse_override, validate
from threed_gen.console import table
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.embedded import open_prepared
from threed_gen.errors import UserError
from threed_gen.training.loader import make_plan
from threed_gen.training.run_config import RunConfig, SSVAERun, load_run_config

Rows = list[tuple[str, str]]
NODES_SHOWN = 8
USAGE = "threed-gen inspect plan CONFIG --nodes N --gpus G data.path=DATA"


def show_plan(words: Sequence[str], nodes: int, per_node: int) -> None:
    """Print the plan of a config, a run or prepared data on `nodes` × `per_node` ranks.

    Args:
        words: what, then changes to the config (`key=value`).
    """
    for name, value in (("nodes", nodes), ("gpus", per_node)):
        if value < 1:
            raise UserError(f"inspect plan: --{name} must be at least 1, got {value}")
    if not words or "=" in words[0]:
        raise UserError(f"inspect plan: say of which config or data: {USAGE}")
    config, dataset = _opened(words[0], list(words[1:]))
    plan = make_plan(config, dataset)
    placement = Placement.even(nodes, per_node)
    print(f"{words[0]}: {_many(nodes, 'node')} × {_many(per_node, 'rank')}\n")
    print(table(["plan", "value"], plan_rows(config, dataset, plan, placement)))
    print()
    headers = ["node", "ranks", "streams", "shards", "fetches", "of the data"]
    print(table(headers, node_rows(dataset, plan, placement)))
    for line in remarks(config, plan, placement):
        print(f"\n{line}")


def plan_rows(
    config: RunConfig, dataset: SDFDataset, plan: ShardPlan, placement: Placement
) -> Rows:
    """The plan in numbers: batch, epoch, and how even the ranks' shares are."""
    balance = measure(plan, placement)
    train = config.train
    sizes = f"{balance.smallest:,} to {balance.largest:,}"
    if balance.smallest == balance.largest:
        sizes = f"{balance.largest:,}"
    each = len(dataset) / balance.steps / placement.ranks
    epoch = f"{_many(balance.steps, 'step')}; the run's {train.steps:,} are "
    size = sum(shard.size for shard in dataset.index.shards)
    samples, shards = _many(len(dataset), "sample"), _many(len(plan.streams.shards), "shard")
    how = ", of about one size" if plan.bucket else ""
    rows = [
        ("data", f"{samples} in {shards}, {_size(size)}"),
        ("streams", f"{plan.streams.count:,} of whole shards"),
        ("samples of a step", f"{sizes}{how}; {each:.1f} on a rank"),
        ("epoch", f"{epoch}{train.steps / balance.steps:.3g}"),
        ("tokens of the fullest rank", told_balance(balance)),
    ]
    if balance.empty:
        rows.append(("steps with an idle rank", f"{balance.empty:,} of {balance.looked_at:,}"))
    return rows


def told_balance(balance: Balance) -> str:
    """The balance in one line."""
    return (
        f"{balance.mean:.3f} × the mean, at worst {balance.worst:.3f} (step "
        f"{balance.worst_step + 1:,}; {balance.looked_at:,} of {balance.steps:,} looked at)"
    )


def node_rows(
    dataset: SDFDataset, plan: ShardPlan, placement: Placement
) -> list[tuple[str, str, str, str, str, str]]:
    """What each node reads in an epoch; of many nodes the first ones and the last."""
    groups = make_groups(plan.streams.count, placement)
    sizes = [shard.size for shard in dataset.index.shards]
    read = [[sizes[shard] for shard in part] for part in shards_of_groups(plan, groups)]
    total = sum(map(sum, read))
    streams = streams_of_nodes(plan.streams.count, placement)
    rows = []
    for node in range(placement.nodes):
        if NODES_SHOWN - 1 <= node < placement.nodes - 1:
            if node == NODES_SHOWN - 1:
                rows.append(("…",) * 6)
            continue
        own = read[node * len(groups.ranks) // placement.nodes]
        ranks = [rank for rank, where in enumerate(placement.node_of) if where == node]
        span = f"{ranks[0]}–{ranks[-1]}" if len(ranks) > 1 else f"{ranks[0]}"
        share = f"{sum(own) / max(total, 1):.1%}"
        rows.append(
            (f"{node}", span, f"{streams[node]:,}", f"{len(own):,}", _size(sum(own)), share)
        )
    return rows


def remarks(config: RunConfig, plan: ShardPlan, placement: Placement) -> list[str]:
    """What these numbers of streams, nodes and ranks cost, in plain words."""
    lines = []
    streams, nodes = plan.streams.count, placement.nodes
    groups = make_groups(streams, placement)
    if streams % nodes:
        lines.append(_divides_badly(streams, nodes, groups, len(plan.streams.shards)))
    each = len(plan.tokens) / plan.steps_of_epoch(0) / placement.ranks
    if placement.ranks > 1 and each < 4 and not plan.bucket:
        cure = "data.bucket=true" if config.train.batch_tokens is None else "a larger batch"
        lines.append(f"{each:.1f} samples on a rank are few to balance: {cure} makes ranks even.")
    if placement.ranks > 1 and each < 1:
        lines.append("A rank without a sample waits for the others: take fewer ranks.")
    return lines


def _divides_badly(streams: int, nodes: int, groups: Groups, shards: int) -> str:
    count = len(groups.ranks)
    part = f"1/{count} of the data" if count > 1 else "all of the data"
    fits = range(nodes, shards + 1, nodes)
    if fits:
        nearest = min(fits, key=lambda c: (abs(c - streams), c))
        cure = f"in a new run data.streams={nearest} would"
    else:
        cure = f"for that prepare smaller shards, as there are only {shards}"
    return (
        f"{nodes} nodes do not divide {_many(streams, 'stream')}: every shard is read by "
        f"{nodes // count} nodes, so each fetches {part} instead of 1/{nodes}; {cure}."
    )


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _opened(what: str, overrides: list[str]) -> tuple[RunConfig, SDFDataset]:
    """The config and the samples of a config, a run directory, or a folder of prepared data."""
    path = Path(what)
    if path.is_dir() and not (path / "config.yaml").is_file():
        dataset = SDFDataset(path)
        finest = max(dataset.index.resolutions)
        tree: Tree = {"task": "ss_vae", "data": {"path": what, "resolutions": [finest]}}
        for override in overrides:
            tree = merge(tree, parse_override(override))
        config: RunConfig = validate(SSVAERun, tree, what)
    else:
        file = path / "config.yaml" if path.is_dir() else find_config(what)
        config = load_run_config(file, overrides)
    if config.data.path is None:
        prepared = path / "data"  # procedural shapes lie in the run that made them
        if not prepared.is_dir():
            raise UserError(
                f"{what}: has no data.path; the plan is made from prepared data: {USAGE}"
            )
        return config, open_prepared(config.data, prepared)
    return config, open_prepared(config.data, config.data.path)


def _size(size: int) -> str:
    return f"{size / 1e9:,.3g} GB" if size >= 1e8 else f"{size / 1e6:,.3g} MB"
