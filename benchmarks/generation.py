"""Seconds and memory of each stage of a generation at the released sizes, on a GPU.

    python -m benchmarks.generation                  # the five stages, structure to 1024³
    python -m benchmarks.generation --stage decode-1024
    python -m benchmarks.generation --toy            # a try-out on a CPU; figures mean nothing

The released 1.1: 50 steps of the structure DiT on 16³, 30 of the SS-DiT at 512³, 15 at 1024³, all
with guidance 7, once as two calls and once as one pass; decoders in cubes of 32 latent cells. Cells
are those of real shapes (`python -m benchmarks.ss_dit prepare`); weights and condition are random,
which changes which blocks are chosen, but not how many. What turns fields into meshes runs on the
CPU and is in `geometry.py`. Each stage writes `OUT/generation-<stage>.json`; one that is there is
not run again. `OUT/generation-<gpu>-<date>.md` has them all.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.ss_dit.cases import Bench, Case, build, make_batch, toy_bench
from benchmarks.ss_dit.prepare import FILE
from benchmarks.ssa import coordinates, machine
from threed_gen.console import say, table
from threed_gen.flow.guidance import GuidanceConfig
from threed_gen.flow.sampler import SamplerConfig
from threed_gen.generation.account import Account
from threed_gen.generation.latents import sample_latents
from threed_gen.generation.structure import Structure, sample_structure
from threed_gen.models.layers.cross_attention import PackedTokens
from threed_gen.models.ss_vae import SSVAE, SSVAEConfig
from threed_gen.models.structure_dit import StructureDiT, StructureDiTConfig
from threed_gen.models.structure_vae import StructureVAE, StructureVAEConfig
from threed_gen.randomness import generator
from threed_gen.sparse.sparse_tensor import SparseTensor

ROOT = Path(__file__).resolve().parents[1]
CHUNK = 32  # latent cells along a cube of the decoder
SIZES = {"512": ("10k", 30, 6.0), "1024": ("46k", 15, 8.0)}  # cells, steps, shift of the sampler
TOY_VAE: dict[str, Any] = {
    "encoder_widths": (4, 4, 8, 8), "decoder_widths": (8, 8, 4, 4), "latent_channels": 4,
    "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2, "norm_groups": 4,
}  # fmt: skip
TOY_DENSE: dict[str, Any] = {
    "encoder_widths": (4, 4, 8), "decoder_widths": (8, 4, 4), "encoder_blocks": 1,
    "encoder_middle_blocks": 0, "decoder_blocks": 1, "decoder_middle_blocks": 0,
}  # fmt: skip
Stage = Callable[[Bench], dict[str, Any]]


def structure(bench: Bench) -> dict[str, Any]:
    """From a condition to cells."""
    sizes = {"channels": 32, "blocks": 1, "heads": 2, "condition_channels": 16} if bench.toy else {}
    config = StructureDiTConfig(**sizes)
    torch.manual_seed(0)
    with torch.device(bench.device):
        dit = StructureDiT(config).eval()
        vae = StructureVAE(StructureVAEConfig(**(TOY_DENSE if bench.toy else {}))).eval()
    made = Structure(dit, vae, 64, 0.1)
    condition = _batch(bench, "10k", config.condition_channels)
    rows = {}
    for name, sampler in samplers(bench, 50, 6.0).items():
        rows[name] = spent(bench, lambda s: sample_structure(made, condition, s, _draw), sampler)
    return {"what": f"{config.grid**3:,} tokens", **rows}


def latents(bench: Bench, resolution: str) -> dict[str, Any]:
    """From cells to latents."""
    size, steps, shift = SIZES[resolution]
    config = bench.config(Case("1.1", size, 1))
    model = build(config, bench.device).eval()
    batch = bench.batch(Case("1.1", size, 1), config)
    rows = {}
    for name, sampler in samplers(bench, steps, shift).items():
        rows[name] = spent(
            bench, lambda s: sample_latents(model, batch.grid, batch.condition, s, _draw), sampler
        )
    return {"what": f"{batch.grid.num_voxels:,} tokens", **rows}


def decode(bench: Bench, resolution: str) -> dict[str, Any]:
    """From latents to the values of every voxel."""
    config = SSVAEConfig(**TOY_VAE) if bench.toy else SSVAEConfig()
    torch.manual_seed(0)
    with torch.device(bench.device):
        vae = SSVAE(config).eval()
    dit = bench.config(Case("1.1", SIZES[resolution][0], 1))
    grid = bench.batch(Case("1.1", SIZES[resolution][0], 1), dit).grid
    z = torch.randn(grid.num_voxels, config.latent_channels, generator=generator(0, 0, "z"))
    inputs = SparseTensor(z.to(bench.device), grid)

    def run(_: SamplerConfig) -> None:
        with torch.no_grad(), torch.autocast(bench.device.type, enabled=False):
            vae.decode(inputs, chunk=2 if bench.toy else CHUNK)

    row = spent(bench, run, SamplerConfig(), half=False)
    return {"what": f"{512 * grid.num_voxels:,} voxels", "fp32": row}


STAGES: dict[str, Stage] = {
    "structure": structure,
    "latents-512": lambda bench: latents(bench, "512"),
    "decode-512": lambda bench: decode(bench, "512"),
    "latents-1024": lambda bench: latents(bench, "1024"),
    "decode-1024": lambda bench: decode(bench, "1024"),
}


def samplers(bench: Bench, steps: int, shift: float) -> dict[str, SamplerConfig]:
    """The released one, with guidance as two calls and as one pass."""
    return {
        name: SamplerConfig(
            steps=2 if bench.toy else steps, shift=shift, guidance=GuidanceConfig(one_pass=one_pass)
        )
        for name, one_pass in (("two calls", False), ("one pass", True))
    }


def spent(
    bench: Bench, run: Callable[[SamplerConfig], object], sampler: SamplerConfig, half: bool = True
) -> dict[str, float]:
    """Seconds and peak GB of one run, after a short one that warms up."""
    bf16 = half and bench.half
    with torch.autocast(bench.device.type, torch.bfloat16, enabled=bf16):
        run(sampler.model_copy(update={"steps": 1}))
        account = Account(bench.device)
        with account.of("it"):
            run(sampler)
    one = account.stages["it"]
    return {"seconds": one.seconds, "peak_gb": one.peak_mb / 1000}


def _batch(bench: Bench, size: str, channels: int) -> PackedTokens:
    """The condition of one sample."""
    config = bench.config(Case("1.1", size, 1)).model_copy(update={"condition_channels": channels})
    tokens = 7 if bench.toy else 1374
    return make_batch(bench.sets[size][:1], config, tokens, bench.device).condition


def _draw(purpose: str, index: int) -> torch.Generator:
    return generator(0, index, f"benchmark {purpose}")


def page(found: dict[str, dict[str, Any]], about: Mapping[str, object]) -> str:
    """The results as Markdown."""
    rows = [
        (stage, one["what"], way, f"{row['seconds']:.2f}", f"{row['peak_gb']:.2f}")
        for stage, one in found.items()
        for way, row in one.items()
        if isinstance(row, dict)
    ]
    told = "\n".join(f"- {key}: {value}" for key, value in about.items())
    headers = ("stage", "size", "how", "seconds", "peak GB")
    lines = [f"| {' | '.join(headers)} |", "|---|---|---|---:|---:|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return f"# A generation at the released sizes, stage by stage\n\n{told}\n\n" + "\n".join(
        [*lines, ""]
    )


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: there is no GPU, or the shapes were not prepared."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", choices=STAGES, nargs="+", help="only these")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--toy", action="store_true", help="tiny models on the CPU")
    args = parser.parse_args(argv)
    if args.toy:
        bench = toy_bench()
    elif not torch.cuda.is_available():
        say("no GPU here. `--toy` tries the program out")
        return 2
    elif not FILE.exists():
        say(f"{FILE}: is not there; make it with `python -m benchmarks.ss_dit prepare`")
        return 2
    else:
        known = coordinates.load(FILE)
        sets = {size: [one for name, one in known.items() if name.startswith(size)]
                for size in ("10k", "46k")}  # fmt: skip
        bench = Bench(torch.device("cuda"), sets)
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        path = args.out / f"generation-{stage}.json"
        if not path.exists() and (args.stage is None or stage in args.stage):
            say(f"{stage} …")
            path.write_text(json.dumps(STAGES[stage](bench)))
        if path.exists():
            found[stage] = json.loads(path.read_text())
    about = machine.about(bench.device)
    name = re.sub(r"[^a-z0-9]+", "-", machine.device_name(bench.device).lower()).strip("-")
    path = args.out / f"generation-{name}-{about['date']}.md"
    path.write_text(page(found, about))
    rows = [(stage, one["what"]) for stage, one in found.items()]
    print(table(("stage", "size"), rows))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
