"""`threed-gen encode RUN DATA --out DIR`: the latents that a trained SS-VAE gives each shape."""

from __future__ import annotations

import argparse

from threed_gen.console import say
from threed_gen.data.config import FilterConfig
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.latent import Reject
from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.data.latents.writer import Written
from threed_gen.training.encode import FrozenVAE, encode_dataset


def run(args: argparse.Namespace) -> int:
    """A stopped `encode` goes on where it was when it is started again."""
    vae = FrozenVAE(args.run, args.weights)
    data = vae.config.data
    dataset = SDFDataset(args.data, data.tau, FilterConfig(split=args.split))
    written = encode_dataset(
        vae,
        dataset,
        args.out,
        args.resolution or data.resolutions,
        store=args.store,
        values=args.values,
        on_bad_sample=data.on_bad_sample,
    )
    statistics = measured(written)
    warning = statistics.warning()
    if warning is not None:
        say(f"WARNING: {warning}")
    print("\n".join(told(args.out, written, statistics)))
    return 0


def measured(written: Written) -> LatentStatistics:
    """Of all that is in the folder."""
    index = written.index
    grids = ((sample, r) for sample in index.samples for r in index.params.resolutions)
    return LatentStatistics.of((index.moments(sample, r) for sample, r in grids), "mode")


def told(out: object, written: Written, statistics: LatentStatistics) -> list[str]:
    """The last lines: what there is now, and what is missing."""
    index = written.index
    size = sum(shard.size for shard in index.shards)
    resolutions = ", ".join(map(str, index.params.resolutions))
    mean, std = statistics.mean, statistics.std
    by_now = f"{written.encoded:,} encoded now" if written.encoded else "nothing was left to do"
    head = (
        f"{out}: latents of {len(index.samples):,} samples at {resolutions}: {index.tokens:,} "
        f"tokens of {index.params.channels} channels, {size / 1e6:,.1f} MB, channel means "
        f"{mean.min():.3g} to {mean.max():.3g}, stds {std.min():.3g} to {std.max():.3g} ({by_now})"
    )
    return [head, _rejected(index.rejects)]


def _rejected(rejects: list[Reject]) -> str:
    if not rejects:
        return "rejected: none"
    names = ", ".join(reject.id for reject in rejects[:8]) + (" …" if len(rejects) > 8 else "")
    return f"rejected: {len(rejects):,} ({names}); latents.jsonl says why"
