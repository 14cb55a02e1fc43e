"""How long a conditioning view takes to draw and to store.

    python -m benchmarks.views MESHES [FILE ...] --size 512 --out benchmarks/results

Seconds are processor time of this process on one thread, so other work on the machine hardly
matters; they are means over the views of TRELLIS's law, after a first view that compiles the
kernels. `load` reads the file with its colours, once per shape; `build` makes its search tree.
A procedural shape, the first of the set, is measured beside the files. The last columns compare
lossless encoders on the same pictures: bytes and seconds per view. The table goes to the terminal
and to `views_<date>.md`.
"""

from __future__ import annotations

import argparse
import datetime
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import machine
from threed_gen.console import say, table
from threed_gen.data.sources import ProceduralAsset
from threed_gen.data.views.build import encoded
from threed_gen.geometry.mesh_io import MESH_SUFFIXES
from threed_gen.geometry.render.appearance import load_painted
from threed_gen.geometry.render.camera import cameras
from threed_gen.geometry.render.paint import PaintedMesh
from threed_gen.geometry.render.photo import Studio, light_of

VIEWS = 8
HEADERS = (
    "shape", "faces", "textures", "rays per pixel", "load s", "build s", "draw s/view",
    "WebP s/view", "WebP kB", "PNG s/view", "PNG kB",
)  # fmt: skip


def png(rgba: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(rgba).save(content, "PNG")
    return content.getvalue()


def stored(
    encode: Callable[[NDArray[np.uint8]], bytes], pictures: list[NDArray[np.uint8]]
) -> list[str]:
    """Seconds and kB of one picture."""
    start = time.process_time()
    total = sum(len(encode(picture)) for picture in pictures)
    seconds = time.process_time() - start
    return [f"{seconds / len(pictures):.3f}", f"{total / len(pictures) / 1000:.1f}"]


def measure(name: str, load: Callable[[], PaintedMesh], size: int) -> Iterator[list[str]]:
    """A row for one and for four rays per pixel."""
    start = time.process_time()
    painted = load()
    middle = time.process_time()
    studio = Studio(painted)
    built = time.process_time()
    corners = painted.vertices[painted.faces].reshape(-1, 3)
    sides = corners.max(axis=0) - corners.min(axis=0)
    found = [
        (c, light_of(name, n, c)) for n, c in enumerate(cameras("trellis", name, VIEWS, sides))
    ]
    studio.photograph(*found[0], 16, 1)
    for supersample in (1, 2):
        begin = time.process_time()
        pictures = [studio.photograph(c, light, size, supersample) for c, light in found]
        seconds = (time.process_time() - begin) / VIEWS
        yield [
            name,
            f"{len(painted.faces)}",
            f"{len(painted.textures)}",
            f"{supersample**2}",
            f"{middle - start:.2f}",
            f"{built - middle:.2f}",
            f"{seconds:.3f}",
            *stored(encoded, pictures),
            *stored(png, pictures),
        ]


def page(rows: list[list[str]], date: str, size: int) -> str:
    """The Markdown page that is committed."""
    lines = [
        f"# Conditioning views: seconds per view at {size} pixels, {date}",
        "",
        f"Machine: {machine()}. Written by `benchmarks/views.py`, which says how it measures.",
        "Seconds are processor time on one thread; the machine had other work to do meanwhile.",
        f"Means over {VIEWS} views. Lamps cast shadows. `prepare --views` draws with 4 rays per",
        "pixel and stores WebP.",
        "",
        "| " + " | ".join(HEADERS) + " |",
        "|---" + "|---:" * (len(HEADERS) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("meshes", type=Path, help="folder of mesh files")
    parser.add_argument("files", nargs="*", help="files in it (default: all)")
    parser.add_argument("--size", type=int, default=512, help="pixels (default: 512)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    args = parser.parse_args()
    found = sorted(p.name for p in args.meshes.iterdir() if p.suffix.lower() in MESH_SUFFIXES)
    shape = ProceduralAsset(0, 0)
    list(measure(shape.id, shape.paint, 8))  # compiles the kernels
    rows: list[list[str]] = []
    for name in args.files or found:
        path = args.meshes / name
        rows += measure(name, lambda path=path: load_painted(path), args.size)
    rows += measure(shape.id, shape.paint, args.size)
    print(table(HEADERS, rows))
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / f"views_{args.date}.md"
    target.write_text(page(rows, args.date, args.size), encoding="utf-8")
    say(f"written: {target}")


if __name__ == "__main__":
    main()
