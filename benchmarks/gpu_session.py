"""Check and time everything that needs a GPU, in stages that each end within minutes.

    python benchmarks/gpu_session.py prepare            # on any machine: shards of at most 40 MiB
    python benchmarks/gpu_session.py run --out RESULT   # on the GPU: all stages not done yet
    python benchmarks/gpu_session.py table RESULT       # the results as one dated Markdown table

A stage writes `RESULT/<stage>.json` when it is done, so a session that was cut off goes on with
the next stage. `run` needs torch, pydantic, pyyaml, safetensors, zstandard, tqdm and scipy, but
neither a geometry library nor DeepSpeed: it times the forward, backward and AdamW step itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "benchmarks" / "gpu_data"
SHAPES, RESOLUTIONS, STEPS = 12, (256, 512), 100
DIFFUSION = ("check", "1.1", "recommended", "1.0",
             "compiled-1.1", "compiled-recommended", "compiled-1.0")  # fmt: skip

GENERATION = ("structure", "latents-512", "decode-512", "latents-1024", "decode-1024")


def prepare(_: argparse.Namespace) -> int:
    """Procedural shapes at 256³ and 512³, as shards beside this script; latent coordinates."""
    from benchmarks.ss_dit import prepare as ss_dit
    from benchmarks.ssa import coordinates
    from benchmarks.ssa.prepare import prepare as prepare_coordinates
    from threed_gen.data.prepare import prepare as build
    from threed_gen.data.sources import ProceduralSource

    build(ProceduralSource(SHAPES, 0), DATA, list(RESOLUTIONS), workers=2)
    if not coordinates.FILE.exists():
        prepare_coordinates(None, coordinates.FILE)
    if not ss_dit.FILE.exists():
        ss_dit.prepare(None, ss_dit.FILE)
    size = sum(path.stat().st_size for path in DATA.rglob("*.tar"))
    print(f"{DATA}: {size / 2**20:.1f} MiB of shards")
    return int(size > 40 * 2**20)


def check_conv(device: str) -> dict[str, Any]:
    """The fast convolution on the device against the float64 reference on the CPU."""
    import torch

    from threed_gen.sparse.conv import SubmanifoldConv3d
    from threed_gen.sparse.sparse_tensor import SparseTensor
    from threed_gen.sparse.voxel_grid import VoxelGrid

    generator = torch.Generator().manual_seed(0)
    coords = torch.randint(0, 32, (4000, 3), generator=generator, dtype=torch.int32).unique(dim=0)
    coords = torch.cat([torch.zeros(len(coords), 1, dtype=torch.int32), coords], dim=1)
    grid, _ = VoxelGrid.from_coords(coords, 32, 1)
    feats = torch.randn(grid.num_voxels, 32, generator=generator, dtype=torch.float64)
    truth = SubmanifoldConv3d(32, 64, backend="reference").double()
    x = feats.clone().requires_grad_()
    out = truth(SparseTensor(x, grid)).feats
    out.square().sum().backward()
    result: dict[str, Any] = {}
    for name, dtype, limit in (("fp32", torch.float32, 1e-5), ("bf16", torch.bfloat16, 3e-2)):
        conv = SubmanifoldConv3d(32, 64, backend="torch").to(device, dtype)
        state = {key: value.to(device, dtype) for key, value in truth.state_dict().items()}
        conv.load_state_dict(state)
        y = feats.to(device, dtype).requires_grad_()
        again = conv(SparseTensor(y, grid.to(device))).feats
        again.float().square().sum().backward()
        errors = {
            "value": _relative(again, out),
            "input gradient": _relative(y.grad, x.grad),
            "kernel gradient": _relative(conv.kernel.grad, truth.kernel.grad),
        }
        result[name] = errors
        assert max(errors.values()) < limit, (name, errors)
    return result


def _relative(found: Any, truth: Any) -> float:
    difference = found.detach().double().cpu() - truth.detach()
    return float(difference.norm() / truth.norm())


def train(device: str, resolution: int, config: str, steps: int = STEPS) -> dict[str, Any]:
    """`steps` steps of the official SS-VAE in bf16, one sample each: time, memory, loss."""
    import torch

    from threed_gen.training.optim import build_optimizer, learning_rate
    from threed_gen.training.run_config import load_run_config
    from threed_gen.training.tasks.ss_vae import SSVAETask

    run = load_run_config(
        ROOT / "configs" / "ss_vae" / config,
        [f"data.resolutions=[{resolution}]", f"train.steps={steps}", "train.precision=bf16"],
    )
    module = SSVAETask(run).build_module().to(device)
    optimizer = build_optimizer(module, run.train)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, losses, tokens = [], [], []
    samples = _samples(resolution, device)
    for step in range(steps):
        batch = next(samples)
        _wait(device)
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run.train, step)
        loss = module(batch, step).weighted.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), run.train.clip_norm)
        optimizer.step()
        _wait(device)
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
        tokens.append(sum(batch.tokens))
    half = sorted(seconds[steps // 2 :])
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {
        "resolution": resolution, "steps": steps, "parameters": sum(
            p.numel() for p in module.parameters()),
        "median_step_seconds": half[len(half) // 2], "samples_per_second": 1 / half[len(half) // 2],
        "mean_tokens": sum(tokens) / len(tokens), "peak_gib": peak,
        "first_loss": losses[0], "last_loss": losses[-1],
    }  # fmt: skip


def _samples(resolution: int, device: str) -> Iterator[Any]:
    import torch

    from threed_gen.data.batch import collate
    from threed_gen.data.dataset import SDFDataset

    dataset = SDFDataset(DATA)
    step = 0
    while True:
        sample = dataset.load(step % len(dataset), resolution)
        yield collate([sample], positions=[0]).to(torch.device(device))
        step += 1


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def attention(device: str, out: Path, stage: str) -> dict[str, Any]:
    """A stage of `benchmarks.ssa`, whose page and records go to `out` as well."""
    from benchmarks.ssa import __main__ as ssa

    where = ["--out", str(out), "--records", str(out / "ssa.jsonl")]
    code = ssa.main(["--device", device, "--stage", stage, *where])
    if code not in (ssa.DONE, ssa.PARTLY):
        raise SystemExit(f"ssa_{stage} is not done (code {code}); call again to go on")
    return {"exit_code": code}


def diffusion(device: str, out: Path, stage: str) -> dict[str, Any]:
    """A stage of `benchmarks.ss_dit`, behind its checks; on a CPU at toy sizes."""
    from benchmarks.ss_dit import __main__ as ss_dit

    where = ["--out", str(out), "--records", str(out / "ss_dit.jsonl")]
    code = ss_dit.main([*where, "--stage", stage, *(["--toy"] if device == "cpu" else [])])
    if code not in (ss_dit.DONE, ss_dit.PARTLY):
        raise SystemExit(f"ss_dit_{stage} is not done (code {code}); call again to go on")
    return {"exit_code": code}


def generation(device: str, out: Path, stage: str) -> dict[str, Any]:
    """A stage of `benchmarks.generation`; on a CPU at toy sizes."""
    from benchmarks import generation as program

    where = ["--out", str(out), "--stage", stage]
    code = program.main([*where, *(["--toy"] if device == "cpu" else [])])
    if code:
        raise SystemExit(f"generation_{stage} could not start (code {code})")
    return {"exit_code": code}


STAGES: dict[str, Callable[[str, Path], dict[str, Any]]] = {
    "conv": lambda device, _: check_conv(device),
    "ss_vae_256": lambda device, _: train(device, 256, "direct3d-s2.yaml"),
    "ss_vae_512": lambda device, _: train(device, 512, "direct3d-s2.yaml"),
    "ssa_headline": lambda device, out: attention(device, out, "headline"),
    "ssa_sizes": lambda device, out: attention(device, out, "sizes"),
    "ssa_types": lambda device, out: attention(device, out, "types"),
    "ssa_heads": lambda device, out: attention(device, out, "heads"),
    "ssa_patterns": lambda device, out: attention(device, out, "patterns"),
    **{f"ss_dit_{one}": partial(diffusion, stage=one) for one in DIFFUSION},
    **{f"generation_{one}": partial(generation, stage=one) for one in GENERATION},
}


def run(arguments: argparse.Namespace) -> int:
    """Run the stages whose result is not there yet."""
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here; use --device cpu only to try the script itself")
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.stages or STAGES:
        path = arguments.out / f"{name}.json"
        if path.exists():
            print(f"{name}: already done")
            continue
        print(f"{name} …", flush=True)
        result = STAGES[name](arguments.device, arguments.out)
        machine = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
        result |= {"machine": machine, "torch": torch.__version__,
                   "date": f"{datetime.date.today()}"}  # fmt: skip
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result), flush=True)
    return 0


def table(arguments: argparse.Namespace) -> int:
    """Print the results as Markdown."""
    print("| stage | machine | torch | date | result |\n|---|---|---|---|---|")
    for path in sorted(arguments.result.glob("*.json")):
        tree = json.loads(path.read_text())
        head = [str(tree.pop(key)) for key in ("machine", "torch", "date")]
        rest = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                         for k, v in tree.items())  # fmt: skip
        print("| " + " | ".join([path.stem, *head, rest]) + " |")
    return 0


def main() -> int:
    """Parse and dispatch."""
    sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare").set_defaults(do=prepare)
    running = commands.add_parser("run")
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    running.add_argument("--stages", nargs="*", choices=list(STAGES))
    running.set_defaults(do=run)
    showing = commands.add_parser("table")
    showing.add_argument("result", type=Path)
    showing.set_defaults(do=table)
    arguments = parser.parse_args()
    code: int = arguments.do(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
