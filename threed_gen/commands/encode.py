"""`threed-gen encode RUN DATA --out DIR`: the latents that a trained SS-VAE gives each shape."""

from __future__ import annotations

import argparse
import os

from threed_gen.console import say
from threed_gen.data.config import FilterConfig
from threed_gen.data.crew import Crew, mustered
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.index import LatentIndex
from threed_gen.data.latents.latent import Reject
from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.data.ranks import Share, crew_share, share_of
from threed_gen.training.encode import FrozenVAE, encode_dataset, own_device


def run(args: argparse.Namespace) -> int:
    """A stopped `encode` goes on where it was when it is started again."""
    if not args.mpi:
        share = share_of(args.rank, args.world_size, os.environ)
        return encode_as(args, share, own_device(os.environ), None)
    share = crew_share(args.rank, args.world_size, os.environ)
    with mustered(os.environ) as crew:
        return 0 if crew is None else encode_as(args, share, None, crew)


def encode_as(args: argparse.Namespace, share: Share, device: str | None, crew: Crew | None) -> int:
    """Be one rank of `encode`; `crew` encodes in its stead."""
    vae = FrozenVAE(args.run, args.weights, device)
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
        share=share,
        crew=crew,
    )
    if written.index is None:
        print(
            f"{args.out}: rank {share.rank} of {share.world_size} is done ({written.encoded:,} "
            f"encoded now); {written.open:,} samples of other ranks are open. The last rank packs"
        )
        return 0
    statistics = measured(written.index)
    warning = statistics.warning()
    if warning is not None:
        say(f"WARNING: {warning}")
    print("\n".join(told(args.out, written.index, written.encoded, statistics)))
    return 0


def measured(index: LatentIndex) -> LatentStatistics:
    """Of all that is in the folder."""
    grids = ((sample, r) for sample in index.samples for r in index.params.resolutions)
    return LatentStatistics.of((index.moments(sample, r) for sample, r in grids), "mode")


def told(out: object, index: LatentIndex, encoded: int, statistics: LatentStatistics) -> list[str]:
    """The last lines: what there is now, and what is missing."""
    size = sum(shard.size for shard in index.shards)
    resolutions = ", ".join(map(str, index.params.resolutions))
    mean, std = statistics.mean, statistics.std
    by_now = f"{encoded:,} encoded now" if encoded else "nothing was left to do"
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
