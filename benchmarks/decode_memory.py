"""How much memory a chunked decode needs beside what it is given and what it gives.

    python -m benchmarks.decode_memory --chunk 8 --out benchmarks/results

The decoder of the released SS-VAE (15.2 M parameters, random weights, fp32) decodes shapes of 0.5
to 4 million voxels on the CPU, on one thread, at one chunk size. A square plate of latent cells,
two cells thick and of growing side, stands in for a shape: a cube inside it holds as many cells
whatever the side. Peaks are those of `torch.profiler`, which notes every allocation and release of
a tensor's memory: exact, and without Python's own. Subtracted are inputs (weights), latents (z and
its grid) and outputs (values and coordinates). The table goes to the terminal and to
`decode_memory_<date>.md`.
"""

from __future__ import annotations

import argparse
import datetime
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import machine
from threed_gen.console import say, table
from threed_gen.models.ss_vae import Decoder, SSVAEConfig
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

SIDES = (23, 32, 45, 64)  # side² · 2 · 512: 0.5, 1, 2 and 4 million voxels
MIB = 1 << 20
HEADERS = (
    "voxels, M", "latent cells", "seconds", "peak", "outputs", "working memory", "features",
    "pieces",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One decode; sizes in MiB, all above what was there before it."""

    cells: int
    seconds: float
    peak: float
    outputs: float
    features: float  # of the latent cells behind the transformer, as many bytes as the values

    @property
    def working(self) -> float:
        """Peak minus outputs; inputs and latents were there before."""
        return self.peak - self.outputs

    @property
    def pieces(self) -> float:
        """Peak without the two things that grow and exist at that moment: features and values.

        The coordinates, most of the outputs, are written when the features are no longer needed.
        """
        return self.peak - self.features - self.cells * 512 * 4 / MIB

    def line(self) -> list[str]:
        voxels = f"{self.cells * 512 / 1e6:.2f}"
        sizes = (self.peak, self.outputs, self.working, self.features, self.pieces)
        return [voxels, f"{self.cells}", f"{self.seconds:.0f}", *(f"{size:.1f}" for size in sizes)]


def plate(side: int) -> VoxelGrid:
    """side² · 2 latent cells in the middle of a grid of 128³, or a larger one."""
    resolution = max(128, side + 8)
    low = (resolution - side) // 2
    axis = torch.arange(low, low + side)
    xyz = torch.cartesian_prod(torch.tensor([3, 4]), axis, axis)
    coords = torch.cat([torch.zeros(len(xyz), 1, dtype=torch.long), xyz], dim=1)
    return VoxelGrid.from_coords(coords, resolution, 1)[0]


def measure(decoder: Decoder, side: int, chunk: int | None) -> Row:
    """Decode one shape under the profiler; no chunk: all at once."""
    grid = plate(side)
    shape = (grid.num_voxels, decoder.config.latent_channels)
    z = SparseTensor(torch.randn(shape, generator=torch.Generator().manual_seed(0)), grid)
    start = time.perf_counter()
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        out = decoder(z, chunk=chunk)
    seconds = time.perf_counter() - start
    now = peak = 0
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    outputs = sum(x.numel() * x.element_size() for x in (out.feats, out.grid.coords))
    features = grid.num_voxels * decoder.config.decoder_widths[0] * out.feats.element_size()
    return Row(grid.num_voxels, seconds, peak / MIB, outputs / MIB, features / MIB)


def released_decoder() -> Decoder:
    """With random weights."""
    torch.manual_seed(0)
    return Decoder(SSVAEConfig(output_init="xavier")).eval()


def growth(rows: list[Row]) -> float:
    """From the first row to the last, of the working memory or the pieces: whichever grows more."""
    first, last = rows[0], rows[-1]
    return max(last.working / first.working, last.pieces / first.pieces) - 1


def page(rows: list[Row], whole: Row, chunk: int, date: str) -> str:
    """The Markdown page that is committed."""
    lines = [
        f"# Chunked decode: memory in MiB at chunks of {chunk}³ latent cells, {date}",
        "",
        f"Machine: {machine()}. Written by `benchmarks/decode_memory.py`, which says how it",
        "measures. Decoder of the released size, fp32. Working memory is the peak of all tensors",
        "minus weights, latents and outputs (per voxel 4 bytes of value and 16 of coordinates). At",
        "the peak the coordinates are not written yet, so the working memory even shrinks: what",
        "is there and grows are the values and the features of the latent cells, as many bytes",
        "each. Pieces is the peak without these two, what one piece of the decode needs.",
        "",
        "| " + " | ".join(HEADERS) + " |",
        "|" + "---:|" * len(HEADERS),
        *("| " + " | ".join(row.line()) + " |" for row in rows),
        "",
        f"From first to last row: working memory {_percent(rows[0].working, rows[-1].working)},",
        f"pieces {_percent(rows[0].pieces, rows[-1].pieces)}.",
        f"For comparison, all {whole.cells} cells at once: {whole.working:.0f} MiB of working",
        f"memory, {whole.seconds:.0f} s.",
        "",
    ]
    return "\n".join(lines)


def _percent(first: float, last: float) -> str:
    return f"{100 * (last / first - 1):+.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunk", type=int, default=8, help="latent cells (default: 8)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    args = parser.parse_args()
    torch.set_num_threads(1)
    decoder = released_decoder()
    rows = [measure(decoder, side, args.chunk) for side in SIDES]
    whole = measure(decoder, SIDES[0], None)
    print(table(HEADERS, [row.line() for row in rows]))
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / f"decode_memory_{args.date}.md"
    target.write_text(page(rows, whole, args.chunk, args.date), encoding="utf-8")
    say(f"written: {target}")


if __name__ == "__main__":
    main()
