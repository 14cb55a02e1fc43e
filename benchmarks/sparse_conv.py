"""Time the backends of the submanifold convolution, and one training step of the tiny SS-VAE.

    OMP_NUM_THREADS=1 python benchmarks/sparse_conv.py --markdown benchmarks/results

Voxels are all voxels of the 8³ bricks that a sphere's surface touches, the worst case for a
gather. `folded` is the torch backend on voxels that are
copies of their parents, as in the decoder. Times are the best of a few repetitions and, with
one thread on a CPU, the process's own CPU time, so that a busy machine disturbs them least.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch

from kernels.voxel_order import RASTER_TO_CANONICAL
from threed_gen.console import table
from threed_gen.models.ss_vae import SSVAE, SSVAEConfig
from threed_gen.sparse.conv import Backend, SubmanifoldConv3d
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def sphere_bricks(resolution: int, radius: float = 0.38) -> tuple[torch.Tensor, torch.Tensor]:
    """Bricks [B, 3] within 4 voxels of a sphere, and s [B, 512] in raster order."""
    side = resolution // 8
    centre = (torch.arange(side) + 0.5) / side - 0.5
    grid = torch.stack(torch.meshgrid(centre, centre, centre, indexing="ij"), dim=-1).view(-1, 3)
    near = (grid.norm(dim=1) - radius).abs() < (4 + 7) / resolution  # 7 > half a brick's diagonal
    raster = torch.arange(512)
    local = torch.stack([raster // 64, raster // 8 % 8, raster % 8], dim=1)
    corner = ((grid[near] + 0.5) * side - 0.5).round().long() * 8
    voxels = (corner[:, None] + local + 0.5) / resolution - 0.5
    s = ((voxels.norm(dim=2) - radius) * resolution / 4).clamp(-1, 1)
    active = (s.abs() < 1).any(1)
    return corner[active] // 8, s[active]


def milliseconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    times = []
    for turn in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn:
            times.append(clock() - start)
    return 1e3 * min(times)


def time_map(resolution: int, repeats: int) -> tuple[int, float]:
    grid, _ = VoxelGrid.from_bricks([sphere_bricks(resolution)[0]], resolution)
    cpu = torch.device("cpu")

    def build() -> None:
        VoxelGrid(grid.coords, grid.cu_seqlens, resolution, 1, grid.seqlens).neighbour_rows()

    return grid.num_voxels, milliseconds(build, cpu, repeats)


def time_conv(
    backend: str, resolution: int, channels: int, dtype: str, device: torch.device, repeats: int
) -> list[object]:
    """One row: forward, and forward + backward, on all voxels of the sphere's bricks."""
    bricks, _ = sphere_bricks(resolution)
    grid = VoxelGrid.from_bricks([bricks], resolution)[0].to(device)
    torch.manual_seed(0)
    kind = DTYPES[dtype]
    folded = backend == "folded"
    if folded:  # the same output voxels, computed on their parents
        grid = grid.pooled().coarse
    name = "torch" if folded else backend
    conv = SubmanifoldConv3d(channels, channels, backend=cast(Backend, name)).to(device, kind)
    feats = torch.randn(grid.num_voxels, channels, device=device, dtype=kind, requires_grad=True)
    x = SparseTensor(feats, grid)

    def forward() -> torch.Tensor:
        out: torch.Tensor = conv(x, subdivided=folded).feats
        return out

    def both() -> None:
        forward().sum().backward()

    timed = [milliseconds(forward, device, repeats), milliseconds(both, device, repeats)]
    return [len(bricks) * 512, channels, dtype, backend, *(f"{t:.2f}" for t in timed)]


def time_tiny_step(resolution: int, device: torch.device, repeats: int) -> list[object]:
    """One training step (forward, backward, AdamW) of the 0.66 M parameter SS-VAE, batch 1."""
    torch.manual_seed(0)
    model = SSVAE(
        SSVAEConfig(
            encoder_widths=(8, 16, 32, 64),
            decoder_widths=(64, 48, 32, 16),
            latent_channels=8,
            encoder_blocks=2,
            decoder_blocks=2,
            heads=4,
            mean_head_init="xavier",
            output_init="xavier",
            conv_init="kaiming",
            initial_logvar=-4.0,
        )
    ).to(device)
    bricks, s = sphere_bricks(resolution)
    grid, order = VoxelGrid.from_bricks([bricks], resolution, [s.abs() < 1])
    x = SparseTensor(s.reshape(-1)[order][:, None], model.prepare(grid)).to(device)
    target = s[:, RASTER_TO_CANONICAL].reshape(-1, 1).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step() -> None:
        out, posterior = model(x, torch.randn(len(bricks), 8, device=device))
        loss = (out.feats - target).square().mean() + 1e-3 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def tables() -> None:
        model.prepare(VoxelGrid.from_bricks([bricks], resolution, [s.abs() < 1])[0])

    cpu = torch.device("cpu")
    return [
        f"{resolution}³",
        len(bricks),
        len(target),
        f"{milliseconds(step, device, repeats):.1f}",
        f"{milliseconds(tables, cpu, repeats):.1f}",
    ]


def markdown(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    known = ["reference", "torch", "folded", "spconv"]
    parser.add_argument("--backends", nargs="+", default=known, choices=known)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--dtypes", nargs="+", default=["fp32"], choices=sorted(DTYPES))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--markdown", type=Path, help="folder for sparse_conv_<device>_<date>.md")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    device = torch.device(args.device)

    sections: list[tuple[str, list[str], list[list[object]]]] = []
    maps: list[list[object]] = []
    for resolution in args.resolutions:
        voxels, spent = time_map(resolution, args.repeats)
        maps.append([voxels, f"{spent:.1f}"])
    sections.append(("Neighbour map of 27 (CPU)", ["voxels", "ms"], maps))
    convs = [
        time_conv(backend, resolution, channels, dtype, device, args.repeats)
        for resolution, channels, dtype, backend in itertools.product(
            args.resolutions, args.channels, args.dtypes, args.backends
        )
        if not (backend == "spconv" and dtype == "bf16")
    ]
    headers = ["voxels", "channels", "dtype", "backend", "forward ms", "forward + backward ms"]
    sections.append(("Convolution, C to C channels", headers, convs))
    steps = [time_tiny_step(resolution, device, args.repeats) for resolution in args.resolutions]
    headers = ["grid", "bricks", "decoded voxels", "step ms", "index tables ms (loader)"]
    sections.append(("Training step of the tiny SS-VAE, fp32, batch 1", headers, steps))

    for title, headers, rows in sections:
        print(f"\n{title}\n{table(headers, rows)}")
    if args.markdown is not None:
        today = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
        where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        threads = torch.get_num_threads()
        text = [f"# Sparse convolution, {where}, {threads} thread(s), {today}"]
        text.append(f"torch {torch.__version__}; best of {args.repeats} repetitions.")
        text.append("\n\n".join(f"## {t}\n\n{markdown(h, r)}" for t, h, r in sections))
        path = args.markdown / f"sparse_conv_{args.device}_{threads}t_{today}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(text) + "\n", encoding="utf-8")
        print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
